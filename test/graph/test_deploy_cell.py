"""`vla-ros deploy` on the real launch file: accepted, rejected by an operator's labels, interrupted."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import rclpy
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from vla_ros.msg import Episode, PolicyVersion, SafetyState
from vla_ros.srv import LabelEpisode

from vla_ros.embedded.launch import Launcher, OutputLine, parse
from vla_ros.files import sha256
from vla_ros.nodes import qos
from vla_ros.paths import share
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv
from vla_ros.twin import file
from vla_ros.twin.parameters import Estimate, Twin, arm_parameters
from vla_ros.twin.rehearsal import Recorder, Senses

PANDA = RobotContract.load("panda")
PAIRS = 3


class Cell:
    """The launched cell in lock step, whose judge always sees success, and a watcher among its nodes."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.folder, self.lines = folder, list[str]()
        self.policy = checkpoints.save(folder / "policy")
        arguments = {
            "policy": str(self.policy), "judge": str(tiny.optimist), "store": str(folder / "store"),
            "episodes": str(folder / "episodes"), "real_time_factor": "0.0",
        }  # fmt: skip
        (folder / "store").mkdir()
        self.store = WeightStore(folder / "store")
        self.launcher = Launcher(parse(share() / "launch" / "cell.launch.yaml", arguments), self._keep)
        self.node = Node("watcher")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.version, self.versions, self.episodes = PolicyVersion(), list[PolicyVersion](), list[Episode]()
        self.states: list[SafetyState] = []
        self.node.create_subscription(PolicyVersion, "/policy/active", self._on_version, qos.RECORD)
        self.node.create_subscription(PolicyVersion, "/policy/active", self._on_version, qos.STATUS)
        self.node.create_subscription(SafetyState, "/safety/state", self.states.append, qos.STATUS)
        self.node.create_subscription(Episode, "/training/episode", self._on_episode, qos.RECORD)
        self.labels = self.node.create_client(LabelEpisode, "/episodes/label")
        self.command: subprocess.Popen[str] | None = None
        self.outcome: Callable[[Episode], str] = lambda e: ""  # an operator's, of an episode; empty: he says nothing

    def _keep(self, line: OutputLine) -> None:
        self.lines.append(line.text)

    def _on_version(self, message: PolicyVersion) -> None:
        self.version = message
        self.versions.append(message)

    def _on_episode(self, message: Episode) -> None:
        self.episodes.append(message)
        if outcome := self.outcome(message):
            self.labels.call_async(LabelEpisode.Request(episode_id=message.id, outcome=outcome))

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [r.name for r in self.launcher.poll() if r.exit_code is not None]
            log = "\n".join(self.lines[-40:])
            assert not dead, f"{dead} ended; log:\n{log}"
            assert time.monotonic() < deadline, f"waited {seconds} s for: {what}; log:\n{log}"
            self.executor.spin_once(timeout_sec=0.02)

    def start(self, *words: str) -> subprocess.Popen[str]:
        self.episodes.clear()
        self.versions.clear()
        command = [sys.executable, "-m", "vla_ros.cli", "deploy", "--pairs", str(PAIRS), *words]
        self.command = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)
        return self.command

    def deploy(self, *words: str) -> tuple[int, str]:
        """The command, while this process goes on listening: exit status, output."""
        process = self.start(*words)
        self.until(lambda: process.poll() is not None, "its end", 400.0)
        out, error = process.communicate()
        return process.returncode, " ".join((out + error).split())

    def marked(self) -> int:
        running = self.store.active()
        return running.number if running else 0

    def record(self) -> dict[str, Any]:
        newest = max((self.store.folder / "deployments").glob("*.json"))
        return dict(json.loads(newest.read_text()))


