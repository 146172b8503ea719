"""`vla-ros safety` against a real safety_node: e-stop and reset from another terminal, the state, and the key of `watch`."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from node_process import NodeProcess
from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Bool, Float64MultiArray
from vla_ros.msg import SafetyState

from vla_ros import paths
from vla_ros.nodes import convert, qos
from vla_ros.nodes.main import spin_beside
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.types import JointState

CONTRACT = RobotContract.load("panda")
HOME = Kinematics(CONTRACT).home()


class Arm(Node):
    """Joint states at the control rate that follow the commands, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("arm")
        self.position = HOME.copy()
        self.state = SafetyState(state=255)
        self.stops: list[tuple[float, bool]] = []  # what was heard on /estop, s on the monotonic clock
        self.create_subscription(Float64MultiArray, CONTRACT.control.command_topic, self._on_command, 1)
        self.create_subscription(SafetyState, "/safety/state", self._on_state, qos.STATUS)
        self.create_subscription(Bool, "/estop", lambda m: self.stops.append((time.monotonic(), m.data)), 10)
        self.joints = self.create_publisher(JointStateMsg, CONTRACT.control.state_topic, 5)
        self.create_timer(1 / CONTRACT.control.rate, self._drive)
        self._thread = threading.Thread(target=spin_beside, args=(self,), daemon=True)
        self._thread.start()

    def _drive(self) -> None:
        now = self.get_clock().now().nanoseconds * 1e-9
        self.joints.publish(
            convert.joint_state_message(JointState(now, CONTRACT.joints, self.position, np.zeros(len(CONTRACT.joints))))
        )

    def _on_command(self, message: Float64MultiArray) -> None:
        self.position = np.array(message.data)

    def _on_state(self, message: SafetyState) -> None:
        self.state = message


def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arm]:
    """Watchdogs that a busy test machine does not trip."""
    text = (paths.share() / "config" / "safety" / "panda.yaml").read_text()
    for key in ("state_age", "state_silence", "state_latch"):
        text = re.sub(rf"^{key}: [0-9.]+", f"{key}: 2.0", text, flags=re.MULTILINE)
    file = tmp_path_factory.mktemp("safety") / "patient.yaml"
    file.write_text(text)
    rclpy.init()
    arm = Arm()
    with NodeProcess("safety_node", robot="panda", safety=str(file)):
        until(lambda: arm.state.state != 255, "the first state", 20.0)
        yield arm
    rclpy.shutdown()


@pytest.fixture
def standing(arm: Arm) -> Arm:
    """Not latched."""
    if arm.state.state == SafetyState.LATCHED:
        until(lambda: tool("reset", "--release").returncode == 0, "the reset")
    until(lambda: arm.state.state != SafetyState.LATCHED, "no latch")
    arm.stops.clear()
    return arm


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "vla_ros.cli", "safety", *words]


def tool(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=30, check=False, env=env)


def test_state_tells_mode_and_margins(standing: Arm) -> None:
    done = tool("state")
    assert done.returncode == 0, done.stderr
    assert re.search(r"mode +HELD", done.stdout)
    assert "patient.yaml" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("panda_joint4")]
    assert f"{HOME[3]:.4f}"[:6] in row
    upper = CONTRACT.limits.upper[3]
    margin = float(row.split()[3])
    assert 0.0 < margin < min(HOME[3] - CONTRACT.limits.lower[3], upper - HOME[3]), "inside the URDF's by position_margin"


def test_estop_latches_and_reset_goes_on(standing: Arm) -> None:
    done = tool("estop")
    assert done.returncode == 0, done.stderr
    assert "LATCHED: estop_service" in done.stdout
    assert standing.state.state == SafetyState.LATCHED
    seen = tool("state")
    assert seen.returncode == 1
    assert re.search(r"mode +LATCHED +estop_service", seen.stdout)
    until(lambda: tool("reset").returncode == 0, "the reset")
    assert standing.state.state != SafetyState.LATCHED
    refused = tool("reset")
    assert refused.returncode == 1
    assert "refused: not latched" in refused.stdout


