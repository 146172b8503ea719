"""Kinematics against published poses, inverse against forward, actions to joints and back."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.robots.actions import ActionDecoder
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import DOWN, Kinematics
from vla_ros.robots.observation import proprio_state, resize

READY = np.array([0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4])


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(RobotContract.load("panda"))


def frame(kinematics: Kinematics, name: str, q: np.ndarray) -> pin.SE3:
    pin.framesForwardKinematics(kinematics.model, kinematics.data, q)
    return kinematics.data.oMf[kinematics.model.getFrameId(name)]


def test_flange_at_zero(kinematics: Kinematics) -> None:
    """From the data sheet's DH parameters: x = a7; z = d1 + d3 + d5 - flange."""
    pose = frame(kinematics, "panda_link8", np.zeros(7))
    np.testing.assert_allclose(pose.translation, [0.088, 0, 0.333 + 0.316 + 0.384 - 0.107], atol=1e-12)
    np.testing.assert_allclose(pose.rotation, np.diag([1, -1, -1]), atol=1e-9)


def test_end_effector_at_ready(kinematics: Kinematics) -> None:
    """libfranka's examples: O_T_EE of the ready pose with Franka Hand (0.1034 m) is (0.3069, 0, 0.4869)."""
    hand = frame(kinematics, "panda_hand", READY)
    np.testing.assert_allclose(hand.act(np.array([0, 0, 0.1034])), [0.3069, 0, 0.4869], atol=5e-5)
    np.testing.assert_allclose(hand.rotation, np.diag([1, -1, -1]), atol=1e-9)


def test_tool_is_under_the_fingers(kinematics: Kinematics) -> None:
    relative = frame(kinematics, "panda_hand", READY).actInv(frame(kinematics, "panda_tool", READY))
    np.testing.assert_allclose(relative.translation, [0, 0, 0.232], atol=1e-12)
    assert relative.rotation[2, 2] == 1


def test_masses(kinematics: Kinematics) -> None:
    """Links 1 to 7: Gaz et al. 2019, table of feasible parameters; the last one carries hand and rod."""
    published = [4.970684, 0.646926, 3.228604, 3.587895, 1.225946, 1.666555, 0.735522 + 0.73 + 2 * 0.015 + 0.1]
    np.testing.assert_allclose([i.mass for i in kinematics.model.inertias[1:]], published, rtol=1e-9)
    for inertia in kinematics.model.inertias[1:]:
        assert np.linalg.eigvalsh(inertia.inertia).min() > 0


def test_inverse_reaches_the_whole_workspace(kinematics: Kinematics) -> None:
    action = kinematics.contract.action
    rng = np.random.default_rng(0)
    q = kinematics.home()
    for xy in [*rng.uniform(action.low, action.high, (300, 2)), *[(x, y) for x in (0.3, 0.7) for y in (-0.26, 0.26)]]:
        target = np.array([*xy, action.height])
        q = kinematics.ik(q, target)
        pose = kinematics.tip_pose(q)
        assert np.linalg.norm(pose[:3] - target) < 1e-4
        tilt = pin.log3(DOWN.T @ pin.XYZQUATToSE3(pose).rotation)
        assert np.linalg.norm(tilt) < 1e-3
        assert (q > kinematics.contract.limits.lower).all()
        assert (q < kinematics.contract.limits.upper).all()


def test_inverse_does_not_drift(kinematics: Kinematics) -> None:
    """The null-space pull makes the posture a function of the tip, however it got there."""
    home = kinematics.home()
    target = np.array([*kinematics.contract.home_tip, kinematics.contract.action.height])
    q = home
    for _ in range(5):
        for xy in ((0.65, 0.2), (0.35, -0.2), (0.6, -0.2)):
            for share in np.linspace(0.1, 1, 10):
                q = kinematics.ik(q, target + share * (np.array([*xy, target[2]]) - target))
            q = kinematics.ik(q, target)
    np.testing.assert_allclose(q, home, atol=0.05)


def test_unreachable_is_an_error(kinematics: Kinematics) -> None:
    with pytest.raises(VlaRosError, match="not reachable"):
        kinematics.ik(kinematics.home(), np.array([1.4, 0, 0.03]))


@pytest.fixture(scope="module")
def decoder(kinematics: Kinematics) -> ActionDecoder:
    return ActionDecoder(kinematics.contract, kinematics)


def test_tokens_round_trip(decoder: ActionDecoder) -> None:
    tokens = np.stack(np.meshgrid(np.arange(21), np.arange(21)), -1).reshape(-1, 2)
    np.testing.assert_array_equal(decoder.encode(decoder.delta(tokens)), tokens)
    np.testing.assert_allclose(decoder.delta([[0, 20], [10, 11]]), [[-0.04, 0.04], [0, 0.004]], atol=1e-15)
    np.testing.assert_array_equal(decoder.encode([[-1.0, 1.0]]), [[0, 20]])


@pytest.mark.parametrize("tokens", [[[0, 21]], [[-1, 3]], [[0.0, 1.0]], [[1, 2, 3]]])
def test_wrong_tokens_are_refused(decoder: ActionDecoder, tokens: list[list[float]]) -> None:
    with pytest.raises(VlaRosError, match="action tokens"):
        decoder.delta(tokens)


def test_not_a_number_is_refused(decoder: ActionDecoder) -> None:
    with pytest.raises(VlaRosError, match="finite"):
        decoder.encode([np.nan, 0.0])


def test_rows_move_the_tip_and_stay_inside(decoder: ActionDecoder) -> None:
    kinematics = decoder.kinematics
    home, tip = kinematics.home(), np.array(decoder.contract.home_tip)
    rows = decoder.rows([[1, 0], [1.7, 0.5], [-1, -1]], home)
    wanted = tip + np.cumsum([[0.04, 0], [0.04, 0.02], [-0.04, -0.04]], axis=0)
    reached = np.array([kinematics.tip_pose(row)[:3] for row in rows])
    np.testing.assert_allclose(reached[:, :2], wanted, atol=1e-4)
    np.testing.assert_allclose(reached[:, 2], decoder.contract.action.height, atol=1e-4)
    np.testing.assert_allclose(decoder.action(rows, home), [[1, 0], [1, 0.5], [-1, -1]], atol=2e-3)
    far = decoder.rows([[-1, 0]] * 5, home)
    np.testing.assert_allclose(kinematics.tip_xy(far[-1]), [0.30, 0.0], atol=1e-4)


def test_state_is_scaled_to_the_workspace() -> None:
    contract = RobotContract.load("panda")
    np.testing.assert_allclose(proprio_state(contract, np.array([0.3, 0.26, 0.03])), [-1, 1], atol=1e-6)
    np.testing.assert_allclose(proprio_state(contract, np.array([0.5, 0.0])), [0, 0], atol=1e-6)


def test_resize_averages_areas() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[::2] = 200
    np.testing.assert_array_equal(resize(image, (64, 64)), np.full((64, 64, 3), 100, np.uint8))
    assert resize(image, (128, 128)) is image
