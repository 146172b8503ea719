"""`vla-ros doctor` on the real launch file: a sound cell, the e-stop down to the driver, and the guided phases."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from checkpoints import TEXT, Tiny, tiny_checkpoints  # noqa: F401
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from vla_ros.msg import PolicyVersion, SafetyState

from vla_ros.embedded.launch import Launcher, OutputLine, parse
from vla_ros.nodes import qos
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.stop import StopSpec
from vla_ros.safety.limits import Limits

CONTRACT = RobotContract.load("panda")
LIMITS = Limits.load(CONTRACT)
DOCTOR = [sys.executable, "-m", "vla_ros.cli", "doctor"]


def patient(folder: Path) -> Path:
    """A safety file whose watchdogs a busy test machine does not trip."""
    text = (share() / "config" / "safety" / "panda.yaml").read_text()
    for key in ("state_age", "state_silence"):
        text = re.sub(rf"^{key}: [0-9.]+", f"{key}: 0.4", text, flags=re.MULTILINE)
    file = folder / "patient.yaml"
    file.write_text(text)
    return file


class Cell:
    """The launched cell, and a watcher among its nodes."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.lines: list[str] = []
        arguments = {
            "policy": str(tiny.policy), "judge": str(tiny.judge), "store": str(folder / "store"),
            "episodes": str(folder / "episodes"), "safety": str(patient(folder)),
        }  # fmt: skip
        self.launcher = Launcher(parse(share() / "launch" / "cell.launch.yaml", arguments), self._keep)
        self.node = Node("watcher")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.states: list[SafetyState] = []
        self.version = 0
        self.node.create_subscription(SafetyState, "/safety/state", self.states.append, qos.STATUS)
        self.node.create_subscription(PolicyVersion, "/policy/active", self._on_version, qos.STATUS)

    def _keep(self, line: OutputLine) -> None:
        self.lines.append(line.text)

    def _on_version(self, message: PolicyVersion) -> None:
        self.version = message.number

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            log = "\n".join(self.lines[-40:])
            assert time.monotonic() < deadline, f"waited {seconds} s for: {what}; log:\n{log}"
            self.executor.spin_once(timeout_sec=0.02)

    def doctor(self, *words: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """The command, while this process goes on listening."""
        process = subprocess.Popen([*DOCTOR, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.until(lambda: process.poll() is not None, " ".join(words), seconds)
        out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture(scope="module")
def cell(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    rclpy.init()
    cell = Cell(tiny, tmp_path_factory.mktemp("cell"))
    with cell.launcher:
        ready = {"trainer_node", "progress_node", "camera_node"}
        cell.until(lambda: cell.states and cell.version and ready <= set(cell.node.get_node_names()), "the cell", 90.0)
        yield cell
    rclpy.try_shutdown()


def test_a_launched_cell_is_sound_and_its_driver_answers_the_estop(cell: Cell) -> None:
    done = cell.doctor("robot:=panda", "--seconds", "2", "--json", "--estop")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["check"]: row for row in json.loads(done.stdout)["findings"]}
    assert not [row for row in rows.values() if row["level"] == "failure"]
    assert rows["limits"]["found"].endswith("patient.yaml: tips 1.7 m/s, reduced 0.25 m/s"), "safety_node's own file"
    assert rows["estop"]["found"].startswith("obeyed by a command after ")
    stop = StopSpec.load(CONTRACT)
    for service in (stop.switch, f"{stop.cancel[0]}/_action/cancel_goal"):
        found = rows[f"driver_answer:{service}"]["found"]
        assert found.startswith("acknowledged in "), found
        assert 0.0 < float(found.split()[2]) <= stop.timeout * 1e3
    assert any(s.state == SafetyState.LATCHED and s.reason == "estop_service" for s in cell.states)
    assert cell.states[-1].state == SafetyState.HELD, "it is reset"
    assert_stood(cell.states)


def assert_stood(states: list[SafetyState]) -> None:
    commands = np.array([s.command for s in states if len(s.command)])
    assert np.ptp(commands, axis=0).max() == 0.0, "the doctor moves nothing"


def test_the_phases_go_from_nothing_over_reduced_to_full_speed(cell: Cell) -> None:
    cell.states.clear()
    done = cell.doctor("phases", "robot:=panda", f"instruction:={TEXT}", "--seconds", "2", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all phases went well; the cell stands, at full speed" in done.stdout
    modes = [s.state for s in cell.states]
    latch = modes.index(SafetyState.LATCHED)
    free = latch + next(k for k, mode in enumerate(modes[latch:]) if mode != SafetyState.LATCHED)
    assert_stood(cell.states[:free])
    assert SafetyState.RUN in modes[free:]
    assert "dry_chunks" in done.stdout
    assert " chunks would have been taken" in " ".join(done.stdout.split())


def test_a_fault_in_a_phase_leads_back(cell: Cell) -> None:
    """A second publisher of commands comes while the policy acts at reduced speed."""
    assert not cell.node.count_publishers(CONTRACT.control.command_topic) > 1
    process = subprocess.Popen(
        [*DOCTOR, "phases", "robot:=panda", f"instruction:={TEXT}", "--seconds", "2", "--yes"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    cell.states.clear()
    cell.until(lambda: any(s.state == SafetyState.LATCHED for s in cell.states), "the dry run")
    cell.until(lambda: cell.states[-1].state == SafetyState.RUN, "reduced speed")
    intruder = cell.node.create_publisher(Float64MultiArray, CONTRACT.control.command_topic, 1)
    cell.until(lambda: process.poll() is not None, "its end")
    output = " ".join(process.communicate()[0].split())
    cell.node.destroy_publisher(intruder)
    assert process.returncode == 1, output
    assert "latched: second_command_publisher" in output
    assert "gone back: the cell is latched" in output
    assert cell.states[-1].state == SafetyState.LATCHED
    assert max(s.tip_speed for s in cell.states) <= 1.02 * LIMITS.reduced_speed