def test_a_stop_that_another_holds_is_named(standing: Arm) -> None:
    publisher = standing.create_publisher(Bool, "/estop", 10)
    until(lambda: publisher.get_subscription_count() > 1, "the match")
    publisher.publish(Bool(data=True))
    until(lambda: standing.state.state == SafetyState.LATCHED, "the latch")
    refused = tool("reset")
    assert refused.returncode == 1
    assert "vla-ros safety reset --release" in refused.stdout
    assert tool("reset", "--release").returncode == 0


def test_nobody_there_is_told_with_the_remedy() -> None:
    env = {**os.environ, "ROS_DOMAIN_ID": str((int(os.environ["ROS_DOMAIN_ID"]) + 37) % 100)}
    started = [
        subprocess.Popen(command(verb), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        for verb in ("estop", "state", "watch")
    ]
    for process in started:
        _out, err = process.communicate(timeout=30)
        assert process.returncode == 2
        assert f"no safety node answers in domain {env['ROS_DOMAIN_ID']}" in err
        assert "`vla-ros node list`" in err


class Terminal:
    """`vla-ros safety watch` on a pseudo-terminal."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
        self.process = subprocess.Popen(command("watch"), stdin=slave, stdout=slave, stderr=slave, env=env)
        os.close(slave)
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other end is closed
                return
            self.text += data.decode(errors="replace")

    def press(self, key: str) -> float:
        os.write(self.master, key.encode())
        return time.monotonic()

    def end(self) -> int:
        status = self.process.wait(timeout=15)
        time.sleep(0.2)
        os.close(self.master)
        return status


@pytest.mark.parametrize("key", [" ", "e"])
def test_the_key_stops_at_once_and_holds_until_released(standing: Arm, key: str) -> None:
    terminal = Terminal()
    try:
        until(lambda: "E-STOP   r:" in terminal.text and "panda_joint7" in terminal.text, "the view", 20.0)
        until(lambda: standing.count_publishers("/estop") > 0, "the key's publisher")
        pressed = terminal.press(key)
        until(lambda: standing.state.state == SafetyState.LATCHED, "the latch")
        assert standing.stops[0][1]
        assert standing.stops[0][0] - pressed < 0.3, "on a busy machine; a few milliseconds otherwise"
        until(lambda: "E-STOP HELD" in terminal.text, "the notice")
        before = len(standing.stops)
        time.sleep(1.0)
        assert 5 <= len(standing.stops) - before <= 14, "held at 10 Hz"
        assert tool("reset").returncode == 1
        terminal.press("r")
        until(lambda: standing.stops[-1][1] is False, "the release")
        until(lambda: standing.state.state != SafetyState.LATCHED, "the reset by r")
        terminal.press("q")
        assert terminal.end() == 0, terminal.text[-2000:]
    finally:
        terminal.process.kill()


def test_quitting_while_held_leaves_the_latch_and_says_so(standing: Arm) -> None:
    terminal = Terminal()
    try:
        until(lambda: "E-STOP   r:" in terminal.text, "the view", 20.0)
        terminal.press("e")
        until(lambda: standing.state.state == SafetyState.LATCHED, "the latch")
        until(lambda: "E-STOP HELD" in terminal.text, "the notice")
        terminal.press("q")
        assert terminal.end() == 1
        assert "left LATCHED: estop_topic" in terminal.text
        assert "reset --release" in terminal.text
    finally:
        terminal.process.kill()
    time.sleep(0.3)
    assert standing.state.state == SafetyState.LATCHED


def test_without_a_terminal_it_only_shows(standing: Arm, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command("watch"), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        until(lambda: "path speed" in (tmp_path / "out").read_text(), "a line", 20.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 130
    text = (tmp_path / "out").read_text()
    assert "stdin is not a terminal" in text
    assert "HELD" in text
    assert standing.stops == []
