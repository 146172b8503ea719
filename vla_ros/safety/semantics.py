"""Rows of a chunk in joint space, whatever they mean (types.JOINT_POSITION and its neighbours)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pinocchio as pin

from vla_ros.types import JOINT_DELTA, JOINT_POSITION, TIP_DELTA, TIP_POSE, ActionChunk, Array

WIDTH = {TIP_POSE: 7, TIP_DELTA: 6}  # columns per tip
ITERATIONS = 12
TOLERANCE = 1e-4  # m and rad, of a tip from its row
DAMPING = 1e-6
LARGEST_STEP = 0.3  # rad per iteration
FARTHEST = 100.0  # m and rad of a tip row; no arm is so long, and its squares stay finite


class Rows:
    """Turns rows into joint positions. Not thread-safe (pinocchio's work space).

    Args:
        joints: names, in the order of the result.
        model: of the arm; without it, and without tips, rows of tips are refused.
        tips: frame names that tip rows may move.
    """

    def __init__(self, joints: Sequence[str], model: pin.Model | None = None, tips: Sequence[str] = ()) -> None:
        self.joints = tuple(joints)
        self._model = model
        self._frames = {name: model.getFrameId(name) for name in tips} if model is not None else {}
        self._data: Any = model.createData() if model is not None else None

    def names(self, semantics: str) -> tuple[str, ...]:
        """What joint_names must hold, in any order; () for semantics that are not known."""
        if semantics in (JOINT_POSITION, JOINT_DELTA):
            return self.joints
        return tuple(self._frames) if semantics in WIDTH else ()

    def width(self, semantics: str) -> int:
        """Columns that rows must have."""
        return len(self.names(semantics)) * WIDTH.get(semantics, 1)

    def joint_positions(self, chunk: ActionChunk, command: Array) -> tuple[str, Array]:
        """Rows [T, n] rad in the order of `joints`, deltas counted from `command` [n] rad, and '' or a reason
        (`unreachable:<tip>`). Names, shape and finiteness are checked before."""
        names = self.names(chunk.semantics)
        order = [chunk.joint_names.index(name) for name in names]
        if chunk.semantics == JOINT_POSITION:
            return "", chunk.rows[:, order]
        if chunk.semantics == JOINT_DELTA:
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is outside every limit
                return "", command + np.cumsum(chunk.rows[:, order], axis=0)
        width = WIDTH[chunk.semantics]
        columns = chunk.rows.reshape(len(chunk.rows), len(names), width)[:, order]
        return self._tips(chunk.semantics, columns, command)

    def _tips(self, semantics: str, rows: Array, q: Array) -> tuple[str, Array]:
        """Inverse kinematics of rows [T, tips, 7 or 6], each from the solution before it."""
        model, data = self._model, self._data
        if (far := (abs(rows) > FARTHEST).any(axis=(0, 2))).any():
            return f"unreachable:{tuple(self._frames)[int(far.argmax())]}", rows
        pin.framesForwardKinematics(model, data, q)
        targets = [data.oMf[frame].copy() for frame in self._frames.values()]
        result = np.empty((len(rows), len(q)))
        for k, row in enumerate(rows):
            for i, values in enumerate(row):
                if semantics == TIP_POSE:
                    length = math.hypot(*values[3:])
                    if abs(length - 1.0) > 1e-2:
                        return "quaternion", result
                    targets[i] = pin.XYZQUATToSE3(np.concatenate((values[:3], values[3:] / length)))
                else:
                    rotation = pin.exp3(values[3:]) @ targets[i].rotation
                    targets[i] = pin.SE3(rotation, targets[i].translation + values[:3])
            reason, q = self._solve(targets, q)
            if reason:
                return reason, result
            result[k] = q
        return "", result

    def _solve(self, targets: Sequence[pin.SE3], start: Array) -> tuple[str, Array]:
        """Damped Gauss-Newton on all tips at once."""
        model, data = self._model, self._data
        q = start.copy()
        errors = np.empty(6 * len(targets))
        for _ in range(ITERATIONS):
            jacobians = []
            pin.computeJointJacobians(model, data, q)
            pin.updateFramePlacements(model, data)
            for i, (frame, target) in enumerate(zip(self._frames.values(), targets, strict=True)):
                pose = data.oMf[frame]
                errors[6 * i : 6 * i + 3] = target.translation - pose.translation
                errors[6 * i + 3 : 6 * i + 6] = pin.log3(target.rotation @ pose.rotation.T)
                jacobians.append(pin.getFrameJacobian(model, data, frame, pin.LOCAL_WORLD_ALIGNED))
            if abs(errors).max() < TOLERANCE:
                return "", q
            jacobian = np.concatenate(jacobians)
            gram = jacobian @ jacobian.T
            gram.flat[:: len(gram) + 1] += DAMPING
            step = jacobian.T @ np.linalg.solve(gram, errors)
            largest = float(abs(step).max())
            q += step if largest < LARGEST_STEP else step * (LARGEST_STEP / largest)
        worst = int(abs(errors).argmax()) // 6
        return f"unreachable:{tuple(self._frames)[worst]}", q
