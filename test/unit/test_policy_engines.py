"""Every engine answers as eager does: when it is built, after a swap, and for instructions of any length."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vla_ros.errors import VlaRosError
from vla_ros.policy import adapter, engines
from vla_ros.policy.engines import TOLERANCE, Eager, Inputs, build, difference
from vla_ros.policy.heads import Bins, Units
from vla_ros.policy.model import VlaConfig, VlaModel
from vla_ros.policy.policy import VlaPolicy

COMPILER = pytest.mark.skipif(
    not shutil.which("g++") or " " in torch.__file__, reason="torch.compile needs a C++ compiler and a path without spaces"
)


class Line(nn.Module):
    """As much of a policy as compiles in seconds; that the whole one does, benchmarks/inference.py shows."""

    config = VlaConfig(image_size=(64, 64))
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.units, self.head = Units(2, 2, 0), Bins(21)
        self.action_head, self.steps_to_go_head = nn.Linear(3, 42), nn.Linear(3, 61)

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> dict[str, Tensor]:
        seen = images.float().mean((1, 2, 3))[:, None] / 255 + tokens[:, :1] * mask[:, :1]
        features = torch.cat([seen, state], 1)
        return {"action": self.action_head(features).view(1, 1, 2, 21), "steps_to_go": self.steps_to_go_head(features)}


@pytest.fixture(scope="module", autouse=True)
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The exporter takes seconds, and these tests want the same graph again and again."""
    original = engines.export
    folder = tmp_path_factory.mktemp("onnx")
    kept: list[Path] = []

    def export(model: VlaModel, example: Inputs, _: Path) -> Path:
        if not kept:
            kept.append(original(model, example, folder))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "export", export)
        yield


@pytest.fixture(scope="module", params=[pytest.param("compiled", marks=COMPILER), "onnx", "int8"])
def built(request: pytest.FixtureRequest) -> tuple[str, Eager]:
    """An engine by name, of the tiny policy with untrained LoRA."""
    model = Line() if request.param == "compiled" else adapter.add(checkpoints.model())
    return request.param, build(request.param, model, checkpoints.prompt())  # type: ignore[arg-type]


def observations(count: int) -> list[Inputs]:
    generator = torch.Generator().manual_seed(7)
    texts = [checkpoints.TEXT, "reach the blue cylinder"]
    made = []
    for k in range(count):
        images = torch.randint(0, 256, (1, 64, 64, 3), generator=generator, dtype=torch.uint8)
        made.append((images, *checkpoints.prompt()([texts[k % 2]]), torch.rand((1, 2), generator=generator) * 2 - 1))
    return made


def weights(engine: Eager, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: t + 0.05 * torch.randn(t.shape, generator=generator) for n, t in adapter.state(engine.model).items()}


def agrees(name: str, engine: Eager) -> None:
    for inputs in observations(4):
        found, expected = engine(*inputs), Eager(engine.model)(*inputs)
        assert [t.shape for t in found] == [(1, 1, 2, 21), (1, 61)]
        for a, b in zip(found, expected, strict=True):
            assert difference(a, b) <= TOLERANCE[name]


def test_answers_as_eager_does(built: tuple[str, Eager]) -> None:
    agrees(*built)


def test_after_a_swap_it_answers_with_the_new_weights(built: tuple[str, Eager]) -> None:
    name, engine = built
    inputs = observations(1)[0]
    before = [t.clone() for t in engine(*inputs)]
    old = {n: t.detach().clone() for n, t in adapter.state(engine.model).items()}
    engine.swap(weights(engine, 3))
    agrees(name, engine)
    moved = [difference(a, b) for a, b in zip(engine(*inputs), before, strict=True)]
    assert min(moved) > 0.05  # the action by its head, steps-to-go by LoRA alone
    engine.swap(old)
    for a, b in zip(engine(*inputs), before, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_a_policy_runs_on_it_and_tells_where_the_time_went(built: tuple[str, Eager]) -> None:
    name, engine = built
    plain, policy = (VlaPolicy(engine.model, checkpoints.prompt(), e) for e in (None, engine))
    image, state = np.full((64, 64, 3), 90, np.uint8), np.array([0.2, -0.4], np.float32)
    expected = plain.infer(image, checkpoints.TEXT, state, greedy=True)
    start = time.perf_counter()
    found = policy.infer(image, checkpoints.TEXT, state, greedy=True)
    took = time.perf_counter() - start
    if name != "int8":  # where two bins are as good as equal, rounding may prefer the other
        assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.log_probability == pytest.approx(expected.log_probability, abs=0.05)
    assert min(found.preprocess, found.model, found.post) > 0
    assert 0.9 * took - 1e-3 < found.preprocess + found.model + found.post <= took


def test_a_frozen_model_has_nothing_to_swap_and_is_compared_all_the_same() -> None:
    model = checkpoints.model().requires_grad_(False)
    engines.check("onnx", Eager(model), observations(1))


def test_wrong_answers_are_refused_with_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapter.add(checkpoints.model())
    before = {n: t.detach().clone() for n, t in adapter.state(model).items()}
    monkeypatch.setitem(TOLERANCE, "onnx", 1e-12)
    with pytest.raises(VlaRosError, match=r"engine onnx: action logits differ from eager's by \d.*expected at most 1e-12"):
        build("onnx", model, checkpoints.prompt())
    assert all(torch.equal(t, before[n]) for n, t in adapter.state(model).items())

    class Deaf(Eager):
        """LoRA and head as they were when it was built: what an exporter makes that folds them away."""

        def swap(self, weights: dict[str, Tensor]) -> None:
            if not hasattr(self, "kept"):
                self.kept = {n: t.detach().clone() for n, t in weights.items()}
            super().swap(weights)

        def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
            live = {n: t.detach().clone() for n, t in adapter.state(self.model).items()}
            adapter.swap(self.model, self.kept)
            answer = super().__call__(*inputs)
            adapter.swap(self.model, live)
            return answer

    for name in ("onnx", "int8"):
        monkeypatch.setitem(TOLERANCE, name, {"onnx": 1e-3, "int8": 0.1}[name])
        with pytest.raises(VlaRosError, match=f"engine {name}: action logits differ"):
            engines.check(name, Deaf(model), engines.examples(model, checkpoints.prompt()))


def test_what_cannot_be_built_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = checkpoints.model(), checkpoints.prompt()
    with pytest.raises(VlaRosError, match="engine: found 'tensorrt', expected one of eager, compiled, onnx, int8"):
        build("tensorrt", model, prompt)
    with (
        monkeypatch.context() as patch,
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(VlaRosError, match=r"engine compiled: found no C\+\+ compiler"),
    ):
        patch.setattr(torch, "__file__", "/torch/__init__.py")
        build("compiled", model, prompt)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__file__", "/a folder/torch/__init__.py")
        with pytest.raises(VlaRosError, match="cannot link where the path has a space: /a folder/torch"):
            build("compiled", model, prompt)
    with pytest.raises(VlaRosError, match=r"engine onnx: found weights of torch.bfloat16, expected torch.float32"):
        build("onnx", adapter.add(checkpoints.model().to(torch.bfloat16)), prompt)
