"""Stage 2 on a toy where the right answer is known, its bookkeeping, and the figures that results are judged by."""

from __future__ import annotations

import checkpoints
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.learning.data import Inputs
from vla_ros.learning.self_improvement import (
    ImproveConfig,
    PracticeEpisode,
    SelfImprovement,
    advantages,
    discounted,
    rewards,
    stack,
)
from vla_ros.learning.statistics import mcnemar, wilson
from vla_ros.policy import adapter
from vla_ros.policy.model import VlaModel
from vla_ros.policy.policy import draw

STEPS = 32
GOOD = 2  # the token that brings the goal nearer


def returns(d: NDArray[np.float32], gamma: float, clip: float) -> Tensor:
    return discounted(rewards(d, clip), gamma)


def test_returns_by_hand() -> None:
    d = np.array([10, 8, 9, 2], np.float32)  # rewards 2, -1, 7 -> 5 when clipped
    np.testing.assert_allclose(returns(d, 0.5, 5.0), [2 + 0.5 * (-1 + 0.5 * 5), -1 + 0.5 * 5, 5])
    np.testing.assert_allclose(returns(d, 0.0, 100.0), [2, -1, 7])


def test_undiscounted_returns_telescope() -> None:
    d = np.random.default_rng(0).normal(20, 4, 40).astype(np.float32)
    np.testing.assert_allclose(returns(d, 1.0, 1e9), d[:-1] - d[-1], atol=1e-4)
    clipped = returns(d, 0.0, 0.5)
    assert clipped.min() == -0.5
    assert clipped.max() == 0.5


def chain(seed: int, episodes: int = 60, steps: int = 40) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """A walk whose reward at a place is what two features say of it, and a coin's at every step: rewards, features with d last,
    the coins."""
    random = np.random.default_rng(seed)
    reward, seen, coins = [], [], []
    for _ in range(episodes):
        place = random.normal(size=(steps + 1, 2)).astype(np.float32)
        coin = random.choice([-1.0, 1.0], steps).astype(np.float32)
        reward.append(torch.from_numpy(3 * place[:-1, 0] + coin))
        seen.append(torch.from_numpy(np.concatenate([place, random.uniform(0, 40, (steps + 1, 1)).astype(np.float32)], 1)))
        coins.append(torch.from_numpy(coin))
    return reward, seen, torch.cat(coins)


@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_advantages_are_what_the_state_does_not_explain(trace: float) -> None:
    reward, seen, coins = chain(0)
    every = torch.ones(len(coins), dtype=torch.bool)
    found = advantages(reward, seen, every, 0.9, trace)
    assert float(found.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-4)
    agreement = float(torch.corrcoef(torch.stack([found, coins]))[0, 1])
    # A_t = sum (gamma lambda)^k (coin_{t+k} + gamma V(place_{t+k+1})): what comes by chance, now and later
    variance = sum((0.9 * trace) ** (2 * k) for k in range(40)) * (1 + 0.81 * 9)
    assert agreement == pytest.approx(variance**-0.5, abs=0.05)


def test_the_end_of_a_recording_is_no_loss() -> None:
    """Every place is as good as any other, so nothing is above another, however near the recording's end."""
    steps = 30
    reward = [torch.ones(steps) for _ in range(20)]
    random = torch.Generator().manual_seed(0)
    seen = [torch.randn(steps + 1, 3, generator=random) for _ in range(20)]
    noisy = [r + 0.1 * torch.randn(steps, generator=random) for r in reward]
    found = advantages(noisy, seen, torch.ones(20 * steps, dtype=torch.bool), 0.9, 1.0).reshape(20, steps)
    assert abs(float(found[:, -3:].mean() - found[:, :-3].mean())) < 0.5


def toy(seed: int = 0) -> VlaModel:
    return adapter.add(checkpoints.model(seed, bins=5, action_dim=1))


def play(model: VlaModel, seed: int, sign: float = 1.0) -> tuple[list[PracticeEpisode], Inputs]:
    """Two on-policy episodes on a constant picture; token GOOD is a step nearer to the goal, any other a step away."""
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(2):
        images = np.full((STEPS + 1, 64, 64, 3), 120, np.uint8)
        states = np.zeros((STEPS + 1, 2), np.float32)
        logits = probabilities(model).log().expand(STEPS, 1, 1, 5)
        _, tokens, log_p, _ = draw(model.head, logits.numpy(), False, 1.0, random)
        reward = sign * np.where(tokens[:, 0, 0] == GOOD, 1.0, -1.0)
        d = 30 - np.concatenate([[0.0], np.cumsum(reward)])
        episodes.append(
            PracticeEpisode(
                checkpoints.TEXT, images, states, tokens, log_p,
                d.astype(np.float32), np.ones(STEPS, bool),
            )
        )  # fmt: skip
    return episodes, stack(episodes, checkpoints.prompt())


@torch.no_grad()
def probabilities(model: VlaModel, text: str = checkpoints.TEXT) -> Tensor:
    image = np.full((1, 64, 64, 3), 120, np.uint8)
    inputs = Inputs.of(image, np.zeros(1, np.int32), (text,), np.zeros((1, 2), np.float32), checkpoints.prompt())
    return model(*inputs[torch.tensor([0])])["action"][0, 0, 0].softmax(-1)


