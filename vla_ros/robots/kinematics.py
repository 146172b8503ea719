"""Forward and inverse kinematics of a contract's tip frames on pinocchio; a single tip points straight down."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pinocchio as pin

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.types import Array

DOWN = np.diag([1.0, -1.0, -1.0])  # tip's z down, x forward: the fixed yaw
TOLERANCE = 2e-5  # m and rad
ROUNDING = 1e-9  # rad, m; a gripper may be told to stand on its stop


def reduced_model(contract: RobotContract) -> tuple[pin.Model, pin.GeometryModel]:
    """The contract's joints and the collision shapes that they move; all other joints stand at zero.

    Raises:
        VlaRosError: the contract has the joints in another order than the URDF.
    """
    full = pin.buildModelFromUrdf(str(contract.urdf))
    shapes = pin.buildGeomFromUrdf(full, str(contract.urdf), pin.GeometryType.COLLISION)
    locked = [full.getJointId(name) for name in full.names[1:] if name not in contract.joints]
    model, shapes = pin.buildReducedModel(full, shapes, locked, pin.neutral(full))
    if tuple(model.names[1:]) != contract.joints:
        found = ", ".join(model.names[1:])
        raise VlaRosError(f"{contract.path}: joints: expected the URDF's order, base to tip: {found}")
    return model, shapes


class Kinematics:
    """Tip pose and its inverse. Not thread-safe: one per thread (it holds pinocchio's work space).

    Joint vectors are [n] rad in the contract's order.
    """

    def __init__(self, contract: RobotContract) -> None:
        self.model, _ = reduced_model(contract)
        self.contract = contract
        self.data = self.model.createData()
        self.posture: Array = np.array(contract.posture)
        self._home: Array | None = None

    @cached_property
    def frame(self) -> int:
        """Of the tip. Raises VlaRosError where the robot has more than one."""
        return int(self.model.getFrameId(self.contract.tip))

    def tip_pose(self, q: Array) -> Array:
        """Pose of the tip in the base frame [7]: x, y, z m and quaternion x, y, z, w."""
        pin.forwardKinematics(self.model, self.data, q)
        return np.array(pin.SE3ToXYZQUAT(pin.updateFramePlacement(self.model, self.data, self.frame)))

    def tip_xy(self, q: Array) -> Array:
        """[2] m, the tip in the table's plane."""
        pin.forwardKinematics(self.model, self.data, q)
        return np.array(pin.updateFramePlacement(self.model, self.data, self.frame).translation[:2])

    def tool(self, tip: str, q: Array) -> Array:
        """Pose of one of the contract's tips in the base frame, [4, 4]."""
        pin.forwardKinematics(self.model, self.data, q)
        return np.array(pin.updateFramePlacement(self.model, self.data, self.model.getFrameId(tip)).homogeneous)

    def ik(self, q_start: Array, xyz: Array, iterations: int = 40) -> Array:
        """Joint positions [n] with the tip at `xyz` [3] m pointing down, close to `q_start` and to the posture.

        Damped Gauss-Newton from `q_start` with a null-space pull towards the posture; residual under 0.02 mm.

        Raises:
            VlaRosError: not reachable, or only outside the joint limits.
        """
        return self._solve(q_start, self.frame, xyz, DOWN, self.posture, "pointing down", iterations)

    def reach(self, q_start: Array, tip: str, xyz: Array, rotation: Array) -> Array:
        """Joint positions [n] with `tip` at `xyz` [3] m, turned as `rotation` [3, 3] (columns: its axes, base frame); joints
        that do not move it stay. Otherwise as ik().
        """
        frame = int(self.model.getFrameId(tip))
        return self._solve(q_start, frame, xyz, rotation, np.array(q_start), f"of {tip}, turned as wanted,", 100)

    def _solve(
        self, q_start: Array, frame: int, xyz: Array, rotation: Array, posture: Array, how: str, iterations: int
    ) -> Array:
        model, data = self.model, self.data
        q = np.array(q_start, np.float64)
        error = np.empty(6)
        for _ in range(iterations):
            jacobian = pin.computeFrameJacobian(model, data, q, frame, pin.LOCAL_WORLD_ALIGNED)
            pose = pin.updateFramePlacement(model, data, frame)
            error[:3] = xyz - pose.translation
            error[3:] = pin.log3(rotation @ pose.rotation.T)
            if abs(error).max() < TOLERANCE:
                self._check_limits(q, xyz, how)
                return q
            gram = jacobian @ jacobian.T
            gram.flat[::7] += 1e-6
            pull = 0.5 * (posture - q)
            step = pull + jacobian.T @ np.linalg.solve(gram, error - jacobian @ pull)
            largest = abs(step).max()
            q += step if largest < 0.5 else step * (0.5 / largest)
        raise VlaRosError(
            f"{self.contract.robot}: tip at {np.round(xyz, 4).tolist()} m {how} is not reachable "
            f"(residual {abs(error).max():.2g} after {iterations} steps)"
        )

    def home(self) -> Array:
        """Joint positions [n] with the tip at the contract's home; the posture where there is no tip plane."""
        if self._home is None:
            plane = self.contract.action.tip_plane
            self._home = self.posture if plane is None else self.ik(self.posture, np.array([*plane.home, plane.height]))
        return self._home.copy()

    def _check_limits(self, q: Array, xyz: Array, how: str) -> None:
        limits = self.contract.limits
        outside = (q < limits.lower - ROUNDING) | (q > limits.upper + ROUNDING)
        if outside.any():
            k = int(np.argmax(outside))
            raise VlaRosError(
                f"{self.contract.robot}: tip at {np.round(xyz, 4).tolist()} m {how} needs "
                f"{self.contract.joints[k]} = {q[k]:.3f} rad, limits {limits.lower[k]:.3f}..{limits.upper[k]:.3f}"
            )
