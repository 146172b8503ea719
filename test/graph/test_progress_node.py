"""progress_node as a process: one estimate per observation, success after the debounce, a new episode starts afresh."""

from __future__ import annotations

import time
from collections.abc import Iterator

import checkpoints
import numpy as np
import pytest
import rclpy
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from node_process import NodeProcess, spin_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Header
from vla_ros.msg import Instruction, Observation, Progress

from vla_ros import types
from vla_ros.nodes import convert, qos
from vla_ros.policy.policy import load
from vla_ros.progress.judge import Calibration, Judge
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import proprio_state

CONTRACT = RobotContract.load("panda")
KINEMATICS = Kinematics(CONTRACT)
HOME = KINEMATICS.home()
IMAGES = np.random.default_rng(1).integers(0, 255, (8, 64, 64, 3), np.uint8)


class Cell(Node):
    def __init__(self) -> None:
        super().__init__("cell")
        self.heard: list[Progress] = []
        self.stamp = 1000.0
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)
        self.create_subscription(Progress, "/progress", self.heard.append, qos.RECORD)
        self.observations = self.create_publisher(Observation, "/observation", qos.SENSOR)
        self.instructions = self.create_publisher(Instruction, "/instruction", qos.STATUS)

    def pause(self, seconds: float = 0.3) -> None:
        end = time.monotonic() + seconds
        spin_until(self.executor_, lambda: time.monotonic() > end, "time", seconds + 1)

    def look(self, k: int, height: int = 64) -> float:
        self.stamp += 0.1
        joints = types.JointState(self.stamp, CONTRACT.joints, HOME, np.zeros(7))
        message = convert.observation_message(types.Observation(self.stamp, {"front": IMAGES[k][:height]}, joints), {})
        self.observations.publish(message)
        return convert.seconds(message.header.stamp)

    def judged(self, k: int) -> Progress:
        stamp = self.look(k)
        found = lambda: [m for m in self.heard if convert.seconds(m.header.stamp) == stamp]  # noqa: E731
        spin_until(self.executor_, lambda: bool(found()), f"estimate of {stamp}", 5.0)
        return found()[0]


@pytest.fixture(scope="module")
def cell(tiny: Tiny) -> Iterator[Cell]:
    rclpy.init()
    cell = Cell()
    with NodeProcess("progress_node", judge=tiny.optimist) as process:
        try:
            spin_until(
                cell.executor_,
                lambda: bool(cell.observations.get_subscription_count() and cell.instructions.get_subscription_count()),
                "the node", 60.0,
            )  # fmt: skip
        except AssertionError as error:
            raise AssertionError(f"{error}; it wrote:\n{process.end()[1][-3000:]}") from None
        yield cell
        status, output = process.end()
    cell.destroy_node()
    rclpy.shutdown()
    assert status == 0, output[-3000:]


def test_without_an_instruction_nothing_is_judged(cell: Cell) -> None:
    cell.look(0)
    cell.pause()
    assert cell.heard == []


def test_every_observation_is_judged_as_in_process(cell: Cell, tiny: Tiny) -> None:
    cell.instructions.publish(Instruction(text=checkpoints.TEXT, episode_id="e1"))
    spin_until(cell.executor_, lambda: len(cell.heard) == 1, "the estimate of the observation before", 5.0)
    judge = Judge(*load(tiny.optimist), Calibration.load(tiny.optimist))
    judge.begin(checkpoints.TEXT)
    state = proprio_state(CONTRACT, KINEMATICS.tip_pose(HOME)[:3])
    expected = [judge.observe(0.0, IMAGES[k], state) for k in (0, 1, 2, 3, 4, 5, 6, 7)]
    found = [cell.heard[0], *(cell.judged(k) for k in range(1, 8))]
    for m, e in zip(found, expected, strict=True):
        assert m.steps_to_go == pytest.approx(e.steps_to_go, abs=1e-3)
        assert m.spread == pytest.approx(e.spread, abs=1e-2)
        assert m.reward == pytest.approx(e.reward, abs=1e-3)
        assert m.success_probability == pytest.approx(e.success_probability, abs=1e-3)
        assert (m.episode_id, m.instruction) == ("e1", checkpoints.TEXT)
    assert [m.success for m in found] == [False, False, True, True, True, True, True, True], "a debounce of 3 frames"
    assert found[0].reward == 0.0
    assert len({m.steps_to_go for m in found}) > 4


def test_a_new_instruction_is_a_new_episode(cell: Cell) -> None:
    cell.heard.clear()
    cell.instructions.publish(Instruction(text="reach the blue cylinder", episode_id="e2"))
    spin_until(cell.executor_, lambda: len(cell.heard) == 1, "the first estimate", 5.0)
    assert (cell.heard[0].episode_id, cell.heard[0].reward, cell.heard[0].success) == ("e2", 0.0, False)
    assert not cell.judged(1).success
    assert cell.judged(2).success


def test_the_scene_before_the_instruction_is_not_judged(cell: Cell) -> None:
    cell.heard.clear()
    stamp = convert.stamp(cell.stamp + 0.05)
    cell.instructions.publish(Instruction(text=checkpoints.TEXT, episode_id="e3", header=Header(stamp=stamp)))
    cell.pause()
    assert [m.episode_id for m in cell.heard] == []
    assert cell.judged(0).episode_id == "e3"


def test_what_it_cannot_judge_is_left_out(cell: Cell) -> None:
    cell.pause(0.1)
    cell.heard.clear()
    cell.look(0, height=32)
    cell.pause()
    assert cell.heard == []
    assert cell.judged(0).episode_id == "e3"
    cell.instructions.publish(Instruction(mode=Instruction.HOME))
    cell.pause(0.2)
    cell.heard.clear()
    cell.look(0)
    cell.pause()
    assert cell.heard == []
