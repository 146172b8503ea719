"""Interbotix's drivers as one arm of the contract: their joint states merged, commands shared out among them, a stop obeyed.

It stands where ros2_control's forward_position_controller stands with other arms, under that name: the same command topic, the
same services of a stop, the same parameter `joints` that safety_node asks for before the first command. It has that parameter,
and sends joint states, only when each driver has said that its joints, their order and their units are right. One executor
thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray

from vla_ros.errors import VlaRosError
from vla_ros.nodes import convert, qos
from vla_ros.nodes.controller_manager import ControllerManager
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.interfaces import message_class, service_class
from vla_ros.nodes.main import run
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.interbotix import Arm, Interbotix
from vla_ros.sim.trajectory import checked
from vla_ros.types import JointState

CHECK = 0.5  # s, between looks at what drivers have answered
QUEUE = 5


class InterbotixNode(Node):
    def __init__(self) -> None:
        super().__init__("forward_position_controller")
        self.contract = RobotContract.load(self.declare_parameter("robot", "aloha").value)
        # How the drivers are wired: name in config/drivers or a path; empty: the robot's own.
        self.drivers = Interbotix.load(self.contract, str(self.declare_parameter("drivers", "").value))
        self.active, self.ready = True, False
        self._states: dict[str, JointStateMsg] = {}
        self._infos: dict[str, tuple[Future, Future]] = {}
        self._right: set[str] = set()  # arms whose drivers are
        self.diagnostics = Diagnostics(self, "interbotix", self.contract.robot)
        group = self._group = message_class("interbotix_xs_msgs/msg/JointGroupCommand")
        single = self._single = message_class("interbotix_xs_msgs/msg/JointSingleCommand")
        self.info = service_class("interbotix_xs_msgs/srv/RobotInfo")
        self._clients = {arm.name: self.create_client(self.info, f"{arm.name}/get_robot_info") for arm in self.drivers.arms}
        self._out = {
            arm.name: (
                self.create_publisher(group, f"{arm.name}/commands/joint_group", qos.COMMAND),
                self.create_publisher(single, f"{arm.name}/commands/joint_single", qos.COMMAND),
            )
            for arm in self.drivers.arms
        }
        for arm in self.drivers.arms:
            self.create_subscription(JointStateMsg, f"{arm.name}/joint_states", self._listener(arm), QUEUE)
        self.joints = self.create_publisher(JointStateMsg, self.contract.control.state_topic, QoSProfile(depth=10))
        command = self.contract.control.command_topic
        self.create_subscription(Float64MultiArray, command, self._on_command, qos.COMMAND)
        ControllerManager(self, command, self)
        self.create_timer(CHECK, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def switch(self, active: bool) -> None:
        """The stop's, and the reset's: commands are obeyed or not; the motors hold their position either way."""
        self.active = active

    def cancel(self) -> bool:
        return False  # there are no trajectories

    def _check(self) -> None:
        """Asks each driver until it answers rightly."""
        for arm in self.drivers.arms:
            if arm.name in self._right:
                continue
            asked = self._infos.get(arm.name)
            if asked is not None and all(future.done() for future in asked):
                self._judge(arm, *(future.result() for future in asked))
                del self._infos[arm.name]
            elif asked is None and self._clients[arm.name].service_is_ready():
                ask = self._clients[arm.name].call_async
                self._infos[arm.name] = (
                    ask(self.info.Request(cmd_type="group", name=arm.group)),
                    ask(self.info.Request(cmd_type="single", name=arm.gripper.motor)),
                )
            elif asked is None:
                self._complain(arm, f"/{arm.name}/get_robot_info: no such service; is interbotix_xs_sdk running as '{arm.name}'?")
        if not self.ready and len(self._right) == len(self.drivers.arms):
            self.ready = True
            self.declare_parameter("interface_name", "position")
            self.declare_parameter("joints", list(self.contract.joints))
            self.get_logger().info(f"drivers {', '.join(self._clients)} are as {self.contract.path} says")

    def _judge(self, arm: Arm, group: Any, gripper: Any) -> None:
        if wrong := arm.objection(list(group.joint_names), str(group.mode), str(gripper.mode)):
            self._complain(arm, wrong)
            return
        self._right.add(arm.name)
        self.diagnostics.clear(arm.name)

    def _complain(self, arm: Arm, text: str) -> None:
        self.diagnostics.fault(arm.name, f"{text}; nothing is sent until then")
        self.get_logger().error(f"{text}; nothing is sent until then", throttle_duration_sec=5.0)

    def _listener(self, arm: Arm) -> Any:
        def listen(message: JointStateMsg) -> None:
            self._states[arm.name] = message
            if self.ready and len(self._states) == len(self.drivers.arms):
                self._publish()

        return listen

    def _publish(self) -> None:
        """When every driver has told something new; as old as the oldest of it."""
        states, self._states = self._states, {}
        try:
            position, velocity = self.drivers.merge(
                {name: (list(m.name), np.asarray(m.position), np.asarray(m.velocity)) for name, m in states.items()}
            )
        except VlaRosError as error:
            self.diagnostics.error(str(error))
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
            return
        stamp = min(convert.seconds(message.header.stamp) for message in states.values())
        self.joints.publish(convert.joint_state_message(JointState(stamp, self.contract.joints, position, velocity)))
        self.diagnostics.count("joint_states", rate=True)

    def _on_command(self, message: Float64MultiArray) -> None:
        if not (self.ready and self.active):
            self.diagnostics.count("unheeded_commands")
            return
        try:
            command = checked(message.data, len(self.contract.joints))
        except VlaRosError as error:
            self.diagnostics.error(str(error))
            self.get_logger().error(f"{error}; refused", throttle_duration_sec=2.0)
            return
        for arm, row, motor in self.drivers.split(command):
            group, single = self._out[arm.name]
            group.publish(self._group(name=arm.group, cmd=[float(value) for value in row]))
            single.publish(self._single(name=arm.gripper.motor, cmd=motor))
        self.diagnostics.count("commands", rate=True)


def main(args: list[str] | None = None) -> int:
    return run(InterbotixNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
