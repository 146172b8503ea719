"""Before the first command safety_node asks the controller what it takes: a wrong one is named with the remedy; nothing moves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from node_process import NodeProcess, spin_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray

from vla_ros.nodes import convert, qos
from vla_ros.nodes.controller_check import objection
from vla_ros.robots.contract import RobotContract
from vla_ros.types import JointState

CONTRACT = RobotContract.load("panda")
SWAPPED = [CONTRACT.joints[1], CONTRACT.joints[0], *CONTRACT.joints[2:]]


@pytest.mark.parametrize(
    ("joints", "interface", "message"),
    [
        (CONTRACT.joints, "position", ""),
        (CONTRACT.joints, "", ""),
        (SWAPPED, "position", "these joints in another order (panda_joint2, panda_joint1"),
        (["fr3_joint1"], "position", "other joints (fr3_joint1), expected panda_joint1"),
        ([], "position", "`joints` is missing"),
        (CONTRACT.joints, "velocity", "`interface_name`: found 'velocity', expected 'position'"),
    ],
)
def test_what_a_controller_may_be(joints: list[str], interface: str, message: str) -> None:
    found = objection("/forward_position_controller", joints, interface, CONTRACT)
    assert found == message or (message and message in found and "/forward_position_controller" in found)


class Arm(Node):
    """Joint states of an arm that stands; hears commands and what safety_node has to report."""

    def __init__(self) -> None:
        super().__init__("arm")
        self.commands: list[Float64MultiArray] = []
        self.faults: list[str] = []
        self.joints = self.create_publisher(JointStateMsg, CONTRACT.control.state_topic, 5)
        self.create_subscription(Float64MultiArray, CONTRACT.control.command_topic, self.commands.append, qos.COMMAND)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_timer(1 / CONTRACT.control.rate, self._send)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.faults += [s.message for s in message.status if s.name == "vla_ros: safety"]

    def _send(self) -> None:
        now = self.get_clock().now().nanoseconds * 1e-9
        state = JointState(now, CONTRACT.joints, np.array(CONTRACT.posture), np.zeros(len(CONTRACT.joints)))
        self.joints.publish(convert.joint_state_message(state))


@pytest.fixture
def executor() -> Iterator[SingleThreadedExecutor]:
    rclpy.init()
    executor = SingleThreadedExecutor()
    yield executor
    rclpy.shutdown()


def test_nothing_is_sent_until_the_controller_is_right(executor: SingleThreadedExecutor) -> None:
    arm = Arm()
    executor.add_node(arm)
    with NodeProcess("safety_node", check_controller=True) as process:
        spin_until(executor, lambda: any("no answer to what its" in f for f in arm.faults), "the missing controller", 30)
        controller = Node("forward_position_controller")
        controller.declare_parameter("joints", SWAPPED)
        executor.add_node(controller)
        spin_until(executor, lambda: any("in another order" in f for f in arm.faults), "the wrong controller", 10)
        assert arm.commands == [], "a command was sent to a controller that takes the joints in another order"
        controller.set_parameters([Parameter("joints", value=list(CONTRACT.joints))])
        spin_until(executor, lambda: len(arm.commands) > 20, "commands", 10)
        np.testing.assert_allclose(arm.commands[-1].data, CONTRACT.posture, atol=1e-6)
        process.end()
