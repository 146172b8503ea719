"""Versions over the graph: two policy nodes with stores of their own take what one trainer hands out, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import rclpy
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from node_process import NodeProcess, spin_until
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from vla_ros.msg import Observation, PolicyVersion

from vla_ros import types
from vla_ros.errors import VlaRosError
from vla_ros.nodes import convert, files, qos, weights
from vla_ros.policy.store import WEIGHTS, WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics

ROBOTS = 2
CONTRACT = RobotContract.load("panda")


class Trainer(Node):
    """The trainer's end: its store, its announcements, and who says that he runs what."""

    def __init__(self, store: WeightStore) -> None:
        super().__init__("trainer_node")
        self.store, self.active = store, list[int]()
        self.server = weights.WeightServer(self, store, ReentrantCallbackGroup())
        self.announce = self.create_publisher(PolicyVersion, "/policy/version", qos.STATUS)
        self.create_subscription(PolicyVersion, "/policy/active", lambda m: self.active.append(m.number), qos.RECORD)
        self.observations = self.create_publisher(Observation, "/observation", qos.SENSOR)
        self.spinning = SingleThreadedExecutor()
        self.spinning.add_node(self)

    def write(self, seed: int) -> int:
        return checkpoints.tune(self.store, seed, parent=max(self.store.numbers(), default=0))

    def tell(self, number: int, digest: str = "") -> None:
        self.active.clear()
        self.announce.publish(PolicyVersion(number=number, sha256=digest or self.store.record(number).sha256))

    def look(self) -> None:
        """An observation: between two of them a version takes over."""
        stamp = self.get_clock().now().nanoseconds * 1e-9
        joints = types.JointState(stamp, CONTRACT.joints, Kinematics(CONTRACT).home(), np.zeros(7))
        picture = {"front": np.zeros((64, 64, 3), np.uint8)}
        self.observations.publish(convert.observation_message(types.Observation(stamp, picture, joints), {}))

    def until(self, condition: object, what: str, seconds: float = 20.0) -> None:
        spin_until(self.spinning, condition, what, seconds)  # type: ignore[arg-type]


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    rclpy.init()
    trainer = Trainer(WeightStore(tmp_path / "trainer"))
    yield trainer
    trainer.destroy_node()
    rclpy.shutdown()


def test_one_trainer_serves_two_arms(tiny: Tiny, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE", 1 << 12)  # so that a version of a tiny model takes many
    stores = [tmp_path / f"arm{k}" for k in range(ROBOTS)]
    processes = [NodeProcess("policy_node", policy=tiny.policy, store=folder) for folder in stores]
    try:
        trainer.until(lambda: trainer.announce.get_subscription_count() == ROBOTS, "the policy nodes", 60.0)
        trainer.write(0)
        second = trainer.write(1)
        file = Path(trainer.store.record(second).path) / WEIGHTS
        assert file.stat().st_size > 3 * files.PIECE
        arms = [WeightStore(folder) for folder in stores]
        trainer.tell(second)
        trainer.until(lambda: all(arm.numbers() == [second] for arm in arms), "the version in both stores")
        for arm in arms:
            assert (Path(arm.record(second).path) / WEIGHTS).read_bytes() == file.read_bytes()
            here, there = arm.record(second), trainer.store.record(second)
            assert (here.sha256, here.parent, here.stage, here.metrics) == (there.sha256, 1, there.stage, {"seed": 1})
            assert Path(here.path).parent == arm.folder
        trainer.until(lambda: (trainer.look(), trainer.active.count(second) == ROBOTS)[1], "both to run it")
        trainer.until(lambda: all((of := arm.active()) and of.number == second for arm in arms), "a restart to resume it")
        third = trainer.write(2)
        for number in (third, 99):
            trainer.tell(number, digest="0" * 64)
            end = trainer.get_clock().now().nanoseconds + 1_000_000_000
            trainer.until(lambda end=end: trainer.get_clock().now().nanoseconds > end, "the refusal")  # type: ignore[misc]
        assert [arm.numbers() for arm in arms] == [[second]] * ROBOTS
    finally:
        ended = [process.end() for process in processes]
    for status, output in ended:
        assert status == 0, output[-2000:]
        assert "announced was 0000000000000000" in output
        assert "version 99 refused, version 2 stays: /trainer/weights:" in output
        assert "no version 99" in output


def test_pieces_that_do_not_add_up_leave_nothing(trainer: Trainer, tmp_path: Path) -> None:
    number = trainer.write(0)
    record = trainer.store.record(number)
    content = (Path(record.path) / WEIGHTS).read_bytes()
    arm = WeightStore(tmp_path / "arm")
    with pytest.raises(VlaRosError, match="sha256 is .*, expected .*: not taken"):
        arm.receive(record, [content[:-1]])
    assert list(arm.folder.iterdir()) == []
    arm.receive(record, [content[:100], content[100:]])
    assert arm.load(number).keys() == trainer.store.load(number).keys()
    assert arm.receive(record, []).sha256 == record.sha256, "it is there already"
    trainer.write(1)
    with pytest.raises(VlaRosError, match="belongs to another trainer"):
        arm.receive(replace(trainer.store.record(2), number=1), [])
