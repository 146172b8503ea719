"""States, reasons and clocks of the safety filter."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import float64

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.arm import Arm
from vla_ros.safety.compiled import compiled
from vla_ros.safety.filter import SafetyFilter
from vla_ros.safety.laws import along, stop
from vla_ros.safety.limits import Limits
from vla_ros.types import (
    JOINT_DELTA,
    TIP_DELTA,
    TIP_POSE,
    ActionChunk,
    JointState,
    Obstacle,
    SafeCommand,
    SafetyMode,
)

CONTRACT = RobotContract.load("panda")
KINEMATICS = Kinematics(CONTRACT)
HOME = KINEMATICS.home()
JOINTS = CONTRACT.joints
DT = 1 / CONTRACT.control.rate
SMALL = 0.01  # rad, a gentle row
CLOSE = 2e-5  # rad, to a row at its time: the acceleration cannot jump, so the command trails it


class Cell:
    """A filter and an ideal arm."""

    def __init__(self, safety: SafetyFilter | None = None) -> None:
        self.filter = safety or SafetyFilter.for_robot(CONTRACT)
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
    assert np.allclose(sent.command, target, atol=CLOSE)
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
    assert np.allclose(sent.command, good, atol=CLOSE)


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
    assert np.allclose(cell.q, rows[3], atol=CLOSE), "rows 0..2 were late, row 3 was due 50 ms after takeover"


def test_moving_on_at_rows_without_stopping() -> None:
    cell = Cell()
    rows = cell.q + 0.05 * np.arange(1, 11)[:, None] * np.array([1, 0, 0, 0, 0, 0, 0])
    assert cell.submit(rows) == ""
    speeds = [cell.tick().velocity[0] for _ in range(200)]
    assert min(speeds[15:185]) > 0.3, "0.5 rad/s on average, no stop at a row"
    for _ in range(80):
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
    before = cell.filter._follower.states
    now = {"stamp": cell.now + DT}
    sent = cell.tick(**{**now, **changes})
    assert (sent.mode, sent.reason) == (SafetyMode.BRAKE, reason)
    limits = cell.filter.limits
    for (_, v, a), most, jerk, after in zip(before.T, limits.acceleration, limits.jerk, sent.velocity, strict=True):
        assert after == pytest.approx(along((0.0, v, a), stop(v, a, most, jerk), DT)[1], abs=1e-4), "the fastest stop"
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
    for _ in range(101):
        cell.tick()
    assert cell.filter.reset() == (True, "reset")


def test_reset_waits_for_the_cool_down() -> None:
    cell = Cell()
    cell.filter.estop("button")
    for _ in range(80):
        cell.tick()
    done, why = cell.filter.reset()
    assert not done
    assert why == "cool-down: 0.40 s since the latch, expected at least 0.5"
    for _ in range(21):
        cell.tick()
    assert cell.filter.reset()[0]


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
    for _ in range(110):
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
    for _ in range(101):
        cell.tick(position=away)
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


def dive(cell: Cell, step: np.ndarray) -> tuple[np.ndarray, set[str]]:
    """Tip positions [ticks, 3] m and reasons while rows lead the tip on by `step` [3] m each."""
    target = KINEMATICS.tip_pose(HOME)[:3]
    tips, reasons = [], set()
    for _ in range(16):
        target = target + step
        cell.submit(KINEMATICS.ik(cell.q, np.maximum(target, [-9, -9, -0.03])))
        for _ in range(20):
            sent = cell.tick()
            reasons.add(sent.reason)
            assert sent.clearance >= cell.filter.limits.clearance * 2 / 3
            tips.append(KINEMATICS.tip_pose(sent.command)[:3])
    return np.array(tips), reasons


def test_the_table_stops_the_tool() -> None:
    cell = Cell()
    tips, reasons = dive(cell, np.array([0, 0, -0.01]))
    lowest = 0.012 + cell.filter.limits.clearance  # of the rod's capsule
    assert lowest - 2e-4 <= tips[:, 2].min() <= lowest + 2e-3
    assert "clearance:panda_tool~table" in reasons


def test_the_workspace_stops_the_tip_at_its_side() -> None:
    cell = Cell()
    tips, reasons = dive(cell, np.array([0, 0.04, 0]))
    side = cell.filter.limits.workspace["panda_tool"][1][1]
    assert side - 5e-3 <= tips[:, 1].max() <= side + 1e-4, "standstills are inside, the way there may bulge"
    assert "workspace:panda_tool" in reasons


def test_an_obstacle_from_outside_stops_the_arm_and_lets_it_back() -> None:
    cell = Cell()
    post = Obstacle("post", "box", (0.1, 0.1, 0.4), (0.36, 0.25, 0.2))
    cell.filter.set_world([post])
    tips, reasons = dive(cell, np.array([0, 0.02, 0]))
    assert "clearance:panda_hand~post" in reasons, "the hand is wider than the rod"
    assert 0.05 < tips[:, 1].max() < 0.2 - 0.04 - cell.filter.limits.clearance
    assert cell.submit(HOME) == ""
    for _ in range(100):
        cell.tick()
    assert KINEMATICS.tip_pose(cell.q)[1] < tips[:, 1].max() - 0.01, "away from it the arm may move"


def test_an_obstacle_that_comes_too_near_stops_the_arm_and_lets_it_away() -> None:
    cell = Cell()
    away = HOME + np.linspace(0.02, 0.4, 20)[:, None] * (np.arange(7) == 0)
    assert cell.submit(away) == ""
    for _ in range(60):
        cell.tick()
    x, y, z = KINEMATICS.tip_pose(cell.q)[:3]
    cell.filter.set_world([Obstacle("hand", "sphere", (0.1,), (x, y + 0.066, z + 0.05))])
    for _ in range(60):
        sent = cell.tick()
    assert (sent.mode, sent.reason) == (SafetyMode.HELD, "clearance:panda_tool~hand")
    assert sent.clearance < cell.filter.limits.clearance
    assert cell.submit(cell.q + 0.1 * (np.arange(7) == 0)) == ""
    stood = cell.q
    assert abs([cell.tick() for _ in range(20)][-1].command - stood).max() < 1e-3, "not towards it"
    assert cell.submit(cell.q - 0.1 * (np.arange(7) == 0)) == ""
    assert [cell.tick() for _ in range(60)][-1].clearance > sent.clearance + 0.01, "away from it"


def test_a_capped_arm_slows_down_on_its_path_and_goes_on() -> None:
    cell = Cell()
    rows = HOME + np.linspace(0.02, 0.6, 30)[:, None] * (np.arange(7) == 0)
    assert cell.submit(rows) == ""
    free = [cell.tick() for _ in range(60)]
    cell.filter.cap_speed("people", 0.3)
    slow = [cell.tick() for _ in range(60)]
    assert free[-1].path_speed > 0.99
    assert slow[-1].path_speed == pytest.approx(0.3, abs=0.01)
    assert slow[-1].speed_cap == 0.3
    cell.filter.cap_speed("people", 0.0)
    stopped = [cell.tick() for _ in range(60)]
    assert (stopped[-1].mode, stopped[-1].reason) == (SafetyMode.HELD, "people")
    assert not cell.v.any()
    assert abs(cell.q[1:] - HOME[1:]).max() < 1e-9, "braking keeps to the path"
    assert cell.submit(rows[20:]) == ""
    stood = cell.q
    assert [cell.tick() for _ in range(10)][-1].reason == "people"
    assert np.array_equal(cell.q, stood), "a new chunk does not move an arm that may not move"
    cell.filter.cap_speed("people", 1.0)
    assert cell.tick().mode == SafetyMode.RUN
    assert [cell.tick() for _ in range(40)][-1].path_speed > 0.5


def test_reduced_speed_bounds_the_tip() -> None:
    cell = Cell()
    rows = HOME + np.linspace(0.15, 1.5, 10)[:, None] * (np.arange(7) == 0)
    assert cell.submit(rows) == ""
    fast = max(cell.tick().tip_speed for _ in range(40))
    cell.filter.limit_tip_speed("reduced", 0.25)
    for _ in range(40):
        cell.tick()
    assert fast > 0.3
    assert cell.tick().tip_speed <= 0.25
    assert cell.tick().tip_speed > 0.15


def test_a_watched_source_that_falls_silent_brakes() -> None:
    cell = Cell()
    cell.filter.watch("camera", 0.05)
    rows = HOME + np.linspace(0.02, 0.6, 30)[:, None] * (np.arange(7) == 0)
    assert cell.submit(rows) == ""
    for _ in range(20):
        cell.filter.heard("camera", cell.now)
        assert cell.tick().mode == SafetyMode.RUN
    modes = [cell.tick() for _ in range(60)]
    first = next(k for k, sent in enumerate(modes) if sent.mode == SafetyMode.BRAKE)
    assert 8 <= first <= 10, "within two periods after 50 ms"
    assert (modes[-1].mode, modes[-1].reason) == (SafetyMode.HELD, "silence:camera")


def test_unknown_versions_are_refused() -> None:
    cell = Cell()
    cell.filter.known_versions = {3}
    assert cell.submit(policy_version=4) == "unknown_version"
    assert cell.submit(policy_version=3) == ""
    assert cell.submit(policy_version=0) == "", "scripted motions are always known"


def test_other_semantics_mean_the_same_motion() -> None:
    cell = Cell()
    step = np.array([0.03, -0.02, 0.01, 0.02, 0.0, 0.01, 0.03])
    pose, there = KINEMATICS.tip_pose(HOME), KINEMATICS.tip_pose(HOME + step)
    tip = {"joint_names": (CONTRACT.tip,)}
    for changes in (
        {"rows": step[None], "semantics": JOINT_DELTA},
        {"rows": there[None], "semantics": TIP_POSE, **tip},
    ):
        assert cell.submit(**changes) == ""
        for _ in range(60):
            cell.tick()
        reached = KINEMATICS.tip_pose(cell.q)
        assert np.allclose(reached[:3], there[:3], atol=2e-4)
        cell = Cell()
    assert cell.submit(np.array([[0.01, 0.0, 0.02, 0.0, 0.0, 0.0]] * 2), semantics=TIP_DELTA, **tip) == ""
    for _ in range(80):
        cell.tick()
    assert np.allclose(KINEMATICS.tip_pose(cell.q)[:3], pose[:3] + np.array([0.02, 0.0, 0.04]), atol=5e-4)
    far = np.array([[3.0, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0]])
    assert cell.submit(far, semantics=TIP_POSE, **tip) == f"unreachable:{CONTRACT.tip}"
    assert cell.submit(far[:, :6], semantics=TIP_POSE, **tip) == "shape"
    assert cell.submit(far * 2, semantics=TIP_POSE, **tip) == "quaternion"
    late = {"stamp": cell.now - 0.05, "semantics": JOINT_DELTA}
    assert cell.submit(np.stack([step, step]), **late) == "too_old", "a delta that is too late is part of the others' sum"


def test_a_heavy_payload_is_refused_at_load_and_a_light_one_costs_torque(tmp_path: Path) -> None:
    def safety(mass: float) -> SafetyFilter:
        file = tmp_path / f"{mass}.yaml"
        file.write_text(f"payload: {{frame: panda_hand, mass: {mass}, centre: [0, 0, 0.1]}}")
        return SafetyFilter.for_robot(CONTRACT, "panda", file)

    with pytest.raises(VlaRosError, match=r"payload.mass: found 30 kg, which needs .* N m of panda_joint6 .* at most 10.8"):
        safety(30)
    shares = []
    for mass in (0.0, 3.0):
        cell = Cell(safety(mass))
        cell.submit()
        shares.append(max(cell.tick().torque_share for _ in range(20)))
    assert shares[1] > shares[0] + 0.05


def test_unknown_frames_are_refused_at_load(tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text("workspace: {panda_elbow: {x: [0, 1], y: [0, 1], z: [0, 1]}}")
    with pytest.raises(VlaRosError, match=r"task.yaml: workspace: frame 'panda_elbow' is not in .*panda.urdf; frames: "):
        SafetyFilter.for_robot(CONTRACT, "panda", file)


def test_the_barrier_makes_room_for_a_ball_that_comes_nearer_and_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "barrier.yaml"
    file.write_text("barrier: {gain: 4.0, distance: 0.05, activation: 0.20}")
    least = {}
    for name, safety in (("off", SafetyFilter.for_robot(CONTRACT)), ("on", SafetyFilter.for_robot(CONTRACT, "panda", file))):
        cell = Cell(safety)
        x, y, z = KINEMATICS.tip_pose(HOME)[:3]
        gaps = []
        for k in range(200):
            if k % 10 == 0:
                gap = max(0.3 - 0.3 * k * DT, 0.088)
                centre = np.array([x, y + 0.012 + gap, z + 0.03])
                cell.filter.set_world([Obstacle("ball", "sphere", (0.1,), tuple(centre.tolist()))])
                assert cell.submit(cell.q) == ""
            cell.tick()
            gaps.append(np.hypot(*(KINEMATICS.tip_pose(cell.q)[:2] - centre[:2])) - 0.062)
        least[name] = min(gaps)
        assert (cell.filter.counters.barrier_activations > 0) == (name == "on")
    assert least["off"] == pytest.approx(0.038, abs=1e-3)
    assert least["on"] > 0.045


def test_a_pair_that_is_too_near_loosens_nothing_for_the_others() -> None:
    """An obstacle reported inside a link must not let the tool into another one."""
    cell = Cell()
    inside = Obstacle("ghost", "sphere", (0.04,), (0.0, 0.0, 0.333))
    cell.filter.set_world([inside, Obstacle("post", "box", (0.1, 0.1, 0.4), (0.36, 0.25, 0.2))])
    tips = []
    for k in range(16):
        target = KINEMATICS.tip_pose(HOME)[:3] + np.array([0, 0.02 * (k + 1), 0])
        cell.submit(KINEMATICS.ik(cell.q, target))
        tips += [KINEMATICS.tip_pose(cell.tick().command)[1] for _ in range(20)]
    assert 0.05 < max(tips) < 0.2 - 0.04 - cell.filter.limits.clearance


def test_obstacles_without_a_name_of_their_own_are_refused() -> None:
    cell = Cell()
    ball = Obstacle("ball", "sphere", (0.1,), (2.0, 0.0, 0.5))
    for world in ([ball, ball], [dataclasses.replace(ball, name="table")], [dataclasses.replace(ball, name="panda_hand")]):
        with pytest.raises(VlaRosError, match="the name is taken"):
            cell.filter.set_world(world)
    with pytest.raises(VlaRosError, match="within 1000"):
        cell.filter.set_world([dataclasses.replace(ball, position=(1e160, 0.0, 0.0))])


def test_stops_keep_the_torque_limit() -> None:
    """Inverse dynamics of every command of hard motions and their e-stops, as sent."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(12):
        cell = Cell()
        judge = Arm(CONTRACT, cell.filter.limits)
        for k in range(60):
            if k % 8 == 0:
                cell.submit(np.clip(cell.q + rng.uniform(-0.5, 0.5, 7), cell.filter.limits.lower, cell.filter.limits.upper))
            if k == 44:
                cell.filter.estop("button")
            cell.tick()
            worst = max(worst, judge.torque_share(*cell.filter._follower.states)[0])
    assert worst <= 1.0


