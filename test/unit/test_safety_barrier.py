"""The control barrier against moving obstacles: closed forms, estimates of velocity, and what it costs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns

import coal
import numpy as np
import pinocchio as pin
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.arm import Arm
from vla_ros.safety.barrier import FAILED, FASTEST, FIXED, PAIRS, SOFTNESS, Barrier
from vla_ros.safety.limits import Limits
from vla_ros.safety.surroundings import BarrierConfig
from vla_ros.types import Array, Obstacle

CONTRACT = RobotContract.load("panda")
HOME = Kinematics(CONTRACT).home()
CONFIG = BarrierConfig(gain=4.0, distance=0.05, activation=0.2)
LIMITS = replace(Limits.load(CONTRACT), barrier=CONFIG)
WIDE = np.full(7, 3.0)
DT = 1 / CONTRACT.control.rate


def ball(position: tuple[float, float, float], name: str = "ball", diameter: float = 0.1) -> Obstacle:
    return Obstacle(name, "sphere", (diameter,), position)


def one_joint() -> Barrier:
    """A capsule of radius 0.05 m along x from 0 to 1 m that turns about z."""
    model = pin.Model()
    joint = model.addJoint(0, pin.JointModelRZ(), pin.SE3.Identity(), "turn")
    frame = model.addFrame(pin.Frame("rod", joint, 0, pin.SE3.Identity(), pin.FrameType.BODY))
    along_x = pin.SE3(pin.utils.rotate("y", math.pi / 2), np.array([0.5, 0.0, 0.0]))
    rod = pin.GeometryObject("rod", frame, joint, along_x, coal.Capsule(0.05, 1.0))
    limits = replace(LIMITS, walls={}, lower=(-3.0,), upper=(3.0,), acceleration=(10.0,))
    return Barrier(model, [rod], limits)


def panda() -> tuple[Barrier, Arm]:
    arm = Arm(CONTRACT, LIMITS)
    return Barrier(arm.model, arm.distances.links, LIMITS), arm


def hand(lift: float) -> tuple[float, float, float]:
    """A place `lift` m above the tool at HOME, in front of the hand."""
    x, y, z = Kinematics(CONTRACT).tip_pose(HOME)[:3].tolist()
    return x + lift, y, z


@pytest.mark.parametrize(("gap", "speed"), [(0.1, 3.0), (0.06, 1.0), (0.02, 0.0), (-0.01, 0.0), (0.1, 0.1)])
def test_one_row_is_the_closed_form(gap: float, speed: float) -> None:
    barrier = one_joint()
    barrier.set_world([ball((0.8, 0.1 + gap, 0.0))], 0.0)
    v, active = barrier.adjust(np.zeros(1), np.array([speed]), np.array([-9.0]), np.array([9.0]))
    row, floor = -0.8, -4.0 * (gap - 0.05)  # the lever arm, towards the ball
    lacking = max(0.0, floor - row * speed)
    assert v[0] == pytest.approx(speed + row * lacking / (row * row + SOFTNESS), abs=1e-9)
    assert active == (("barrier:rod~ball",) if lacking else ())
    assert row * v[0] >= floor - lacking * SOFTNESS / row**2 - 1e-9, "the row is kept up to its softness"


def test_several_rows_fulfil_the_optimality_conditions() -> None:
    arm = Arm(CONTRACT, LIMITS)
    barrier = Barrier(arm.model, arm.distances.links, replace(LIMITS, walls={}))
    x, y, z = hand(0.0)
    barrier.set_world([ball((x + 0.13, y, z), "a"), ball((x, y + 0.14, z), "b"), ball((x - 0.2, y, z + 0.1), "c")], 0.0)
    rng, bound = np.random.default_rng(0), np.full(7, 0.6)
    for _ in range(50):
        wanted = rng.uniform(-0.6, 0.6, 7)
        v, active = barrier.adjust(HOME, wanted, -bound, bound)
        assert FAILED not in active
        pin.computeJointJacobians(barrier._model, barrier._data, HOME)
        matrix, need, _ = barrier._rows(wanted)
        force = np.maximum(need - matrix @ (v - wanted), 0.0) / SOFTNESS  # of the softened rows
        nearest = np.clip(wanted + matrix.T @ force, -bound, bound)
        assert np.allclose(v, nearest, atol=1e-6), "a projection on the box of where the rows push"


def test_a_far_obstacle_changes_nothing() -> None:
    barrier, _ = panda()
    wanted = np.random.default_rng(1).uniform(-1.0, 1.0, 7)
    before = wanted.copy()
    for world in ([], [ball((3.0, 0.0, 0.5))], [ball((-0.6, 0.0, 0.6))]):
        barrier.set_world(world, 0.0)
        v, active = barrier.adjust(HOME, wanted, -WIDE, WIDE)
        assert v is wanted
        assert np.array_equal(v, before)
        assert active == ()


def test_a_retreat_is_free_and_changes_nothing() -> None:
    barrier = one_joint()
    barrier.set_world([ball((0.8, 0.16, 0.0))], 0.0)
    wanted = np.array([-1.0])
    assert barrier.adjust(np.zeros(1), wanted, np.array([-9.0]), np.array([9.0]))[0] is wanted


def approach(evade: bool) -> tuple[float, Array]:
    """Least distance [m] to a ball that comes up to the standing tool at 0.3 m/s, and where the arm went [7] rad."""
    barrier, arm = panda()
    q, v, change = HOME.copy(), np.zeros(7), np.array(LIMITS.acceleration) * DT
    least = math.inf
    for tick in range(260):
        obstacle = ball(hand(max(0.4 - 0.3 * tick * DT, 0.08)))
        if tick % 6 == 0:  # 33 Hz
            barrier.set_world([obstacle], tick * DT)
        if evade:
            low, high = v - change, v + change
            v, active = barrier.adjust(q, np.clip(0.0, low, high), low, high)
            assert FAILED not in active
        q = q + v * DT
        arm.set_world([obstacle])
        distance, pair = arm.distances.nearest(q)
        if pair.endswith("ball"):
            least = min(least, distance)
    return least, q - HOME


def test_a_standing_arm_moves_away_from_what_comes_up_to_it() -> None:
    stood, _ = approach(evade=False)
    evaded, way = approach(evade=True)
    assert stood < 0.02
    assert evaded > CONFIG.distance - 0.01
    moved = Kinematics(CONTRACT).tip_pose(HOME + way)[:3] - Kinematics(CONTRACT).tip_pose(HOME)[:3]
    assert moved[0] < -0.02, "away from the ball"


def test_what_cannot_be_evaded_gets_the_best_effort() -> None:
    barrier = one_joint()
    for tick in range(40):
        barrier.set_world([ball((0.8, 0.4 - 1.5 * tick * DT, 0.0))], tick * DT)
    low, high = np.array([-0.1]), np.array([0.1])
    v, active = barrier.adjust(np.zeros(1), np.zeros(1), low, high)
    assert active == ("barrier:rod~ball",)
    assert v[0] == -0.1, "all that the joint can"


def test_evasion_keeps_off_the_table() -> None:
    barrier, _ = panda()
    arm = Arm(CONTRACT, LIMITS)
    blind = Barrier(arm.model, arm.distances.links, replace(LIMITS, walls={}))
    falls = []
    for which in (barrier, blind):
        which.set_world([ball(hand(0.07))], 0.0)
        v, _ = which.adjust(HOME, np.zeros(7), -WIDE, WIDE)
        step = Kinematics(CONTRACT).tip_pose(HOME + 1e-4 * v) - Kinematics(CONTRACT).tip_pose(HOME)
        falls.append(-step[2] / 1e-4)
    room = Kinematics(CONTRACT).tip_pose(HOME)[2] - 0.012 - LIMITS.clearance
    assert falls[0] < 4.0 * room + 0.01 < falls[1]


def test_a_joint_near_its_limit_is_not_sent_into_it() -> None:
    barrier = one_joint()
    barrier.set_world([ball((0.8, 0.11, 0.0))], 0.0)
    q = np.array([0.0])
    barrier._lower[0] = -0.001
    v, _ = barrier.adjust(q, np.zeros(1), np.array([-9.0]), np.array([9.0]))
    assert v[0] == pytest.approx(-math.sqrt(10.0 * 0.001), rel=0.2)
    assert v[0] >= -math.sqrt(10.0 * 0.001)


def test_velocities_are_estimated_from_successive_places() -> None:
    barrier = one_joint()

    def saw(y: float, now: float, name: str = "ball") -> float:
        barrier.set_world([ball((0.8, y, 0.0), name)], now)
        return float(barrier.velocities[name][1])

    assert saw(1.0, 0.0) == 0.0, "unknown"
    for k in range(1, 15):
        speed = saw(1.0 - 0.01 * k, k / 30)
    assert speed == pytest.approx(-0.3, rel=0.01)
    assert saw(0.86, 14 / 30 + 0.01) == speed, "a message about another obstacle repeats this one's place"
    assert saw(0.86, 14 / 30 + 0.2) == 0.0, "it stands"
    for k in range(1, 15):
        speed = saw(0.86 + 0.2 * k, 1 + k / 30)
    assert FASTEST * 0.9 < speed <= FASTEST, "bounded"
    assert saw(-5.0, 1.5) == 0.0, "another body under the old name"
    saw(-4.99, 1.52)
    assert saw(-4.98, 1.4) == 0.0, "a clock that jumps back"
    assert saw(-4.9, 1.5, "other") == 0.0


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_numbers_return_what_was_wanted(which: int, bad: float) -> None:
    barrier, _ = panda()
    barrier.set_world([ball(hand(0.08))], 0.0)
    arguments = [HOME.copy(), np.full(7, 0.1), -WIDE, WIDE.copy()]
    if not (which == 3 and bad == math.inf):  # no upper bound is none
        arguments[which][3] = bad
        v, active = barrier.adjust(*arguments)
        assert v is arguments[1]
        assert active == (FAILED,)
    barrier.set_world([ball((bad, 0.0, 0.0))], 0.1)
    v, active = barrier.adjust(HOME, arguments[1], -WIDE, WIDE)
    assert v is arguments[1]
    assert active == (FAILED,)


def test_an_interval_without_the_wanted_velocity_is_refused() -> None:
    barrier, _ = panda()
    barrier.set_world([ball(hand(0.08))], 0.0)
    wanted = np.full(7, 3.1)
    assert barrier.adjust(HOME, wanted, -WIDE, WIDE) == (wanted, (FAILED,))


def test_an_unsolved_problem_returns_what_was_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, _ = panda()
    barrier.set_world([ball(hand(0.08))], 0.0)
    wanted = np.full(7, 0.1)
    size = 7 + PAIRS + FIXED
    for x, flag in ((np.full(size, math.nan), 1), (np.zeros(size), -1), (np.full(size, 9.0), 1), (np.zeros(size), 2)):
        monkeypatch.setattr("vla_ros.safety.barrier.daqp.solve", lambda *_, x=x, flag=flag: (x, 0.0, flag, {}))
        v, active = barrier.adjust(HOME, wanted, -WIDE, WIDE)
        assert v is wanted
        assert active == (FAILED,)


def test_section_of_safety_files(tmp_path: Path) -> None:
    def load(*texts: str) -> Limits:
        files = []
        for k, text in enumerate(texts):
            files.append(tmp_path / f"{k}.yaml")
            files[k].write_text(f"barrier: {{{text}}}")
        return Limits.load(CONTRACT, "panda", *files)

    good = "gain: 4.0, distance: 0.05, activation: 0.2"
    assert load().barrier is None, "off without a section"
    assert load(good).barrier == CONFIG
    assert load(good, "gain: 3.0, distance: 0.06, activation: 0.2").barrier == BarrierConfig(3.0, 0.06, 0.2)
    for text, part in (
        ("gain: 5.0, distance: 0.05, activation: 0.2", "barrier.gain: found 5.0, expected at most 4 as in"),
        ("gain: 4.0, distance: 0.04, activation: 0.2", "barrier.distance: found 0.04, expected at least 0.05"),
        ("gain: 4.0, distance: 0.05, activation: 0.1", "barrier.activation: found 0.1, expected at least 0.2"),
        ("gain: 4.0, distance: 0.2, activation: 0.2", r"barrier.activation: found 0.2, expected more than distance \(0.2 m\)"),
        ("gain: .nan, distance: 0.05, activation: 0.2", "barrier.gain: found nan"),
        ("gains: 4.0", "did you mean 'gain'"),
    ):
        with pytest.raises(VlaRosError, match=part):
            load(good, text)


def test_cost_of_a_call() -> None:
    barrier, _ = panda()
    x, y, z = hand(0.0)
    near = [ball((x + 0.13, y, z), "a"), ball((x, y + 0.14, z), "b"), ball((x - 0.2, y, z + 0.1), "c")]
    far = [ball((1.0, 1.0 + k, 1.0), str(k)) for k in range(3)]
    wanted = np.array([0.5, 0.5, 0.0, -0.5, 0.0, 0.0, 0.0])
    for what, world in (("far", far), ("near", near)):
        barrier.set_world(world, 0.0)
        times = []
        for _ in range(2000):
            start = perf_counter_ns()
            _, active = barrier.adjust(HOME, wanted, -WIDE, WIDE)
            times.append((perf_counter_ns() - start) / 1e3)
        assert bool(active) == (what == "near")
        median, late = np.percentile(times, (50, 99))
        print(f"3 obstacles {what}: p50 {median:.1f} us, p99 {late:.1f} us, {len(active)} rows broken")
        assert median < 300.0, "60 us on an idle core; the bound is for a loaded one"
