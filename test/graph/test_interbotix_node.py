"""interbotix_node with drivers that this test plays: nothing moves while one of them is wrong; then both arms are one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from controller_manager_msgs.srv import SwitchController
from diagnostic_msgs.msg import DiagnosticArray
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from interbotix_xs_msgs.srv import RobotInfo
from node_process import NodeProcess, spin_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header

from vla_ros.nodes import qos
from vla_ros.robots.contract import RobotContract

ALOHA = RobotContract.load("aloha")
GROUP = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
NAMES = [*GROUP, "gripper", "left_finger", "right_finger"]
COMMAND = [*np.linspace(-0.3, 0.2, 6), 0.058, *np.linspace(0.4, -0.1, 6), 0.01844]


class Drivers(Node):
    """Both followers' drivers, and a safety filter's ears and voice."""

    def __init__(self) -> None:
        super().__init__("drivers")
        self.gripper_mode = "linear_position"
        self.heard: list[tuple[str, Any]] = []
        self.states: list[JointState] = []
        self.faults: list[str] = []
        self.publishers_ = {}
        for arm in ("follower_left", "follower_right"):
            self.publishers_[arm] = self.create_publisher(JointState, f"/{arm}/joint_states", 10)
            self.create_service(RobotInfo, f"/{arm}/get_robot_info", self._inform)
            for topic, kind in (("joint_group", JointGroupCommand), ("joint_single", JointSingleCommand)):
                self.create_subscription(kind, f"/{arm}/commands/{topic}", lambda m, a=arm: self.heard.append((a, m)), 10)
        self.create_subscription(JointState, ALOHA.control.state_topic, self.states.append, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", lambda m: self.faults.extend(s.message for s in m.status), 10)
        self.command = self.create_publisher(Float64MultiArray, ALOHA.control.command_topic, qos.COMMAND)
        self.switch = self.create_client(SwitchController, "/controller_manager/switch_controller")
        self.create_timer(0.02, self._send)

    def _inform(self, request: RobotInfo.Request, response: RobotInfo.Response) -> RobotInfo.Response:
        group = request.cmd_type == "group"
        response.mode, response.joint_names = ("position", GROUP) if group else (self.gripper_mode, ["gripper"])
        return response

    def _send(self) -> None:
        stamp = self.get_clock().now().to_msg()
        for k, publisher in enumerate(self.publishers_.values()):
            position = [*(np.arange(6) / 10 + k), 0.9, 0.03 + k / 100, -0.03]
            publisher.publish(JointState(header=Header(stamp=stamp), name=NAMES, position=position, velocity=[0.0] * 9))
        self.command.publish(Float64MultiArray(data=[float(value) for value in COMMAND]))


@pytest.fixture
def executor() -> Iterator[SingleThreadedExecutor]:
    rclpy.init()
    yield SingleThreadedExecutor()
    rclpy.shutdown()


def test_wrong_units_stop_everything_and_right_ones_make_one_arm(executor: SingleThreadedExecutor) -> None:
    drivers = Drivers()
    executor.add_node(drivers)
    with NodeProcess("interbotix_node") as process:
        wrong = "'linear_position', which takes metres, where it is sent radians"
        spin_until(executor, lambda: any(wrong in fault for fault in drivers.faults), "the wrong unit to be named", 30)
        assert drivers.heard == []
        assert drivers.states == []
        drivers.gripper_mode = "current_based_position"
        spin_until(executor, lambda: len(drivers.heard) > 8 and len(drivers.states) > 3, "commands and joint states", 10)
        assert tuple(drivers.states[-1].name) == ALOHA.joints
        merged = [*(np.arange(6) / 10), 0.03, *(np.arange(6) / 10 + 1), 0.04]
        np.testing.assert_allclose(drivers.states[-1].position, merged, atol=1e-9)
        sent = {(arm, message.name): np.atleast_1d(message.cmd) for arm, message in drivers.heard}
        np.testing.assert_allclose(sent["follower_left", "arm"], COMMAND[:6], atol=1e-6)
        np.testing.assert_allclose(sent["follower_right", "arm"], COMMAND[7:13], atol=1e-6)
        np.testing.assert_allclose(sent["follower_left", "gripper"], 1.4910, atol=1e-6)
        np.testing.assert_allclose(sent["follower_right", "gripper"], -0.6213, atol=1e-6)

        future = drivers.switch.call_async(SwitchController.Request(deactivate_controllers=["forward_position_controller"]))
        spin_until(executor, future.done, "the stop's acknowledgement", 5)
        assert future.result().ok
        begin = len(drivers.states)
        spin_until(executor, lambda: len(drivers.states) > begin + 3, "what was on its way", 5)
        drivers.heard.clear()
        begin = len(drivers.states)
        spin_until(executor, lambda: len(drivers.states) > begin + 10, "joint states after the stop", 5)
        assert drivers.heard == [], "a stopped arm was commanded"
        process.end()
