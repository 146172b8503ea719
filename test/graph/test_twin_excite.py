"""`vla-ros twin excite` on a simulated cell with hidden drives, over DDS: what it records tells them; when it stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from node_process import NodeProcess
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger
from vla_ros.msg import ActionChunk, SafetyState

from vla_ros.cli import param
from vla_ros.nodes import qos
from vla_ros.robots.contract import RobotContract
from vla_ros.twin import file, recording
from vla_ros.twin import fit as fitting
from vla_ros.twin.parameters import FITTED, Estimate, Twin, arm_parameters

PANDA = RobotContract.load("panda")
RNG = np.random.default_rng(20_261_130)
HIDDEN = {  # value by parameter
    p.name: float({"friction": RNG.uniform(0.3, 2.5), "damping": RNG.uniform(1.0, 7.0), "gain": RNG.uniform(0.7, 1.1)}.get(
        p.name.partition(".")[0], {"delay": 0.03, "payload": 0.4}.get(p.name, 0.0)
    ))
    for p in arm_parameters(PANDA)
}  # fmt: skip


class Cell:
    """sim_node with hidden drives, safety_node and camera_node, in lock step; and a watcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hidden = {p.name: Estimate(p, HIDDEN[p.name], 1e-6) for p in arm_parameters(PANDA)}
        file.save(folder / "hidden.yaml", Twin("panda", hidden, np.eye(len(hidden)), (), ()))
        self.node = Node("watcher")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.states: list[SafetyState] = []
        self.node.create_subscription(SafetyState, "/safety/state", self.states.append, qos.STATUS)
        # Made early: a server may be known before it knows the client, and its answer would be lost then.
        self.clients = {name: self.node.create_client(Trigger, f"/safety/{name}") for name in ("estop", "reset")}
        self.chunks = self.node.create_publisher(ActionChunk, "/policy/chunk", qos.COMMAND)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for: {what}; {self.states[-1:]}"
            self.executor.spin_once(timeout_sec=0.02)

    def start(self, *words: str) -> subprocess.Popen[str]:
        self.states[:-1] = []
        command = [sys.executable, "-m", "vla_ros.cli", "twin", "excite", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)

    def excite(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        self.until(lambda: process.poll() is not None, "its end", 240.0)
        return process.returncode, "".join(process.communicate())

    def call(self, service: str) -> Trigger.Response:
        future = self.clients[service].call_async(Trigger.Request())
        self.until(future.done, service)
        return future.result()

    def state_rate(self) -> float:
        ((_, value),) = param.values_of(self.node, "/safety_node", ["state_rate"])
        return float(value)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    rclpy.init()
    cell = Cell(tmp_path_factory.mktemp("excite"))
    simulated = {"use_sim_time": "true"}
    with (
        NodeProcess("sim_node", twin=cell.folder / "hidden.yaml", real_time_factor="0.0"),
        NodeProcess("safety_node", state_rate="25.0", **simulated),
        NodeProcess("camera_node", **simulated),
    ):
        cell.until(lambda: cell.states and cell.states[-1].state == SafetyState.HELD, "the cell", 180.0)
        cell.until(lambda: all(client.service_is_ready() for client in cell.clients.values()), "its services")
        cell.until(lambda: cell.node.count_publishers("/observation") > 0, "camera_node", 180.0)
        yield cell
    rclpy.try_shutdown()


def recorded(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mcap"))


def test_what_it_records_tells_the_hidden_drives(cell: Cell) -> None:
    status, told = cell.excite("--out", "excited", "--count", "2", "--seconds", "4")
    assert status == 0, told
    modes = [s.state for s in cell.states]
    assert SafetyState.RUN in modes
    assert set(modes) <= {SafetyState.RUN, SafetyState.BRAKE, SafetyState.HELD}
    assert cell.state_rate() == 25.0, "as before"
    first, other = recorded(cell.folder / "excited")
    motion = recording.load(first, PANDA)
    assert motion.rate == pytest.approx(200.0, rel=0.01)
    assert np.median(np.diff(motion.due)) == pytest.approx(0.005, abs=1e-4), "every command"
    assert np.ptp(motion.positions, axis=0).min() > 0.1
    twin = fitting.fit(PANDA, [first])
    drives = {name: e for name, e in twin.estimates.items() if not name.startswith("camera")}
    assert all(e.status == FITTED for e in drives.values()), {n: e.why for n, e in drives.items() if e.why}
    inside = [n for n, e in drives.items() if e.interval[0] <= HIDDEN[n] <= e.interval[1]]
    off = {n: (round(e.value, 4), round(HIDDEN[n], 4), round(e.error, 4)) for n, e in drives.items()}
    assert len(inside) >= 19, off
    assert drives["delay"].value == pytest.approx(0.03, abs=1e-3)
    for n, e in drives.items():
        if n.startswith("gain"):
            assert e.value == pytest.approx(HIDDEN[n], rel=0.05), off
    verdicts = fitting.check(twin, PANDA, [other])
    assert all(v.good for v in verdicts[:7]), [v.why for v in verdicts]
    assert min(v.part.nominal for v in verdicts[:7]) > 2e-3, "the unfitted model is not"


@pytest.mark.parametrize("by", ["the e-stop", "another who sends chunks", "Ctrl-C"])
def test_it_stops(cell: Cell, by: str) -> None:
    """What was recorded until then stays."""
    out = cell.folder / by.replace(" ", "-")
    process = cell.start("--out", str(out))
    cell.until(lambda: cell.states[-1].state == SafetyState.RUN, "its motion")
    if by == "the e-stop":
        assert cell.call("estop").success
    elif by == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        cell.chunks.publish(ActionChunk(episode_id="another's", policy_version=7))
    cell.until(lambda: process.poll() is not None, "its end")
    told = process.communicate()[1]
    expected = {"the e-stop": "has latched: estop_service", "Ctrl-C": ""}.get(by, "somebody else sends chunks (version 7)")
    assert process.returncode == (130 if by == "Ctrl-C" else 1), told
    assert expected in told
    cell.until(lambda: cell.states[-1].state in (SafetyState.HELD, SafetyState.LATCHED), "rest")
    assert (recorded(out), len(list(out.glob("*.mcap.part")))) == ([], 1)
    assert cell.state_rate() == 25.0
    if by == "the e-stop":
        status, told = cell.excite("--out", str(out))
        assert status == 2
        assert "/safety/state: found LATCHED estop_service, expected HELD: clear the cause, then `vla-ros safety reset`" in told
        cell.until(lambda: cell.call("reset").success, "the reset")
