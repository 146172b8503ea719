"""The arena: contacts as in the distance code, servos that follow, and speed."""

from __future__ import annotations

import time

import coal
import numpy as np
import pinocchio as pin
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.arena import Arena

ROBOTS = ("panda", "fr3", "aloha")


@pytest.fixture(scope="module", params=ROBOTS)
def arena(request: pytest.FixtureRequest) -> Arena:
    return Arena(RobotContract.load(request.param))


def swing(arena: Arena, t: float) -> np.ndarray:
    """A smooth motion about the posture, one joint after the other in phase, free of contacts."""
    limits = arena.contract.limits
    q = np.array(arena.contract.posture)
    share = np.minimum(0.2, 0.1 * (limits.upper - limits.lower))
    return np.clip(q + share * min(1.0, t) * np.sin(3 * t + np.arange(len(q))), limits.lower, limits.upper)


def test_stays_where_it_is_told(arena: Arena) -> None:
    home = np.array(arena.contract.posture)
    arena.reset(home)
    for _ in range(400):
        arena.step(home)
    np.testing.assert_allclose(arena.position(), home, atol=1e-9)
    np.testing.assert_allclose(arena.velocity(), 0, atol=1e-9)
    assert arena.contacts() == []


def test_follows(arena: Arena) -> None:
    """Within a control period's way (the command is where the arm shall be at the end of the period)."""
    period = 1 / arena.contract.control.rate
    arena.reset(swing(arena, 0.0))
    worst = 0.0
    for k in range(1, 800):
        arena.step(swing(arena, k * period))
        worst = max(worst, float(abs(arena.position() - swing(arena, k * period)).max()))
        assert arena.contacts() == []
    assert worst < 0.006
    assert abs(arena.velocity()).max() > 0.1


def test_effort_is_limited(arena: Arena) -> None:
    limits = arena.contract.limits
    arena.reset(np.array(arena.contract.posture))
    for _ in range(20):
        arena.step(limits.upper)
        assert (abs(arena.data.qfrc_actuator) <= limits.effort + 1e-9).all()


def test_hostile_commands_stay_finite(arena: Arena) -> None:
    rng = np.random.default_rng(0)
    limits = arena.contract.limits
    arena.reset(np.array(arena.contract.posture))
    for _ in range(400):
        arena.step(rng.uniform(2 * limits.lower, 2 * limits.upper))
    assert np.isfinite(arena.position()).all()
    assert np.isfinite(arena.velocity()).all()


def test_same_commands_same_motion(arena: Arena) -> None:
    runs = []
    for _ in range(2):
        arena.reset(swing(arena, 0.0))
        for k in range(100):
            arena.step(swing(arena, k * 0.005))
        runs.append(arena.position())
    np.testing.assert_array_equal(runs[0], runs[1])


def test_contacts_are_the_distance_codes(arena: Arena) -> None:
    """Random poses: MuJoCo's contacts against the pairs that pinocchio and coal find, SRDF exclusions included."""
    contract = arena.contract
    model = pin.buildModelFromUrdf(str(contract.urdf))
    shapes = pin.buildGeomFromUrdf(model, str(contract.urdf), pin.GeometryType.COLLISION)
    names = [model.frames[shape.parentFrame].name for shape in shapes.geometryObjects] + ["table"]
    for shape in shapes.geometryObjects:
        shape.geometry = coal.Capsule(shape.geometry.radius, 2 * shape.geometry.halfLength)
    shapes.addAllCollisionPairs()
    pin.removeCollisionPairs(model, shapes, str(contract.srdf), False)
    plane = coal.Halfspace(np.array([0.0, 0.0, 1.0]), 0.0)
    table = shapes.addGeometryObject(pin.GeometryObject("table", 0, 0, pin.SE3.Identity(), plane))
    standing = {f"{arm}_link{k}" for arm in ("panda", "fr3") for k in (0, 1)}
    standing |= {f"{side}_{k}_link" for side in ("left", "right") for k in ("base", "shoulder")}
    for k in range(table):
        if names[k] not in standing:
            shapes.addCollisionPair(pin.CollisionPair(k, table))
    pairs = [(names[p.first], names[p.second]) for p in shapes.collisionPairs]
    data, found = model.createData(), shapes.createData()
    rng = np.random.default_rng(1)
    touched, doubtful = 0, 0
    for q in rng.uniform(contract.limits.lower, contract.limits.upper, (300, model.nq)):
        pin.updateGeometryPlacements(model, data, shapes, found, q)
        pin.computeDistances(shapes, found)
        distances = [result.min_distance for result in found.distanceResults]
        if min(map(abs, distances)) < 1e-6:
            doubtful += 1
            continue
        arena.reset(q)
        expected = {tuple(sorted(pair)) for pair, distance in zip(pairs, distances, strict=True) if distance < 0}
        assert set(arena.contacts()) == expected
        touched += bool(expected)
    assert touched > 30
    assert doubtful < 3


def test_table_and_the_other_arm_are_met() -> None:
    arena = Arena(RobotContract.load("aloha"))
    q = np.array(arena.contract.posture)
    q[1] = 1.2  # the left shoulder forward: the hand goes into the table
    arena.reset(q)
    assert ("left_gripper_link", "table") in arena.contacts()
    q = np.array(arena.contract.posture)
    q[[1, 2, 4, 8, 9, 11]] = [0.3, 0.3, 0.0, 0.3, 0.3, 0.0]  # both arms to the middle
    arena.reset(q)
    assert ("left_gripper_link", "right_gripper_link") in arena.contacts()


@pytest.mark.parametrize("command", [np.zeros(3), np.full(7, np.nan), np.array([0, 0, 0, 0, 0, 0, np.inf])])
def test_wrong_commands_are_refused(command: np.ndarray) -> None:
    arena = Arena(RobotContract.load("panda"))
    with pytest.raises(VlaRosError, match=r"panda: joints: found .*, expected 7 finite numbers"):
        arena.step(command)


def test_speed() -> None:
    """Ten thousand control periods in a second, with room for a busy machine."""
    arena = Arena(RobotContract.load("panda"))
    rows = [swing(arena, k * 0.005) for k in range(500)]
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        for row in rows:
            arena.step(row)
            arena.contacts()
        best = max(best, len(rows) / (time.perf_counter() - start))
    assert best > 5000


@pytest.mark.parametrize("robot", ROBOTS)
def test_servos_come_to_rest_in_every_pose(robot: str) -> None:
    contract = RobotContract.load(robot)
    arena, rng = Arena(contract), np.random.default_rng(0)
    low, high = contract.limits.lower, contract.limits.upper
    seen = 0
    for _ in range(60):
        command = rng.uniform(low, high)
        arena.reset(command)
        for step in np.repeat([rng.uniform(-0.02, 0.02, len(low)), np.zeros(len(low))], [20, 150], axis=0):
            command = np.clip(command + step, low, high)
            arena.step(command)
        if not arena.contacts():
            seen += 1
            assert abs(arena.velocity()).max() < 0.05
            assert abs(arena.position() - command).max() < 0.01
    assert seen >= 15
