"""ROS 2 bags as demonstrations: what is in them comes out again, and what is not is named with what there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import header, message, picture
from rosbags.rosbag2 import StoragePlugin, Writer

from vla_ros.cli.__main__ import main
from vla_ros.episodes import EpisodeReader
from vla_ros.episodes.check import check_episode
from vla_ros.episodes.definitions import typestore
from vla_ros.episodes.folder import find_episodes
from vla_ros.episodes.trajectory import load_trajectory
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize

PANDA = RobotContract.load("panda")
START = 1_700_000_000.0
HOME = np.array(PANDA.posture)
TEXT = "push the red cube to the left"
DELAY = 0.03  # s from a stamp to its recording


def way(time: float) -> np.ndarray:
    """[7] rad, the joints' motion."""
    return HOME + 0.05 * time * np.array([1, -1, 1, 1, -1, 1, 1])


@dataclass
class Recorder:
    """What a bag holds, sound until a test says otherwise."""

    seconds: float = 2.0
    gap: tuple[float, float] = (0.0, 0.0)  # s in which nothing was recorded
    camera_rate: float = 30.0
    compressed: bool = False
    names: list[str] = field(default_factory=lambda: list(PANDA.joints)[::-1])
    states: Callable[[float], np.ndarray] = way
    commands: Callable[[float], np.ndarray] | None = lambda time: way(time + 0.02)
    texts: tuple[tuple[float, str], ...] = ()
    front: str = "/camera/front/image_raw"

    def messages(self) -> list[tuple[float, str, str, dict[str, Any]]]:
        """(s since the start, topic, type, fields) of all, in order."""
        all_ = [(t, "/task", "std_msgs/msg/String", {"data": text}) for t, text in self.texts]
        for k in range(round(self.seconds * 100)):
            t = k / 100
            order = [PANDA.joints.index(name) for name in self.names]
            q = self.states(t)[order]
            fields = {
                "header": header(START + t),
                "name": self.names,
                "position": q,
                "velocity": np.full(7, 0.05),
                "effort": q * 0,
            }
            all_.append((t, "/joint_states", "sensor_msgs/msg/JointState", fields))
            if self.commands is not None:
                layout = message("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
                values = {"layout": layout, "data": self.commands(t)}
                all_.append((t, "/forward_position_controller/commands", "std_msgs/msg/Float64MultiArray", values))
        for k in range(round(self.seconds * self.camera_rate)):
            t = k / self.camera_rate
            pixels = picture(k, (96, 128))
            fields = {"header": header(START + t)}
            if self.compressed:
                data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].ravel()
                name, kind = self.front + "/compressed", "sensor_msgs/msg/CompressedImage"
                fields |= {"format": "rgb8; png compressed bgr8", "data": data}
            else:
                name, kind = self.front, "sensor_msgs/msg/Image"
                fields |= {"height": 96, "width": 128, "encoding": "bgr8", "is_bigendian": 0, "step": 384}
                fields |= {"data": pixels[:, :, ::-1].ravel()}
            all_.append((t, name, kind, fields))
        return sorted((m for m in all_ if not self.gap[0] < m[0] < self.gap[1]), key=lambda m: m[0])

    def write(self, path: Path, plugin: StoragePlugin = StoragePlugin.MCAP) -> Path:
        store, connections = typestore(), {}
        with Writer(path, version=9, storage_plugin=plugin) as writer:
            for t, topic, kind, fields in self.messages():
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store)
                data = bytes(store.serialize_cdr(store.types[kind](**fields), kind))
                writer.write(connections[topic], round((START + t + DELAY) * 1e9), data)
        return path


