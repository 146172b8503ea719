"""Boxes that frames of the arm must stay in, evaluated where the arm would come to rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pinocchio as pin

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.limits import Box


class Workspace:
    """How far a pose is outside its boxes. Not thread-safe (pinocchio's work space).

    Raises:
        VlaRosError: a box names a frame that the URDF does not have.
    """

    def __init__(self, contract: RobotContract, boxes: Mapping[str, Box]) -> None:
        self._model = Kinematics(contract).model
        self._data = self._model.createData()
        self._q = np.zeros(len(contract.joints))
        self._frames: list[tuple[str, int, Box]] = []
        for name, box in boxes.items():
            if not self._model.existFrame(name):
                known = ", ".join(frame.name for frame in self._model.frames)
                raise VlaRosError(f"safety workspace: frame '{name}' is not in {contract.urdf}; frames: {known}")
            self._frames.append((name, self._model.getFrameId(name), box))

    def outside(self, q: Sequence[float]) -> tuple[float, str]:
        """Depth [m] by which the worst frame is outside its box at joint positions q [n] rad (0: inside), and its
        name."""
        self._q[:] = q
        pin.forwardKinematics(self._model, self._data, self._q)
        worst, where = 0.0, ""
        for name, frame, (x, y, z) in self._frames:
            px, py, pz = pin.updateFramePlacement(self._model, self._data, frame).translation.tolist()
            depth = max(x[0] - px, px - x[1], y[0] - py, py - y[1], z[0] - pz, pz - z[1])
            if depth > worst:
                worst, where = depth, name
        return worst, where
