"""Whether the controller that takes the commands would understand them: asked before the first one is sent.

Commands are bare numbers (std_msgs/Float64MultiArray), so a controller with its joints in another order, or one that takes
velocities for positions, would move the arm at once. Runs on safety_node's executor thread: nothing waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.task import Future

from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.robots.contract import RobotContract

FAULT = "controller"
UNCHECKED = "controller_unchecked"  # reason of chunks that come before the controller was found to be right
JOINTS, INTERFACE = "joints", "interface_name"  # parameters of ros2_control's forward command and position controllers
ASK_AGAIN = 4  # calls of tick() without an answer


def objection(controller: str, joints: Sequence[str], interface: str, contract: RobotContract) -> str:
    """'' where the controller's parameters fit the contract, else what is wrong with them and what to do."""
    if not joints:
        wanted = ", ".join(contract.joints)
        return f"{controller}: parameter `{JOINTS}` is missing, expected {wanted}; is it a position controller?"
    if tuple(joints) != contract.joints:
        same = sorted(joints) == sorted(contract.joints)
        what = "these joints in another order" if same else "other joints"
        return (
            f"{controller}: parameter `{JOINTS}`: found {what} ({', '.join(joints)}), expected {', '.join(contract.joints)} as "
            f"in {contract.path}; correct the controller's parameter file (config/controllers) and start the controller again"
        )
    if interface not in {"", "position"}:
        return (
            f"{controller}: parameter `{INTERFACE}`: found '{interface}', expected 'position': commands are joint positions; "
            "correct the controller's parameter file (config/controllers) and start the controller again"
        )
    return ""


class ControllerCheck:
    """Asks the controller of the contract's command topic until it answers rightly.

    Attributes:
        ready: it did; commands may be sent.
    """

    def __init__(self, node: Node, contract: RobotContract, diagnostics: Diagnostics) -> None:
        self.ready = False
        self._node, self._contract, self._diagnostics = node, contract, diagnostics
        self.controller = "/" + contract.control.command_topic.split("/")[1]
        self._client = node.create_client(GetParameters, f"{self.controller}/get_parameters")
        self._calls: list[Future] = []  # one for each parameter: who lacks one answers nothing at all about the others
        self._since = 0

    def tick(self) -> None:
        """A few times a second, until it is ready."""
        if self._calls and all(call.done() for call in self._calls):
            joints, interface = (call.result().values[:1] for call in self._calls)
            self._calls = []
            self._judge(joints[0].string_array_value if joints else (), interface[0].string_value if interface else "")
        elif not self._calls and self._client.service_is_ready():
            self._since = 0
            self._calls = [self._client.call_async(GetParameters.Request(names=[name])) for name in (JOINTS, INTERFACE)]
        else:
            self._since += 1
            if self._since >= ASK_AGAIN:
                self._give_up()

    def _give_up(self) -> None:
        for call in self._calls:
            self._client.remove_pending_request(call)
        self._calls, self._since = [], 0
        self._complain(
            f"{self.controller}: no answer to what its joints are, so nothing is sent; expected the controller of "
            f"{self._contract.control.command_topic} to be loaded (ros2 control list_controllers)"
        )

    def _judge(self, joints: Sequence[str], interface: str) -> None:
        if wrong := objection(self.controller, joints, interface, self._contract):
            self._complain(f"{wrong}; nothing is sent until then")
            return
        self.ready = True
        self._diagnostics.clear(FAULT)
        self._node.get_logger().info(f"{self.controller} takes the positions of {', '.join(joints)}: commands may be sent")

    def _complain(self, text: str) -> None:
        self._diagnostics.fault(FAULT, text)
        self._node.get_logger().error(text, throttle_duration_sec=5.0)