@pytest.mark.parametrize("baseline", ["linear", "none"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_practice_follows_the_reward(sign: float, baseline: str) -> None:
    model = toy()
    before = float(probabilities(model)[GOOD])
    method = SelfImprovement(model, ImproveConfig(gamma=0.0, updates=4, batch=16, learning_rate=3e-3, baseline=baseline))
    for iteration in range(6):
        figures = method.update(*play(model, iteration, sign))
        assert figures["first_ratio"] == pytest.approx(1.0, abs=1e-4)
        assert figures["samples"] == 2 * STEPS
        assert figures["mean_length"] == STEPS
    after = float(probabilities(model)[GOOD])
    assert 0.1 < before < 0.35
    if sign > 0:
        assert after > before + 0.3
    else:
        assert after < before - 0.1


def test_ratio_tells_samples_of_another_policy() -> None:
    model = toy()
    episodes, inputs = play(toy(seed=3), 0)
    figures = SelfImprovement(model, ImproveConfig(updates=1)).update(episodes, inputs)
    assert abs(figures["first_ratio"] - 1.0) > 1e-3


def test_only_lora_and_the_action_head_change() -> None:
    model = toy()
    before = {name: t.detach().clone() for name, t in model.state_dict().items()}
    SelfImprovement(model, ImproveConfig(batch=16)).update(*play(model, 0))
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    trained = set(adapter.state(model))
    assert changed <= trained
    assert {n for n in trained if "lora_B" in n or n.startswith("action_head.")} <= changed


def test_unusable_steps_have_no_influence() -> None:
    model = toy()
    episodes, _ = play(model, 0)
    weights = {name: t.detach().clone() for name, t in adapter.state(model).items()}
    rng = np.random.default_rng(1)
    results = []
    for spoiled in (False, True):
        made = []
        for e in episodes:
            usable = np.arange(STEPS) < STEPS // 2
            images, tokens = e.images.copy(), e.tokens.copy()
            if spoiled:
                images[:-1][~usable] = rng.integers(0, 255, images[:-1][~usable].shape, np.uint8)
                tokens[~usable] = (tokens[~usable] + 1) % 5
            made.append(PracticeEpisode(e.instruction, images, e.states, tokens, e.log_probability, e.steps_to_go, usable))
        adapter.swap(model, weights)
        method = SelfImprovement(model, ImproveConfig(gamma=0.0, batch=8))
        figures = method.update(made, stack(made, checkpoints.prompt()))
        assert figures["samples"] == STEPS
        results.append({name: t.detach().clone() for name, t in adapter.state(model).items()})
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], atol=1e-6, rtol=0, msg=f"{name} differs")


def test_a_single_usable_step_does_no_harm() -> None:
    model = toy()
    episodes, inputs = play(model, 0)
    for e in episodes:
        e.usable[:] = False
    episodes[0].usable[4] = True
    figures = SelfImprovement(model, ImproveConfig()).update(episodes, inputs)
    assert figures["samples"] == 1
    assert all(torch.isfinite(t).all() for t in adapter.state(model).values())


def test_updates_are_bounded_and_without_replacement() -> None:
    model = toy()
    method = SelfImprovement(model, ImproveConfig(updates=3, batch=8))
    counted: list[int] = []
    original = method._log_probability
    method._log_probability = lambda trunk, tokens: (counted.append(len(tokens)), original(trunk, tokens))[1]  # type: ignore[method-assign]
    method.update(*play(model, 0))
    assert counted == [8, 8, 8]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_mcnemar_is_the_exact_binomial() -> None:
    def pairs(gained: int, lost: int, same: int = 5) -> tuple[list[bool], list[bool]]:
        before = [False] * gained + [True] * lost + [True] * same
        return before, [True] * gained + [False] * lost + [True] * same

    assert mcnemar(*pairs(0, 0)) == 1.0
    assert mcnemar(*pairs(6, 0)) == pytest.approx(2 / 64)
    assert mcnemar(*pairs(0, 6)) == pytest.approx(2 / 64)
    assert mcnemar(*pairs(9, 1)) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(*pairs(3, 3)) == 1.0
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [True, False])


MOVES = [(1.0, 1.5, False), (1.0, 0.5, True), (-1.0, 1.5, True), (-1.0, 0.5, False)]


@pytest.mark.parametrize(("weight", "moved", "learns"), MOVES)
def test_what_an_update_has_moved_far_enough_is_left_alone(weight: float, moved: float, learns: bool) -> None:
    log_p = torch.tensor([0.25 * moved]).log().requires_grad_()
    drawn = torch.tensor([0.25]).log()
    for clip, pulls in ((0.2, learns), (0.0, True)):
        log_p.grad = None
        SelfImprovement(toy(), ImproveConfig(clip=clip))._gain(torch.tensor([weight]), log_p, drawn).sum().backward()
        assert log_p.grad is not None
        assert bool(log_p.grad.abs() > 0) == pulls
        assert not pulls or bool(torch.sign(log_p.grad) == np.sign(weight))


def test_on_fresh_samples_the_bound_changes_nothing() -> None:
    grads = []
    for clip in (0.2, 0.0):
        log_p = torch.tensor([0.1, 0.7]).log().requires_grad_()
        gain = SelfImprovement(toy(), ImproveConfig(clip=clip))._gain(torch.tensor([2.0, -1.0]), log_p, log_p.detach().clone())
        gain.sum().backward()
        grads.append(log_p.grad)
    torch.testing.assert_close(grads[0], grads[1])
