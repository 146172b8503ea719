"""Bimanual ALOHA: the URDF against Interbotix's figures, the SRDF against sampled poses, the same robot in both engines."""

from __future__ import annotations

import math

import coal
import numpy as np
import pinocchio as pin
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.srdf import disabled_pairs
from vla_ros.sim.arena import Arena

CONTRACT = RobotContract.load("aloha")
MODEL = pin.buildModelFromUrdf(str(CONTRACT.urdf))
SIDES = ("left", "right")


def place(name: str, q: np.ndarray) -> np.ndarray:
    data = MODEL.createData()
    pin.framesForwardKinematics(MODEL, data, q)
    return data.oMf[MODEL.getFrameId(name)].translation.copy()


def test_reads_every_part() -> None:
    assert CONTRACT.joints == tuple(MODEL.names[1:])
    assert len(CONTRACT.joints) == 14
    assert CONTRACT.tips == ("left_tool", "right_tool")
    assert (CONTRACT.action.semantics, CONTRACT.action.rate, CONTRACT.action.chunk) == ("joint_position", 50, 100)
    assert list(CONTRACT.cameras) == ["cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"]
    assert CONTRACT.observation.state == ("position",)
    assert CONTRACT.srdf.name == "aloha.srdf"


@pytest.mark.parametrize("part", ["low", "high", "bins", "max_step", "height"])
def test_no_tip_plane_is_an_error_that_says_where(part: str) -> None:
    with pytest.raises(VlaRosError, match=r"aloha\.yaml: action\.semantics: found joint_position, expected tip_delta_xy"):
        getattr(CONTRACT.action, part)


def test_two_tips_are_not_one() -> None:
    with pytest.raises(VlaRosError, match=r"aloha\.yaml: tips: found left_tool, right_tool, expected one"):
        _ = CONTRACT.tip
    with pytest.raises(VlaRosError, match=r"action\.semantics: found joint_position"):
        _ = CONTRACT.home_tip


def test_limits_are_interbotix() -> None:
    """interbotix_xsarm_descriptions, vx300s.urdf.xacro."""
    turn = math.pi - 0.00001
    lower = [-turn, *np.radians([-106, -101]), -turn, math.radians(-107), -turn, 0.021]
    upper = [turn, *np.radians([72, 92]), turn, math.radians(128), turn, 0.057]
    np.testing.assert_allclose(CONTRACT.limits.lower, lower * 2, atol=1e-8)
    np.testing.assert_allclose(CONTRACT.limits.upper, upper * 2, atol=1e-8)
    np.testing.assert_allclose(CONTRACT.limits.velocity, [*[math.pi] * 6, 1.0] * 2, atol=1e-12)
    np.testing.assert_array_equal(CONTRACT.limits.effort, [10, 20, 15, 2, 5, 1, 5] * 2)


def test_tools_at_zero() -> None:
    """The link lengths of vx300s.urdf.xacro; bases as in mujoco_menagerie's aloha.xml; the tool 15 cm past the last joint."""
    ahead = 0.05955 + 0.2 + 0.1 + 0.069744 + 0.15
    above = 0.02 + 0.079 + 0.04805 + 0.3
    zero = np.zeros(14)
    np.testing.assert_allclose(place("left_tool", zero), [-0.469 + ahead, -0.019, above], atol=1e-9)
    np.testing.assert_allclose(place("right_tool", zero), [0.469 - ahead, -0.019, above], atol=1e-9)


def test_reach() -> None:
    """Stretched, a tool is 75 cm (the data sheet's reach, to the gripper) and the length of ALOHA's fingers away."""
    bend = math.atan2(0.05955, 0.3)
    q = np.zeros(14)
    q[1:3] = 0.7, bend - math.pi / 2  # elbow in line with the shoulder
    shoulder = place("left_upper_arm_link", q)
    reach = np.linalg.norm(place("left_tool", q) - shoulder)
    assert reach == pytest.approx(math.hypot(0.3, 0.05955) + 0.3 + 0.069744 + 0.15)
    assert 0.75 < reach < 0.75 + 0.09


def test_arms_are_mirror_images() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        half = rng.uniform(CONTRACT.limits.lower[:7], CONTRACT.limits.upper[:7])
        q = np.concatenate([half, half])
        left, right = place("left_tool", q), place("right_tool", q)
        np.testing.assert_allclose(left + right, [0, -0.038, 2 * left[2]], atol=1e-9)  # turned by pi about the middle


