"""The nodes with a network for two arms: four cameras and fourteen joints in, chunks of a hundred joint rows and an estimate
out; what does not fit is refused."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from node_process import NodeProcess, spin_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from vla_ros.msg import ActionChunk, Instruction, Observation, Progress

from vla_ros import types
from vla_ros.nodes import convert, qos
from vla_ros.policy.policy import VlaPolicy, load
from vla_ros.progress.judge import Calibration, Judge
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import images_of, state_of
from vla_ros.robots.shapes import model_shapes

CONTRACT = RobotContract.load("aloha")
HOME = np.array(CONTRACT.posture)
FITS = {**model_shapes(CONTRACT), "robot": "aloha"}
IMAGES = np.random.default_rng(0).integers(0, 255, (6, 4, 224, 224, 3), np.uint8)


class Cell(Node):
    def __init__(self) -> None:
        super().__init__("cell")
        self.chunks: list[ActionChunk] = []
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)
        self.create_subscription(ActionChunk, "/policy/chunk", self.chunks.append, qos.RECORD)
        self.progress: list[Progress] = []
        self.create_subscription(Progress, "/progress", self.progress.append, qos.RECORD)
        self.observations = self.create_publisher(Observation, "/observation", qos.SENSOR)
        self.instructions = self.create_publisher(Instruction, "/instruction", qos.STATUS)

    def settle(self, seconds: float = 0.3) -> None:
        end = time.monotonic() + seconds
        spin_until(self.executor_, lambda: time.monotonic() > end, "time", seconds + 1)

    def observation(self, k: int) -> types.Observation:
        """Joints in another order than the contract's, cameras too."""
        stamp = self.get_clock().now().nanoseconds * 1e-9
        images = {name: IMAGES[k][c] for c, name in reversed(list(enumerate(CONTRACT.observation.cameras)))}
        return types.Observation(stamp, images, types.JointState(stamp, CONTRACT.joints[::-1], HOME[::-1], np.zeros(14)))

    def send(self, message: Observation) -> float:
        self.observations.publish(message)
        return convert.seconds(message.header.stamp)

    def answer(self, k: int) -> tuple[types.ActionChunk, Progress]:
        """To one observation, which is taken again where a busy machine has lost it (it is best effort, and grows stale)."""
        self.chunks.clear()
        self.progress.clear()
        for _ in range(10):
            stamp = self.send(convert.observation_message(self.observation(k), {}))
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                self.executor_.spin_once(timeout_sec=0.01)
                chunks = [c for c in self.chunks if convert.seconds(c.observation_stamp) == stamp]
                estimates = [p for p in self.progress if convert.seconds(p.header.stamp) == stamp]
                if chunks and estimates:
                    return convert.chunk(chunks[0]), estimates[0]
        raise AssertionError(f"no answer to observation {k}")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge's as well."""
    return checkpoints.save(tmp_path_factory.mktemp("aloha") / "policy", threshold=0.5, **FITS, head="laplace")


@pytest.fixture(scope="module")
def cell(policy: Path) -> Iterator[Cell]:
    rclpy.init()
    cell = Cell()
    judge = NodeProcess("progress_node", robot="aloha", judge=policy)
    with NodeProcess("policy_node", robot="aloha", policy=policy) as process, judge:
        try:
            counts = (cell.observations.get_subscription_count, cell.instructions.get_subscription_count)
            spin_until(cell.executor_, lambda: all(count() == 2 for count in counts), "the nodes", 60.0)
        except AssertionError as error:
            raise AssertionError(f"{error}; they wrote:\n{process.end()[1][-3000:]}\n{judge.end()[1][-3000:]}") from None
        yield cell
        ended = [node.end() for node in (process, judge)]
    cell.destroy_node()
    rclpy.shutdown()
    for status, output in ended:
        assert status == 0, output[-3000:]


def test_every_observation_is_answered_by_a_hundred_joint_rows(cell: Cell, policy: Path) -> None:
    cell.instructions.publish(Instruction(text=checkpoints.TEXT, episode_id="e1", greedy=True))
    cell.settle()
    here, judge = VlaPolicy(*load(policy, "aloha")), Judge(*load(policy, "aloha"), Calibration.load(policy))
    judge.begin(checkpoints.TEXT)
    kinematics = Kinematics(CONTRACT)
    answers = []
    for k in range(6):
        chunk, progress = cell.answer(k)
        assert chunk.rows.shape == (100, 14)
        assert (chunk.semantics, chunk.joint_names, chunk.episode_id) == ("joint_position", CONTRACT.joints, "e1")
        assert chunk.tokens.shape == (100, 0)
        assert chunk.period == pytest.approx(0.02)
        assert chunk.stamp == pytest.approx(chunk.observation_stamp + 0.02, abs=1e-6), "row k is due at stamp + k * period"
        seen = cell.observation(k)
        state = state_of(CONTRACT, kinematics, seen.joints)
        images = images_of(CONTRACT, seen)
        expected = here.infer(images, checkpoints.TEXT, state, greedy=True).action
        assert progress.steps_to_go == pytest.approx(judge.observe(0.0, images, state).steps_to_go, abs=1e-4)
        np.testing.assert_allclose(chunk.rows, expected.clip(CONTRACT.limits.lower, CONTRACT.limits.upper), atol=1e-5)
        answers.append(chunk.rows)
    assert min(np.abs(a - b).max() for a, b in pairwise(answers)) > 1e-4, "the pictures count"


