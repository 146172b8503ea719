"""policy_node with a policy that runs elsewhere: its rows become chunks; without an answer, or with a wrong one, it is silent."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from node_process import NodeProcess, spin_until
from openpi_server import Server, serving, written
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from vla_ros.msg import ActionChunk, Instruction, Observation, PolicyVersion
from vla_ros.srv import ActivatePolicy

from vla_ros import types
from vla_ros.nodes import convert, qos
from vla_ros.robots.contract import RobotContract

CONTRACT = RobotContract.load("aloha")
HOME = np.array(CONTRACT.posture)
TEXT = "open the pot"


class Cell(Node):
    def __init__(self) -> None:
        super().__init__("cell")
        self.chunks: list[ActionChunk] = []
        self.active: list[PolicyVersion] = []
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)
        self.create_subscription(ActionChunk, "/policy/chunk", self.chunks.append, qos.RECORD)
        self.create_subscription(PolicyVersion, "/policy/active", self.active.append, qos.STATUS)
        self.observations = self.create_publisher(Observation, "/observation", qos.SENSOR)
        self.instructions = self.create_publisher(Instruction, "/instruction", qos.STATUS)
        self.activation = self.create_client(ActivatePolicy, "/policy/activate")

    def settle(self, seconds: float = 0.3) -> None:
        end = time.monotonic() + seconds
        spin_until(self.executor_, lambda: time.monotonic() > end, "time", seconds + 1)

    def look(self, k: int) -> float:
        """One observation whose pictures and joints tell which one it is; returns its stamp."""
        stamp = self.get_clock().now().nanoseconds * 1e-9
        images = {name: np.full((224, 224, 3), 10 * k, np.uint8) for name in CONTRACT.observation.cameras}
        joints = types.JointState(stamp, CONTRACT.joints, HOME + 0.001 * k, np.zeros(14))
        message = convert.observation_message(types.Observation(stamp, images, joints), {})
        self.observations.publish(message)
        return convert.seconds(message.header.stamp)

    def answer(self, k: int) -> types.ActionChunk:
        """To one observation, which is taken again where a busy machine has lost it (it is best effort, and grows stale)."""
        self.chunks.clear()
        for _ in range(10):
            stamp, end = self.look(k), time.monotonic() + 1.0
            while time.monotonic() < end:
                self.executor_.spin_once(timeout_sec=0.01)
                for chunk in self.chunks:
                    if convert.seconds(chunk.observation_stamp) == stamp:
                        return convert.chunk(chunk)
        raise AssertionError(f"no answer to observation {k}")


class Policy:
    """Answers with the state it was sent, 50 times, row k moved by k mrad; or with `instead`."""

    def __init__(self) -> None:
        self.instead: Any = None

    def __call__(self, request: dict[str, Any]) -> Any:
        assert request["images"]["cam_low"].shape == (3, 224, 224)
        if self.instead is not None:
            return self.instead
        return request["state"] + np.float32(0.001) * np.arange(50, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy()


@pytest.fixture(scope="module")
def server(policy: Policy) -> Iterator[Server]:
    with serving(policy) as server:
        yield server


@pytest.fixture(scope="module")
def cell(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    mapping = written(tmp_path_factory.mktemp("foreign"), grippers=None, timeout=2.0)
    rclpy.init()
    cell = Cell()
    with NodeProcess("policy_node", robot="aloha", policy=server.url, mapping=mapping) as process:
        try:
            counts = (cell.observations.get_subscription_count, cell.instructions.get_subscription_count)
            ready = lambda: all(count() for count in counts) and cell.active and cell.activation.service_is_ready()  # noqa: E731
            spin_until(cell.executor_, lambda: bool(ready()), "the node", 60.0)
        except AssertionError as error:
            raise AssertionError(f"{error}; it wrote:\n{process.end()[1][-3000:]}") from None
        cell.instructions.publish(Instruction(text=TEXT, episode_id="e1", greedy=True))
        cell.settle()
        yield cell
        status, output = process.end()
    cell.destroy_node()
    rclpy.shutdown()
    assert status == 0, output[-3000:]
    assert f"policy {server.url} says of itself: {{'policy': 'of a test'" in output


def test_the_servers_rows_are_the_chunk(cell: Cell, server: Server) -> None:
    for k in range(4):
        chunk = cell.answer(k)
        state = (HOME + 0.001 * k).astype(np.float32)
        expected = state + np.float32(0.001) * np.arange(50, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(chunk.rows, expected.clip(CONTRACT.limits.lower, CONTRACT.limits.upper))
        assert (chunk.semantics, chunk.joint_names, chunk.episode_id) == ("joint_position", CONTRACT.joints, "e1")
        assert chunk.period == pytest.approx(0.02)
        assert chunk.stamp == pytest.approx(chunk.observation_stamp + 0.02, abs=1e-6)
        assert chunk.tokens.shape == (50, 0)
        assert np.isnan(chunk.log_probability)
        assert server.requests[-1]["prompt"] == TEXT
        assert (server.requests[-1]["images"]["cam_high"] == 10 * k).all()
    assert (cell.active[-1].stage, cell.active[-1].path) == ("foreign", server.url)


@pytest.mark.parametrize("bad", [np.zeros((50, 7), np.float32), np.full((50, 14), np.nan), "RuntimeError: out of memory\n"])
def test_a_policy_that_fails_is_silence(cell: Cell, policy: Policy, bad: Any) -> None:
    policy.instead = bad
    cell.chunks.clear()
    for k in range(3):
        cell.look(k)
        cell.settle(0.2)
    assert cell.chunks == []
    policy.instead = None
    assert cell.answer(3).rows.shape == (50, 14), "it goes on"


def test_versions_are_refused(cell: Cell, server: Server) -> None:
    future = cell.activation.call_async(ActivatePolicy.Request(number=2))
    spin_until(cell.executor_, future.done, "/policy/activate", 10.0)
    answer = future.result()
    assert not answer.success
    assert answer.message == f"policy {server.url} is foreign: its weights change where it runs, `store` has none for it"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (("policy:={url}",), "parameter `mapping`: found '', expected one of "),
        (("policy:={url}", "mapping:=openpi_libero"), "actions.semantics: found 'tip_delta_xy', expected joint_position"),
        (("policy:={url}", "mapping:=openpi_aloha", "engine:=onnx"), "parameter `engine`: found 'onnx', expected eager"),
        (("policy:=ws://127.0.0.1:1", "mapping:=openpi_aloha"), "policy ws://127.0.0.1:1: no connection: "),
        (("policy:=runs/none", "mapping:=openpi_aloha"), "parameter `mapping`: found 'openpi_aloha', expected none"),
    ],
    ids=["no mapping", "of another robot", "engine", "nobody there", "ours"],
)
def test_what_does_not_fit_fails_at_start(parameters: tuple[str, ...], reason: str, server: Server) -> None:
    values = [word for p in ("robot:=aloha", *parameters) for word in ("-p", p.format(url=server.url))]
    command = [sys.executable, "-m", "vla_ros.cli", "exec", "policy_node", "--ros-args", *values]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2])
    assert found.returncode == 2, found.stderr[-2000:]
    assert reason in found.stderr
    assert "Traceback" not in found.stderr
