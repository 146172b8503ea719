"""States, reasons and clocks of the safety filter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.filter import SafetyFilter
from vla_ros.types import ActionChunk, JointState, SafeCommand, SafetyMode

CONTRACT = RobotContract.load("panda")
KINEMATICS = Kinematics(CONTRACT)
HOME = KINEMATICS.home()
JOINTS = CONTRACT.joints
DT = 1 / CONTRACT.control.rate
SMALL = 0.01  # rad, a gentle row


class Cell:
    """A filter and an ideal arm."""

    def __init__(self) -> None:
        self.filter = SafetyFilter.for_robot(CONTRACT)
        self.now, self.q, self.v = 50.0, HOME.copy(), np.zeros(7)
        self.tick()

    def state(self, **changes: Any) -> JointState:
        values = {"stamp": self.now, "names": JOINTS, "position": self.q, "velocity": self.v, **changes}
        return JointState(**values)

    def tick(self, state: JointState | None = None, **changes: Any) -> SafeCommand:
        self.now += DT
        sent = self.filter.tick(self.now, state or self.state(**changes))
        assert sent is not None
        self.q, self.v = sent.command, sent.velocity
        return sent

    def silent(self) -> SafeCommand:
        self.now += DT
        sent = self.filter.tick(self.now, None)
        assert sent is not None
        self.q, self.v = sent.command, sent.velocity
        return sent

    def chunk(self, rows: Any = None, **changes: Any) -> ActionChunk:
        rows = np.atleast_2d(self.q + SMALL if rows is None else rows)
        values = {"stamp": self.now + 0.1, "period": 0.1, "joint_names": JOINTS, "rows": rows, **changes}
        return ActionChunk(**{"observation_stamp": self.now, **values})

    def submit(self, rows: Any = None, **changes: Any) -> str:
        return self.filter.submit(self.chunk(rows, **changes), self.now)

    def moving(self) -> Cell:
        assert self.submit(self.q + 0.1) == ""
        for _ in range(10):
            assert self.tick().mode == SafetyMode.RUN
        assert self.v.any()
        return self


def test_without_a_joint_state_nothing_is_sent() -> None:
    safety = SafetyFilter.for_robot(CONTRACT)
    assert safety.tick(1.0, None) is None
    bad = JointState(1.0, JOINTS, np.full(7, math.nan), np.zeros(7))
    assert safety.tick(1.0, bad) is None
    assert safety.reason == "state_non_finite:panda_joint1"
    chunk = ActionChunk(1.1, 0.1, JOINTS, HOME[None])
    assert safety.submit(chunk, 1.0) == "state_non_finite:panda_joint1"


def test_row_is_met_at_its_time_whatever_the_order_of_joints() -> None:
    cell = Cell()
    target = HOME + np.linspace(-SMALL, SMALL, 7)
    assert cell.submit(target[::-1], joint_names=JOINTS[::-1], policy_version=7, episode_id="e") == ""
    for _ in range(20):
        reversed_state = JointState(cell.now + DT, JOINTS[::-1], cell.q[::-1], cell.v[::-1])
        sent = cell.tick(reversed_state)
    assert np.allclose(sent.command, target, atol=1e-12)
    assert (sent.policy_version, sent.episode_id) == (7, "e")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"semantics": "tip_delta_xy"}, "semantics"),
        ({"joint_names": JOINTS[:6]}, "joint_names"),
        ({"joint_names": ("x", *JOINTS[1:])}, "joint_names"),
        ({"rows": np.zeros((0, 7))}, "shape"),
        ({"rows": HOME[None, :6]}, "shape"),
        ({"rows": np.full((1, 7), math.nan)}, "non_finite"),
        ({"stamp": math.nan}, "non_finite"),
        ({"period": math.inf}, "non_finite"),
        ({"period": 0.0}, "period"),
        ({"stamp": 49.0}, "too_old"),
        ({"observation_stamp": 49.0}, "not_monotonic"),
        ({"stamp": 52.0}, "too_far_ahead"),
        ({"period": 1.5}, "too_far_ahead"),
        ({"period": 1e308, "rows": np.stack([HOME] * 5)}, "too_far_ahead"),
        ({"period": 0.9, "rows": np.stack([HOME] * 50)}, "too_far_ahead"),
        ({"rows": HOME[None] + [[0, 0, 0.61, 0, 0, 0, 0]]}, "row_jump:panda_joint3"),
        ({"rows": HOME + np.array([[0.0], [0.61]])}, "row_jump:panda_joint1"),
        ({"rows": np.where(np.arange(7) == 5, 3.74, HOME)[None]}, "position_limit:panda_joint6"),
    ],
)
def test_a_bad_chunk_is_rejected_whole_and_the_running_one_goes_on(changes: dict[str, Any], reason: str) -> None:
    cell = Cell()
    good = cell.q + SMALL
    assert cell.submit(good) == ""
    cell.tick()
    assert cell.submit(**changes) == reason
    assert cell.filter.counters.rejected_chunks == 1
    assert cell.filter.counters.rejections[reason.split(":", maxsplit=1)[0]] == 1
    for _ in range(19):
        sent = cell.tick()
        assert (sent.mode, sent.reason) == (SafetyMode.RUN, reason)
    assert np.allclose(sent.command, good, atol=1e-12)


def test_answers_to_old_observations_are_rejected() -> None:
    cell = Cell()
    assert cell.submit(observation_stamp=cell.now - 0.6) == "too_old"
    assert cell.submit() == ""
    assert cell.submit(observation_stamp=cell.now - 0.1) == "not_monotonic"


def test_late_rows_are_dropped_by_the_clock() -> None:
    cell = Cell()
    rows = cell.q + np.linspace(0.0, 0.005, 6)[:, None]
    assert cell.submit(rows, stamp=cell.now - 0.25) == ""
    for _ in range(10):
        cell.tick()
    assert np.allclose(cell.q, rows[3], atol=1e-9), "rows 0..2 were late, row 3 was due 50 ms after takeover"


def test_moving_on_at_rows_without_stopping() -> None:
    cell = Cell()
    rows = cell.q + 0.05 * np.arange(1, 11)[:, None] * np.array([1, 0, 0, 0, 0, 0, 0])
    assert cell.submit(rows) == ""
    speeds = [cell.tick().velocity[0] for _ in range(200)]
    assert min(speeds[15:185]) > 0.3, "0.5 rad/s on average, no stop at a row"
    for _ in range(40):
        sent = cell.tick()
    assert np.allclose(sent.command, rows[-1], atol=1e-6), "a last chunk ends on its last row"


def test_policy_silence_holds_and_a_new_chunk_resumes() -> None:
    cell = Cell().moving()
    modes = [cell.tick() for _ in range(120)]
    assert modes[-1].mode == SafetyMode.HELD
    assert modes[-1].reason == "policy_silence"
    assert not cell.v.any()
    assert cell.submit() == ""
    assert cell.tick().mode == SafetyMode.RUN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"position": np.full(7, math.nan)}, "state_non_finite:panda_joint1"),
        ({"velocity": np.full(7, math.inf)}, "state_non_finite:panda_joint1"),
        ({"names": ("x", *JOINTS[1:])}, "state_missing:panda_joint1"),
        ({"position": HOME[:3]}, "state_shape"),
        ({"stamp": 40.0}, "state_stale"),
        ({"stamp": math.nan}, "state_stale"),
        ({"position": HOME - 0.2 * (np.arange(7) == 1)}, "tracking_brake:panda_joint2"),
    ],
)
def test_a_bad_joint_state_brakes_and_holds(changes: dict[str, Any], reason: str) -> None:
    cell = Cell().moving()
    before = cell.v.copy()
    now = {"stamp": cell.now + DT}
    sent = cell.tick(**{**now, **changes})
    assert (sent.mode, sent.reason) == (SafetyMode.BRAKE, reason)
    assert (
        np.abs(sent.velocity) <= np.maximum(np.abs(before) - np.array(cell.filter.limits.acceleration) * DT, 0) + 1e-12
    ).all()
    for _ in range(40):
        sent = cell.tick()
    assert sent.mode == SafetyMode.HELD
    assert cell.submit() == ""


def test_silence_of_joint_states_brakes_open_loop_then_latches() -> None:
    cell = Cell().moving()
    assert cell.silent().mode == SafetyMode.BRAKE
    while cell.v.any():
        cell.silent()
    assert cell.filter.mode == SafetyMode.HELD
    for _ in range(100):
        sent = cell.silent()
    assert (sent.mode, sent.reason) == (SafetyMode.LATCHED, "state_silence")
    done, why = cell.filter.reset()
    assert not done
    assert "state_silence" in why
    cell.tick()
    assert cell.filter.reset() == (True, "reset")


def test_estop_brakes_on_the_next_tick_and_needs_the_operator() -> None:
    cell = Cell().moving()
    before = cell.v.copy()
    cell.filter.estop("button", held=True)
    sent = cell.tick()
    assert (sent.mode, sent.reason) == (SafetyMode.LATCHED, "button")
    assert np.abs(sent.velocity).max() < np.abs(before).max()
    assert cell.filter.reset() == (False, "cause persists: button")
    cell.filter.release("button")
    done, why = cell.filter.reset()
    assert not done
    assert "the arm moves" in why
    for _ in range(40):
        cell.tick()
    assert not cell.v.any()
    assert cell.submit() == "latched"
    assert cell.filter.reset()[0]
    assert cell.filter.reset() == (False, "not latched: mode HELD")
    assert cell.submit() == ""


def test_reset_starts_from_where_the_arm_was_moved_to() -> None:
    cell = Cell()
    away = HOME + 0.5 * (np.arange(7) == 0)
    sent = cell.tick(position=away)
    assert sent.mode == SafetyMode.LATCHED
    done, message = cell.filter.reset()
    assert done
    assert "tracking_latch:panda_joint1" in message
    assert np.array_equal(cell.tick(position=away).command, away)


def test_clock_jumps_brake_and_recover() -> None:
    cell = Cell().moving()
    cell.now -= 20.0
    sent = cell.tick()
    assert (sent.mode, sent.reason) == (SafetyMode.BRAKE, "clock_jump")
    for _ in range(40):
        cell.tick()
    assert cell.submit() == "", "newest observation of the old clock must not reject chunks of the new one"
    cell.now += 20.0
    assert cell.tick().reason == "state_silence"
    assert cell.filter.counters.missed_ticks == 4000


def test_faster_states_do_not_move_the_arm_faster() -> None:
    cell = Cell()
    sent = 0
    for _ in range(1000):
        cell.now += DT / 5
        sent += cell.filter.tick(cell.now, cell.state()) is not None
    assert sent == pytest.approx(200, abs=1)
    assert cell.filter.counters.missed_ticks == 0


def test_slow_down_keeps_the_path_straight() -> None:
    cell = Cell()
    step = np.array([0.5, 0.25, 0, 0, 0, 0, 0])
    assert cell.submit(cell.q + step * np.arange(1, 3)[:, None] / 2) == ""
    slowest, worst = 1.0, 0.0
    for _ in range(60):
        sent = cell.tick()
        slowest = min(slowest, sent.path_speed)
        moved = sent.command - HOME
        worst = max(worst, abs(moved[1] - moved[0] / 2))
    assert slowest < 0.9, "2.5 rad/s was asked for"
    assert worst < 0.01
    assert cell.filter.counters.limited_ticks > 0


def test_workspace_stops_the_tip_at_the_floor() -> None:
    cell = Cell()
    x, y, z = KINEMATICS.tip_pose(HOME)[:3]
    heights = []
    reasons = set()
    for _ in range(10):
        z -= 0.01
        cell.submit(KINEMATICS.ik(cell.q, np.array([x, y, max(z, -0.03)])))
        for _ in range(20):
            sent = cell.tick()
            reasons.add(sent.reason)
            heights.append(KINEMATICS.tip_pose(sent.command)[2])
    floor = cell.filter.limits.workspace["panda_tool"][2][0]
    assert min(heights) == pytest.approx(floor, abs=2e-3)
    assert min(heights) >= floor - 1e-6
    assert "workspace:panda_tool" in reasons
