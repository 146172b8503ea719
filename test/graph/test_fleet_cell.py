"""A fleet as a user starts it, by the launch files: a whole simulated cell in a namespace practises for a lead in another one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Bool
from vla_ros.action import Improve
from vla_ros.msg import Episode, Fleet, PolicyVersion, SafetyState

from vla_ros.embedded.launch import Launcher, OutputLine, parse
from vla_ros.embedded.launch.launcher import ASKED_EXITS
from vla_ros.episodes import EpisodeReader, load_episode
from vla_ros.nodes import qos
from vla_ros.paths import share
from vla_ros.policy.store import WeightStore

WHERE = ("/a/", "/fleet/")
COMMON = {"/diagnostics", "/rosout", "/parameter_events", "/estop"}  # of all cells


class Operator:
    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.folder, self.lines = folder, list[str]()
        self.node, self.executor = Node("operator", namespace="/fleet"), SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.orders, self.version, self.safety, self.episodes = Fleet(), PolicyVersion(), SafetyState(), list[Episode]()
        listen = self.node.create_subscription
        listen(Fleet, "orders", lambda m: setattr(self, "orders", m), qos.STATUS)
        listen(Episode, "training/episode", self.episodes.append, qos.RECORD)
        listen(PolicyVersion, "/a/policy/active", lambda m: setattr(self, "version", m), qos.STATUS)
        listen(SafetyState, "/a/safety/state", lambda m: setattr(self, "safety", m), qos.STATUS)
        self.improve = ActionClient(self.node, Improve, "improve")
        self.hall = self.node.create_publisher(Bool, "/estop", 10)
        lead = {
            "policy": str(tiny.policy),
            "store": str(folder / "lead" / "store"),
            "episodes": str(folder / "lead" / "episodes"),
        }
        cell = {
            "policy": str(tiny.policy), "judge": str(tiny.judge), "store": str(folder / "a" / "store"), "namespace": "a",
            "episodes": str(folder / "a" / "episodes"), "real_time_factor": "0.0", "lead": "fleet",
        }  # fmt: skip
        files = (("fleet", lead), ("cell", cell))
        self.launchers = [Launcher(parse(share() / "launch" / f"{n}.launch.yaml", given), self._keep) for n, given in files]

    def _keep(self, line: OutputLine) -> None:
        self.lines.append(line.text)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for: {what}; log:\n" + "\n".join(self.lines[-40:])
            self.executor.spin_once(timeout_sec=0.02)


@pytest.fixture
def operator(tiny: Tiny, tmp_path: Path) -> Iterator[Operator]:
    rclpy.init()
    operator = Operator(tiny, tmp_path)
    with contextlib.ExitStack() as stack:
        for launcher in operator.launchers:
            stack.enter_context(launcher)
        yield operator
    operator.node.destroy_node()
    rclpy.shutdown()
    for result in [result for launcher in operator.launchers for result in launcher.poll()]:
        assert result.exit_code in ASKED_EXITS, (result, [x for x in operator.lines if result.name in x][-15:])


def test_a_launched_cell_practises_for_a_launched_lead(operator: Operator) -> None:
    operator.until(lambda: "/a" in operator.orders.members and operator.version.number, "the member", 90.0)
    topics = {name for name, _ in operator.node.get_topic_names_and_types()} - COMMON
    assert {"/a/clock", "/a/joint_states", "/a/camera/front/image_raw", "/a/forward_position_controller/commands"} <= topics
    assert not [name for name in topics if not name.startswith(WHERE)], "a second cell would meet it there"
    services = {name for name, _ in operator.node.get_service_names_and_types()}
    assert {"/a/safety/estop", "/a/controller_manager/switch_controller", "/fleet/trainer/weights"} <= services
    assert not [name for name in services if not name.startswith(WHERE)]
    sent = operator.improve.send_goal_async(Improve.Goal(episodes=2, episodes_per_update=2, seed=3, task="push"))
    operator.until(sent.done, "acceptance")
    future = sent.result().get_result_async()
    operator.until(future.done, "end of practice", 180.0)
    result = future.result().result
    assert (result.termination_reason, result.episodes, result.updates) == ("finished", 2, 1)
    operator.until(lambda: operator.version.number == 2, "the new version in the cell")
    lead, cell = (WeightStore(operator.folder / name / "store") for name in ("lead", "a"))
    assert cell.record(2).sha256 == lead.record(2).sha256 == operator.version.sha256
    assert lead.record(2).metrics["first_ratio"] == pytest.approx(1.0, abs=1e-3), "pictures came through unharmed"
    for e in operator.episodes:
        assert e.id.startswith("a/")
        assert "/camera/front/image_raw" in EpisodeReader(Path(e.file)).topics(), "recordings know no namespace"
        data = load_episode(e.file)
        assert (len(data), data.unanswered, set(data.policy_versions)) == (e.steps, 0, {1})
    assert len({load_episode(e.file).metadata["seed"] for e in operator.episodes}) == 2
    assert operator.safety.state in (SafetyState.RUN, SafetyState.HELD), "it may stand still by now"
    assert operator.safety.ticks > 0
    operator.hall.publish(Bool(data=True))
    operator.until(lambda: operator.safety.state == SafetyState.LATCHED, "the hall's emergency stop in a cell with a namespace")
    assert operator.safety.reason == "estop_hall"
    operator.hall.publish(Bool(data=False))
    said = tool("safety", "state")
    assert said.returncode == 2
    assert "cells do in /a; say whose with --namespace" in said.stderr
    said = tool("safety", "reset", "--namespace", "a")
    assert said.returncode == 0, said
    assert tool("safety", "state", "--namespace", "/a").returncode == 0
    said = tool("safety", "estop")
    assert (said.returncode, "/a: LATCHED: estop_service" in said.stdout) == (0, True), "without a name every cell stops"
    operator.until(lambda: operator.safety.reason == "estop_service", "the stop")
    said = tool("policy", "rollback", "--store", str(operator.folder / "a" / "store"))
    assert said.returncode == 2, "nobody answers without a namespace, but the store is in use"
    assert "but there is one in /a, /fleet; say whose with --namespace" in said.stderr
    assert tool("policy", "rollback", "--namespace", "fleet").returncode == 0
    operator.until(lambda: operator.version.number == 1, "the parent in the cell")


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "vla_ros.cli", *words], capture_output=True, text=True, timeout=60, check=False)
