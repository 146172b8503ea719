"""Action heads: their densities, what they learn, the units in the checkpoint, and chunks that go on from running ones."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from torch import Tensor

from vla_ros.errors import VlaRosError
from vla_ros.learning import sft
from vla_ros.learning.data import Demonstrations
from vla_ros.learning.supervised import SupervisedConfig, Trainer
from vla_ros.policy import adapter, engines
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.heads import Bins, Drawn, Gaussian, Laplace, TokenLearner, Units, action_head
from vla_ros.policy.policy import VlaPolicy
from vla_ros.policy.prompt import WordPrompt

CHUNK, DIM, PREFIX = 6, 3, 3
TORCH = {"gaussian": torch.distributions.Normal, "laplace": torch.distributions.Laplace}
SHAPE = {"action_dim": DIM, "chunk": CHUNK, "bins": 41}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", TORCH)
def test_densities_are_those_of_torch(name: str) -> None:
    head = action_head(name, 0)
    out = torch.randn(5, CHUNK, DIM, 2, generator=generator())
    actions = torch.randn(5, CHUNK, DIM, generator=generator(1))
    known = TORCH[name](out[..., 0], out[..., 1].clamp(-5, 1).exp())
    torch.testing.assert_close(head.loss(out, actions, 1.0), -known.log_prob(actions))
    torch.testing.assert_close(head.log_probability(out, actions), known.log_prob(actions).sum((-1, -2)))
    drawn = Drawn(*(torch.from_numpy(np.asarray(x)) for x in head.draw(out.numpy(), False, 0.5, random(2))))  # type: ignore[arg-type]
    warm = TORCH[name](out[..., 0], 0.5 * out[..., 1].clamp(-5, 1).exp())
    torch.testing.assert_close(drawn.log_probability, warm.log_prob(drawn.actions).sum((-1, -2)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(drawn.entropy, warm.entropy().mean((-1, -2)))
    assert drawn.tokens.shape == (5, CHUNK, 0)
    np.testing.assert_array_equal(head.draw(out.numpy(), True, 1.0, random()).actions, out[..., 0])
    torch.testing.assert_close(head.error(out, actions), (out[..., 0] - actions).abs())


@pytest.mark.parametrize("name", TORCH)
def test_samples_are_distributed_so(name: str) -> None:
    head = action_head(name, 0)
    out = torch.tensor([0.3, -1.0]).expand(20000, 1, 1, 2)
    drawn = head.draw(out.numpy(), False, 1.0, random()).actions.flatten()
    known = TORCH[name](torch.tensor(0.3), torch.tensor(-1.0).exp())
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert float((drawn <= float(known.icdf(torch.tensor(share)))).mean()) == pytest.approx(share, abs=0.012)


def test_bins_and_their_centres() -> None:
    head = Bins(5)
    centres = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).view(1, 5, 1)
    assert head.tokens(centres).flatten().tolist() == [0, 1, 2, 3, 4]
    assert head.tokens(torch.tensor([-3.0, 0.26, 7.0])).tolist() == [0, 3, 4]
    out = torch.randn(1, 5, 1, 5, generator=generator())
    drawn = head.draw(out.numpy(), False, 1.0, random())
    actions, log_p = torch.from_numpy(drawn.actions), torch.from_numpy(drawn.log_probability)
    torch.testing.assert_close(head.log_probability(out, actions), log_p)
    torch.testing.assert_close(head.loss(out, actions, 0.0).sum(), -log_p[0])


def test_an_unknown_head() -> None:
    with pytest.raises(VlaRosError, match="head: found 'flow', expected one of bins, gaussian, laplace"):
        checkpoints.model(head="flow")


def test_the_token_learner_looks_at_tokens_only() -> None:
    torch.manual_seed(0)
    learner = TokenLearner(8, 4)
    hidden, mask = torch.randn(2, 6, 8), torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    pooled = learner(hidden, mask)
    assert pooled.shape == (2, 32)
    changed = hidden.clone()
    changed[0, 3:] = 100.0
    torch.testing.assert_close(learner(changed, mask)[0], pooled[0])
    changed[1, 3:] = 100.0
    assert not torch.allclose(learner(changed, mask)[1], pooled[1])


def test_units_come_from_the_data() -> None:
    units = Units(2, 3, 0)
    rng = np.random.default_rng(0)
    states = rng.uniform([10, -1], [30, -1], (4000, 2)).astype(np.float32)
    actions = rng.normal([5, 0, 1], [2, 1e-3, 0], (4000, 7, 3)).astype(np.float32)
    units.fit(states, actions)
    found = units.to_state(torch.from_numpy(states))
    assert float(found[:, 0].abs().max()) == pytest.approx(1.0, abs=0.03)
    assert found[:, 1].abs().max() == 0.0, "a joint that never moves is not blown up"
    inside = units.to_network(torch.from_numpy(actions))
    assert float((inside[..., :2].abs() <= 1).float().mean()) == pytest.approx(0.98, abs=0.003)
    np.testing.assert_allclose(units.to_contract(inside.numpy()), actions, atol=1e-5)


def test_untouched_units_change_nothing() -> None:
    units, values = Units(2, 2, 0), torch.randn(50, 2, generator=generator())
    assert torch.equal(units.to_state(values), values)
    np.testing.assert_array_equal(units.to_contract(units.to_network(values).numpy()), values)


def courses(count: int = 12, length: int = 14) -> Demonstrations:
    """Arms that swing in a phase which neither picture nor state tells; rows [t, t + CHUNK) in units of their own."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 2 * np.pi, count)
    time = np.arange(length + CHUNK)
    course = np.stack([40 + 5 * np.sin(0.9 * time + p)[:, None] * np.array([1.0, 0.1, -1.0]) for p in phase])
    rows = np.arange(length)[:, None] + np.arange(CHUNK)
    n = count * length
    return Demonstrations(
        rng.integers(0, 255, (n, 64, 64, 3), np.uint8), np.full((n, 2), 7.0, np.float32),
        course[:, rows].reshape(n, CHUNK, DIM).astype(np.float32), np.tile(np.arange(length - 1, -1, -1), count).astype(np.int32),
        np.zeros(n, np.int32), (checkpoints.TEXT,), np.repeat(np.arange(count), length).astype(np.int32),
    )  # fmt: skip


