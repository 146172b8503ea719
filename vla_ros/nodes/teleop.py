"""A person's commands as policy_node hears them. Everything runs on its executor's thread."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import JointState

from vla_ros.errors import VlaRosError
from vla_ros.nodes import convert, qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.safety_world import base_frame
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.teleoperation import Teleoperation
from vla_ros.types import Array

TWIST, JOINTS = "teleop/twist", "teleop/joint_states"


class Teleop:
    """Listens on the topic that fits the contract's action; a bad command is refused and the one before stays."""

    def __init__(self, node: Node, contract: RobotContract, diagnostics: Diagnostics) -> None:
        self._node, self._diagnostics, self._frame = node, diagnostics, base_frame(contract)
        # s for which a command holds; whoever stops sending hands the arm back
        self._commands = Teleoperation(contract, float(node.declare_parameter("teleop_timeout", 0.3).value))
        self._person = False
        if contract.action.tip_plane is None:
            self._topic = node.resolve_topic_name(JOINTS)
            node.create_subscription(JointState, JOINTS, self._on_joints, qos.LATEST)
        else:
            self._topic = node.resolve_topic_name(TWIST)
            node.create_subscription(TwistStamped, TWIST, self._on_twist, qos.LATEST)
        self._acts(False)

    def action(self, q: Array) -> NDArray[np.float32] | None:
        """[chunk, D] of the person who has taken over at joint positions q [n]; None: the policy acts."""
        try:
            found = self._commands.action(self._now(), q)
        except VlaRosError as error:
            self._refused(error)
            found = None
        self._acts(found is not None)
        return found

    def _acts(self, person: bool) -> None:
        if person != self._person:
            self._node.get_logger().info("a person takes over" if person else "the policy acts again")
        self._person = person
        self._diagnostics.set("acts", "person" if person else "policy")
        self._diagnostics.count("corrected_steps", int(person))

    def _now(self) -> float:
        return float(self._node.get_clock().now().nanoseconds) * 1e-9

    def _on_twist(self, message: TwistStamped) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        try:
            if message.header.frame_id not in ("", self._frame):
                raise VlaRosError(f"twist: frame_id: found '{message.header.frame_id}', expected '{self._frame}' or empty")
            self._commands.twist(
                (linear.x, linear.y, linear.z), (angular.x, angular.y, angular.z), convert.seconds(message.header.stamp),
                self._now(),
            )  # fmt: skip
        except VlaRosError as error:
            self._refused(error)

    def _on_joints(self, message: JointState) -> None:
        try:
            self._commands.joints(convert.joint_state(message), self._now())
        except VlaRosError as error:
            self._refused(error)

    def _refused(self, error: VlaRosError) -> None:
        text = f"{self._topic}: refused: {error}"
        self._diagnostics.count("refused_commands")
        self._diagnostics.error(text)
        self._node.get_logger().error(text, throttle_duration_sec=2.0)
