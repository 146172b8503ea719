"""policy_node as a process: every observation is answered, and weights change, or are refused, between two of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import rclpy
import torch
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from node_process import NodeProcess, spin_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Header
from vla_ros.msg import ActionChunk, Instruction, Observation, PolicyVersion
from vla_ros.srv import ActivatePolicy

from vla_ros import types
from vla_ros.nodes import convert, qos
from vla_ros.policy import adapter
from vla_ros.policy.store import WEIGHTS, WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics

CONTRACT = RobotContract.load("panda")
HOME = Kinematics(CONTRACT).home()
IMAGES = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)


class Cell(Node):
    """Sends observations and instructions, keeps what the policy says."""

    def __init__(self) -> None:
        super().__init__("cell")
        self.chunks: list[ActionChunk] = []
        self.active: list[PolicyVersion] = []
        self.sent: list[float] = []
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)
        self.create_subscription(ActionChunk, "/policy/chunk", self.chunks.append, qos.RECORD)
        self.create_subscription(PolicyVersion, "/policy/active", self.active.append, qos.STATUS)
        self.observations = self.create_publisher(Observation, "/observation", qos.SENSOR)
        self.instructions = self.create_publisher(Instruction, "/instruction", qos.STATUS)
        self.announce = self.create_publisher(PolicyVersion, "/policy/version", qos.STATUS)
        self.activation = self.create_client(ActivatePolicy, "/policy/activate")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
        spin_until(self.executor_, lambda: bool(condition()), what, seconds)

    def instruct(self, text: str = "", **fields: Any) -> None:
        self.instructions.publish(Instruction(text=text, **fields))
        end = time.monotonic() + 0.2
        self.until(lambda: time.monotonic() > end, "instruction to settle")
        self.chunks.clear()

    def look(self, k: int = 0, age: float = 0.0, size: int = 64, q: np.ndarray = HOME) -> float:
        """One observation; returns its stamp."""
        stamp = self.get_clock().now().nanoseconds * 1e-9 - age
        order = list(range(7))[::-1]  # joints in another order than the contract's
        joints = types.JointState(stamp, tuple(CONTRACT.joints[i] for i in order), q[order], np.zeros(7))
        value = types.Observation(stamp, {"front": IMAGES[k % 4][:size]}, joints)
        message = convert.observation_message(value, {})
        self.observations.publish(message)
        self.sent.append(convert.seconds(message.header.stamp))
        return self.sent[-1]

    def answer(self, k: int = 0, **fields: Any) -> ActionChunk:
        stamp = self.look(k, **fields)
        found: list[ActionChunk] = []
        self.until(
            lambda: found.extend(c for c in self.chunks if convert.seconds(c.observation_stamp) == stamp) or found,
            f"answer to the observation of {stamp}",
        )
        return found[0]

    def activate(self, **fields: Any) -> ActivatePolicy.Response:
        future = self.activation.call_async(ActivatePolicy.Request(**fields))
        self.until(future.done, "/policy/activate")
        return future.result()


@pytest.fixture(scope="module", params=["eager", "onnx"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def store(engine: str, tmp_path_factory: pytest.TempPathFactory) -> WeightStore:
    store = WeightStore(tmp_path_factory.mktemp("store"))
    store.write(adapter.state(adapter.add(checkpoints.model())), 0, "sft", {})
    return store


@pytest.fixture(scope="module")
def cell(tiny: Tiny, store: WeightStore, engine: str) -> Iterator[Cell]:
    rclpy.init()
    cell = Cell()
    with NodeProcess("policy_node", engine=engine, policy=tiny.policy, store=store.folder) as process:
        try:
            cell.until(lambda: cell.active and cell.activation.service_is_ready(), "the node", 60.0)
            cell.until(lambda: cell.observations.get_subscription_count() and cell.instructions.get_subscription_count(), "it")
        except AssertionError as error:
            raise AssertionError(f"{error}; it wrote:\n{process.end()[1][-3000:]}") from None
        yield cell
        status, output = process.end()
    cell.destroy_node()
    rclpy.shutdown()
    assert status == 0, output[-3000:]


def test_without_an_instruction_it_is_silent(cell: Cell) -> None:
    cell.instruct("")
    cell.look()
    end = time.monotonic() + 0.3
    cell.until(lambda: time.monotonic() > end, "silence")
    assert cell.chunks == []
    assert cell.active[-1].number == 1


def test_a_chunk_answers_the_observation(cell: Cell) -> None:
    cell.instruct(checkpoints.TEXT, episode_id="e1", seed=3)
    for k in range(5):
        chunk = convert.chunk(cell.answer(k))
        assert chunk.stamp == pytest.approx(chunk.observation_stamp + 0.1, abs=1e-6)
        assert chunk.period == pytest.approx(0.1)
        assert chunk.joint_names == CONTRACT.joints
        assert chunk.rows.shape == (1, 7)
        assert np.isfinite(chunk.rows).all()
        assert 1e-6 < np.abs(chunk.rows - HOME).max() < 0.3
        assert chunk.tokens.shape == (1, 2)
        assert (chunk.policy_version, chunk.episode_id, chunk.semantics) == (1, "e1", "joint_position")
        assert -20 < chunk.log_probability < -1
    latency = cell.chunks[-1].latency_ms
    assert len(latency) == 3
    assert all(0 < v < 1000 for v in latency)


def test_the_same_seed_gives_the_same_actions(cell: Cell) -> None:
    runs = []
    for seed, greedy in ((5, False), (5, False), (6, False), (5, True), (6, True)):
        cell.instruct(checkpoints.TEXT, seed=seed, greedy=greedy, header=Header(stamp=cell.get_clock().now().to_msg()))
        runs.append([list(cell.answer(k).action_tokens) for k in range(4)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[3] == runs[4]


def test_the_scene_before_the_instruction_is_not_answered(cell: Cell) -> None:
    cell.instruct("")
    stamp = cell.look()
    end = time.monotonic() + 0.05
    cell.until(lambda: time.monotonic() > end, "arrival")
    cell.instruct(checkpoints.TEXT, header=Header(stamp=convert.stamp(stamp + 0.001)))
    cell.answer()
    assert all(convert.seconds(c.observation_stamp) > stamp for c in cell.chunks)


def test_what_it_cannot_use_is_not_answered(cell: Cell) -> None:
    cell.instruct(checkpoints.TEXT)
    cell.look(age=1.0)
    cell.look(age=-1.0)  # the clock of another machine
    cell.look(size=32)
    end = time.monotonic() + 0.3
    cell.until(lambda: time.monotonic() > end, "silence")
    assert cell.chunks == []
    assert cell.answer().rows == 1
    cell.instruct("juggle the red cube")
    cell.look()
    end = time.monotonic() + 0.3
    cell.until(lambda: time.monotonic() > end, "silence")
    assert cell.chunks == []


def test_homing_is_a_scripted_chunk(cell: Cell) -> None:
    away = HOME + 0.2
    cell.instruct(mode=Instruction.HOME)
    cell.look(q=away)
    cell.until(lambda: cell.chunks, "homing chunk")
    chunk = convert.chunk(cell.chunks[-1])
    assert chunk.policy_version == 0
    np.testing.assert_allclose(chunk.rows[-1], HOME, atol=1e-9)
    speed = np.abs(np.diff(np.vstack([away, chunk.rows]), axis=0)) / chunk.period
    assert (speed < 0.3 * CONTRACT.limits.velocity).all()


def test_versions_change_under_load(cell: Cell, store: WeightStore) -> None:
    """At 20 Hz no observation stays without an answer; a corrupt version is refused."""
    cell.instruct(checkpoints.TEXT, seed=1)
    for seed in range(3):
        checkpoints.tune(store, seed, parent=1)
    path = Path(store.record(3).path) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    cell.answer()
    cell.sent.clear()
    cell.chunks.clear()
    due = time.monotonic()
    for k in range(50):
        if k in (10, 22, 34):
            number = 2 + (k - 10) // 12
            cell.announce.publish(PolicyVersion(number=number, sha256=store.record(number).sha256))
        cell.look(k)
        due += 0.05
        cell.until(lambda end=due: time.monotonic() > end, "period")
    cell.until(lambda: len(cell.chunks) >= 50, "the last answers", 3.0)
    answered = [convert.seconds(c.observation_stamp) for c in cell.chunks]
    assert answered == cell.sent
    versions = [c.policy_version for c in cell.chunks]
    assert versions == sorted(versions)
    assert sorted(set(versions)) == [1, 2, 4]
    assert versions[9] == 1
    assert versions[21] == versions[33] == 2
    assert versions[-1] == 4
    assert cell.active[-1].number == 4
    assert cell.active[-1].sha256 == store.record(4).sha256


def test_activation_and_rollback(cell: Cell, store: WeightStore) -> None:
    cell.instruct(checkpoints.TEXT, greedy=True)
    assert cell.activate(number=1).success
    before = list(cell.answer().data)
    assert cell.activate(number=4).success
    assert list(cell.answer().data) != before
    assert cell.answer().policy_version == 4
    answer = cell.activate(rollback=True)
    assert (answer.success, answer.number) == (True, 1)
    assert list(cell.answer().data) == before
    answer = cell.activate(rollback=True)
    assert not answer.success
    assert "no parent" in answer.message
    answer = cell.activate(number=3)
    assert (answer.success, answer.number) == (False, 1)
    assert "corrupt or foreign" in answer.message
    answer = cell.activate(number=99)
    assert not answer.success
    assert "no version 99" in answer.message
    assert cell.answer().policy_version == 1


def test_weights_that_compute_nonsense_are_refused(cell: Cell, store: WeightStore) -> None:
    """Finite on disk, infinite in the network: the probe on the last observation finds it."""
    cell.instruct(checkpoints.TEXT, greedy=True)
    before = list(cell.answer().data)
    weights = store.load(1)
    weights["action_head.2.weight"] = torch.full_like(weights["action_head.2.weight"], 3e38)
    number = store.write(weights, 1, "self_improvement", {}).number
    answer = cell.activate(number=number)
    assert (answer.success, answer.number) == (False, 1)
    assert "not finite" in answer.message
    assert list(cell.answer().data) == before
    assert cell.answer().policy_version == 1


def test_a_restart_resumes_no_version_on_probation(cell: Cell, store: WeightStore) -> None:
    cell.instruct(checkpoints.TEXT)
    assert cell.activate(number=1).success
    assert cell.active[-1].chosen

    def runs(number: int, probation: bool) -> bool:
        cell.look()
        return (cell.active[-1].number, cell.active[-1].probation, cell.active[-1].chosen) == (number, probation, False)

    def marked() -> int:
        running = store.active()
        return running.number if running else 0

    cell.until(lambda: marked() == 1, "the marker")
    for number, probation in ((2, True), (1, False), (2, True)):
        cell.announce.publish(PolicyVersion(number=number, sha256=store.record(number).sha256, probation=probation))
        cell.until(lambda n=number, p=probation: runs(n, p), f"version {number}")  # type: ignore[misc]
        assert marked() == 1
    cell.announce.publish(PolicyVersion(number=2, sha256=store.record(2).sha256))
    cell.until(lambda: marked() == 2, "the marker of a version that is proven")
