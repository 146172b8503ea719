"""sim_node as the bimanual cell: cameras, a hand-over that is commanded tick by tick in lock step, the truth, and what falls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from node_process import NodeProcess, spin_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from vla_ros.msg import TrueOutcome
from vla_ros.srv import ResetCell

from vla_ros.nodes import convert, qos
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.sim.bimanual_expert import BimanualExpert, Manner
from vla_ros.sim.bimanual_tasks import BimanualTasks

ALOHA = RobotContract.load("aloha")
SEED = 1


class Driver:
    """Plays the safety filter: answers every joint state with a command."""

    def __init__(self) -> None:
        self.node = Node("driver")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.command = Kinematics(ALOHA).home()
        self.expert: BimanualExpert | None = None
        self.began = 0.0
        self.publisher = self.node.create_publisher(Float64MultiArray, ALOHA.control.command_topic, qos.COMMAND)
        self.node.create_subscription(JointState, ALOHA.control.state_topic, self._on_state, qos.RECORD)
        self.node.create_subscription(TrueOutcome, "/sim/truth", self.heard["truth"].append, qos.RECORD)
        for name, camera in ALOHA.cameras.items():
            self.node.create_subscription(Image, camera.topic, self.heard[name].append, qos.SENSOR)
            self.node.create_subscription(CameraInfo, camera.info, self.heard[f"{name}_info"].append, qos.SENSOR)
        self.reset = self.node.create_client(ResetCell, "/cell/reset")

    def _on_state(self, message: JointState) -> None:
        self.heard["states"].append(message)
        if self.expert:
            self.command = self.expert.row(convert.seconds(message.header.stamp) + 1 / ALOHA.control.rate - self.began)
        self.publisher.publish(Float64MultiArray(data=self.command.tolist()))

    @property
    def time(self) -> float:
        return convert.seconds(self.heard["states"][-1].header.stamp)

    @property
    def position(self) -> np.ndarray:
        return np.array(self.heard["states"][-1].position)

    def until(self, condition: Any, what: str, seconds: float = 60.0) -> None:
        spin_until(self.executor, condition, what, seconds)

    def call(self, client: Any, request: Any) -> Any:
        self.until(client.service_is_ready, client.srv_name)
        future = client.call_async(request)
        self.until(future.done, client.srv_name)
        return future.result()

    def lay_out(self, **fields: Any) -> ResetCell.Response:
        return self.call(self.reset, ResetCell.Request(split="train", **fields))


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    rclpy.init()
    with NodeProcess("sim_node", robot="aloha", real_time_factor=0.0, camera_size="[64, 96]", lockstep_timeout=5.0) as sim:
        driver = Driver()
        driver.until(lambda: driver.heard["states"], "joint states")
        yield driver
        driver.node.destroy_node()
        assert sim.end()[0] == 0
    rclpy.shutdown()


def test_all_four_cameras(driver: Driver) -> None:
    driver.until(lambda: all(driver.heard[name] and driver.heard[f"{name}_info"] for name in ALOHA.cameras), "a frame of each")
    for name, camera in ALOHA.cameras.items():
        frame, info = driver.heard[name][-1], driver.heard[f"{name}_info"][-1]
        assert (frame.height, frame.width, frame.header.frame_id) == (64, 96, camera.frame)
        assert convert.image(frame).std() > 10
        assert (info.height, info.width, info.k[2]) == (64, 96, 48.0)
    state = driver.heard["states"][-1]
    assert tuple(state.name) == ALOHA.joints
    np.testing.assert_allclose(state.position, Kinematics(ALOHA).home(), atol=2e-3)


def test_a_hand_over_is_seen_as_success(driver: Driver) -> None:
    answer = driver.lay_out(seed=SEED, task="transfer")
    assert answer.success, answer.message
    assert answer.time_limit == 8.0
    scene = BimanualTasks.load().sample(SEED, "train", "transfer")
    assert answer.instruction == scene.instruction
    truth = driver.heard["truth"]
    assert not truth[-1].success
    assert truth[-1].distance > 0.2
    expert = BimanualExpert(ALOHA, Kinematics(ALOHA), scene, np.random.default_rng(0), Manner((1.0, 1.0), 0.0, aim=0.0))
    driver.began, driver.expert = driver.time, expert
    driver.until(lambda: driver.time > driver.began + expert.duration + 0.2, "the end of the motion")
    driver.until(lambda: truth[-1].success, "success")
    assert truth[-1].instruction == scene.instruction
    assert truth[-1].distance == 0.0


def test_what_fell_a_person_puts_back(driver: Driver) -> None:
    assert driver.lay_out(seed=2, task="transfer").message == "the bar would lie in the left hand; home the arms first"
    driver.expert, driver.command = None, Kinematics(ALOHA).home()

    def at_home() -> bool:
        return bool((abs(driver.position - driver.command)[~ALOHA.limits.prismatic] < 0.02).all())

    driver.until(at_home, "the arms to be home")
    told = driver.lay_out(seed=2, task="transfer")
    assert told.success, told.message
    drop, put_back = (driver.node.create_client(Trigger, f"/sim/{name}") for name in ("drop", "put_back"))
    assert driver.call(drop, Trigger.Request()).message == "bar"
    driver.until(lambda: driver.heard["truth"][-1].distance > 0.6, "the bar to fall")
    answer = driver.lay_out(seed=2, task="transfer")
    assert (answer.success, answer.operator) == (False, True)
    assert answer.message == "bar fell off the table: put it back"
    assert driver.call(put_back, Trigger.Request()).success
    assert driver.lay_out(seed=2, task="insertion").time_limit == 10.0
    wrong = driver.lay_out(seed=1, task="push")
    assert not wrong.success
    assert wrong.message == "task: found 'push', expected transfer, insertion or empty"