def test_leader_arms_take_over_where_the_arms_are(cell: Cell) -> None:
    """Fifty times a second; from another pose they are refused, and the policy goes on."""
    told: list[str] = []
    listening = cell.create_subscription(
        DiagnosticArray, "/diagnostics", lambda m: told.extend(s.message for s in m.status if s.name.endswith("policy")), 10
    )
    leader = cell.create_publisher(JointState, "/teleop/joint_states", qos.SENSOR)
    pose = HOME + 0.1 * np.array([1, 1, -1, 1, 1, 1, 0] * 2)

    def lead() -> None:
        now = cell.get_clock().now().nanoseconds * 1e-9
        state = types.JointState(now, CONTRACT.joints[::-1], pose[::-1], np.zeros(14))
        leader.publish(convert.joint_state_message(state))

    timer = cell.create_timer(0.02, lead)
    cell.instructions.publish(Instruction(text=checkpoints.TEXT, greedy=True))
    spin_until(cell.executor_, lambda: leader.get_subscription_count() > 0, "policy_node listens", 5.0)
    cell.settle()
    led, _ = cell.answer(0)
    assert led.corrected
    np.testing.assert_allclose(led.rows, np.tile(pose, (100, 1)), atol=1e-6)
    pose = HOME + np.array([1.0, *[0.0] * 13])
    cell.settle(0.1)
    assert not cell.answer(0)[0].corrected
    spin_until(cell.executor_, lambda: any("bring the leader to the arm's pose" in t for t in told), "/diagnostics", 5.0)
    pose = HOME
    cell.settle(0.1)
    assert cell.answer(0)[0].corrected
    cell.destroy_timer(timer)
    cell.settle(0.4)
    own, _ = cell.answer(0)
    assert not own.corrected
    assert np.ptp(own.rows, axis=0).max() > 0, "the network's, which do not stand still"
    cell.destroy_subscription(listening)


def test_what_it_cannot_use_is_not_answered(cell: Cell) -> None:
    cell.instructions.publish(Instruction(text=checkpoints.TEXT, greedy=True))
    cell.settle()
    cell.chunks.clear()
    without = cell.observation(0)
    del without.images["cam_low"]
    cell.send(convert.observation_message(without, {}))
    swapped = convert.observation_message(cell.observation(0), {})
    swapped.images[1].encoding = "bgr8"
    cell.send(swapped)
    broken = convert.observation_message(cell.observation(0), {})
    broken.position[3] = float("nan")
    cell.send(broken)
    cell.settle(0.5)
    assert cell.chunks == []
    assert cell.answer(1)[0].rows.shape == (100, 14), "it goes on"


def test_home_is_the_posture(cell: Cell) -> None:
    cell.instructions.publish(Instruction(mode=Instruction.HOME))
    cell.settle()
    cell.chunks.clear()
    seen = cell.observation(0)
    away = types.JointState(seen.stamp, seen.joints.names, seen.joints.position + 0.01, seen.joints.velocity)
    cell.send(convert.observation_message(types.Observation(seen.stamp, seen.images, away), {}))
    spin_until(cell.executor_, lambda: bool(cell.chunks), "homing chunk", 5.0)
    chunk = convert.chunk(cell.chunks[-1])
    assert chunk.policy_version == 0
    np.testing.assert_allclose(chunk.rows[-1], HOME, atol=1e-9)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"cameras": 1}, "config.json: cameras: found 1, expected 4 ("),
        ({"chunk": 10}, "config.json: chunk: found 10, expected 100 ("),
        ({"robot": "panda"}, "config.json: checkpoint is for robot 'panda', running 'aloha'"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_at_start(shapes: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = checkpoints.save(tmp_path, **{**FITS, **shapes})
    command = [sys.executable, "-m", "vla_ros.cli", "exec", "policy_node", "--ros-args", "-p", "robot:=aloha"]
    done = subprocess.run([*command, "-p", f"policy:={folder}"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stdout + done.stderr