def imported(*words: object) -> int:
    return main(["episodes", "import", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert imported(*words) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_bag_comes_out_as_it_went_in(tmp_path: Path, plugin: StoragePlugin, compressed: bool) -> None:
    bag = Recorder(compressed=compressed).write(tmp_path / "run1", plugin)
    assert imported(bag, "--robot", "panda", "--instruction", TEXT, "--out", tmp_path / "out") == 0
    (path,) = find_episodes(tmp_path / "out")
    assert path.name == "run1-000.mcap"
    assert check_episode(path) == []
    data = load_trajectory(path, PANDA)
    assert (data.instruction, data.metadata["kind"]) == (TEXT, "demonstration")
    assert len(data) == 19, "10 Hz over 1.97 s of pictures, of which the last has nothing behind it"
    np.testing.assert_allclose(data.start, START)
    times = np.arange(19) / 10
    np.testing.assert_allclose(data.positions, [way(t) for t in times], atol=1e-5)
    # A command is as old as the joint state that was recorded before it.
    np.testing.assert_allclose(data.commands, [way(t + 0.1 + 0.02) for t in times], atol=1e-4)
    expected = np.stack([resize(picture(3 * k, (96, 128)), PANDA.observation.size) for k in range(19)])
    np.testing.assert_array_equal(data.images, expected, err_msg="every third of 30 Hz")
    first = EpisodeReader(path).of("/observation")[0]
    np.testing.assert_allclose(first.velocity, 0.05)


def test_next_states_as_actions_and_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = Recorder(commands=None, front="/cam0/image").write(tmp_path / "run")
    words = (bag, "--robot", "panda", "--instruction", TEXT, "--out", tmp_path / "out")
    error = refused(capsys, *words)
    assert "found no /camera/front/image_raw (sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage); --map" in error
    assert "there are /cam0/image (sensor_msgs/msg/Image), /joint_states (sensor_msgs/msg/JointState)" in error
    mapped = (*words, "--map", "/camera/front/image_raw:=/cam0/image")
    assert "found no /forward_position_controller/commands" in (error := refused(capsys, *mapped))
    assert "or --actions states" in error
    assert imported(*mapped, "--actions", "states") == 0
    data = load_trajectory(find_episodes(tmp_path / "out")[0], PANDA)
    np.testing.assert_allclose(data.commands, [way(0.1 * (k + 1)) for k in range(19)], atol=1e-5)
    assert "found sensor_msgs/msg/JointState, expected sensor_msgs/msg/Image" in refused(
        capsys, *words, "--map", "/camera/front/image_raw:=/joint_states"
    )
    assert "--map /camera/frnt: expected a topic of" in refused(capsys, *words, "--map", "/camera/frnt:=/cam0/image")


def test_instructions_and_pauses_split_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ((0.0, "one"), (1.0, ""), (2.0, "two"), (3.5, "three"))
    bag = Recorder(seconds=5.0, texts=texts).write(tmp_path / "told")
    assert imported(bag, "--robot", "panda", "--instruction-topic", "/task", "--out", tmp_path / "told_out") == 0
    told = [load_trajectory(path, PANDA) for path in find_episodes(tmp_path / "told_out")]
    assert [(d.instruction, round(d.start - START, 1), len(d)) for d in told] == [
        ("one", 0.0, 9),
        ("two", 2.0, 14),
        ("three", 3.5, 14),
    ]

    bag = Recorder(seconds=5.0, gap=(2.0, 4.0)).write(tmp_path / "paused")
    words = (bag, "--robot", "panda", "--instruction", TEXT, "--out", tmp_path / "paused_out")
    assert "/joint_states: found 2.000 s between states at" in refused(capsys, *words)
    assert imported(*words, "--pause", 1.0) == 0
    paused = [load_trajectory(path, PANDA) for path in find_episodes(tmp_path / "paused_out")]
    assert [(round(d.start - START, 1), len(d)) for d in paused] == [(0.0, 20), (4.0, 9)]


def test_an_interrupted_import_goes_on_and_nothing_half_done_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt = Recorder(seconds=4.0, texts=((0.0, "one"), (2.0, "two")))
    whole = spoilt.messages()
    spoilt.messages = lambda: [m for m in whole if not ("image" in m[1] and 2.5 < m[0] < 3.2)]  # type: ignore[method-assign]
    bag = spoilt.write(tmp_path / "run")
    words = (bag, "--robot", "panda", "--instruction-topic", "/task", "--out", tmp_path / "out")
    error = refused(capsys, *words)
    assert "/camera/front/image_raw: found no frame within 0.070 s of" in error
    assert "(1 episodes before it are in" in error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["run-000.mcap"]
    before = (tmp_path / "out" / "run-000.mcap").stat().st_mtime_ns
    assert imported(*words, "--skip-bad") == 1
    assert "0 episodes; 1 were there already; 1 skipped" in capsys.readouterr().out
    assert (tmp_path / "out" / "run-000.mcap").stat().st_mtime_ns == before
    other = Recorder().write(tmp_path / "b" / "run")
    assert "exists already, made of run of" in refused(
        capsys, other, "--robot", "panda", "--instruction", TEXT, "--out", tmp_path / "out"
    )


ORDER = [6, 1, 2, 3, 4, 5, 0]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "other robot": ({"names": list(PANDA.joints)[:6]}, "'panda_joint7' is missing; found panda_joint1"),
    "degrees": ({"states": lambda t: np.degrees(way(t))}, "'panda_joint2': found -45.*expected -1.7.* rad; .*is it in degrees"),
    "another order": ({"commands": lambda t: way(t)[ORDER]}, "'panda_joint.': found .*expected.*are they in another order"),
    "too many": ({"commands": lambda t: np.append(way(t), 0.04)}, "found 8 values, expected 7: panda_joint1"),
    "slow camera": ({"camera_rate": 4.0}, "found no frame within 0.070 s of .* expected 10 Hz or more"),
    "short": ({"seconds": 0.2}, "expected at least two steps of 0.1 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    changes, expected = BAD[name]
    recorder = replace(Recorder(), **changes)
    bag = recorder.write(tmp_path / "run")
    error = refused(capsys, bag, "--robot", "panda", "--instruction", TEXT, "--out", tmp_path / "out")
    assert re.search(expected, error), error
    assert "/run: " in error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_is_no_bag_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "out")
    assert "found none of the formats that can be imported, expected meta/info.json" in refused(capsys, tmp_path, *out)
    bag = Recorder().write(tmp_path / "run")
    assert "--robot is missing" in refused(capsys, bag, "--instruction", TEXT, *out)
    assert "--instruction is missing" in refused(capsys, bag, "--robot", "panda", *out)
    (file,) = bag.glob("*.mcap")
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(file.read_bytes()[:20_000])
    assert "torn.mcap: found no readable ROS 2 bag" in refused(capsys, torn, "--robot", "panda", "--instruction", TEXT, *out)
