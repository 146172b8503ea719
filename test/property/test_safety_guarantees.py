"""The filter's guarantees, from arbitrary inputs: limits of every tick, standstill after silence and e-stop,
transparency."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruckig import ControlInterface, InputParameter, Ruckig, Synchronization, Trajectory

from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.arm import Arm
from vla_ros.safety.filter import SafetyFilter
from vla_ros.safety.follower import Follower
from vla_ros.safety.laws import along, duration, during, move, stop, stops, stretch
from vla_ros.safety.limits import Limits
from vla_ros.types import ActionChunk, JointState, SafeCommand, SafetyMode

CONTRACT = RobotContract.load("panda")
LIMITS = Limits.load(CONTRACT, "panda")
HOME = Kinematics(CONTRACT).home()
JOINTS = CONTRACT.joints
LOWER, UPPER = np.array(LIMITS.lower), np.array(LIMITS.upper)
VELOCITY, ACCELERATION, JERK = (np.array(row) for row in (LIMITS.velocity, LIMITS.acceleration, LIMITS.jerk))
DT = 1 / CONTRACT.control.rate
ROUNDING = 1e-9  # relative


class Rig:
    """A filter with an arm that follows its command exactly, a clock, and the record of what was sent."""

    def __init__(self, limits: Limits = LIMITS, start: np.ndarray = HOME, arm: bool = False) -> None:
        self.filter = SafetyFilter.for_robot(CONTRACT) if arm else SafetyFilter(limits, CONTRACT.control.rate)
        self.now = 100.0
        self.sent: list[SafeCommand] = []
        self.q = np.array(start)
        self.tick()

    def state(self, **changes: object) -> JointState:
        velocity = self.sent[-1].velocity if self.sent else np.zeros(len(JOINTS))
        return dataclasses.replace(JointState(self.now, JOINTS, self.q.copy(), velocity), **changes)

    def tick(self, state: JointState | str | None = "exact") -> SafeCommand | None:
        self.now += DT
        sent = self.filter.tick(self.now, self.state() if state == "exact" else state)
        if sent is not None:
            self.sent.append(sent)
            self.q = sent.command.copy()
        return sent

    def chunk(self, rows: np.ndarray, **changes: object) -> str:
        chunk = ActionChunk(self.now + 0.1, 0.1, JOINTS, np.atleast_2d(rows), observation_stamp=self.now)
        return self.filter.submit(dataclasses.replace(chunk, **changes), self.now)

    def check_limits(self) -> None:
        q = np.array([c.command for c in self.sent])
        assert np.isfinite(q).all()
        v = np.diff(q, axis=0) / DT
        a = np.diff(np.vstack([np.zeros(len(JOINTS)), v]), axis=0) / DT  # the first command is a standstill
        j = np.diff(np.vstack([np.zeros(len(JOINTS)), a]), axis=0) / DT
        assert (q >= LOWER).all()
        assert (q <= UPPER).all()
        assert (np.abs(v) / VELOCITY).max(initial=0) <= 1 + ROUNDING
        assert (np.abs(a) / ACCELERATION).max(initial=0) <= 1 + ROUNDING
        assert (np.abs(j) / JERK).max(initial=0) <= 1 + ROUNDING


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_follower_needs_no_admission(data: st.DataObject) -> None:
    """Straight at the limits at full speed, over and over: the path itself is hostile here, far outside the limits."""
    follower = Follower(LIMITS, DT, None)
    follower.seed(HOME)
    rig = Rig()
    rig.sent = rig.sent[:1]
    for _ in range(data.draw(st.integers(1, 6))):
        count = data.draw(st.integers(1, 4))
        rows = [[data.draw(st.sampled_from([-9.0, -1.0, 0.0, 1.0, 9.0])) for _ in JOINTS] for _ in range(count)]
        lead = data.draw(st.sampled_from([1e-4, 0.01, 0.3]))
        times = np.concatenate(([0.0], lead + data.draw(st.sampled_from([1e-3, 0.1])) * np.arange(count)))
        follower.take(times, np.array(rows), 0.15, data.draw(st.sampled_from([1.0, 1.0, 0.3, 0.0])))
        for _ in range(data.draw(st.integers(1, 300))):
            follower.follow(data.draw(st.sampled_from([1.0] * 50 + [0.5, 0.0])))
            assert 0 <= follower.speed <= 1
            command, velocity = np.array(follower.position), np.array(follower.velocity)
            rig.sent.append(SafeCommand(0, SafetyMode.RUN, "", follower.speed, (), command, command, velocity))
    rig.check_limits()


bad = st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 5.0, -5.0])


@st.composite
def rows(draw: st.DrawFn, around: np.ndarray) -> np.ndarray:
    """Anything from a gentle motion to a wild one at the limits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 6))
    size = draw(st.sampled_from([0.01, 0.1, 0.3, 0.59]))
    steps = rng.uniform(-size, size, (count, len(JOINTS)))
    if draw(st.booleans()):
        steps = np.abs(steps) * rng.choice([-1, 1], len(JOINTS))  # one way: runs into the limits
    result = np.clip(around + np.cumsum(steps, axis=0), LOWER, UPPER)
    if draw(st.integers(0, 5)) == 0:
        result[rng.integers(count), rng.integers(len(JOINTS))] = draw(bad)
    return result


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_limits_hold_for_every_tick_from_any_input(data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([HOME, LOWER, UPPER, (LOWER + UPPER) / 2]))
    rig = Rig(start=start)
    for _ in range(data.draw(st.integers(1, 8))):
        action = data.draw(st.sampled_from(["chunk"] * 6 + ["reversed", "late", "ahead", "names", "shape", "estop", "reset"]))
        some = data.draw(rows(rig.q))
        if action == "reversed":
            rig.chunk(some, joint_names=JOINTS[::-1])
        elif action == "late":
            rig.chunk(some, stamp=rig.now - data.draw(st.floats(0, 1)))
        elif action == "ahead":
            rig.chunk(some, stamp=rig.now + data.draw(st.floats(0, 2)), period=data.draw(st.sampled_from([0, 1e-3, 0.01])))
        elif action == "names":
            rig.chunk(some, joint_names=("a", *JOINTS[1:]))
        elif action == "shape":
            rig.chunk(some[:, :-1])
        elif action == "estop":
            rig.filter.estop("test")
        elif action == "reset":
            rig.filter.reset()
        else:
            rig.chunk(some, period=data.draw(st.sampled_from([0.02, 0.1, 0.3])))
        for _ in range(data.draw(st.integers(1, 40))):
            kind = data.draw(st.sampled_from(["exact"] * 30 + ["silent", "nan", "missing", "stale", "twice"]))
            if kind == "nan":
                rig.tick(rig.state(position=np.full(7, math.nan), stamp=rig.now + DT))
            elif kind == "missing":
                rig.tick(rig.state(names=("x", *JOINTS[1:]), stamp=rig.now + DT))
            elif kind == "stale":
                rig.tick(rig.state(stamp=rig.now - 1))
            elif kind == "silent":
                rig.tick(None)
            else:
                rig.tick()
                if kind == "twice":
                    assert rig.filter.tick(rig.now, rig.state()) is None
    rig.check_limits()


