"""Policy tokens to joint positions and back: bins of tip displacement in the plane, and inverse kinematics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.types import Array


class ActionDecoder:
    """Decodes tokens [T, 2] (bin per axis) into joint rows [T, n]; encodes displacements into tokens.

    Bin centres are linear: token k means -max_step + 2 max_step k / (bins - 1).
    """

    def __init__(self, contract: RobotContract, kinematics: Kinematics) -> None:
        self.contract = contract
        self.kinematics = kinematics
        action = contract.action
        self.centres: Array = np.linspace(-action.max_step, action.max_step, action.bins)  # [bins] m
        self._low, self._high = np.array(action.low), np.array(action.high)

    def delta(self, tokens: ArrayLike) -> Array:
        """Displacements [..., 2] m of tokens [..., 2].

        Raises:
            VlaRosError: a token is no integer or outside 0..bins-1.
        """
        index = np.asarray(tokens)
        if index.dtype.kind not in "iu" or index.shape[-1:] != (2,):
            raise VlaRosError(f"action tokens: found {index.dtype} {index.shape}, expected integers [T, 2]")
        if index.size and (index.min() < 0 or index.max() >= len(self.centres)):
            raise VlaRosError(f"action tokens: found {index.min()}..{index.max()}, expected 0..{len(self.centres) - 1}")
        return self.centres[index]

    def encode(self, delta: ArrayLike) -> NDArray[np.int16]:
        """Nearest tokens [..., 2] of displacements [..., 2] m; beyond max_step the outermost bin.

        Raises:
            VlaRosError: not finite.
        """
        values = np.asarray(delta, np.float64)
        if not np.isfinite(values).all():
            raise VlaRosError(f"displacement: found {values.tolist()}, expected finite numbers")
        scale = (len(self.centres) - 1) / (2 * self.contract.action.max_step)
        bins = np.rint((values + self.contract.action.max_step) * scale)
        return np.clip(bins, 0, len(self.centres) - 1).astype(np.int16)

    def targets(self, delta: ArrayLike, tip: Array) -> Array:
        """Tip targets [T, 2] m: `delta` [T, 2] summed up from `tip` [2], each kept inside the workspace."""
        position = np.array(tip[:2], np.float64)
        rows = []
        for step in np.asarray(delta, np.float64).reshape(-1, 2):
            position = np.minimum(np.maximum(position + step, self._low), self._high)
            rows.append(position)
        return np.array(rows).reshape(-1, 2)

    def joints(self, targets: Array, q: Array) -> Array:
        """Joint rows [T, n] rad for tip targets [T, 2] m at the contract's height, starting from `q` [n]."""
        rows = np.empty((len(targets), len(q)))
        xyz = np.array([0.0, 0.0, self.contract.action.height])
        for row, target in zip(rows, targets, strict=True):
            xyz[:2] = target
            q = self.kinematics.ik(q, xyz)
            row[:] = q
        return rows

    def decode(self, tokens: ArrayLike, tip: Array, q: Array) -> Array:
        """Joint rows [T, n] rad of tokens [T, 2], from the commanded tip [2+] m and joints `q` [n] rad."""
        return self.joints(self.targets(self.delta(tokens), tip), q)