def test_masses() -> None:
    """Interbotix's links; gripper, its base with the wrist camera, and fingers from mujoco_menagerie's aloha.xml."""
    arm = [0.798614, 0.792592, 0.322228, 0.414823, 0.115395, 0.251652 + 0.42158, 0.0862932 + 0.0862937]
    assert sum(i.mass for i in MODEL.inertias[1:8]) == pytest.approx(sum(arm), abs=1e-6)
    assert sum(i.mass for i in MODEL.inertias[8:]) == pytest.approx(sum(arm), abs=1e-6)
    for inertia in MODEL.inertias[1:]:
        ixx, iyy, izz = np.linalg.eigvalsh(inertia.inertia)
        assert 0 < ixx <= iyy <= izz < ixx + iyy


def test_engines_agree() -> None:
    arena = Arena(CONTRACT)
    rng = np.random.default_rng(2)
    data = MODEL.createData()
    for _ in range(20):
        q = rng.uniform(CONTRACT.limits.lower, CONTRACT.limits.upper)
        arena.reset(q)
        gravity = pin.computeGeneralizedGravity(MODEL, data, q)
        np.testing.assert_allclose(arena.data.qfrc_bias, gravity, atol=1e-6)
        for side in SIDES:
            for link in ("tool", "gripper_link", "wrist_link", "upper_forearm_link", "left_finger_link"):
                name = f"{side}_{link}"
                np.testing.assert_allclose(arena.data.body(name).xpos, place(name, q), atol=1e-9)


def test_nothing_touches_at_home() -> None:
    arena = Arena(CONTRACT)
    arena.reset(np.array(CONTRACT.posture))
    assert arena.contacts() == []


@pytest.mark.parametrize("robot", ["panda", "fr3", "aloha"])
def test_disabled_pairs_are_links_and_never_needed(robot: str) -> None:
    """pinocchio takes the SRDF; a disabled pair either overlaps by construction at home, or is apart in every sampled pose."""
    contract = RobotContract.load(robot)
    model = pin.buildModelFromUrdf(str(contract.urdf))
    shapes = pin.buildGeomFromUrdf(model, str(contract.urdf), pin.GeometryType.COLLISION)
    names = [model.frames[shape.parentFrame].name for shape in shapes.geometryObjects]
    pairs = disabled_pairs(contract.srdf)
    assert set().union(*pairs) <= {*names, "table"}
    shapes.addAllCollisionPairs()
    before = len(shapes.collisionPairs)
    pin.removeCollisionPairs(model, shapes, str(contract.srdf), False)
    assert 0 < len(shapes.collisionPairs) < before

    off = pin.GeometryModel()
    for shape in shapes.geometryObjects:
        shape.geometry = coal.Capsule(shape.geometry.radius, 2 * shape.geometry.halfLength)
        off.addGeometryObject(shape)
    kept = [
        (i, k)
        for i in range(off.ngeoms)
        for k in range(i + 1, off.ngeoms)
        if frozenset((names[i], names[k])) in pairs and not _joined(model, names[i], names[k])
    ]
    for pair in kept:
        off.addCollisionPair(pin.CollisionPair(*pair))
    data, found = model.createData(), off.createData()
    rng = np.random.default_rng(3)
    near: dict[frozenset[str], float] = {}
    for q in rng.uniform(contract.limits.lower, contract.limits.upper, (1000, model.nq)):
        pin.updateGeometryPlacements(model, data, off, found, q)
        pin.computeDistances(off, found)
        for (i, k), result in zip(kept, found.distanceResults, strict=True):
            key = frozenset((names[i], names[k]))
            near[key] = min(near.get(key, math.inf), result.min_distance)
    # by design, kept apart by a joint's limits although the capsules overlap (the SRDF says so)
    by_design = {frozenset((f"{arm}_link1", f"{arm}_link3")) for arm in ("panda", "fr3")}
    by_design |= {frozenset((f"{side}_base_link", f"{side}_upper_arm_link")) for side in SIDES}
    assert {key for key, distance in near.items() if distance < 0.012} <= by_design


def _joined(model: pin.Model, a: str, b: str) -> bool:
    """Whether a joint, or none, lies between two links."""
    first, second = (model.frames[model.getFrameId(name)].parentJoint for name in (a, b))
    return first == second or model.parents[first] == second or model.parents[second] == first
