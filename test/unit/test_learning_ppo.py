"""PPO: its arithmetic by hand, what it leaves alone, and a corridor in which a sparse reward must be enough."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import checkpoints
import corridor
import pytest
import torch
from torch import nn

from vla_ros.errors import VlaRosError
from vla_ros.learning.acting import action_out, features
from vla_ros.learning.cells import flat
from vla_ros.learning.ppo import Ppo, PpoConfig, PpoPractice, advantages, prepare
from vla_ros.learning.self_improvement import stack
from vla_ros.policy import adapter
from vla_ros.progress.calibration import Calibration

QUICK = PpoConfig(epochs=2, batch=64, learning_rate=1e-2, critic_rate=3e-3, warmup=1)
HEADS = [{}, {"head": "gaussian", "token_learner": 2}]
ALWAYS = Calibration(checkpoints.EASY, 3, 0.0, 1.0, 10, 1.0)


def digest(module: nn.Module, leave: tuple[str, ...] = ()) -> str:
    kept = [t.numpy().tobytes() for name, t in module.state_dict().items() if not name.startswith(leave or ("?",))]
    return hashlib.sha256(b"".join(kept)).hexdigest()


def test_generalised_advantages_by_hand() -> None:
    reward, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.25, 0.75, 0.0])
    last = 1 - 0.75
    middle = 0.9 * 0.75 - 0.25 + 0.9 * 0.5 * last
    first = 0.9 * 0.25 - 0.5 + 0.9 * 0.5 * middle
    torch.testing.assert_close(advantages(reward, values, 0.9, 0.5), torch.tensor([first, middle, last]))
    torch.testing.assert_close(advantages(reward, values, 0.9, 1.0), torch.tensor([0.81 - 0.5, 0.9 - 0.25, 0.25]))


@pytest.mark.parametrize("config", HEADS)
def test_features_are_what_the_heads_read(config: dict[str, object]) -> None:
    model = adapter.add(corridor.model(**config))
    [found] = corridor.cells(model, 5, ("reach",)).batch().values()
    inputs = stack([p.episode.practice for p in found], checkpoints.prompt())
    with torch.no_grad():
        fresh = features(model, model.encode(*inputs[torch.arange(len(inputs.images))]))
        out = model(*inputs[torch.arange(len(inputs.images))])["action"]
        kept = type(fresh).join([p.features for p in found])
        torch.testing.assert_close(kept.points, fresh.points, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(kept.tokens, fresh.tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(action_out(model, kept), out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", HEADS)
@pytest.mark.parametrize("trained", ["head", "all"])
def test_fresh_samples_have_ratio_one_and_the_vlm_is_left_alone(trained: str, config: dict[str, object]) -> None:
    learn = replace(QUICK, trained=trained, warmup=0, kl=1.0)
    model = prepare(corridor.model(**config), learn)
    practice = PpoPractice(corridor.cells(model), learn)
    vlm, whole = digest(model, ("action_head.", "token_learner.")), digest(model)
    _, figures = practice.iterate()
    assert figures["first_ratio"] == pytest.approx(1, abs=1e-4)
    assert digest(model) != whole
    assert (digest(model, ("action_head.", "token_learner.")) == vlm) == (trained == "head")
    assert ("feature_error" in figures) == (trained == "head")


def test_only_the_critic_learns_while_it_warms_up_or_nothing_was_rewarded() -> None:
    model = prepare(corridor.model(), QUICK)
    ppo = Ppo(model, checkpoints.prompt(), QUICK)
    before, batch = digest(model), flat(corridor.cells(model).batch())
    first = ppo.update(batch)
    assert "ratio" not in first
    assert digest(model) == before
    unrewarded = [replace(p, episode=replace(p.episode, detected=False)) for p in batch]
    assert "explained_variance" not in ppo.update(unrewarded)
    assert digest(model) == before
    assert ppo.update(batch)["value_loss"] < first["value_loss"]
    assert digest(model) != before


def test_cached_features_and_a_vlm_that_runs_give_the_same_update() -> None:
    learn, ends = replace(QUICK, warmup=0), []
    batch = flat(corridor.cells(prepare(corridor.model(), learn)).batch())
    for cached in (True, False):
        torch.manual_seed(0)
        model = prepare(corridor.model(), learn)
        Ppo(model, checkpoints.prompt(), learn, cached).update(batch)
        ends.append(adapter.state(model))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], atol=1e-4, rtol=1e-3, msg=name)


def test_features_of_another_vlm_are_refused() -> None:
    model = prepare(corridor.model(), QUICK)
    batch = flat(corridor.cells(model).batch())
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                tensor.add_(0.5)
    with pytest.raises(VlaRosError, match="features differ by .*: its weights have changed"):
        Ppo(model, checkpoints.prompt(), QUICK).update(batch)


class Said(corridor.Corridor):
    """A corridor whose truth is read out."""

    def __init__(self, truth: str) -> None:
        super().__init__()
        self.said, self.cycle, self.looked = truth, float(len(truth) - 1), 0

    def success(self) -> bool:
        self.looked += 1
        return self.said[self.looked - 1] == "1"


@pytest.mark.parametrize(("truth", "end"), [("0110", 2), ("0101", None), ("01101", 2), ("110", 1), ("00", None)])
def test_an_episode_ends_at_the_second_look_that_sees_success(truth: str, end: int | None) -> None:
    practising = corridor.cells(corridor.model(), 1, ("reach",))
    practising.envs = [Said(truth)]
    [[found]] = practising.batch().values()
    assert found.episode.detected == found.episode.true_success == (end is not None)
    steps = len(truth) - 1 if end is None else end
    assert len(found.actions) == steps
    assert len(found.episode.practice.images) == len(found.features.points) == steps + 1


def test_a_judge_ends_episodes_and_rewards() -> None:
    model = corridor.model()
    [found] = corridor.cells(model, 3, ("reach",), judge=(corridor.model(1), ALWAYS)).batch().values()
    assert all(p.episode.detected and len(p.actions) == ALWAYS.debounce - 1 for p in found)


@pytest.mark.parametrize("config", HEADS)
def test_a_sparse_reward_is_enough(config: dict[str, object]) -> None:
    model = prepare(corridor.model(**config), QUICK)
    before = corridor.success(model)
    practice = PpoPractice(corridor.cells(model, 48, ("reach",)), QUICK)
    explained = []
    for _ in range(10):
        _, figures = practice.iterate()
        if figures["return_variance"] > 0.02:
            explained.append(figures["explained_variance"])
    assert before < 0.6
    assert corridor.success(model) > before + 0.3
    assert max(explained) > 0.15, "the critic explains nothing"


def test_chunks_and_impossible_values_are_refused() -> None:
    with pytest.raises(VlaRosError, match="found chunks of 2 rows, expected 1"):
        corridor.cells(corridor.model(chunk=2))
    with pytest.raises(VlaRosError, match="trained is 'some', expected one of head, all"):
        PpoConfig(trained="some")
    with pytest.raises(VlaRosError, match="epochs is 0, expected at least 1"):
        PpoConfig(epochs=0)
