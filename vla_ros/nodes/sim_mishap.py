"""What a script cannot put right: an object that falls off the simulated table, and a person who puts it back.

Everything runs on sim_node's only thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_ros.errors import VlaRosError
from vla_ros.sim.robot_cell import AnyScene, RobotCell


class Mishaps:
    """Services `sim/drop` and `sim/put_back`.

    Args:
        lay_out: puts a scene on the table, or raises VlaRosError where the arm is in its way.
    """

    def __init__(self, node: Node, cell: RobotCell[Any], lay_out: Callable[[AnyScene], None]) -> None:
        self._cell, self._lay_out = cell, lay_out
        node.create_service(Trigger, "sim/drop", self._on_drop)
        node.create_service(Trigger, "sim/put_back", self._on_put_back)

    def check(self) -> str:
        """What a person has to do before a script can lay out a scene; empty: nothing."""
        fallen = self._cell.fallen()
        return f"{', '.join(fallen)} fell off the table: put it back" if fallen else ""

    def _on_drop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Throws the object that the instruction names off the table."""
        response.success, response.message = True, self._cell.throw()
        return response

    def _on_put_back(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """All objects to where they were laid out."""
        try:
            self._lay_out(self._cell.laid_out())
            response.success = True
        except VlaRosError as error:
            response.message = str(error)
        return response