@pytest.fixture(scope="module")
def cell(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    rclpy.init()
    cell = Cell(tiny, tmp_path_factory.mktemp("deploy"))
    with cell.launcher:
        nodes = {"safety_node", "camera_node", "policy_node", "progress_node", "trainer_node", "sim_node"}
        cell.until(lambda: cell.version.number and cell.states and nodes <= set(cell.node.get_node_names()), "the cell", 180.0)
        yield cell
    rclpy.try_shutdown()


@pytest.fixture(autouse=True)
def no_command_is_left(cell: Cell) -> Iterator[None]:
    """One that a failed test has left behind would go on with the cell."""
    yield
    if cell.command is not None and cell.command.poll() is None:
        cell.command.kill()


def test_what_was_practised_in_the_twin_is_tried_and_accepted(cell: Cell) -> None:
    """From a bare checkpoint to version 2 or later, and every restart resumes that."""
    (cell.folder / "cell.yaml").unlink(missing_ok=True)
    twin = cell.folder / "cell.yaml"
    known = {p.name: Estimate(p, p.nominal, 1e-3) for p in arm_parameters(PANDA)}  # the cell as modelled
    file.save(twin, Twin("panda", known, np.eye(len(known)), (), (("elsewhere.mcap", "0" * 64),)))
    seen = cell.folder / "seen"
    Recorder(TabletopEnv(PANDA), Senses()).excitation(seen / "other.mcap", 0, 4.0)
    words = ["--twin", "cell.yaml", "--check", str(seen), "--by", "the test", "--refit", "next.yaml"]
    status, told = cell.deploy(*words, "--", "--episodes", "4", "--per-update", "2", "--side-by-side", "2", "--tasks", "reach")
    assert status == 0, told
    assert "runs now: the checkpoint" in told
    assert f"accepted: as good as asked for (new {PAIRS}, old {PAIRS} of {PAIRS}: 0 gained, 0 lost" in told
    assert cell.store.numbers() == [1, 2]
    new = cell.store.record(2)
    assert (new.parent, cell.marked()) == (1, 2)
    cell.until(lambda: cell.version.number == 2 and not cell.version.probation, "it runs")
    assert new.origin.startswith(f"twin cell.yaml {sha256(twin)[:8]}, version 3 of runs/deploy/1-")
    assert "parent_success" not in new.metrics, "the twin's figures are not the cell's"
    ran = [e.policy_version for e in cell.episodes]
    assert sorted(ran) == [1] * PAIRS + [2] * PAIRS
    assert all({*ran[k : k + 2]} == {1, 2} for k in range(0, 2 * PAIRS, 2)), "in pairs"
    texts = [e.instruction for e in cell.episodes]
    assert texts[::2] == texts[1::2], "on the same scene"
    record = cell.record()
    assert (record["decision"], record["rule"], record["by"]) == ("accepted", "as_good", "the test")
    assert (record["old"]["number"], record["new"]["sha256"]) == (1, new.sha256)
    assert [e["id"] for e in record["episodes"]] == [e.id for e in cell.episodes]
    assert "--refit: " in told, "episodes of 0.4 s tell nothing, which changes nothing of the decision"
    listed = subprocess.run(
        [sys.executable, "-m", "vla_ros.cli", "policy", "show", "2", "--store", "store"],
        cwd=cell.folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "from:     twin cell.yaml" in listed
    assert "trial:    accepted " in listed


def test_an_operators_labels_reject_it(cell: Cell) -> None:
    """The judge sees success in everything; he does not in what the new version did."""
    old = cell.marked()
    new = checkpoints.tune(cell.store, 5, old)
    cell.outcome = lambda e: "failure" if e.policy_version == new else ""
    status, told = cell.deploy("--version", str(new))
    cell.outcome = lambda e: ""
    assert status == 1, told
    assert "rejected: not as good as asked for (new 0, old 2 of 2: 0 gained, 2 lost; expected +0 of 3)" in told, told
    assert cell.marked() == cell.version.number == old
    assert {v.number for v in cell.versions if v.trial and v.probation} == {new}, "on probation, whenever it runs"
    record = cell.record()
    assert (record["decision"], record["rule"]) == ("rejected", "short")
    assert {e["success"] for e in record["episodes"] if e["version"] == old} == {True}


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_the_old_version_is_back(cell: Cell, by: signal.Signals) -> None:
    old = cell.marked()
    new = checkpoints.tune(cell.store, 6 + by, old)
    process = cell.start("--version", str(new))
    cell.until(lambda: cell.version.number == new, "its turn", 120.0)
    assert cell.marked() == old, "a restart would resume the old one"
    process.send_signal(by)
    cell.until(lambda: process.poll() is not None, "its end")
    cell.until(lambda: cell.version.number == old, "the old version")
    assert cell.marked() == old
    expected = (130, "interrupted") if by == signal.SIGINT else (-by, "running")
    assert (process.returncode, cell.record()["decision"]) == expected
    with contextlib.suppress(ValueError):
        process.communicate()
