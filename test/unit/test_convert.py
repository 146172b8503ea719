"""Messages and value objects: nothing is lost on the way there and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import JointState as JointStateMsg

from vla_ros.errors import VlaRosError
from vla_ros.nodes import convert
from vla_ros.safety.filter import Counters
from vla_ros.types import ActionChunk, JointState, Observation, SafeCommand, SafetyMode

NAMES = ("a", "b", "c")
TIME = 1_700_000_123.456789


@given(st.floats(0, 2**31 - 1))
def test_stamps_survive_a_round_trip(time: float) -> None:
    once = convert.stamp(time)
    assert 0 <= once.nanosec < 1_000_000_000
    assert abs(convert.seconds(once) - time) <= 1e-9
    assert convert.seconds(convert.stamp(convert.seconds(once))) == convert.seconds(once)


@pytest.mark.parametrize("time", [-1.0, float("nan"), float("inf"), 2.0**31])
def test_impossible_stamps_are_errors(time: float) -> None:
    with pytest.raises(VlaRosError, match="stamp: found"):
        convert.stamp(time)


def test_chunk() -> None:
    chunk = ActionChunk(
        TIME, 0.1, NAMES, np.arange(6.0).reshape(2, 3), observation_stamp=TIME - 0.1, policy_version=4, episode_id="e",
        tokens=np.array([[1, 2], [3, 4]], np.int16), log_probability=-1.5,
    )  # fmt: skip
    back = convert.chunk(convert.chunk_message(chunk, [1.0, 2.0], "panda"))
    for field in dataclasses.fields(ActionChunk):
        assert np.array_equal(getattr(back, field.name), getattr(chunk, field.name)), field.name


@pytest.mark.parametrize(("rows", "size"), [(0, 3), (3, 4), (2, 3), (1, 0)])
def test_a_chunk_that_does_not_fit_is_left_to_admission(rows: int, size: int) -> None:
    message = convert.chunk_message(ActionChunk(TIME, 0.1, NAMES, np.zeros((1, 3))))
    message.rows, message.data = rows, convert.floats(np.zeros(size))
    assert convert.chunk(message).rows.ndim == 1


def test_columns_follow_from_the_rows_as_tips_have_more_than_one() -> None:
    poses = np.arange(14.0).reshape(2, 7)
    message = convert.chunk_message(ActionChunk(TIME, 0.1, ("tool",), poses, "tip_pose"))
    assert np.array_equal(convert.chunk(message).rows, poses)


def test_observation_shares_the_messages_memory() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    joints = JointState(TIME, NAMES, np.arange(3.0), -np.arange(3.0))
    message = convert.observation_message(Observation(TIME, {"front": image}, joints, 0.5), {"front": "optical"})
    assert message.images[0].header.frame_id == "optical"
    back = convert.observation(message)
    assert np.array_equal(back.images["front"], image)
    assert np.shares_memory(back.images["front"], np.frombuffer(message.images[0].data, np.uint8))
    assert (back.stamp, back.skew, back.joints.names) == (TIME, 0.5, NAMES)
    assert np.array_equal(back.joints.velocity, joints.velocity)
    message.cameras = ["front", "wrist"]
    with pytest.raises(VlaRosError, match="1 images for 2 cameras"):
        convert.observation(message)


def test_joints_without_velocities_are_not_made_up() -> None:
    message = JointStateMsg(name=list(NAMES), position=[1.0, 2.0, 3.0])
    assert np.isnan(convert.joint_state(message).velocity).all()


def test_ordered_picks_by_name() -> None:
    state = JointState(TIME, ("x", "c", "a", "b"), np.array([9.0, 3, 1, 2]), np.array([-9.0, -3, -1, -2]))
    picked = convert.ordered(state, NAMES)
    assert picked.position.tolist() == [1, 2, 3]
    assert picked.velocity.tolist() == [-1, -2, -3]
    with pytest.raises(VlaRosError, match="'y' is missing; found x, c, a, b"):
        convert.ordered(state, ("y",))
    with pytest.raises(VlaRosError, match="4 positions, 0 velocities for 4 names"):
        convert.ordered(dataclasses.replace(state, velocity=np.zeros(0)), NAMES)


def test_safety_state_tells_why() -> None:
    command = SafeCommand(
        TIME, SafetyMode.BRAKE, "state_silence", 0.5, ("velocity:a",), np.ones(3), np.zeros(3), np.zeros(3), 7, "e"
    )
    counters = Counters(ticks=5, missed_ticks=1, limited_ticks=2, rejected_chunks=3)
    message = convert.safety_message(command, NAMES, counters)
    assert (message.state, message.reason, message.path_speed) == (1, "state_silence", 0.5)
    assert list(message.active_constraints) == ["velocity:a"]
    assert list(message.raw_command) == [1, 1, 1]
    assert (message.ticks, message.missed_ticks, message.limited_ticks, message.rejected_chunks) == (5, 1, 2, 3)
    assert (message.policy_version, message.episode_id) == (7, "e")