def test_the_clock_and_stamps_cannot_blind_the_watchdogs() -> None:
    cell = Cell()
    assert cell.submit(observation_stamp=cell.now + 1e6) == "from_the_future"
    cell.filter.watch("camera", 0.2)
    cell.filter.heard("camera", cell.now)
    cell.now -= 50.0
    for _ in range(60):
        cell.tick()
    assert cell.submit(cell.q + 0.1) == ""
    assert cell.tick().reason == "silence:camera"
    rows = np.tile(KINEMATICS.tip_pose(HOME), (101, 1))
    assert cell.submit(rows, semantics=TIP_POSE, joint_names=(CONTRACT.tip,), period=0.01) == "too_many_rows"


def test_commands_start_only_where_an_arm_can_be_and_stands() -> None:
    safety = SafetyFilter.for_robot(CONTRACT)
    far, fast = np.full(7, 1e6), np.eye(7)[2]
    assert safety.tick(1.0, JointState(1.0, JOINTS, far, np.zeros(7))) is None
    assert safety.reason == "state_outside:panda_joint1"
    assert safety.tick(1.1, JointState(1.1, JOINTS, HOME, fast)) is None
    assert safety.reason == "arm_moves:panda_joint3"
    assert safety.tick(1.2, JointState(1.2, JOINTS, HOME, np.zeros(7))) is not None


