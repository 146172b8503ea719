"""The simulated arm's driver: what real controllers do with commands, and when they stop coming.

A command that the arm reaches within its limits is taken as it is. Where a stream of position commands breaks off, the
driver brakes from the next period on with the acceleration limit, along the stop that the safety filter had checked for its
last command; it never extrapolates. Once the stream was silent for `timeout` it is dead: only commands close to where the
arm holds are obeyed again. Commands that came late, or a step, are caught up with inside the same limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from vla_ros.sim.trajectory import JointTarget
from vla_ros.types import Array

STREAM = 3  # periods between two commands that still are one stream
SLACK = 1.05  # of the acceleration limit: rounding in the sender's differences
CATCH_UP = (0.1, 0.05)  # share of the stream's speed, rad/s: late commands must not make the arm much faster than they say
RETURN_SHARE = 0.5  # of the acceleration for catching up; the rest is the stream's own


def brake(velocity: float, step: float) -> float:
    """rad/s one period later, when braking loses `step` rad/s per period."""
    return max(0.0, velocity - step) if velocity > 0.0 else min(0.0, velocity + step)


def stopping_distance(velocity: float, step: float, dt: float) -> float:
    """rad from the start of a period with `velocity` >= 0 to standstill: velocity dt + (velocity - step) dt + ..."""
    n = int(velocity / step)
    return dt * (velocity * (n + 1) - 0.5 * step * n * (n + 1))


def viable_velocity(room: float, step: float, dt: float) -> float:
    """The inverse: the largest velocity [rad/s] of the coming period with a stop inside `room` [rad] >= 0."""
    scaled = room / (step * dt)
    n = int(0.5 * (sqrt(1.0 + 8.0 * scaled) - 1.0))
    return step * (scaled + 0.5 * n * (n + 1)) / (n + 1)


class Driver:
    """Commands in, one joint position per control period out.

    Args:
        q: [n] rad, where the arm stands.
        velocity: [n] rad/s, limits.
        acceleration: [n] rad/s², limits.
        period: s, of control.
        timeout: s of simulated and of wall time without a command after which a stream is dead.
        tolerance: rad per joint from where the arm holds, in which a new stream is taken up.

    Attributes:
        position: [n] rad, sent to the drives.
        velocity: [n] rad/s, its speed over the last period.
        active: the position controller obeys; switched by the controller manager.
        dead: the stream broke off and nothing has come since that may be obeyed.
        refused: commands that were not obeyed because the controller is inactive, or because they are far from where a
            dead stream or an activation left the arm.
    """

    def __init__(
        self, q: Array, velocity: Sequence[float], acceleration: Sequence[float], period: float, timeout: float,
        tolerance: float,
    ) -> None:  # fmt: skip
        self.position = np.array(q, np.float64)
        self.velocity = np.zeros_like(self.position)
        self.active, self.dead = True, False
        self.refused = 0
        self.timeout, self.tolerance = timeout, tolerance
        self._limits = list(zip(velocity, acceleration, strict=True))
        self._step = SLACK * np.array(acceleration) * period
        self._fastest = SLACK * np.array(velocity)
        self._dt = period
        self._goal = self.position.copy()  # [n] rad, for the coming period, or where braking ends
        self._along = np.zeros_like(self.position)  # [n] rad/s, of the stream
        self._trajectory: JointTarget | None = None
        self._fresh = self._streaming = False
        self._near_only = False  # the next command must be close to where the arm holds
        self._broken = False  # the stream has stopped and is not yet dead
        self._last = self.position.copy()  # [n] rad, command
        self._missing = STREAM + 1  # periods since the last command
        self._heard = 0.0  # s of wall time, of the last command

    @property
    def moving(self) -> bool:
        return bool(self.velocity.any())

    def command(self, q: Array, wall: float) -> bool:
        """A position [n] rad to be at by the end of the coming period; False when it is not obeyed."""
        if not self.active:
            self.refused += 1
            return False
        if self._near_only:
            if self.moving or np.abs(q - self.position).max() > self.tolerance:
                self.refused += 1
                return False
            self._near_only, self.dead, self._missing = False, False, STREAM + 1
        gap = self._missing + (not self._fresh)
        self._streaming = gap <= STREAM and self._trajectory is None
        if self._streaming and not self._fresh:
            # No stream changes its speed faster; what looks like it came late or twice in one period.
            change = np.clip((q - self._last) / (gap * self._dt) - self._along, -gap * self._step, gap * self._step)
            self._along = self._along + change
        elif not self._streaming:
            self._along = np.zeros_like(q)
        self._trajectory, self._goal, self._last = None, q, q
        self._fresh, self._broken, self._missing, self._heard = True, False, 0, wall
        return True

    def trajectory(self, now: float, due: Sequence[float], rows: Sequence[Array]) -> None:
        """Follow rows [T][n] rad, row k at time due[k] s. Raises VlaRosError as JointTarget.set_trajectory."""
        target = self._trajectory or JointTarget(self.position)
        target.set_trajectory(now, due, rows)
        self._trajectory, self._streaming, self._broken = target, False, False
        self._near_only = self.dead = False

    def cancel(self) -> bool:
        """Ends the trajectory by braking; whether there was one."""
        if self._trajectory is None:
            return False
        self.stop()
        return True

    def stop(self) -> None:
        """Brakes from the next period on and holds where that ends."""
        self._trajectory, self._fresh, self._streaming = None, False, False
        self._along = np.zeros_like(self.position)
        self._goal = self._rest()

    def switch(self, active: bool) -> None:
        """Activates or deactivates the position controller. Both begin from where the arm comes to rest."""
        if active == self.active:
            return
        self.active, self.dead, self._broken, self._near_only = active, False, False, active
        if not active:
            self.stop()

    def advance(self, now: float, wall: float) -> Array:
        """[n] rad to be at by the end of the period that begins at `now` s."""
        if self._trajectory is not None:
            goal = self._trajectory.at(now + self._dt)
            self._along = (goal - self._trajectory.at(now)) / self._dt
            self._goal, self._fresh = goal, True
        elif not self._fresh:
            self._silence(wall)
        wanted = (self._goal - self.position) / self._dt
        if self._fresh and self._reachable(wanted):
            self.velocity, self.position = wanted, np.array(self._goal)
        else:
            self._approach()
        self._fresh = False
        return self.position

    def _silence(self, wall: float) -> None:
        self._missing += 1
        if self._streaming:  # its first missing period
            along = self._along
            self.stop()
            self._along, self._broken = along, True  # it may go on in a moment
        if self._broken and self._missing * self._dt >= self.timeout and wall - self._heard >= self.timeout:
            self.dead, self._near_only, self._broken = True, True, False

    def _reachable(self, wanted: Array) -> bool:
        return bool((np.abs(wanted - self.velocity) <= self._step).all() and (np.abs(wanted) <= self._fastest).all())

    def _rest(self) -> Array:
        """[n] rad, where braking from the next period on ends."""
        rest = self.position.copy()
        for j, (_, a) in enumerate(self._limits):
            v = brake(float(self.velocity[j]), a * self._dt)
            rest[j] += np.sign(v) * stopping_distance(abs(v), a * self._dt, self._dt)
        return rest

    def _approach(self) -> None:
        """One period towards the goal inside the limits."""
        dt = self._dt
        for j, (most, a) in enumerate(self._limits):
            v, along = float(self.velocity[j]), float(self._along[j]) if self._fresh else 0.0
            error = float(self._goal[j] - self.position[j]) - along * dt
            step = a * dt
            speed = viable_velocity(abs(error), RETURN_SHARE * step if self._fresh else step, dt)
            if self._fresh and self._streaming:
                speed = min(speed, CATCH_UP[0] * abs(along) + CATCH_UP[1])
            slower = brake(v, step)
            wanted = along + (speed if error > 0.0 else -speed)
            wanted = max(min(-most, slower), min(max(most, slower), wanted))
            v = max(v - step, min(v + step, wanted))
            self.velocity[j] = v
            self.position[j] += v * dt
