"""Interbotix's drivers and ALOHA's contract: who is who, metres and radians, and mistakes, named before anything moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.interbotix import Interbotix

ALOHA = RobotContract.load("aloha")
TEXT = (share() / "config" / "drivers" / "aloha.yaml").read_text()
GROUP = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
THEIRS = [*GROUP, "gripper", "left_finger", "right_finger"]  # as the driver publishes them


def test_commands_are_shared_out() -> None:
    """ALOHA's own numbers: the finger at 0.05800 m is the motor at 1.4910 rad, at 0.01844 m at -0.6213 rad."""
    command = np.arange(14) / 100
    command[[6, 13]] = 0.058, 0.01844
    (left, row, motor), (right, other, closed) = Interbotix.load(ALOHA).split(command)
    assert (left.name, right.name) == ("follower_left", "follower_right")
    np.testing.assert_allclose(row, command[:6])
    np.testing.assert_allclose(other, command[7:13])
    assert motor == pytest.approx(1.4910)
    assert closed == pytest.approx(-0.6213)


def test_joint_states_are_merged_in_any_order() -> None:
    drivers = Interbotix.load(ALOHA)
    rng = np.random.default_rng(0)
    wanted, states = [], {}
    for arm in drivers.arms:
        q = rng.normal(size=9)
        order = rng.permutation(9)
        states[arm.name] = ([THEIRS[k] for k in order], q[order], 10 * q[order])
        wanted += [*q[:6], q[7]]  # of the gripper the finger [m], not the motor [rad]
    position, velocity = drivers.merge(states)
    np.testing.assert_array_equal(position, wanted)
    np.testing.assert_array_equal(velocity, 10 * np.array(wanted))
    names, q, v = states["follower_right"]
    with pytest.raises(VlaRosError, match=r"/follower_right/joint_states: found .*; '\w+' is missing"):
        drivers.merge({**states, "follower_right": (["x", *names[1:]], q, v)})
    with pytest.raises(VlaRosError, match="found 9 positions and 0 velocities for 9 names"):
        drivers.merge({**states, "follower_right": (names, q, v[:0])})


@pytest.mark.parametrize(
    ("joints", "mode", "gripper", "message"),
    [
        (GROUP, "position", "current_based_position", ""),
        (GROUP, "position", "linear_position", "'linear_position', which takes metres, where it is sent radians"),
        (GROUP, "position", "pwm", "'pwm', which takes no positions in radians"),
        (GROUP, "velocity", "position", "'velocity', expected position: commands are rad"),
        (GROUP[::-1], "position", "position", "found joints wrist_rotate, .* expected waist, .* in this order; correct `groups`"),
    ],
)
def test_what_a_driver_may_be(joints: list[str], mode: str, gripper: str, message: str) -> None:
    (arm, _) = Interbotix.load(ALOHA).arms
    found = arm.objection(joints, mode, gripper)
    if not message:
        assert found == ""
        return
    with pytest.raises(VlaRosError, match=message):
        raise VlaRosError(found)
    assert found.startswith("/follower_left: ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("waist: left_waist", "waist: left_gripper", r"joints\.waist: found 'left_gripper', expected a joint in rad: .* in m"),
        ("joint: left_gripper ", "joint: left_waist ", r"gripper\.joint: found 'left_waist', expected a joint in m"),
        ("waist: left_waist, ", "", "'left_waist' is missing, expected each joint"),
        ("waist: left_waist", "waist: right_waist", "'left_waist' is missing"),
        ("closed: [0.01844, -0.6213]   #", "closed: [1.8, -0.6]   #", r"gripper\.closed: found .* within 0\.\.0\.114 m"),
        ("open: [0.05800, 1.4910]\n  f", "open: [0.01, 1.4910]\n  f", "a finger further out than closed"),
        ("    group: arm    ", "    groups: arm    ", "unknown key 'arms.follower_left.groups'; did you mean 'group'"),
        ("robot: aloha", "robot: panda", "robot: found 'panda', expected 'aloha'"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    path = tmp_path / "aloha.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(VlaRosError, match=message) as error:
        Interbotix.load(ALOHA, path)
    assert str(path) in str(error.value)
