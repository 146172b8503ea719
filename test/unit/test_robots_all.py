"""What holds for every robot of the package: published kinematics and limits, sane inertias, the same robot in both engines."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import pinocchio as pin
import pytest

from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics, reduced_model
from vla_ros.safety.limits import Limits
from vla_ros.sim.arena import Arena

ROBOTS = RobotContract.known()
Transform = np.ndarray  # [4, 4]
# Franka Control Interface documentation, "Denavit-Hartenberg parameters" (Craig's convention): a m, d m, alpha rad; Panda, FR3.
FRANKA_DH = [
    (0, 0.333, 0), (0, 0, -math.pi / 2), (0, 0.316, math.pi / 2), (0.0825, 0, math.pi / 2), (-0.0825, 0.384, -math.pi / 2),
    (0, 0, math.pi / 2), (0.088, 0, math.pi / 2),
]  # fmt: skip
FLANGE = 0.107  # m
# Interbotix, specifications of the ViperX-300 6DoF, "Kinematic properties": pose M of ee_gripper_link at zero, and screw axes in
# space (direction, moment). The URDF here has another gripper, so that M is compared on the axis of the last joint.
VX300S_M = np.array([[1, 0, 0, 0.536494], [0, 1, 0, 0], [0, 0, 1, 0.42705], [0, 0, 0, 1]])
VX300S_SCREWS = np.array([
    [0, 0, 1, 0, 0, 0], [0, 1, 0, -0.12705, 0, 0], [0, 1, 0, -0.42705, 0, 0.05955], [1, 0, 0, 0, 0.42705, 0],
    [0, 1, 0, -0.42705, 0, 0.35955], [1, 0, 0, 0, 0.42705, 0],
])  # fmt: skip
LAST_JOINT = 0.05955 + 0.2 + 0.1 + 0.069744  # m, of the wrist's rotation along x at zero
# a rad/s, b rad/s², lower and upper end rad of -a + sqrt(b d): the same document, "Limits for Franka Research 3", and libfranka's
# rate_limiting.h; then as since 2025 (frankarobotics/docs, source/control-parameters-joint-fr3.csv).
FR3_SPEED = {
    "fr3_joint1": (0.30, 12.0, -2.75010, 2.75010), "fr3_joint2": (0.20, 5.17, -1.79180, 1.79180),
    "fr3_joint3": (0.20, 7.00, -2.90650, 2.90650), "fr3_joint4": (0.30, 8.00, -3.04810, -0.14580),
    "fr3_joint5": (0.35, 34.0, -2.81010, 2.81010), "fr3_joint6": (0.35, 11.0, 0.54092, 4.52050),
    "fr3_joint7": (0.35, 34.0, -3.01960, 3.01960),
}  # fmt: skip
FR3_SPEED_2025 = {
    "fr3_joint1": (0.6599, 12.0, -2.9007, 2.9007), "fr3_joint2": (0.2517, 5.17, -1.8361, 1.8361),
    "fr3_joint3": (0.2000, 7.0, -2.9007, 2.9007), "fr3_joint4": (0.3533, 8.0, -3.0770, -0.1169),
    "fr3_joint5": (0.5757, 34.0, -2.8763, 2.8763), "fr3_joint6": (0.4878, 11.0, 0.4398, 4.6216),
    "fr3_joint7": (0.4628, 34.0, -3.0508, 3.0508),
}  # fmt: skip


@pytest.fixture(scope="module", params=ROBOTS)
def contract(request: pytest.FixtureRequest) -> RobotContract:
    return RobotContract.load(request.param)


def poses(contract: RobotContract, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(contract.limits.lower, contract.limits.upper, (count, len(contract.joints)))


def franka_flange(q: np.ndarray) -> Transform:
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(FRANKA_DH, q, strict=True):
        ca, sa, ct, st = math.cos(alpha), math.sin(alpha), math.cos(theta), math.sin(theta)
        pose = pose @ np.array([
            [ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1],
        ])  # fmt: skip
    pose[:3, 3] += pose[:3, 2] * FLANGE
    return pose


def viperx_last_joint(q: np.ndarray) -> Transform:
    """Product of exponentials, with M moved back from the gripper to the axis of the last joint."""
    pose = np.eye(4)
    for screw, theta in zip(VX300S_SCREWS, q, strict=True):
        pose = pose @ pin.exp6(pin.Motion(screw[3:] * theta, screw[:3] * theta)).homogeneous
    home = VX300S_M.copy()
    home[0, 3] = LAST_JOINT
    return pose @ home


PUBLISHED = {
    "panda": [("panda_link0", "panda_link8", slice(0, 7), franka_flange)],
    "fr3": [("fr3_link0", "fr3_link8", slice(0, 7), franka_flange)],
    "aloha": [
        ("left_base_link", "left_gripper_link", slice(0, 6), viperx_last_joint),
        ("right_base_link", "right_gripper_link", slice(7, 13), viperx_last_joint),
    ],
}


def test_forward_kinematics_are_the_makers(contract: RobotContract) -> None:
    model, _ = reduced_model(contract)
    data = model.createData()
    for q in poses(contract, 50):
        pin.framesForwardKinematics(model, data, q)
        for base, frame, joints, published in PUBLISHED[contract.robot]:
            found = data.oMf[model.getFrameId(base)].actInv(data.oMf[model.getFrameId(frame)])
            np.testing.assert_allclose(found.homogeneous, published(q[joints]), atol=1e-6)


def test_limits_of_the_fr3() -> None:
    """The same document and franka_description, robots/fr3/joint_limits.yaml; the Panda's and ALOHA's have tests of their own."""
    limits = RobotContract.load("fr3").limits
    np.testing.assert_array_equal(limits.lower, [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159])
    np.testing.assert_array_equal(limits.upper, [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159])
    np.testing.assert_array_equal(limits.velocity, [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
    np.testing.assert_array_equal(limits.effort, [87.0] * 4 + [12.0] * 3)


@pytest.mark.parametrize("curve", [FR3_SPEED, FR3_SPEED_2025])
def test_the_fr3_is_fast_only_where_its_controller_allows_it(curve: dict[str, tuple[float, float, float, float]]) -> None:
    limits = Limits.load(RobotContract.load("fr3"))
    for name, low, high, fastest in zip(limits.joints, limits.lower, limits.upper, limits.velocity, strict=True):
        a, b, first, last = curve[name]
        allowed = -a + math.sqrt(b * min(low - first, last - high))
        assert fastest <= allowed + 1e-3, f"{name}: {fastest} rad/s, at the ends of its range {allowed:.3f} are allowed"


def test_masses_and_inertias_are_possible(contract: RobotContract) -> None:
    """Each is that of a body of positive mass: positive definite, and no principal moment above the sum of the others."""
    seen = 0
    for link in ET.parse(contract.urdf).getroot().findall("link"):
        inertial = link.find("inertial")
        if inertial is None:
            continue
        mass, tensor = float(inertial.find("mass").get("value")), inertial.find("inertia")  # type: ignore[union-attr, arg-type]
        xx, xy, xz, yy, yz, zz = (float(tensor.get(f"i{axes}")) for axes in ("xx", "xy", "xz", "yy", "yz", "zz"))  # type: ignore[union-attr, arg-type]
        smallest, middle, largest = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        assert mass > 0, link.get("name")
        assert smallest > 0, link.get("name")
        assert largest <= smallest + middle, link.get("name")
        seen += 1
    assert seen >= len(contract.joints)


def test_mass_of_the_arm(contract: RobotContract) -> None:
    """Data sheets: Panda and FR3 about 18 kg with the hand; a ViperX-300 6DoF 3.6 kg (with base), ALOHA's gripper included."""
    model = pin.buildModelFromUrdf(str(contract.urdf))
    moving = sum(inertia.mass for inertia in model.inertias[1:])
    expected = {"panda": (15.5, 18.0), "fr3": (15.0, 18.0), "aloha": (6.0, 7.5)}[contract.robot]
    assert expected[0] < moving < expected[1]


