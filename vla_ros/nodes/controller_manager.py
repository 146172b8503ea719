"""What a stop reaches of a driver that this package plays itself: ros2_control's controller manager, and the cancelling of
trajectories. Served on the node's executor thread.
"""

from __future__ import annotations

from typing import Any, Protocol

from action_msgs.srv import CancelGoal
from rclpy.node import Node

from vla_ros.errors import VlaRosError
from vla_ros.nodes.interfaces import service_class

TRAJECTORY_CONTROLLER = "joint_trajectory_controller"
TRAJECTORY_CANCEL = f"/{TRAJECTORY_CONTROLLER}/follow_joint_trajectory/_action/cancel_goal"
SWITCH_SERVICE, SWITCH_TYPE = "/controller_manager/switch_controller", "controller_manager_msgs/srv/SwitchController"


class Controlled(Protocol):
    """What is switched on and off."""

    active: bool

    def switch(self, active: bool) -> None: ...

    def cancel(self) -> bool: ...


class ControllerManager:
    """Services of the controller that obeys `command_topic`, which it does only while it is active."""

    def __init__(self, node: Node, command_topic: str, driver: Controlled) -> None:
        self._node, self._driver = node, driver
        self._controller = command_topic.split("/")[1]
        node.create_service(CancelGoal, TRAJECTORY_CANCEL, self._on_cancel)
        try:
            switch = service_class(SWITCH_TYPE)
        except VlaRosError as error:
            node.get_logger().info(f"{SWITCH_SERVICE} is not offered: {error}")
        else:
            node.create_service(switch, SWITCH_SERVICE, self._on_switch)

    def _on_cancel(self, request: CancelGoal.Request, response: CancelGoal.Response) -> CancelGoal.Response:
        self._driver.cancel()
        return response

    def _on_switch(self, request: Any, response: Any) -> Any:
        controller = self._controller
        names = {*request.activate_controllers, *request.deactivate_controllers}
        response.ok = names <= {controller, TRAJECTORY_CONTROLLER}
        if not response.ok:
            self._node.get_logger().error(f"switch_controller: found {sorted(names)}, expected {controller}")
            return response
        if TRAJECTORY_CONTROLLER in request.deactivate_controllers:
            self._driver.cancel()
        if controller in names:
            self._driver.switch(controller in request.activate_controllers)
            self._node.get_logger().info(f"{controller} is {'active' if self._driver.active else 'inactive'}")
        return response