@settings(max_examples=40, deadline=None)
@given(st.data())
@pytest.mark.parametrize("cause", ["policy", "joint_states", "estop"])
def test_stops_within_the_computed_time(cause: str, data: st.DataObject) -> None:
    rig = Rig()
    for _ in range(data.draw(st.integers(1, 5))):
        rig.chunk(data.draw(rows(rig.q)), period=0.05)
        for _ in range(data.draw(st.integers(1, 30))):
            rig.tick()
    until_brake = 0.0
    if cause == "estop":
        rig.filter.estop("button")
    elif cause == "policy":
        path = rig.filter._path
        until_brake = 0.0 if path is None else path.last_due + LIMITS.max_lag + LIMITS.policy_silence - rig.now
    before = rig.filter._follower.states[1:].T
    # braking on the path takes longer than the fastest stop of every joint
    limit = rig.filter.stopping_time() if cause != "policy" else until_brake + 2 * max(VELOCITY / ACCELERATION) + 0.2
    for _ in range(math.ceil(limit / DT) + 2):
        rig.tick(None if cause == "joint_states" else "exact")
    assert not rig.sent[-1].velocity.any()
    assert rig.sent[-1].mode == (SafetyMode.LATCHED if cause == "estop" else SafetyMode.HELD)
    if cause == "estop":
        first = rig.sent[-math.ceil(limit / DT) - 2].velocity
        for (v, a), most, jerk, after in zip(before, ACCELERATION, JERK, first, strict=True):
            expected = along((0.0, v, a), stop(v, a, most, jerk), DT)[1]
            assert after == pytest.approx(expected, abs=1e-4), "the fastest stop begins with the first tick"
    rig.check_limits()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), per_chunk=st.integers(1, 8))