@pytest.mark.parametrize("gap", [0.6, 1.0, 1.4, 3.0])
def test_a_joint_state_is_answered_once_also_after_a_gap(gap: float) -> None:
    cell = Cell().moving()
    cell.now += gap * DT
    assert cell.tick() is not None
    for _ in range(3):
        assert cell.filter.tick(cell.now, cell.state()) is None


def test_a_reset_does_not_start_where_no_arm_can_be() -> None:
    safety, now, still = SafetyFilter.for_robot(CONTRACT), 1.0, np.zeros(7)
    safety.tick(now, JointState(now, JOINTS, HOME, still))
    for _ in range(400):
        now += DT
        safety.tick(now, JointState(now, JOINTS, HOME + 100.0, still))
    assert safety.mode == SafetyMode.LATCHED
    assert safety.reset() == (False, "cause persists: state_outside:panda_joint1")


def test_a_state_without_joints_is_refused_from_the_first_on() -> None:
    safety = SafetyFilter.for_robot(CONTRACT)
    assert safety.tick(1.0, JointState(1.0, (), np.empty(0), np.empty(0))) is None
    assert safety.reason == "state_missing:panda_joint1"


def test_what_was_sent_is_not_the_filters_own_state() -> None:
    cell = Cell().moving()
    sent = cell.tick()
    kept = cell.filter._follower.states.copy()
    for array in (sent.command, sent.velocity, sent.raw):
        array[:] = 1.0
    np.testing.assert_array_equal(cell.filter._follower.states, kept)


