"""The command of each joint, one control tick at a time: along the policy's path where the limits let it, and never
past them.

For every tick, from any path: lower <= q <= upper, |dq/dt| <= velocity, |d²q/dt²| <= acceleration (differences of
commands over the control period). The reference is the last command, not the measured state, so the limits hold for
what is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from vla_ros.safety.braking import brake, stopping_distance, stopping_time, viable_velocity
from vla_ros.safety.limits import Limits
from vla_ros.safety.workspace import Workspace

GUARD = 1e-9  # rad kept to the position limits, so that rounding cannot cross them
RETURN_SHARE = 0.5  # of the acceleration for coming back to the path; the rest is the path's own


class Follower:
    """Position and velocity of the command, and the laws that move them.

    Attributes:
        position: [n] rad, the last command.
        velocity: [n] rad/s, its speed over the last tick.
    """

    def __init__(self, limits: Limits, dt: float, workspace: Workspace | None) -> None:
        self._names = limits.joints
        self._dt = dt
        self._workspace = workspace
        self._outside = 0.0
        self.position: list[float] = []
        self.velocity: list[float] = []
        self._joints = [
            # lower, upper, v, a, a dt, room beyond which the position limit cannot matter, a of the return, a dt² of it
            (
                low + GUARD, high - GUARD, v, a, a * dt, stopping_distance(v, a, dt) + v * dt,
                RETURN_SHARE * a, RETURN_SHARE * a * dt * dt,
            )
            for low, high, v, a in zip(limits.lower, limits.upper, limits.velocity, limits.acceleration, strict=True)
        ]  # fmt: skip

    def seed(self, position: Sequence[float]) -> None:
        """Starts at rest at `position` [n] rad."""
        self.position = list(position)
        self.velocity = [0.0] * len(self.position)
        if self._workspace is not None:
            self._outside = self._workspace.outside(self.position)[0]

    @property
    def moving(self) -> bool:
        return any(self.velocity)

    def stopping_time(self) -> float:
        """Time [s] that braking takes from here."""
        return max(stopping_time(v, c[3], self._dt) for v, c in zip(self.velocity, self._joints, strict=True))

    def brake(self) -> None:
        """One tick of braking every joint as hard as its acceleration limit allows."""
        dt = self._dt
        for j, constants in enumerate(self._joints):
            v = self.velocity[j] = brake(self.velocity[j], constants[3], dt)
            self.position[j] += v * dt

    def follow(self, here: Sequence[float], there: Sequence[float]) -> tuple[float, list[str]]:
        """One tick from the path's point `here` towards `there`, one period further on [n] rad.

        The path speed is the largest in [0, 1] that keeps every joint inside its limits, so that all joints slow down
        together and the path keeps its shape; a joint that cannot even then is limited on its own and returns to the
        path.

        Returns:
            path speed, and the constraints "kind:joint" that changed the command.
        """
        dt = self._dt
        speed, slowest, kind = 1.0, -1, ""
        wanted = []
        for j, (low, high, v_max, _, a_dt, far, a_back, a_back_dt2) in enumerate(self._joints):
            q, v = self.position[j], self.velocity[j]
            error = here[j] - q
            if -a_back_dt2 <= error <= a_back_dt2:
                back = error / dt
            elif error > 0.0:
                back = viable_velocity(error, a_back, dt)
            else:
                back = -viable_velocity(-error, a_back, dt)
            most, most_kind = v + a_dt, "acceleration"
            if most > v_max:
                most, most_kind = v_max, "velocity"
            if high - q < far and (bound := viable_velocity(high - q, self._joints[j][3], dt)) < most:
                most, most_kind = bound, "position"
            least, least_kind = v - a_dt, "acceleration"
            if least < -v_max:
                least, least_kind = -v_max, "velocity"
            if q - low < far and (bound := -viable_velocity(q - low, self._joints[j][3], dt)) > least:
                least, least_kind = bound, "position"
            ahead = (there[j] - here[j]) / dt
            if back + speed * ahead > most and ahead > 0.0:
                speed, slowest, kind = max(0.0, (most - back) / ahead), j, most_kind
            elif back + speed * ahead < least and ahead < 0.0:
                speed, slowest, kind = max(0.0, (least - back) / ahead), j, least_kind
            wanted.append((back, ahead, least, most, least_kind, most_kind))
        active = [f"{kind}:{self._names[slowest]}"] if slowest >= 0 else []
        return self._move(wanted, speed, active)

    def _move(
        self, wanted: list[tuple[float, float, float, float, str, str]], speed: float, active: list[str]
    ) -> tuple[float, list[str]]:
        dt = self._dt
        velocity = []
        for j, (back, ahead, least, most, least_kind, most_kind) in enumerate(wanted):
            v = back + speed * ahead
            if v > most + 1e-9:
                active.append(f"{most_kind}:{self._names[j]}")
            elif v < least - 1e-9:
                active.append(f"{least_kind}:{self._names[j]}")
            if least > most:  # by an ulp, from rounding: braking meets every limit
                velocity.append(brake(self.velocity[j], self._joints[j][3], dt))
            else:
                velocity.append(max(least, min(most, v)))
        if self._workspace is not None and (where := self._leaves_workspace(velocity)):
            self.brake()
            return 0.0, [*active, f"workspace:{where}"]
        self.velocity = velocity
        self.position = [q + v * dt for q, v in zip(self.position, velocity, strict=True)]
        return speed, list(dict.fromkeys(active))

    def _leaves_workspace(self, velocity: Sequence[float]) -> str:
        """Frame that would come to rest outside its box, further out than now; '' if none."""
        assert self._workspace is not None
        dt = self._dt
        rest = [
            q + (stopping_distance(v, c[3], dt) if v >= 0.0 else -stopping_distance(-v, c[3], dt))
            for q, v, c in zip(self.position, velocity, self._joints, strict=True)
        ]
        depth, where = self._workspace.outside(rest)
        if depth > max(self._outside, 0.0) + 1e-12:
            return where
        self._outside = depth
        return ""
