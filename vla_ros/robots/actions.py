"""The policy's actions and the joint rows that they mean, one class for each semantics of a contract."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.types import Array


class ActionSpace(Protocol):
    """Actions [T, dim] of a policy, in the contract's units. q [n] rad, m are the joints measured at the observation."""

    dim: int

    def rows(self, action: ArrayLike, q: Array) -> Array:
        """Joint rows [T, n] rad, m of an action [T, dim].

        Raises:
            VlaRosError: another shape, not finite, or out of reach.
        """

    def action(self, rows: Array, q: Array) -> NDArray[np.float32]:
        """The inverse of rows(): the action [T, dim] that moves the joints so; out of range it is the closest one."""


def action_space(contract: RobotContract, kinematics: Kinematics) -> ActionSpace:
    return SPACES[contract.action.semantics](contract, kinematics)


def _checked(action: ArrayLike, dim: int) -> Array:
    """[T, dim]. Raises VlaRosError when it is not."""
    values = np.asarray(action, np.float64)
    if values.ndim != 2 or values.shape[1] != dim:
        raise VlaRosError(f"action: found shape {list(values.shape)}, expected [T, {dim}]")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0].tolist()
        raise VlaRosError(f"action: row {row}, column {column}: found {values[row, column]}, expected a finite number")
    return values


class JointRows:
    """`joint_position`: an action's rows are the joints' positions [rad, m]; beyond a joint's limit it is the limit, as of a
    gripper that shall close further than it can."""

    def __init__(self, contract: RobotContract, kinematics: Kinematics) -> None:
        self.dim = len(contract.joints)
        self._lower, self._upper = contract.limits.lower, contract.limits.upper

    def rows(self, action: ArrayLike, q: Array) -> Array:
        return np.clip(_checked(action, self.dim), self._lower, self._upper)

    def action(self, rows: Array, q: Array) -> NDArray[np.float32]:
        return rows.astype(np.float32)


class ActionDecoder:
    """`tip_delta_xy`: an action's rows are steps of the tip in the plane, -1..1 of action.max_step, from the measured tip on;
    inverse kinematics keeps height and orientation.

    The simulator's tasks count in tokens, bins of such steps: token k means -max_step + 2 max_step k / (bins - 1).
    """

    dim = 2

    def __init__(self, contract: RobotContract, kinematics: Kinematics) -> None:
        self.contract = contract
        self.kinematics = kinematics
        action = contract.action
        self.centres: Array = np.linspace(-action.max_step, action.max_step, action.bins)  # [bins] m
        self._low, self._high = np.array(action.low), np.array(action.high)

    def rows(self, action: ArrayLike, q: Array) -> Array:
        steps = np.clip(_checked(action, self.dim), -1.0, 1.0) * self.contract.action.max_step
        return self.joints(self.targets(steps, self.kinematics.tip_xy(q)), q)

    def action(self, rows: Array, q: Array) -> NDArray[np.float32]:
        tips = np.array([self.kinematics.tip_xy(row) for row in (q, *rows)])
        return np.clip(np.diff(tips, axis=0) / self.contract.action.max_step, -1.0, 1.0).astype(np.float32)

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


SPACES: dict[str, type[JointRows] | type[ActionDecoder]] = {"joint_position": JointRows, "tip_delta_xy": ActionDecoder}
