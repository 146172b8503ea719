"""A recording as the drivers would send it again: joint states at any time, pictures, commands to compare with, bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings
from recordings import START, record

from vla_ros.episodes.replay import Comparison, Recording
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract

PANDA = RobotContract.load("panda")
PERIOD = 1 / PANDA.observation.rate
SPEED = 0.01  # rad/s, as recordings.position moves: 0.001 rad a step of 0.1 s


def moving(topic: str, step: int, fields: dict[str, Any]) -> dict[str, Any]:
    if topic == "/observation":
        fields["velocity"] = np.full(len(PANDA.joints), SPEED)
    return fields


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return Recording.load(record(tmp_path_factory.mktemp("replay") / "e.mcap", PANDA, steps=10, spoil=moving), PANDA)


def test_what_it_holds(recording: Recording) -> None:
    assert (recording.start, recording.end) == pytest.approx((START, START + 10 * PERIOD))
    assert (recording.joints, recording.instruction, recording.episode_id) == (PANDA.joints, "reach the red disc", "e")
    assert recording.cameras == ("front",)
    assert [round((p.stamp - START) / PERIOD, 3) for p in recording.pictures] == list(range(11))
    np.testing.assert_array_equal(recording.pictures[3].pixels, recordings.picture(3, PANDA.observation.size))


def test_joint_states_go_through_the_recorded_ones_and_are_smooth(recording: Recording) -> None:
    for step in range(11):
        np.testing.assert_allclose(
            recording.joint_state(START + step * PERIOD).position, recordings.position(PANDA, step), atol=1e-9
        )
    times = START + np.linspace(0.0, 1.0, 401)
    states = [recording.joint_state(t) for t in times]
    position, velocity = np.array([s.position for s in states]), np.array([s.velocity for s in states])
    np.testing.assert_allclose(np.gradient(position, times, axis=0)[2:-2], velocity[2:-2], atol=1e-4)
    np.testing.assert_allclose(velocity[1:-1], SPEED, atol=1e-5)
    assert states[7].names == PANDA.joints
    assert states[7].stamp == times[7]


@pytest.mark.parametrize(("time", "step"), [(START - 5.0, 0), (START + 60.0, 10)])
def test_outside_the_recording_the_arm_stands(recording: Recording, time: float, step: int) -> None:
    state = recording.joint_state(time)
    np.testing.assert_allclose(state.position, recordings.position(PANDA, step), atol=1e-9)
    np.testing.assert_array_equal(state.velocity, 0.0)


def test_commands_are_compared_where_they_are_known(recording: Recording) -> None:
    np.testing.assert_allclose(recording.command(START + 0.33), recordings.command(PANDA, 0.33), atol=1e-6)
    assert recording.command(START - 0.1) is None
    assert recording.command(START + 5.0) is None
    comparison = Comparison(PANDA.joints)
    assert comparison.summary() == "no command could be compared with a recorded one"
    for offset in (0.1, -0.3):
        sent = recordings.command(PANDA, 0.2)
        sent[4] += offset
        comparison.add(sent, recordings.command(PANDA, 0.2))
    assert comparison.mean[4] == pytest.approx(0.2)
    assert comparison.worst[4] == pytest.approx(0.3)
    assert "2 commands" in comparison.summary()
    assert "0.3000 (panda_joint5)" in comparison.summary()


def _without(topic: str) -> recordings.Spoil:
    return lambda name, step, fields: None if name == topic else fields


def _changed(**changes: Any) -> recordings.Spoil:
    return lambda name, step, fields: {**fields, **changes} if name == "/observation" and step == 2 else fields


@pytest.mark.parametrize(
    ("spoil", "robot", "message"),
    [
        (_without("/observation"), "panda", r"/observation: found 0 messages, expected at least two"),
        (lambda n, k, f: None if k in range(2, 8) else f, "panda", r"found 0\.700 s between the frames .* where the arm was"),
        (_changed(joint_names=["other", *PANDA.joints[1:]]), "panda", "'panda_joint1' is missing; found other"),
        (_changed(velocity=np.zeros(0)), "panda", "0 velocities, 0 of them finite for 7 joints"),
        (_changed(cameras=["top"]), "fr3x", "metadata: robot: found 'fr3x', expected 'panda'; launch with robot:=fr3x"),
        (lambda n, k, f: {**f, "cameras": ["top"]} if n == "/observation" else f, "panda", "no picture of camera 'front'"),
    ],
)  # fmt: skip
def test_a_recording_that_cannot_be_replayed_says_why(tmp_path: Path, spoil: recordings.Spoil, robot: str, message: str) -> None:
    path = record(tmp_path / "bad.mcap", PANDA, steps=10, spoil=spoil, robot=robot)
    with pytest.raises(VlaRosError, match=message) as error:
        Recording.load(path, PANDA)
    assert str(path) in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(VlaRosError, match=r"none\.mcap: cannot be read"):
        Recording.load(tmp_path / "none.mcap", PANDA)
