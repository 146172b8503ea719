"""Stage 2 with a memory: the critic on toys whose answer is known, and what the policy makes of it."""

from __future__ import annotations

import checkpoints
import numpy as np
import pytest
import torch
from test_learning_method import GOOD, STEPS, play, probabilities, toy

from vla_ros.errors import VlaRosError
from vla_ros.learning.critic import Critic, CriticImprovement, advantage, method, progress
from vla_ros.learning.self_improvement import ImproveConfig, PracticeEpisode, SelfImprovement, stack
from vla_ros.policy import adapter

# two episodes an update, where practice has hundreds
CONFIG = ImproveConfig(method="critic", updates=40, batch=32, learning_rate=3e-3, horizon=1, strength=500.0)


def test_progress_by_hand() -> None:
    d = np.array([10, 8, 9, 2], np.float32)
    np.testing.assert_allclose(progress(d, 1, 5.0), [2, -1, 5])
    np.testing.assert_allclose(progress(d, 2, 100.0), [1, 6, 7])
    np.testing.assert_allclose(progress(d, 2, 2.5), [1, 5, 5])
    np.testing.assert_allclose(progress(d, 9, 100.0), [8, 6, 7])


def test_the_critic_finds_the_way_behind_the_noise() -> None:
    """Progress along a direction that the features tell, less what is too fast, under noise of twice its size."""
    generator = torch.Generator().manual_seed(0)
    features, actions = torch.randn(8000, 4, generator=generator), torch.rand(8000, 2, generator=generator) * 2 - 1
    way = torch.stack([features[:, 0].tanh(), features[:, 1].tanh()], 1)
    clean = (way * actions - 0.5 * actions.square()).sum(1)
    torch.manual_seed(0)
    critic = Critic(4, 2)
    critic.fit(features, actions, 3 + features[:, 2] + clean + 1.2 * torch.randn(8000, generator=generator), generator)
    seen = torch.randn(500, 4, generator=generator)
    with torch.no_grad():
        base, slope, curvature = critic(seen)
    assert float(torch.cosine_similarity(slope, torch.stack([seen[:, 0].tanh(), seen[:, 1].tanh()], 1)).mean()) > 0.85
    assert float(curvature.mean()) == pytest.approx(0.5, abs=0.2)
    assert float(torch.corrcoef(torch.stack([base, seen[:, 2]]))[0, 1]) > 0.9
    assert torch.equal(advantage(slope, curvature, torch.zeros(500, 2)), torch.zeros(500, 2)), "doing nothing is the zero"


def test_practice_follows_the_critic() -> None:
    model = toy()
    before = float(probabilities(model)[GOOD])
    learner = method(model, CONFIG)
    for k in range(6):
        figures = learner.update(*play(model, k))
        assert figures["first_ratio"] == pytest.approx(1.0, abs=1e-4)
        assert figures["samples"] == 2 * STEPS * (k + 1), "nothing is forgotten"
    assert 0.1 < before < 0.35
    assert float(probabilities(model)[GOOD]) > before + 0.3
    assert figures["explained"] > 0.2


def test_strength_bounds_the_distance_from_the_first_policy() -> None:
    moved = []
    for strength in (0.0, 150.0, 600.0):
        model = toy()
        before = probabilities(model)
        learner = method(model, ImproveConfig(**{**CONFIG.__dict__, "strength": strength}))
        for k in range(3):
            learner.update(*play(model, k))
        moved.append(float((probabilities(model) - before).abs().sum()))
    assert moved[0] < 0.05 < moved[1] < moved[2]


def test_the_critic_has_more_to_say_the_more_it_has_seen() -> None:
    """The same two episodes, once as all that was practised and once over again: the same critic, three times the say."""
    moved = []
    for times in (1, 3):
        model = toy()
        before = probabilities(model)
        learner = method(model, ImproveConfig(**{**CONFIG.__dict__, "updates": 0}))
        episodes, inputs = play(model, 0)
        for _ in range(times - 1):
            learner.update(episodes, inputs)
        learner.config = CONFIG
        learner.update(episodes, inputs)
        moved.append(float((probabilities(model) - before).abs().sum()))
    assert moved[1] > 1.5 * moved[0] > 0.0


