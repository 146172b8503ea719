"""People demonstrate before there is a policy: with keys and a gamepad on the simulated Panda. Their motions pass the filter, are
recorded, and train a policy."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Joy
from vla_ros.action import RunTask
from vla_ros.msg import SafetyState

from vla_ros.cli.__main__ import main
from vla_ros.cli.train.place import Place
from vla_ros.cli.train.sft import read
from vla_ros.embedded.launch import Launcher, parse
from vla_ros.episodes import EpisodeReader
from vla_ros.episodes.check import check_episode
from vla_ros.episodes.folder import find_episodes, read_info
from vla_ros.episodes.trajectory import Trajectory, load_trajectory
from vla_ros.nodes import convert, qos
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.types import SafetyMode

PANDA = RobotContract.load("panda")
TEXT = "push the red cube to the left"
UP, LEFT_KEY, ENTER = b"\x1b[A", b"\x1b[D", b"\n"


class Terminal:
    """`vla-ros teleop` in a terminal of its own, and what it shows."""

    def __init__(self, *words: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "vla_ros.cli", "teleop", *words]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "COLUMNS": "160"})
        os.close(slave)
        os.set_blocking(self.master, False)
        self.shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def look(self) -> str:
        try:
            while data := os.read(self.master, 4096):
                self.shown += data.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass
        return self.shown

    def until(self, text: str, seconds: float = 60.0, meanwhile: Callable[[], None] = lambda: None) -> None:
        """What was shown before does not count again."""
        deadline = time.monotonic() + seconds
        while text not in self.look():
            assert self.process.poll() is None, f"it has ended:\n{self.shown[-2000:]}"
            assert time.monotonic() < deadline, f"waited {seconds} s for '{text}':\n{self.shown[-2000:]}"
            meanwhile()
            time.sleep(0.02)
        self.shown = self.shown.rpartition(text)[2]

    def press(self, key: bytes, seconds: float = 0.0) -> None:
        """Once, or as a held key repeats."""
        end = time.monotonic() + seconds
        os.write(self.master, key)
        while time.monotonic() < end:
            time.sleep(0.04)
            os.write(self.master, key)


@pytest.fixture(scope="module")
def panda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Path]]:
    """The launched cell without policy and judge, in real time; and the folder of its recordings."""
    rclpy.init()
    folder = tmp_path_factory.mktemp("panda")
    given = {"policy": "none", "judge": "none", "episodes": str(folder / "episodes"), "store": str(folder / "store")}
    lines: list[str] = []
    with Launcher(parse(share() / "launch" / "cell.launch.yaml", given), lambda line: lines.append(line.text)) as launcher:
        node = Node("operator")
        client = ActionClient(node, RunTask, "/run_task")
        deadline = time.monotonic() + 90
        while not client.server_is_ready():
            assert time.monotonic() < deadline, "\n".join(lines[-30:])
            time.sleep(0.1)
        yield node, folder / "episodes"
        node.destroy_node()
    assert not launcher.failed, lines[-30:]
    rclpy.shutdown()


def moved(path: Path) -> tuple[Trajectory, np.ndarray, np.ndarray]:
    """An episode; whether a person acted after each of its observations; the tip that the filter sent at each [N, 2] m."""
    assert check_episode(path) == []
    data, kinematics = load_trajectory(path, PANDA), Kinematics(PANDA)
    states = EpisodeReader(path).of("/safety/state")
    assert SafetyMode.LATCHED not in {m.state for m in states}
    times = np.array([convert.seconds(m.header.stamp) for m in states])
    tips = np.array([kinematics.tip_xy(np.array(m.command)) for m in states])
    stamps = data.start + np.arange(len(data) + 1) / PANDA.observation.rate
    return data, data.corrected, np.stack([np.interp(stamps, times, tips[:, d]) for d in (0, 1)], axis=1)


def test_keys_demonstrate_and_people_judge(panda: tuple[Node, Path]) -> None:
    _, folder = panda
    with Terminal("keyboard", "--sim-time", "--record", TEXT, "--time-limit", "40") as screen:
        screen.until("ENTER: go home and begin")
        for verdict, told in ((b"y", "success"), (b"y", "success"), (b"x", "aborted")):
            screen.press(ENTER)
            screen.until("RECORDING")
            screen.until("person acts", meanwhile=lambda: screen.press(UP))
            screen.press(UP, 0.8)
            screen.press(LEFT_KEY, 0.8)
            time.sleep(0.5)
            screen.press(verdict)
            screen.until(f": {told}, ")
        screen.until("2 success, 1 aborted")
        screen.press(b"q")
        assert screen.process.wait(20) == 0
    paths = find_episodes(folder)
    assert [read_info(path).label["outcome"] for path in paths] == ["success", "success", "aborted"]
    for path in paths:
        data, by_hand, tips = moved(path)
        assert by_hand.any()
        assert not by_hand[0], "before the first key nobody acts"
        way = tips[-1] - tips[0]
        assert way.min() > 0.05, "away and to the left"
        speed = np.diff(tips, axis=0) * PANDA.observation.rate
        assert speed.max() == pytest.approx(0.15, rel=0.3), "as fast as the file says, when a key is held"
        np.testing.assert_allclose(speed[-2:], 0.0, atol=0.02, err_msg="it stands when the keys are let go")
        assert (data.metadata["kind"], data.metadata["outcome"]) == ("teleoperation", "aborted"), "nobody but the person judges"
    data = read([folder], Place.robot(PANDA), skip_bad=False)
    assert len(set(data.episode.tolist())) == 2, "what was discarded teaches nothing"


def test_a_gamepad_demonstrates(panda: tuple[Node, Path]) -> None:
    node, folder = panda
    config = yaml.safe_load((share() / "config" / "teleop" / "gamepad.yaml").read_text())
    path = folder.parent / "pad.yaml"
    path.write_text(yaml.safe_dump({**config, "device": "/joy"}))
    pad = node.create_publisher(Joy, "/joy", 5)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    state: list[SafetyState] = []
    node.create_subscription(SafetyState, "/safety/state", state.append, qos.STATUS)
    before = set(find_episodes(folder))

    def hold(left: float, dead_man: int) -> Callable[[], None]:
        def send() -> None:
            pad.publish(Joy(axes=[left, 0.0], buttons=[0, 0, 0, 0, 0, dead_man]))
            executor.spin_once(timeout_sec=0.02)

        return send

    with Terminal("gamepad", "--config", str(path), "--sim-time", "--record", TEXT, "--time-limit", "40") as screen:
        screen.until("ENTER: go home and begin; q: quit | silent: /joy | nobody acts")
        screen.press(ENTER)
        screen.until("RECORDING")
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            hold(-1.0, 0)()
        assert "person acts" not in screen.look(), "without the dead man's button nobody acts"
        screen.until("person acts", meanwhile=hold(-1.0, 1))
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            hold(-1.0, 1)()
        screen.until("let go", meanwhile=hold(-1.0, 0))
        screen.until("policy acts", meanwhile=hold(-1.0, 0))
        screen.press(b"y")
        screen.until(": success, ")
    (path,) = set(find_episodes(folder)) - before
    _, by_hand, tips = moved(path)
    assert by_hand.any()
    assert tips[-1, 1] - tips[0, 1] < -0.05, "the stick to the right"


def test_what_was_demonstrated_trains_a_policy(panda: tuple[Node, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = panda
    out = folder.parent / "sft"
    words = ["--robot", "panda", "--data", str(folder), "--policy", "small", "--steps", "2", "--batch", "4", "--out", str(out)]
    assert main(["train", "sft", *words]) == 0
    assert (out / "model.safetensors").is_file()
    assert "3 episodes" in capsys.readouterr().err
