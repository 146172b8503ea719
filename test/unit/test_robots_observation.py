"""Observations to what the policy sees, and its actions to rows: order, units, and what is refused, for each semantics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import recordings

from vla_ros.errors import VlaRosError
from vla_ros.robots.actions import action_space
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import images_of, of_message, state_of
from vla_ros.types import JointState, Observation

PANDA, ALOHA = RobotContract.load("panda"), RobotContract.load("aloha")


def observation(contract: RobotContract) -> Observation:
    """Cameras in reverse order, each of one colour: its place in the contract; joints in reverse order, n at place n."""
    shape, names = (*contract.observation.size, 3), contract.observation.cameras
    images = {name: np.full(shape, k, np.uint8) for k, name in reversed(list(enumerate(names)))}
    n = len(contract.joints)
    return Observation(5.0, images, JointState(5.0, contract.joints[::-1], np.arange(n)[::-1] / 10.0, np.zeros(0)))


def test_every_camera_in_the_contracts_order() -> None:
    images = images_of(ALOHA, observation(ALOHA))
    assert images.shape == (4, 224, 224, 3)
    assert images[:, 100, 100, 1].tolist() == [0, 1, 2, 3]
    front = np.full((64, 64, 3), 7, np.uint8)
    value = replace(observation(PANDA), images={"wrist": np.zeros((64, 64, 3), np.uint8), "front": front})
    assert images_of(PANDA, value) is front, "one camera: no axis, no copy"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"found images of cam_right_wrist, cam_left_wrist, cam_high, expected 'cam_low'"),
        (np.zeros((224, 112, 3), np.uint8), r"image of 'cam_low': found uint8 \[224, 112, 3\], expected uint8 \[224, 224, 3\]"),
        (np.zeros((224, 224), np.uint8), r"image of 'cam_low': found uint8 \[224, 224\]"),
        (np.zeros((224, 224, 3), np.float32), r"image of 'cam_low': found float32"),
    ],
)
def test_images_that_do_not_fit_are_refused(image: np.ndarray | None, message: str) -> None:
    value = observation(ALOHA)
    images: dict[str, Any] = {**value.images, "cam_low": image}
    if image is None:
        del images["cam_low"]
    with pytest.raises(VlaRosError, match=message):
        images_of(ALOHA, replace(value, images=images))


def test_a_state_is_what_the_contract_lists() -> None:
    state = state_of(ALOHA, Kinematics(ALOHA), observation(ALOHA).joints)
    assert state.dtype == np.float32
    np.testing.assert_array_equal(state, np.arange(14, dtype=np.float32) / np.float32(10))
    kinematics = Kinematics(PANDA)
    home = JointState(0.0, PANDA.joints[::-1], kinematics.home()[::-1], np.zeros(0))
    np.testing.assert_allclose(state_of(PANDA, kinematics, home), [-0.7, 0.0], atol=1e-4)  # 0.36 m of 0.30..0.70 m


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": tuple("x" * k for k in range(14))}, "'left_waist' is missing; found"),
        ({"position": np.zeros(13)}, "found 13 positions for 14 names"),
        ({"position": np.where(np.arange(14) == 0, np.nan, 0.0)}, "position of 'right_gripper': found nan, expected a finite"),
    ],
)
def test_joints_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(VlaRosError, match=message):
        state_of(ALOHA, Kinematics(ALOHA), replace(observation(ALOHA).joints, **change))


def test_another_order_of_channels_is_refused_and_named() -> None:
    fields = recordings.observation(ALOHA, 5.0, 0)
    message = recordings.message("vla_ros/msg/Observation", header=recordings.header(5.0), **fields)
    assert list(of_message(message).images) == list(ALOHA.observation.cameras)
    message.images[2].encoding = "bgr8"
    with pytest.raises(VlaRosError, match=r"image of 'cam_left_wrist': encoding: found 'bgr8', expected 'rgb8'"):
        of_message(message)
    message.images[2].encoding, message.images[2].height = "rgb8", 100
    with pytest.raises(VlaRosError, match=r"image of 'cam_left_wrist': .*found 150528 bytes, expected .* 672 \* 100"):
        of_message(message)


def test_joint_rows_are_taken_as_they_are() -> None:
    space, q = action_space(ALOHA, Kinematics(ALOHA)), np.array(ALOHA.posture)
    lower, upper = ALOHA.limits.lower, ALOHA.limits.upper
    action = (lower + np.linspace(0.01, 0.99, 100)[:, None] * (upper - lower)).astype(np.float32)
    assert space.dim == 14
    np.testing.assert_array_equal(space.rows(action, q), action)
    np.testing.assert_array_equal(space.action(space.rows(action, q), q), action)


@pytest.mark.parametrize("contract", [PANDA, ALOHA], ids=["panda", "aloha"])
def test_actions_that_do_not_fit_are_refused(contract: RobotContract) -> None:
    kinematics = Kinematics(contract)
    space, q = action_space(contract, kinematics), kinematics.home()
    for shape in ((3, space.dim + 1), (3, space.dim - 1), (space.dim,)):
        with pytest.raises(VlaRosError, match=rf"action: found shape \[.*expected \[T, {space.dim}\]"):
            space.rows(np.zeros(shape), q)
    broken = np.zeros((3, space.dim))
    broken[2, 1] = np.inf
    with pytest.raises(VlaRosError, match="action: row 2, column 1: found inf, expected a finite number"):
        space.rows(broken, q)


def test_the_home_of_two_arms_is_their_posture() -> None:
    kinematics = Kinematics(ALOHA)
    np.testing.assert_array_equal(kinematics.home(), ALOHA.posture)
    with pytest.raises(VlaRosError, match=r"tips: found left_tool, right_tool, expected one"):
        kinematics.tip_xy(kinematics.home())


def test_joint_rows_end_at_the_limits() -> None:
    """float32(0.057) is beyond 0.057, and a whole chunk would be refused for it."""
    space, limits = action_space(ALOHA, Kinematics(ALOHA)), ALOHA.limits
    beyond = np.stack([limits.upper, limits.upper + 1.0, limits.lower - 1.0]).astype(np.float32)
    rows = space.rows(beyond, np.array(ALOHA.posture))
    np.testing.assert_array_equal(rows[1:], [limits.upper, limits.lower])
    assert (rows <= limits.upper).all()
