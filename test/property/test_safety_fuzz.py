"""A small share of benchmarks/safety_fuzz.py, and that its judge and its arm can find something."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from vla_ros.robots.contract import RobotContract
from vla_ros.safety.filter import SafetyFilter
from vla_ros.safety.limits import Limits
from vla_ros.sim.arena import Arena
from vla_ros.types import JOINT_POSITION, ActionChunk, JointState, SafeCommand, SafetyMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from safety_adversary import Adversary, Outcome
from safety_judge import TOLERANCE, Bounds, Histogram, judge, standstill
from safety_rig import Arm, ExactArm

DT = 0.005
BOUNDS = Bounds(np.full(2, -3.0), np.full(2, 3.0), np.full(2, 2.0), np.full(2, 10.0), np.full(2, 1000.0), DT)
PROFILES = {"position": (3.0, 60.0), "velocity": (2.0, 1.9), "acceleration": (0.5, 0.54), "jerk": (0.01, 0.06)}  # rad, s


@functools.cache
def arena(robot: str) -> Arm:
    return Arena(RobotContract.load(robot))


def run(robot: str, seed: int, ticks: int, build: Any = None, arm: Any = None) -> Outcome:
    contract = RobotContract.load(robot)
    build = build or (lambda: SafetyFilter.for_robot(contract))
    return Adversary(contract, arm or arena(robot), build, np.random.SeedSequence(seed), record=20).run(ticks)


@settings(max_examples=2, deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=0)
@pytest.mark.parametrize("kind", ["exact", "arena"])
@pytest.mark.parametrize("robot", RobotContract.known())
def test_nothing_breaks_a_limit_or_touches_anything(robot: str, kind: str, seed: int) -> None:
    # A smaller seed is no simpler one: no shrinking.
    arm = ExactArm(RobotContract.load(robot)) if kind == "exact" else arena(robot)
    done = run(robot, seed, 1000, arm=arm)
    assert not sum(done.violations.values()), (done.violations, done.findings, done.errors, done.never_stopped, done.twice)
    assert not done.contacts, done.touched
    assert done.answered > 500


def test_a_run_can_be_repeated() -> None:
    first, again = run("panda", 5, 400), run("panda", 5, 400)
    assert first.inputs == again.inputs
    assert first.accepted == again.accepted > 0
    assert np.array_equal(first.tracking, again.tracking)


# -------------------------------------------------------------------- the judge


def profile(kind: str, share: float) -> np.ndarray:
    """Commands [T, 2] of a smooth move whose peak of `kind` is the limit and `share` of it more, all else inside."""
    length, seconds = PROFILES[kind]
    at = np.clip(np.arange(0, seconds + 0.1, DT) / seconds, 0, 1)[:, None] * [1.0, 0.0]
    rows = length * at**3 * (10 - 15 * at + 6 * at**2)
    order = ("position", "velocity", "acceleration", "jerk").index(kind)
    limit = (BOUNDS.upper, BOUNDS.velocity, BOUNDS.acceleration, BOUNDS.jerk)[order]
    assert limit is not None
    padded = np.vstack([np.zeros((3, 2)), rows])
    peak = np.abs(np.diff(padded, n=order, axis=0) / DT**order).max()
    over = share * (BOUNDS.upper - BOUNDS.lower)[0] / limit[0] if kind == "position" else share
    return rows * limit[0] * (1 + over) / peak


@pytest.mark.parametrize("kind", PROFILES)
def test_the_judge_sees_a_millionth_too_much(kind: str) -> None:
    verdict = judge(profile(kind, 1e-6), BOUNDS)
    assert verdict.counts[kind] > 0
    assert verdict.overshoot[kind] == pytest.approx(1e-6, rel=1e-3)
    assert sum(verdict.counts.values()) == verdict.counts[kind]
    assert {finding.kind for finding in verdict.first} == {kind}
    assert sum(judge(profile(kind, -1e-6), BOUNDS).counts.values()) == 0


def test_the_judge_sees_what_is_not_finite_and_what_starts_in_motion() -> None:
    rows = profile("velocity", -0.1)
    rows[50, 1] = np.nan
    assert judge(rows, BOUNDS).counts["finite"] == 1
    moving = profile("velocity", -0.1)[180:]  # the first command is a standstill
    assert judge(moving, BOUNDS).counts["acceleration"] > 0


def test_only_a_reset_may_start_elsewhere() -> None:
    one, two = profile("velocity", -0.1), 1.0 + profile("velocity", -0.1)
    rows, moved = np.vstack([one, two]), len(one)
    assert judge(rows, BOUNDS).counts["velocity"] == 2
    assert sum(judge(rows, BOUNDS, ((0, None), (moved, two[0]))).counts.values()) == 0
    assert judge(rows, BOUNDS, ((0, None), (moved, two[0] + 0.1))).counts["velocity"] == 2, "not where the arm is"
    assert judge(rows, BOUNDS, ((0, None), (moved // 2, rows[moved // 2]))).counts["velocity"] == 2, "not in motion"


def test_standstill_and_histogram() -> None:
    rows = profile("velocity", -0.1)
    assert rows[-1, 0] == rows[standstill(rows, 100, DT), 0]
    assert standstill(rows[:200], 100, DT) == -1
    values = np.random.default_rng(0).lognormal(-3, 1, 20_000)
    histogram, other = Histogram(), Histogram()
    histogram.add(values[:5000])
    other.add(values[5000:])
    histogram.merge(Histogram(**other.state()))
    assert histogram.percentile(99) == pytest.approx(np.percentile(values, 99), rel=0.035)
    assert histogram.percentile(100) == values.max()
    assert TOLERANCE <= 1e-9


class NoFilter:
    """Sends the policy's first row at once: what the whole chain must find wrong."""

    def __init__(self, robot: str) -> None:
        contract = RobotContract.load(robot)
        self.limits, self.period = Limits.load(contract), 1.0 / contract.control.rate
        self.counters = SimpleNamespace(rejections=Counter())
        self._row: np.ndarray | None = None

    def submit(self, chunk: ActionChunk, now: float) -> str:
        if chunk.semantics != JOINT_POSITION or chunk.rows.ndim != 2 or not len(chunk.rows):
            return "semantics"
        if chunk.rows.shape[1] != len(self.limits.joints) or not np.abs(chunk.rows).max() < 10:
            return "shape"
        self._row = chunk.rows[0]
        return ""

    def tick(self, now: float, state: JointState | None) -> SafeCommand | None:
        if self._row is None:
            return None
        return SafeCommand(now, SafetyMode.RUN, "", 1.0, (), self._row, self._row, np.zeros_like(self._row))

    def estop(self, reason: str, held: bool = False) -> None: ...
    def release(self, reason: str) -> None: ...

    def reset(self) -> tuple[bool, str]:
        return False, ""


@pytest.mark.parametrize("robot", RobotContract.known())
def test_without_a_filter_everything_is_found(robot: str) -> None:
    found, touched = Counter[str](), Counter[str]()
    for seed in range(3):
        done = run(robot, seed, 1500, lambda: NoFilter(robot))
        found.update(done.violations)
        touched.update(done.contacts)
    for kind in ("velocity", "acceleration", "jerk", "answered_twice"):
        assert found[kind] > 0, kind
    assert touched, "contacts"


def test_contacts_are_counted_when_they_begin() -> None:
    class Touchy(ExactArm):
        def contacts(self) -> list[tuple[str, str]]:
            return [("hand", "table")] if self.steps % 100 in (50, 51, 52) else []

        steps = 0

        def step(self, command: np.ndarray) -> None:
            super().step(command)
            self.steps += 1

    done = run("panda", 0, 1000, arm=Touchy(RobotContract.load("panda")))
    assert done.contacts["hand~table"] == pytest.approx(10, abs=1)
    assert done.touching == pytest.approx(30, abs=3)
    assert done.touched[0][1] == "hand~table"