def test_nothing_touches_at_home(contract: RobotContract) -> None:
    arena, home = Arena(contract), Kinematics(contract).home()
    for q in (home, np.array(contract.posture)):
        arena.reset(q)
        assert arena.contacts() == []
    limits = Limits.load(contract)
    assert (home > limits.lower).all()
    assert (home < limits.upper).all()


def test_both_engines_have_the_same_robot(contract: RobotContract) -> None:
    """Poses of all links, gravity torques, mass matrix, of MuJoCo and of pinocchio."""
    spec = mujoco.MjSpec.from_file(str(contract.urdf))
    model = spec.compile()
    data = mujoco.MjData(model)
    other, _ = reduced_model(contract)
    work = other.createData()
    index = [model.joint(name).qposadr[0] for name in contract.joints]
    assert index == list(range(model.nv)), "every joint of the URDF is the contract's"
    full = np.empty((model.nv, model.nv))
    for q in poses(contract, 20, seed=2):
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        mujoco.mj_fullM(model, data, full)
        pin.framesForwardKinematics(other, work, q)
        for k in range(1, model.nbody):
            name = model.body(k).name
            place = work.oMf[other.getFrameId(name)]
            np.testing.assert_allclose(data.body(name).xpos, place.translation, atol=1e-9)
            np.testing.assert_allclose(data.body(name).xmat.reshape(3, 3), place.rotation, atol=1e-9)
        np.testing.assert_allclose(data.qfrc_bias, pin.computeGeneralizedGravity(other, work, q), atol=1e-6)
        mass = pin.crba(other, work, q)
        np.testing.assert_allclose(full, np.triu(mass) + np.triu(mass, 1).T, atol=1e-6)
