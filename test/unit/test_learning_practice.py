"""Practice in this process: the curriculum's shares, and an update that is on-policy and leaves the judge alone."""

from __future__ import annotations

from dataclasses import replace

import checkpoints
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.errors import VlaRosError
from vla_ros.learning.practice import Curriculum, PracticeConfig, SimulatedPractice, rates
from vla_ros.learning.self_improvement import ImproveConfig
from vla_ros.policy import adapter
from vla_ros.progress.calibration import Calibration
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv

NEVER = Calibration(checkpoints.STRICT, 3, 0.0, 1.0, 10, 1.0)


def test_what_succeeds_half_of_the_time_is_practised_most() -> None:
    curriculum = Curriculum(("always", "half", "never"), floor=0.25, memory=64)
    assert list(curriculum.shares().values()) == pytest.approx([1 / 3] * 3)
    for k in range(64):
        for task, success in (("always", True), ("half", k % 2 == 0), ("never", False)):
            curriculum.record(task, success)
    shares = curriculum.shares()
    assert shares["half"] > 0.7
    assert shares["always"] == pytest.approx(shares["never"])
    assert shares["always"] > 0.25 / 3
    for _ in range(64):  # what it has learnt to do makes room
        curriculum.record("half", True)
    assert curriculum.shares()["half"] == pytest.approx(1 / 3)


@given(st.lists(st.lists(st.booleans(), max_size=20), min_size=1, max_size=5), st.integers(1, 60))
def test_counts_are_whole_and_complete(outcomes: list[list[bool]], episodes: int) -> None:
    curriculum = Curriculum([str(k) for k in range(len(outcomes))], floor=0.25, memory=8)
    for k, found in enumerate(outcomes):
        for success in found:
            curriculum.record(str(k), success)
    counts = curriculum.counts(episodes)
    assert sum(counts.values()) == episodes
    for task, share in curriculum.shares().items():
        assert abs(counts[task] - share * episodes) < 1


def test_without_a_task_there_is_no_practice() -> None:
    with pytest.raises(VlaRosError, match="found no task, expected at least one"):
        Curriculum((), 0.25, 8)


def test_a_threshold_that_the_judge_cannot_reach_is_refused() -> None:
    judge = checkpoints.model(1)
    limit = judge.config.steps_to_go_bins - 1
    with pytest.raises(VlaRosError, match=rf"threshold is {limit + 1}, expected within 0..{limit} steps"):
        SimulatedPractice(
            adapter.add(checkpoints.model(0)), judge, replace(NEVER, threshold=limit + 1), checkpoints.prompt(), [],
            PracticeConfig(), ImproveConfig(),
        )  # fmt: skip


def test_an_iteration_is_on_policy_and_leaves_the_judge_alone() -> None:
    policy, judge = adapter.add(checkpoints.model(0)), checkpoints.model(1)
    before = {name: t.detach().clone() for name, t in policy.state_dict().items()}
    frozen = {name: t.detach().clone() for name, t in judge.state_dict().items()}
    envs = [TabletopEnv(RobotContract.load("panda")) for _ in range(2)]
    config = PracticeConfig(per_update=4, tasks=("reach",), seed=7)
    improve = ImproveConfig(updates=2, batch=8, learning_rate=1e-2)
    practice = SimulatedPractice(policy, judge, NEVER, checkpoints.prompt(), envs, config, improve)
    found, figures = practice.iterate()
    assert {task: len(episodes) for task, episodes in found.items()} == {"reach": 4}
    assert practice.episodes == 4
    assert figures["first_ratio"] == pytest.approx(1, abs=1e-3)
    assert rates(found)["reach_detected"] == 0
    assert rates(found)["reach_length"] == 10  # the cycle time at the contract's rate
    moved = {name for name, t in policy.state_dict().items() if not torch.equal(t, before[name])}
    assert moved
    assert moved <= set(adapter.state(policy))
    assert all(torch.equal(t, frozen[name]) for name, t in judge.state_dict().items())
    again, _ = practice.iterate()
    assert {e.practice.instruction for e in again["reach"]} != {e.practice.instruction for e in found["reach"]}