def quiet(step: int, figures: dict[str, float]) -> None:
    assert all(np.isfinite(v) for v in figures.values())


@pytest.mark.parametrize(("name", "learner"), [("bins", 0), ("gaussian", 2), ("laplace", 0)])
def test_every_head_learns_to_go_on(name: str, learner: int, tmp_path: Path) -> None:
    """Only the rows that are running already tell the phase: with them the rest of a chunk is right, without it cannot be."""
    data = courses()
    model = checkpoints.model(head=name, token_learner=learner, prefix=PREFIX, **SHAPE)
    model.ground_head.requires_grad_(False)
    model.units.fit(data.states, data.actions)
    c = SupervisedConfig(steps=150, batch=32, learning_rate=3e-3, ema=0.9, held_out=0.1, evaluate_every=50, shift=0.0, light=0.0)
    Trainer(model, checkpoints.prompt(), data, c, tmp_path / "policy").run(quiet)
    policy = VlaPolicy(*checkpoint.load(tmp_path / "policy"))  # units came with the checkpoint
    off: dict[bool, list[float]] = {True: [], False: []}
    for frame in range(0, 140, 9):
        rows = data.actions[frame]
        for told in (True, False):
            running = rows[:PREFIX] if told else None
            found = policy.infer(data.images[frame], checkpoints.TEXT, data.states[frame], True, running=running)
            if told:
                np.testing.assert_array_equal(found.action[:PREFIX], rows[:PREFIX])
            off[told].append(float(np.abs(found.action[PREFIX:] - rows[PREFIX:])[:, [0, 2]].mean()))
    assert np.mean(off[True]) < 0.5 * np.mean(off[False]), off
    assert 1.5 < np.mean(off[False]) < 6.0, "in the contract's units, where the arms swing by 5"


