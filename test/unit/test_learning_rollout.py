"""In-process practice: whole episodes whose log-probabilities and judgements are those of the networks."""

from __future__ import annotations

import checkpoints
import numpy as np
import pytest
import torch

from vla_ros.learning import rollout
from vla_ros.learning.self_improvement import stack
from vla_ros.policy.model import steps_to_go_moments
from vla_ros.progress.judge import Calibration
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv

CONTRACT = RobotContract.load("panda")
NEVER, ALWAYS = (Calibration(s, 3, 0.0, 1.0, 10, 1.0) for s in (checkpoints.STRICT, checkpoints.EASY))


@pytest.fixture(scope="module")
def envs() -> list[TabletopEnv]:
    return [TabletopEnv(CONTRACT) for _ in range(2)]


def run(envs: list[TabletopEnv], calibration: Calibration, seeds: list[int]) -> list[rollout.SimulatedEpisode]:
    policy, judge = checkpoints.model(0), checkpoints.model(1)
    return rollout.run(envs, seeds, policy, judge, calibration, checkpoints.prompt(), task="reach")


def test_episodes_hold_what_the_networks_said(envs: list[TabletopEnv]) -> None:
    found = run(envs, NEVER, [3, 4, 5])
    assert len(found) == 3
    limit = round(envs[0].tasks.tasks["reach"].time_limit * CONTRACT.observation.rate)
    tokenizer, policy, judge = checkpoints.prompt(), checkpoints.model(0), checkpoints.model(1)
    for episode in found:
        p = episode.practice
        assert not episode.detected
        assert p.images.shape == (limit + 1, 64, 64, 3)
        assert p.tokens.shape == (limit, 1, 2)
        assert p.steps_to_go.shape == (limit + 1,)
        assert p.usable.all()
        inputs = stack([p], tokenizer)
        with torch.inference_mode():
            out = policy(*inputs[torch.arange(limit)])
            d, _ = steps_to_go_moments(judge(*inputs[torch.arange(limit + 1)])["steps_to_go"])
        log_p = out["action"].log_softmax(-1).gather(-1, torch.from_numpy(p.tokens).long()[..., None])[..., 0].sum((1, 2))
        np.testing.assert_allclose(p.log_probability, log_p, atol=1e-4)
        np.testing.assert_allclose(p.steps_to_go, d, atol=1e-3)
        moved = p.states[1:] - p.states[:-1]
        wanted = p.tokens[:, 0].astype(float) - 10
        assert np.corrcoef(wanted.ravel(), moved.ravel())[0, 1] > 0.6
    assert len({e.practice.instruction for e in found}) > 1


def test_detection_ends_an_episode_after_its_debounce(envs: list[TabletopEnv]) -> None:
    for episode in run(envs, ALWAYS, [3, 4]):
        assert episode.detected
        assert len(episode.practice.tokens) == ALWAYS.debounce - 1
        assert len(episode.practice.steps_to_go) == ALWAYS.debounce


def test_seeds_repeat(envs: list[TabletopEnv]) -> None:
    first, again, other = (run(envs, NEVER, seeds) for seeds in ([3, 4], [3, 4], [13, 14]))
    assert [e.practice.tokens.tolist() for e in first] == [e.practice.tokens.tolist() for e in again]
    assert np.array_equal(first[0].practice.images, again[0].practice.images)
    assert not np.array_equal(first[0].practice.images[0], other[0].practice.images[0])