def test_a_robot_with_one_joint(tmp_path: Path) -> None:
    (tmp_path / "one.urdf").write_text(
        '<robot name="one"><link name="base"/><link name="tool"><inertial><mass value="1"/>'
        '<inertia ixx="0.1" iyy="0.1" izz="0.1" ixy="0" ixz="0" iyz="0"/></inertial></link>'
        '<joint name="panda_joint1" type="revolute"><parent link="base"/><child link="tool"/><axis xyz="0 0 1"/>'
        '<limit lower="-2" upper="2" velocity="2" effort="50"/></joint></robot>'
    )
    (tmp_path / "one.srdf").write_text("<robot/>")
    contract = dataclasses.replace(CONTRACT, joints=JOINTS[:1], urdf=tmp_path / "one.urdf", posture=(0.0,), tips=("tool",))
    whole = Limits.load(CONTRACT, "panda")
    one = {
        f.name: value[:1]
        for f in dataclasses.fields(whole)
        if isinstance(value := getattr(whole, f.name), tuple) and len(value) == len(JOINTS)
    }
    limits = dataclasses.replace(whole, **one, workspace={})
    safety = SafetyFilter(limits, 1 / DT, Arm(contract, limits))
    q, now = np.zeros(1), 1.0
    safety.tick(now, JointState(now, JOINTS[:1], q, q))
    assert safety.submit(ActionChunk(now + 0.1, 0.1, JOINTS[:1], np.array([[0.05], [0.1]])), now) == ""
    for _ in range(200):
        now += DT
        sent = safety.tick(now, JointState(now, JOINTS[:1], q, np.zeros(1)))
        q = sent.command
    assert q[0] == pytest.approx(0.1, abs=1e-3)


def test_a_damaged_cache_of_compiled_code_costs_a_start_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.caching.FunctionCache.load_overload", lambda *given: cut_short())
    double = compiled(float64(float64))(lambda x: 2.0 * x)
    assert double(1.5) == 3.0


def cut_short() -> None:
    raise EOFError("Ran out of input")