def test_tasks_that_are_not_practised_stay_as_they_were() -> None:
    """Two instructions that a small network hardly tells apart: what one of them gains, the other one must not be moved by."""
    other = "reach the blue cylinder"
    taught = (checkpoints.TEXT, "push the blue cylinder to the right", other)
    moved = {}
    for keep in (0.0, 1.0):
        model = toy()
        before = probabilities(model), probabilities(model, other)
        learner = method(model, ImproveConfig(**{**CONFIG.__dict__, "keep": keep}), checkpoints.prompt(), taught)
        for k in range(4):
            learner.update(*play(model, k))
        after = probabilities(model), probabilities(model, other)
        moved[keep] = [float((b - a).abs().sum()) for a, b in zip(before, after, strict=True)]
    assert moved[0.0][1] > 0.5 * moved[0.0][0], "without the term the other task goes along"
    assert moved[1.0][1] < 0.5 * moved[0.0][1]
    assert moved[1.0][0] > 0.5 * moved[0.0][0], "and what is practised is still learned"


def test_a_task_that_is_practised_as_well_is_not_held_back() -> None:
    """All that is taught is practised: the same to the bit as if nothing were known of other tasks."""
    weights = []
    for taught in ((), (checkpoints.TEXT, "push the blue cylinder to the right")):
        model = toy()
        method(model, CONFIG, checkpoints.prompt(), taught).update(*play(model, 0))
        weights.append({name: t.detach().clone() for name, t in adapter.state(model).items()})
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_memory_drops_the_oldest_and_never_holds_unusable_steps() -> None:
    model = toy()
    learner = method(model, ImproveConfig(**{**CONFIG.__dict__, "memory": 4, "updates": 1}))
    episodes, inputs = play(model, 0)
    episodes[0].usable[: STEPS // 2] = False
    assert learner.update(episodes, inputs)["samples"] == 1.5 * STEPS
    assert learner.update(*play(model, 1))["samples"] == 3.5 * STEPS
    assert learner.update(*play(model, 2))["samples"] == 4 * STEPS


def test_going_back_to_other_weights_keeps_the_memory() -> None:
    model = toy()
    learner = method(model, CONFIG)
    learner.update(*play(model, 0))
    before = learner.optimizer
    learner.forget()
    assert learner.optimizer is not before
    assert learner.update(*play(model, 1))["samples"] == 4 * STEPS


def test_another_process_goes_on_from_what_was_practised() -> None:
    """Its memory is empty, so that it has little to say: what it starts from is what it stays near."""
    model = toy()
    learner = method(model, CONFIG)
    for k in range(6):
        learner.update(*play(model, k))
    practised, kept = float(probabilities(model)[GOOD]), {name: t.clone() for name, t in adapter.state(model).items()}
    model = toy()
    learner = method(model, CONFIG)
    adapter.swap(model, kept)
    learner.forget()
    learner.update(*play(model, 6))
    assert float(probabilities(model)[GOOD]) > practised - 0.05


def test_only_lora_and_the_action_head_change() -> None:
    model = toy()
    before = {name: t.detach().clone() for name, t in model.state_dict().items()}
    method(model, CONFIG).update(*play(model, 0))
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    assert changed <= set(adapter.state(model))


def test_chunks_and_unknown_methods_are_refused() -> None:
    assert type(method(toy(), ImproveConfig())) is SelfImprovement
    with pytest.raises(VlaRosError, match="found chunks of 2 rows, expected 1"):
        CriticImprovement(adapter.add(checkpoints.model(chunk=2)), CONFIG)
    with pytest.raises(VlaRosError, match="method is 'magic', expected one of reinforce, critic"):
        method(toy(), ImproveConfig(method="magic"))


def test_unusable_actions_do_not_matter() -> None:
    model = toy()
    episodes, _ = play(model, 0)
    weights = {name: t.detach().clone() for name, t in adapter.state(model).items()}
    results = []
    for spoiled in (False, True):
        made = []
        for e in episodes:
            usable = np.arange(STEPS) < STEPS // 2
            tokens = np.where(usable[:, None, None] | ~np.bool_(spoiled), e.tokens, (e.tokens + 1) % 5).astype(np.int16)
            made.append(PracticeEpisode(e.instruction, e.images, e.states, tokens, e.log_probability, e.steps_to_go, usable))
        adapter.swap(model, weights)
        method(model, CONFIG).update(made, stack(made, checkpoints.prompt()))
        results.append({name: t.detach().clone() for name, t in adapter.state(model).items()})
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], atol=1e-6, rtol=0, msg=f"{name} differs")
