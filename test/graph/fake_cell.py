"""A whole cell in this process: one small node for each real one, which a test spoils one at a time.

Everything runs on one executor thread, where the nodes are also made and ended; a test only sets values.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from action_msgs.srv import CancelGoal
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Bool, Float64MultiArray, Header
from vla_ros.msg import ActionChunk, Observation, PolicyVersion, SafetyState

from vla_ros.nodes import convert, qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.interfaces import service_class
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.stop import StopSpec
from vla_ros.types import JointState

SIZE = 96, 128  # px, height and width of the cameras
RATE = 20.0  # Hz, of the joint states: what a busy machine can send beside everything else
PICTURES = 10.0  # Hz


def contract(robot: str, folder: Path, **changes: Any) -> RobotContract:
    """The robot's contract at rates that a test machine can serve."""
    content = yaml.safe_load(RobotContract.load(robot).path.read_text())
    content["control"]["rate"], content["observation"]["rate"] = RATE, PICTURES
    content["observation"]["size"] = [64, 64]
    if "rate" in content["action"]:
        content["action"]["rate"] = PICTURES
    path = folder / f"{robot}.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return RobotContract.load(path)


class FakeCell:
    """Sound, until a test changes one of its settings or endpoints; `mend` takes everything back."""

    def __init__(self, spec: RobotContract, namespace: str = "") -> None:
        self.contract, self.namespace = spec, namespace
        self.executor = SingleThreadedExecutor()
        self.nodes: dict[str, Node] = {}
        self.extra: list[Node] = []
        self.replaced: set[str] = set()
        self._make: dict[str, Callable[..., Any]] = {
            "driver": self._driver, "safety_node": self._safety, "camera_node": self._camera, "policy_node": self._policy,
            "progress_node": functools.partial(self._node, "progress_node"), "trainer_node": self._trainer,
        }  # fmt: skip
        self.ticks = self.commands = 0
        self.settings()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.mend()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin()

    def settings(self) -> None:
        """What a test may spoil, sound."""
        joints = self.contract.joints
        self.joint_every = self.picture_every = 1  # of so many only one is sent; 0: none
        self.names, self.position, self.velocity = list(joints), np.array(self.contract.posture), np.zeros(len(joints))
        self.joint_delay = self.picture_delay = 0.0  # s, how old the stamps are
        self.size, self.info_size, self.encoding = SIZE, SIZE, "rgb8"
        self.info, self.focal = True, 100.0
        self.frame = self.info_frame = ""  # '': the contract's
        self.state, self.reason = int(SafetyState.HELD), "no_chunk"
        self.fault = ""  # of camera_node, in its diagnostics

    def name(self, name: str) -> str:
        return f"{self.namespace}/{name.lstrip('/')}"

    def do(self, work: Callable[[], Any]) -> Any:
        """Result of `work` on the executor's thread."""
        future = self.executor.create_task(work)
        deadline = time.monotonic() + 5.0
        while not future.done():
            assert time.monotonic() < deadline, "the fake cell's thread does not answer"
            time.sleep(0.005)
        return future.result()

    def mend(self) -> None:
        """Sound again."""

        def work() -> None:
            self.settings()
            for node in [*self.extra, *(self.nodes.pop(name) for name in self.replaced)]:
                self._remove(node)
            self.extra, self.replaced = [], set()
            for name, make in self._make.items():
                if name not in self.nodes:
                    make()

        self.do(work)

    def remove(self, name: str) -> None:
        """A node dies."""
        self.do(lambda: self._remove(self.nodes.pop(name)))

    def replace(self, name: str, **how: Any) -> None:
        """A node is started again in another way."""

        def work() -> None:
            self._remove(self.nodes.pop(name))
            self._make[name](**how)
            self.replaced.add(name)

        self.do(work)

    def add(self, name: str, **parameters: Any) -> Node:
        """Somebody who has no place here."""

        def work() -> Node:
            node = Node(name, namespace=self.namespace or None)
            for key, value in parameters.items():
                node.declare_parameter(key, value)
            self.extra.append(node)
            self.executor.add_node(node)
            return node

        return self.do(work)

    def close(self) -> None:
        self.executor.shutdown()
        self._thread.join(5.0)
        for node in [*self.nodes.values(), *self.extra]:
            node.destroy_node()

    def _remove(self, node: Node) -> None:
        self.executor.remove_node(node)
        node.destroy_node()

    def _node(self, name: str, robot: str = "") -> Node:
        node = Node(name, namespace=self.namespace or None)
        if name != "driver":
            node.declare_parameter("robot", robot or str(self.contract.path))
            node.diagnostics = Diagnostics(node, name.removesuffix("_node"))
        self.nodes[name] = node
        self.executor.add_node(node)
        return node

    # -- the nodes -------------------------------------------------------------------------------------------------

    def _driver(self, listens: bool = True, stops: bool = True, profile: Any = 5) -> None:
        node, control = self._node("driver"), self.contract.control
        joints = node.create_publisher(JointStateMsg, self.name(control.state_topic), profile)
        images = {
            name: (
                node.create_publisher(Image, self.name(camera.topic), qos.SENSOR),
                node.create_publisher(CameraInfo, self.name(camera.info), qos.SENSOR),
            )
            for name, camera in self.contract.cameras.items()
        }
        if listens:
            node.create_subscription(Float64MultiArray, self.name(control.command_topic), self._on_command, qos.COMMAND)
        stop = StopSpec.load(self.contract)
        if stops:
            switch = service_class("controller_manager_msgs/srv/SwitchController")
            node.create_service(switch, self.name(stop.switch), lambda _, response: response)
            for action in stop.cancel:
                node.create_service(CancelGoal, self.name(f"{action}/_action/cancel_goal"), lambda _, response: response)
        node.create_timer(1 / control.rate, self._now_and_then(lambda now: self._send_joints(joints, now), "joint_every"))
        node.create_timer(1 / PICTURES, self._now_and_then(lambda now: self._send_pictures(images, now), "picture_every"))

    def _now_and_then(self, send: Callable[[float], None], every: str) -> Callable[[], None]:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1
            skip = getattr(self, every)
            if skip and count % skip == 0:
                send(time.time())

        return tick

    def _send_joints(self, publisher: Any, now: float) -> None:
        state = JointState(now - self.joint_delay, tuple(self.names), self.position, self.velocity)
        publisher.publish(convert.joint_state_message(state))

    def _send_pictures(self, cameras: dict[str, tuple[Any, Any]], now: float) -> None:
        for name, (images, infos) in cameras.items():
            frame, stamp = self.contract.cameras[name].frame, now - self.picture_delay
            message = convert.image_message(np.zeros((*self.size, 3), np.uint8), stamp, self.frame or frame)
            message.encoding = self.encoding
            images.publish(message)
            if self.info:
                header = Header(stamp=convert.stamp(stamp), frame_id=self.info_frame or frame)
                k = [self.focal, 0.0, 64.0, 0.0, self.focal, 48.0, 0.0, 0.0, 1.0]
                infos.publish(CameraInfo(header=header, height=self.info_size[0], width=self.info_size[1], k=k))

    def _on_command(self, _: Float64MultiArray) -> None:
        self.commands += 1

    def _safety(self) -> None:
        node, control = self._node("safety_node"), self.contract.control
        node.declare_parameter("safety", self.contract.robot)
        node.create_publisher(Float64MultiArray, self.name(control.command_topic), qos.COMMAND)
        node.create_subscription(JointStateMsg, self.name(control.state_topic), lambda _: None, 5)  # reliable, as the real one
        node.create_subscription(ActionChunk, self.name("policy/chunk"), lambda _: None, 5)
        node.create_subscription(Bool, "/estop", lambda _: None, 10)
        states = node.create_publisher(SafetyState, self.name("safety/state"), qos.STATUS)

        def tell() -> None:
            self.ticks += 5
            command = list(self.contract.posture)
            states.publish(SafetyState(state=self.state, reason=self.reason, command=command, ticks=self.ticks))

        node.create_timer(5 / control.rate, tell)

    def _camera(self, robot: str = "") -> None:
        node = self._node("camera_node", robot)
        for camera in self.contract.cameras.values():
            node.create_subscription(Image, self.name(camera.topic), lambda _: None, qos.SENSOR)
        observations = node.create_publisher(Observation, self.name("observation"), qos.SENSOR)

        def send() -> None:
            observations.publish(Observation(header=Header(stamp=node.get_clock().now().to_msg())))
            if self.fault:
                node.diagnostics.fault("test", self.fault)
            else:
                node.diagnostics.clear("test")

        node.create_timer(1 / PICTURES, send)

    def _policy(self, version: int = 1) -> None:
        node = self._node("policy_node")
        node.declare_parameter("device", "cpu")
        node.create_publisher(ActionChunk, self.name("policy/chunk"), qos.COMMAND)
        node.create_subscription(Observation, self.name("observation"), lambda _: None, qos.LATEST)
        node.active = node.create_publisher(PolicyVersion, self.name("policy/active"), qos.STATUS)
        if version:
            node.active.publish(PolicyVersion(number=version))

    def _trainer(self) -> None:
        self._node("trainer_node").declare_parameter("episodes_dir", "")
