"""The model's shapes and distributions, and LoRA: what it leaves alone, what it trains, how weights are exchanged."""

from __future__ import annotations

import checkpoints
import numpy as np
import pytest
import torch
from torch import Tensor

from vla_ros.errors import VlaRosError
from vla_ros.policy import adapter
from vla_ros.policy.heads import Bins
from vla_ros.policy.model import VlaModel, steps_to_go_moments
from vla_ros.policy.policy import VlaPolicy, draw


def batch(count: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 64, 64, 3), generator=generator, dtype=torch.uint8)
    ids, mask = checkpoints.prompt()([checkpoints.TEXT] * count)
    return images, ids, mask, torch.rand(count, 2, generator=generator) * 2 - 1


def run(model: VlaModel) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        out = model(*batch())
    return out["action"], out["steps_to_go"]


def test_shapes_and_that_every_input_matters() -> None:
    model = checkpoints.model()
    action, togo = run(model)
    assert action.shape == (3, 1, 2, 21)
    assert togo.shape == (3, 61)
    images, ids, mask, state = batch()
    other = checkpoints.prompt()(["reach the blue cylinder"] * 3)
    for changed in ((255 - images, ids, mask, state), (images, *other, state), (images, ids, mask, -state)):
        with torch.inference_mode():
            assert float((model(*changed)["action"] - action).abs().max()) > 1e-4


def test_padding_and_batch_neighbours_have_no_influence() -> None:
    model = checkpoints.model()
    action, togo = run(model)
    images, ids, mask, state = batch()
    with torch.inference_mode():
        alone = model(images[1:2], ids[1:2], mask[1:2], state[1:2])
        padded = model(images, torch.where(mask == 0, 7, ids), mask, state)
    torch.testing.assert_close(alone["action"], action[1:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded["steps_to_go"], togo, atol=1e-5, rtol=1e-4)


def test_moments_of_the_steps_to_go_distribution() -> None:
    p = torch.zeros(2, 61)
    p[0, 7] = 1.0
    p[1, [10, 14]] = 0.5
    mean, spread = steps_to_go_moments(p.clamp_min(1e-12).log())
    assert mean.tolist() == pytest.approx([7.0, 12.0], abs=1e-4)
    assert spread.tolist() == pytest.approx([0.0, 2.0], abs=2e-2)


def test_lora_changes_nothing_until_it_is_trained() -> None:
    model = checkpoints.model()
    before = run(model)
    adapter.add(model)
    for a, b in zip(before, run(model), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    trained = set(adapter.state(model))
    assert len([n for n in trained if "lora_" in n]) == 2 * 7  # attention and MLP of its one layer
    assert {n for n in trained if "lora_" not in n} == {f"action_head.{k}.{w}" for k in (0, 2) for w in ("weight", "bias")}
    assert all(not p.requires_grad for n, p in model.named_parameters() if n not in trained)


def test_swap_copies_into_the_live_tensors() -> None:
    model = adapter.add(checkpoints.model())
    live = adapter.state(model)
    places = {name: tensor.data_ptr() for name, tensor in live.items()}
    new = {name: torch.full_like(tensor, 0.01) for name, tensor in live.items()}
    before = run(model)[0]
    adapter.check(model, new, "x")
    adapter.swap(model, new)
    assert {name: t.data_ptr() for name, t in adapter.state(model).items()} == places
    assert all(bool((t == 0.01).all()) for t in adapter.state(model).values())
    assert float((run(model)[0] - before).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda w: w.pop("action_head.2.bias"), r"1 tensors missing \(first: \['action_head.2.bias'\]\)"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 unknown \(first: \['extra'\]\)"),
        (lambda w: w.update({"action_head.2.bias": torch.zeros(3)}), r"action_head.2.bias has shape \[3\], expected \[42\]"),
        (lambda w: w["action_head.0.weight"].__setitem__((0, 0), torch.nan), "action_head.0.weight holds non-finite"),
    ],
)
def test_foreign_weights_are_refused_by_name(damage: object, part: str) -> None:
    model = adapter.add(checkpoints.model())
    weights = {name: tensor.detach().clone() for name, tensor in adapter.state(model).items()}
    damage(weights)  # type: ignore[operator]
    with pytest.raises(VlaRosError, match=f"store/000007: .*{part}"):
        adapter.check(model, weights, "store/000007")


def test_drawing_tells_its_probability() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((4, 2, 2, 5), np.float32)
    _, tokens, log_p, entropy = draw(Bins(5), logits, False, 0.7, random)
    table = torch.from_numpy(logits / np.float32(0.7)).log_softmax(-1)
    for b in range(4):
        expected = sum(float(table[b, t, d, tokens[b, t, d]]) for t in range(2) for d in range(2))
        assert float(log_p[b]) == pytest.approx(expected, abs=1e-5)
        mean_entropy = torch.distributions.Categorical(logits=table[b]).entropy().mean()
        assert float(entropy[b]) == pytest.approx(float(mean_entropy), abs=1e-5)
    _, greedy, _, _ = draw(Bins(5), logits, True, 1.0, random)
    np.testing.assert_array_equal(greedy, logits.argmax(-1))


def test_drawing_has_the_right_frequencies() -> None:
    wanted = np.float32([0.6, 0.3, 0.1])
    logits = np.broadcast_to(np.log(wanted), (20000, 1, 1, 3))
    for temperature in (1.0, 2.0):
        _, tokens, _, _ = draw(Bins(3), logits, False, temperature, np.random.default_rng(1))
        found = np.bincount(tokens.ravel(), minlength=3) / 20000
        expected = wanted ** (1 / temperature)
        np.testing.assert_allclose(found, expected / expected.sum(), atol=0.02)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_logits_are_refused(value: float) -> None:
    logits = np.zeros((1, 2, 21), np.float32)
    logits[0, 1, 3] = value
    with pytest.raises(VlaRosError, match="not finite.*roll back"):
        draw(Bins(21), logits, True, 1.0, np.random.default_rng())


def test_inference_is_repeatable_and_refuses_what_it_was_not_made_for() -> None:
    policy = VlaPolicy(checkpoints.model(), checkpoints.prompt())
    image, state = np.full((64, 64, 3), 90, np.uint8), np.zeros(2, np.float32)
    answers = []
    for _ in range(2):
        policy.seed(11)
        answers.append([policy.infer(image, checkpoints.TEXT, state, greedy=False) for _ in range(6)])
    tokens = [[d.tokens.tolist() for d in run] for run in answers]
    assert tokens[0] == tokens[1]
    assert len({str(t) for t in tokens[0]}) > 1
    assert np.shape(tokens[0][0]) == (1, 2)
    greedy = policy.infer(image, checkpoints.TEXT, state, greedy=True)
    assert greedy.log_probability >= max(d.log_probability for d in answers[0])
    assert greedy.entropy == pytest.approx(answers[0][0].entropy, abs=1e-6)
    with pytest.raises(VlaRosError, match=r"image is \(48, 64, 3\) uint8, the policy expects \(64, 64, 3\) uint8"):
        policy.infer(image[:48], checkpoints.TEXT, state, greedy=True)
    with pytest.raises(VlaRosError, match=r"does not know \['juggle'\]"):
        policy.infer(image, "juggle the red cube", state, greedy=True)
    with pytest.raises(VlaRosError, match="1 to 12 words"):
        policy.infer(image, "push " * 13, state, greedy=True)
