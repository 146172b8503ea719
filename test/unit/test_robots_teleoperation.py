"""Who acts: a person's fresh and good commands do, else the policy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.robots.actions import action_space
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.teleoperation import AHEAD, Teleoperation
from vla_ros.types import JointState

PANDA, ALOHA = RobotContract.load("panda"), RobotContract.load("aloha")
HOME = Kinematics(PANDA).home()
POSTURE = np.array(ALOHA.posture)
NOW, NONE = 100.0, (0.0, 0.0, 0.0)


@pytest.fixture
def hand() -> Teleoperation:
    return Teleoperation(PANDA, 0.3)


@pytest.fixture
def leader() -> Teleoperation:
    return Teleoperation(ALOHA, 0.3)


def pose(position: np.ndarray = POSTURE, stamp: float = NOW) -> JointState:
    """Joints in another order than the contract's."""
    return JointState(stamp, ALOHA.joints[::-1], position[::-1].copy(), np.zeros(len(position)))


def test_fresh_commands_take_over_and_silence_gives_back(hand: Teleoperation) -> None:
    assert hand.action(NOW, HOME) is None
    hand.twist((0.1, -0.4, 0.0), NONE, NOW, NOW)
    assert hand.action(NOW + 0.05, HOME).tolist() == [[0.25, -1.0]], "0.4 m/s are max_step in a policy step"  # type: ignore[union-attr]
    assert hand.action(NOW + 0.29, HOME) is not None
    assert hand.action(NOW + 0.31, HOME) is None
    hand.twist(NONE, NONE, NOW + 1.0, NOW + 1.1)  # held still is an action, too; it is as old as its stamp
    assert hand.action(NOW + 1.2, HOME).tolist() == [[0.0, 0.0]]  # type: ignore[union-attr]
    assert hand.action(NOW + 1.35, HOME) is None
    hand.twist(NONE, NONE, NOW + 2.2, NOW + 2.0)  # a clock that is ahead lends no time
    assert hand.action(NOW + 2.35, HOME) is None


def test_the_tip_moves_as_fast_as_the_person_says(hand: Teleoperation) -> None:
    hand.twist((0.2, 0.1, 0.0), NONE, NOW, NOW)
    kinematics = Kinematics(PANDA)
    rows = action_space(PANDA, kinematics).rows(hand.action(NOW, HOME), HOME)  # type: ignore[arg-type]
    np.testing.assert_allclose(kinematics.tip_xy(rows[0]) - kinematics.tip_xy(HOME), [0.02, 0.01], atol=1e-4)


def test_leader_arms_say_where_the_arms_shall_be(leader: Teleoperation) -> None:
    target = POSTURE + 0.05 * np.array([1, 1, 1, 1, 1, 1, 0] * 2)
    leader.joints(pose(target), NOW)
    action = leader.action(NOW, POSTURE)
    assert action is not None
    assert action.shape == (100, 14)
    np.testing.assert_allclose(action, np.tile(target, (100, 1)), atol=1e-6)


BAD: dict[str, tuple[Callable[[Teleoperation], object], str]] = {
    "not finite": (lambda t: t.twist((math.nan, 0.0, 0.0), NONE, NOW, NOW), "expected finite numbers"),
    "too fast": (lambda t: t.twist((0.0, 0.41, 0.0), NONE, NOW, NOW), "expected at most 0.4 m/s"),
    "up": (lambda t: t.twist((0.0, 0.0, 0.1), NONE, NOW, NOW), "linear.z 0.1, .*expected 0"),
    "turning": (lambda t: t.twist(NONE, (0.0, 0.0, 0.1), NOW, NOW), "expected 0"),
    "stale": (lambda t: t.twist(NONE, NONE, NOW - 0.31, NOW), "found 0.310 s ago, expected at most 0.3 s"),
    "future": (lambda t: t.twist(NONE, NONE, NOW + 0.31, NOW), "0.310 s ahead .* use_sim_time"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_twist_is_refused_and_changes_nothing(hand: Teleoperation, name: str) -> None:
    send, message = BAD[name]
    with pytest.raises(VlaRosError, match=message):
        send(hand)
    assert hand.action(NOW, HOME) is None
    hand.twist((0.2, 0.0, 0.0), NONE, NOW, NOW)
    with pytest.raises(VlaRosError, match=message):
        send(hand)
    assert hand.action(NOW, HOME).tolist() == [[0.5, 0.0]]  # type: ignore[union-attr]


def changed(value: float) -> np.ndarray:
    position = POSTURE.copy()
    position[8] = value
    return position


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        (pose(changed(math.nan)), "'right_shoulder': found nan"),
        (pose(changed(3.0)), "'right_shoulder': found 3, expected -1.8"),
        (JointState(NOW, ALOHA.joints[:7], POSTURE[:7], POSTURE[:7]), "'right_waist' is missing"),
        (JointState(NOW, ALOHA.joints, POSTURE[:7], POSTURE[:7]), "found 7 positions for 14 names"),
        (pose(stamp=NOW - 1), "found 1.000 s ago"),
        (pose(stamp=NOW + 1), "1.000 s ahead"),
    ],
)
def test_bad_joints_are_refused(leader: Teleoperation, joints: JointState, message: str) -> None:
    with pytest.raises(VlaRosError, match=message):
        leader.joints(joints, NOW)
    assert leader.action(NOW, POSTURE) is None


def test_a_leader_that_is_elsewhere_does_not_take_over(leader: Teleoperation) -> None:
    far = POSTURE.copy()
    far[3] += AHEAD * ALOHA.limits.velocity[3] + 0.01
    leader.joints(pose(far), NOW)
    with pytest.raises(VlaRosError, match="'left_forearm_roll' of the leader at .*bring the leader to the arm's pose"):
        leader.action(NOW, POSTURE)
    assert leader.action(NOW, far - 0.01) is not None


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan, math.inf])
def test_a_timeout_is_a_time(timeout: float) -> None:
    with pytest.raises(VlaRosError, match="teleop_timeout: found"):
        Teleoperation(PANDA, timeout)
