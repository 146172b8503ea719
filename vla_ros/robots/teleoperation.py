"""A person in the policy's place: what a teleoperation device sends, as actions of the robot's contract.

    tip_delta_xy      velocity of the tip in the base frame [m/s]       SpaceMouse, joystick, phone
    joint_position    position of every joint [rad, m]                  leader arms

A command holds for `timeout` s. While the device sends, the person acts; when it falls silent, because its dead-man button was
let go or its link broke, the policy does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import positions_of
from vla_ros.types import Array, JointState

AHEAD = 0.15  # s; a leader arm that its follower could not reach within this at top speed is not aligned with it
ROUNDING = 1e-6


class Teleoperation:
    """The last good command of one device. Times are s on the ROS clock.

    Raises:
        VlaRosError: `timeout` is no time.
    """

    def __init__(self, contract: RobotContract, timeout: float) -> None:
        if not (math.isfinite(timeout) and timeout > 0):
            raise VlaRosError(f"teleop_timeout: found {timeout}, expected seconds above 0")
        self.contract, self.timeout = contract, timeout
        self._action: Array | None = None
        self._until = -math.inf

    def twist(self, linear: Sequence[float], angular: Sequence[float], stamp: float, now: float) -> None:
        """Velocity of the tip [3] m/s and [3] rad/s in the base frame.

        Raises:
            VlaRosError: not finite, not of this time, faster than `max_step` for each policy step, or a motion that the
                contract's action does not have. The command before stays.
        """
        self._check_stamp(stamp, now)
        velocity = np.array([*linear, *angular], np.float64)
        if not np.isfinite(velocity).all():
            raise VlaRosError(f"twist: found {velocity.tolist()}, expected finite numbers")
        if velocity[2:].any():
            found = f"linear.z {velocity[2]:g}, angular {velocity[3:].tolist()}"
            raise VlaRosError(f"twist: found {found}, expected 0: this arm's action moves the tip in the plane of the table")
        fastest = self.contract.action.max_step * self.contract.observation.rate
        if (abs(velocity[:2]) > fastest * (1 + ROUNDING)).any():
            found = f"linear {velocity[:2].tolist()}"
            raise VlaRosError(f"twist: found {found}, expected at most {fastest:g} m/s on each axis; scale the device down")
        action = np.zeros((self.contract.action.chunk, 2))  # one step, after which the tip stands: the next one is not known
        action[0] = (velocity[:2] / fastest).clip(-1, 1)
        self._take(action, stamp, now)

    def joints(self, joints: JointState, now: float) -> None:
        """Where every joint of the arm shall be, in any order.

        Raises:
            VlaRosError: not finite, not of this time, a joint is missing, or a position is beyond its limit. The command
                before stays.
        """
        self._check_stamp(joints.stamp, now)
        position, limits = positions_of(self.contract, joints), self.contract.limits
        beyond = (position < limits.lower - ROUNDING) | (position > limits.upper + ROUNDING)
        if beyond.any():
            k = int(beyond.argmax())
            expected = f"{limits.lower[k]:g} to {limits.upper[k]:g}"
            raise VlaRosError(f"joints: '{self.contract.joints[k]}': found {position[k]:g}, expected {expected}")
        self._take(np.tile(position, (self.contract.action.chunk, 1)), joints.stamp, now)

    def action(self, now: float, q: Array) -> NDArray[np.float32] | None:
        """The person's action [chunk, D] in the contract's units; None: nobody has taken over.

        Args:
            q: [n] rad, m, the measured joints.

        Raises:
            VlaRosError: the leader arm is not where the arm is.
        """
        if self._action is None or now > self._until:
            return None
        if self.contract.action.tip_plane is None:
            away = abs(self._action[0] - q) - AHEAD * self.contract.limits.velocity
            if away.max() > 0:
                k = int(away.argmax())
                found = f"'{self.contract.joints[k]}' of the leader at {self._action[0, k]:.3f}, of the arm at {q[k]:.3f}"
                expected = f"at most {AHEAD * self.contract.limits.velocity[k]:.3f} between them"
                raise VlaRosError(f"joints: found {found}, expected {expected}; bring the leader to the arm's pose")
        return self._action.astype(np.float32)

    def _check_stamp(self, stamp: float, now: float) -> None:
        if stamp < now - self.timeout:
            raise VlaRosError(f"stamp: found {now - stamp:.3f} s ago, expected at most {self.timeout:g} s")
        if stamp > now + self.timeout:
            remedy = "set the clocks alike (chrony, PTP), or use_sim_time where the arm is simulated"
            raise VlaRosError(f"stamp: found {stamp - now:.3f} s ahead of this machine's clock; {remedy}")

    def _take(self, action: Array, stamp: float, now: float) -> None:
        self._action, self._until = action, min(stamp, now) + self.timeout
