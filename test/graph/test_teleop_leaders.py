"""Leader arms demonstrate on ALOHA's followers, which the test plays, before there is a policy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from node_process import NodeProcess, spin_until
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, Header
from std_srvs.srv import Trigger
from vla_ros.action import RunTask
from vla_ros.msg import ActionChunk, Instruction, SafetyState, TrainingState
from vla_ros.srv import LabelEpisode

from vla_ros.cli.train.place import Place
from vla_ros.cli.train.sft import read
from vla_ros.episodes.check import check_episode
from vla_ros.episodes.trajectory import load_trajectory
from vla_ros.nodes import convert, qos
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract
from vla_ros.types import SafetyMode

RATE, PICTURES = 100, 10  # Hz, that a busy machine can serve
ARM = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
OPEN, CLOSED = 0.3083, -0.6842  # rad, of a leader's gripper


def small_aloha(folder: Path) -> RobotContract:
    content = yaml.safe_load(RobotContract.load("aloha").path.read_text())
    content["control"]["rate"], content["action"] = RATE, {**content["action"], "rate": PICTURES, "chunk": 10}
    content["observation"] |= {"rate": PICTURES, "size": [32, 32], "cameras": ["cam_high", "cam_left_wrist"]}
    path = folder / "aloha.yaml"
    path.write_text(yaml.safe_dump(content))
    return RobotContract.load(path)


class Aloha(Node):
    """Followers that go where they are told, cameras, and a person at the leaders, whose message may be spoilt."""

    def __init__(self, contract: RobotContract) -> None:
        super().__init__("aloha")
        self.contract = contract
        self.q = np.array(contract.posture)
        self.v = np.zeros(14)
        self.leader, self.gripper = self.q.copy(), 0.02  # m, where radians are due
        self.led: list[JointState] = []
        self.states: list[SafetyState] = []
        self.chunks: list[ActionChunk] = []
        self.instruction = Instruction()
        self.training = TrainingState()
        self.ticks, self.started = 0, False
        self.clock = self.create_publisher(Clock, "/clock", 10)
        self.joints = self.create_publisher(JointState, contract.control.state_topic, 10)
        cameras = (contract.cameras[name] for name in contract.observation.cameras)
        self.cameras = [(self.create_publisher(Image, c.topic, 10), c.frame) for c in cameras]
        self.leaders = [self.create_publisher(JointState, f"/leader_{side}/joint_states", 5) for side in ("left", "right")]
        self.create_subscription(Float64MultiArray, contract.control.command_topic, self._obey, qos.COMMAND)
        self.create_subscription(JointState, "/teleop/joint_states", self.led.append, qos.SENSOR)
        self.create_subscription(SafetyState, "/safety/state", self.states.append, qos.RECORD)
        self.create_subscription(TrainingState, "/training/state", lambda m: setattr(self, "training", m), qos.STATUS)
        self.create_subscription(ActionChunk, "/policy/chunk", self.chunks.append, qos.RECORD)
        self.create_subscription(Instruction, "/instruction", lambda m: setattr(self, "instruction", m), qos.STATUS)
        self.create_timer(1 / RATE, self._tick)

    @property
    def now(self) -> float:
        """s, of the clock that everybody follows."""
        return 1000.0 + self.ticks / RATE

    def _late(self) -> bool:
        """Somebody is still busy with what was before: on a machine that others share, time waits."""
        answered = self.chunks and self.instruction.text and convert.seconds(self.chunks[-1].observation_stamp)
        safe = self.states and convert.seconds(self.states[-1].header.stamp)
        return bool(safe and self.now - safe > 0.06) or bool(answered and self.now - answered > 0.25)

    def _tick(self) -> None:
        if not self.started or self._late():
            return
        self.ticks += 1
        self.clock.publish(Clock(clock=convert.stamp(self.now)))
        self._move()
        if self.ticks % (RATE // PICTURES) == 0:
            self._see()
        if self.ticks % 2 == 0:
            self._lead()

    def _header(self) -> Header:
        return Header(stamp=convert.stamp(self.now))

    def _obey(self, message: Float64MultiArray) -> None:
        self.v, self.q = (np.array(message.data) - self.q) * RATE, np.array(message.data)

    def _move(self) -> None:
        names = list(self.contract.joints)
        self.joints.publish(JointState(header=self._header(), name=names, position=self.q.tolist(), velocity=self.v.tolist()))

    def _see(self) -> None:
        for publisher, frame in self.cameras:
            publisher.publish(convert.image_message(np.full((48, 64, 3), 90, np.uint8), self.now, frame))

    def _lead(self) -> None:
        for k, publisher in enumerate(self.leaders):
            position = [*self.leader[7 * k : 7 * k + 6].tolist(), self.gripper]
            publisher.publish(JointState(header=self._header(), name=[*ARM, "gripper"][::-1], position=position[::-1]))


def test_leader_arms_demonstrate(tmp_path: Path) -> None:
    contract = small_aloha(tmp_path)
    rclpy.init()
    node, executor = Aloha(contract), SingleThreadedExecutor()
    executor.add_node(node)
    run = ActionClient(node, RunTask, "/run_task")
    folder, config = tmp_path / "episodes", tmp_path / "leaders.yaml"
    patient = yaml.safe_load((share() / "config" / "teleop" / "leaders.yaml").read_text()) | {"timeout": 1.0}
    config.write_text(yaml.safe_dump(patient))

    def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
        try:
            spin_until(executor, lambda: bool(condition()), what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(p.end()[1][-1500:] for p in processes)) from None

    def call(kind: type, name: str, request: Any) -> Any:
        client = node.create_client(kind, name)
        until(client.service_is_ready, name)
        future = client.call_async(request)
        until(future.done, f"answer of {name}")
        return future.result()

    given: dict[str, dict[str, Any]] = {
        "safety_node": {"state_rate": 25.0}, "camera_node": {}, "policy_node": {"policy": "none"},
        "trainer_node": {"policy": "none", "episodes_dir": folder, "store": tmp_path / "store", "reset": "operator"},
        "teleop_node": {"source": "leaders", "config": config},
    }  # fmt: skip
    with ExitStack() as stack:
        common = {"robot": contract.path, "use_sim_time": True}
        processes = [stack.enter_context(NodeProcess(name, **common, **more)) for name, more in given.items()]
        until(run.server_is_ready, "trainer_node", 240)
        until(lambda: node.count_publishers("/teleop/joint_states"), "teleop_node", 180)
        node.started = True
        sent = run.send_goal_async(RunTask.Goal(instruction="lift the lid", time_limit=60.0))
        until(sent.done, "acceptance")
        result = sent.result().get_result_async()
        until(lambda: node.training.phase == "reset_wanted", "the arm at home", 60)
        assert call(Trigger, "/trainer/ready", Trigger.Request()).success
        until(lambda: node.states and node.states[-1].episode_id, "the episode")

        def wait() -> None:
            count = len(node.states) + 20
            until(lambda: len(node.states) > count, "time to pass")

        node.leader[2] -= 0.5
        wait()
        node.leader[2] += 0.5
        wait()
        assert node.led == [], "a leader that is elsewhere, or in another unit, moves nothing"
        np.testing.assert_allclose(node.q, contract.posture, atol=1e-3)
        for gripper in (OPEN, CLOSED):
            node.gripper = gripper
            wait()
        until(lambda: node.led, "leading")
        for step in range(50):
            node.leader[[0, 7]] = 0.006 * step, -0.006 * step
            node.gripper = CLOSED + (OPEN - CLOSED) * step / 49
            count = len(node.led)
            until(lambda: len(node.led) > count, "what the leader says")  # noqa: B023 (called here)
        goal = node.leader.copy()
        goal[[6, 13]] = contract.limits.upper[6]
        until(lambda: abs(node.q - goal).max() < 0.01, "the followers where the leaders are")
        wait()
        sent.result().cancel_goal_async()
        until(result.done, "the end of the episode")
        episode = result.result().result
        assert call(
            LabelEpisode, "/episodes/label", LabelEpisode.Request(episode_id=episode.episode_id, outcome="success")
        ).success
        ended = [process.end() for process in processes]
    node.destroy_node()
    rclpy.shutdown()
    assert [status for status, _ in ended] == [0] * 5, ended
    assert SafetyMode.LATCHED not in {m.state for m in node.states}
    log = ended[-1][1]
    assert "apart: 'left_elbow' leader 0.66, arm 1.16 rad" in log
    assert "units: the grippers were only seen at 0.020 to 0.020" in log
    path = Path(episode.file)
    assert check_episode(path, contract) == []
    data = load_trajectory(path, contract)
    assert data.outcome == "success"
    assert data.corrected.any()
    assert not data.corrected[0]
    np.testing.assert_allclose(data.commands[-1], goal, atol=0.01)
    demonstrations = read([folder], Place.robot(contract), skip_bad=False)
    assert demonstrations.actions.shape == (len(data.images), 10, 14)