@example(seed=0, per_chunk=1)
def test_a_feasible_motion_passes_unchanged(seed: int, per_chunk: int) -> None:
    """Slow sines at 10 Hz rows, rolled out in overlapping chunks: nothing is limited and the rows are met."""
    rng = np.random.default_rng(seed)
    rig = Rig()
    room = np.minimum(HOME - LOWER, UPPER - HOME) / 2.5
    amplitude, phase = np.minimum(rng.uniform(0.02, 0.15, 7), room), rng.uniform(0, 2 * np.pi, 7)
    zero = rig.now

    def motion(time: np.ndarray) -> np.ndarray:
        grow = np.clip((time - zero)[:, None] / 2, 0, 1)
        grow = grow**2 * (3 - 2 * grow)
        return HOME + grow * amplitude * (np.sin(1.5 * (time - zero)[:, None] + phase) - np.sin(phase))

    worst = 0.0
    for _ in range(30):
        times = rig.now + 0.1 * np.arange(1, per_chunk + 1)
        assert rig.chunk(motion(times)) == ""
        for _ in range(20):
            sent = rig.tick()
            assert sent is not None
            assert sent.mode == SafetyMode.RUN
            assert sent.active == ()
            assert sent.path_speed > 0.999
            worst = max(worst, np.abs(sent.command - motion(np.array([rig.now]))[0]).max())
        assert np.abs(rig.sent[-1].command - motion(times[:1])[0]).max() < 3e-4
    assert worst < (0.008 if per_chunk == 1 else 0.006)  # rad, between rows
    rig.check_limits()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_arm_keeps_its_clearance_and_its_workspace(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rig, judge = Rig(arm=True), Arm(CONTRACT, LIMITS)
    drift = rng.uniform(-1, 1, 7) * 0.15
    for _ in range(12):
        rig.chunk(np.clip(rig.q + drift * rng.uniform(0.5, 1.5, 7), LOWER, UPPER))
        for _ in range(20):
            rig.tick()
    rig.check_limits()
    for sent in rig.sent:
        assert (
            judge.distances.nearest(sent.command)[0] > LIMITS.clearance / 3
        )  # distances.BETWEEN, and once more after a stop in between
        # Between ticks the arm may bulge out of a box by far less than its stopping distance: standstills are judged.
        if not sent.velocity.any():
            assert judge.depth(sent.command)[0] < 1e-6


@settings(max_examples=300)
@given(
    v=st.floats(-3, 3),
    a=st.floats(-1, 1),
    most=st.floats(0.5, 30),
    jerk=st.sampled_from([5.0, 100.0, 7500.0]),
    share=st.floats(0, 1),
)
def test_braking_law(v: float, a: float, most: float, jerk: float, share: float) -> None:
    """The stop ends at rest, inside its limits and its own forecast; a stop from the middle of it is the rest of it."""
    start = (0.0, v, a * most)
    plan = stop(v, a * most, most, jerk)
    time = duration(plan)
    end = move(move(move(start, plan[0], plan[1]), 0.0, plan[2]), -plan[0], plan[3])
    assert end[1:] == pytest.approx((0.0, 0.0), abs=1e-9)
    below, above = stretch(v, a * most, plan)
    way = [along(start, plan, time * k / 50) for k in range(51)]
    assert min(q for q, _, _ in way) >= below - 1e-9
    assert max(q for q, _, _ in way) <= above + 1e-9
    assert max(abs(x) for _, _, x in way) <= most * (1 + 1e-9)
    middle = along(start, plan, share * time)
    rest = stop(*middle[1:], most, jerk)
    assert duration(rest) == pytest.approx((1 - share) * time, abs=1e-5)
    assert along(middle, rest, 1e9)[0] == pytest.approx(end[0], abs=1e-6)


def test_stops_are_those_of_ruckig() -> None:
    """Another implementation of the fastest stop, all joints at once: durations, states on the way, and no further swing
    than is told."""
    rng = np.random.default_rng(0)
    planner, given, found = Ruckig(7, 1.0), InputParameter(7), Trajectory(7)
    given.control_interface, given.synchronization = ControlInterface.Velocity, Synchronization.No
    given.max_velocity, given.max_acceleration, given.max_jerk = [math.inf] * 7, ACCELERATION, JERK
    given.target_velocity = given.target_acceleration = [0.0] * 7
    for _ in range(300):
        states = rng.uniform(-1, 1, (3, 7)) * np.stack((UPPER, VELOCITY, ACCELERATION))
        given.current_position, given.current_velocity, given.current_acceleration = states
        planner.calculate(given, found)
        plans, time, turns = stops(states, ACCELERATION, JERK)
        assert time == pytest.approx(found.duration, abs=1e-9)
        way = np.array([during(states, plans, moment)[0] for moment in np.linspace(0.0, time, 50)])
        expected = np.array([found.at_time(moment)[0] for moment in np.linspace(0.0, time, 50)])
        np.testing.assert_allclose(way, expected, atol=1e-9)
        travel = abs(np.diff(way, axis=0)).sum(axis=0)
        assert (travel <= abs(way[-1] - way[0]) + turns + 1e-9).all()
