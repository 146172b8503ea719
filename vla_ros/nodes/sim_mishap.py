"""What a script cannot put right: a block that falls off the simulated table, and a person who puts it back.

Everything runs on sim_node's only thread.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_ros.errors import VlaRosError
from vla_ros.sim.cell import Cell
from vla_ros.sim.tasks import Scene

TABLE = ((-0.25, 0.95), (-0.6, 0.6))  # m, x and y of its edges (sim/model.py)
THROW = (3.0, 0.0, 1.5)  # m/s: over the other blocks, and past the table's far edge half a metre away


class Mishaps:
    """Services `sim/drop` and `sim/put_back`.

    Args:
        lay_out: puts a scene on the table, or raises VlaRosError where the arm is in its way.
    """

    def __init__(self, node: Node, cell: Cell, lay_out: Callable[[Scene], None]) -> None:
        self._cell, self._lay_out = cell, lay_out
        node.create_service(Trigger, "sim/drop", self._on_drop)
        node.create_service(Trigger, "sim/put_back", self._on_put_back)

    @property
    def _scene(self) -> Scene:
        if self._cell.scene is None:
            raise VlaRosError("the cell has no scene yet")
        return self._cell.scene

    def check(self) -> str:
        """What a person has to do before a script can lay out a scene; empty: nothing."""
        fallen = [
            block.name
            for block, (x, y, _) in zip(self._scene.blocks, self._cell.blocks(), strict=True)
            if not all(low <= value <= high for value, (low, high) in zip((x, y), TABLE, strict=True))
        ]
        return f"{', '.join(fallen)} fell off the table: put it back" if fallen else ""

    def _on_drop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Throws the block that the instruction names off the table."""
        k = self._scene.target
        self._cell.data.joint(f"block{k}").qvel[:3] = THROW
        response.success, response.message = True, self._scene.blocks[k].name
        return response

    def _on_put_back(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """All blocks to where they were laid out."""
        try:
            self._lay_out(self._scene)
            response.success = True
        except VlaRosError as error:
            response.message = str(error)
        return response