def test_fewer_rows_and_none_can_run() -> None:
    units = Units(2, DIM, PREFIX)
    assert units.width == 2 + PREFIX * DIM + PREFIX
    state = np.array([0.5, -0.5], np.float32)
    row = units.row(state, np.ones((1, DIM), np.float32))
    assert row[0, 2:].tolist() == [1.0] * DIM + [0.0] * 2 * DIM + [1.0, 0.0, 0.0]
    torch.testing.assert_close(units.to_state(torch.from_numpy(state)[None]), units.to_state(units.row(state)))
    with pytest.raises(VlaRosError, match=r"state is \(3,\), the policy expects \(2,\)"):
        units.row(np.zeros(3, np.float32))


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_continuous_heads_run_in_onnx(name: str) -> None:
    model = checkpoints.model(head=name, token_learner=2, prefix=PREFIX, **SHAPE)
    model.units.fit(np.random.default_rng(0).normal(3, 2, (50, 2)).astype(np.float32), courses().actions)
    prompt = checkpoints.prompt()
    torch.manual_seed(0)
    adapter.add(model)
    image, state = np.full((64, 64, 3), 90, np.uint8), np.array([2.0, 4.0], np.float32)
    running = courses().actions[0, :2]
    policies = [VlaPolicy(model, prompt, engines.build(engine, model, prompt)) for engine in ("eager", "onnx")]
    found = [p.infer(image, checkpoints.TEXT, state, True, running=running) for p in policies]
    np.testing.assert_allclose(found[0].action, found[1].action, atol=1e-3)
    np.testing.assert_array_equal(found[1].action[:2], running)
    assert any(key.startswith("token_learner.") for key in adapter.state(model)), "the light head is what practice trains"


def test_several_cameras_side_by_side() -> None:
    model, prompt = checkpoints.model(cameras=2), checkpoints.prompt()
    policy = VlaPolicy(model, prompt)
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    state = np.zeros(2, np.float32)

    def answer(pictures: np.ndarray) -> Tensor:
        with torch.no_grad():
            return model(torch.from_numpy(pictures)[None], *prompt([checkpoints.TEXT]), torch.from_numpy(state)[None])["action"]

    assert policy.infer(images, checkpoints.TEXT, state, True).tokens.shape == (1, 2)
    assert not torch.allclose(answer(images), answer(images[::-1].copy())), "a camera's place matters"
    darker = images.copy()
    darker[1] //= 2
    assert not torch.allclose(answer(images), answer(darker)), "the second one is seen"
    with pytest.raises(VlaRosError, match=r"image is \(64, 64, 3\).*expects \(2, 64, 64, 3\)"):
        policy.infer(images[0], checkpoints.TEXT, state, True)
    points = model.point(torch.from_numpy(images)[None], *prompt([checkpoints.TEXT]))[2]
    assert points.shape == (1, 3, 2)


def test_missing_units_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = checkpoints.save(tmp_path / "policy")
    weights = load_file(folder / "model.safetensors")
    del weights["units.action"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(VlaRosError, match=r"1 tensors are missing \(first: units.action\)"):
        checkpoint.load(folder)


def test_rows_beyond_the_end_do_not_count() -> None:
    counted = sft.rows_that_count(courses(1, 8))
    assert counted.shape == (8, CHUNK)
    assert counted.sum(1).tolist() == [6, 6, 5, 4, 3, 2, 1, 0]
    assert Gaussian.outputs == Laplace.outputs == 2


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none(temperature: float) -> None:
    logits = np.zeros((1, 2, 5), np.float32)
    with pytest.raises(VlaRosError, match="temperature is .*, expected a finite number above 0"):
        checkpoint.draw(Bins(5), logits, False, temperature, random())


def test_words_of_instructions_with_punctuation() -> None:
    texts = ["put the block in the bowl.", "Pick-place the cube"]
    prompt = WordPrompt.reading(texts)
    ids, mask = prompt(texts)
    assert mask.sum(1).tolist() == [7, 5]
    assert (ids != prompt.tokenizer.unk_token_id).all()
    with pytest.raises(VlaRosError, match=r"does not know \['bag'\]"):
        prompt(["put the block in the bag."])
