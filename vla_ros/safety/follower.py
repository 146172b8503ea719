"""The command of each joint, one control tick at a time: along the policy's path where the limits let it, and never
past them.

Every command is viable (laws.py) and its stop touches nothing (arm.py); where no such command goes along the path, one
tick of the last command's own stop is sent, which was found good before. So lower <= q <= upper, |dq/dt| <= velocity,
|d²q/dt²| <= acceleration and |d³q/dt³| <= jerk hold for every tick, from any path (differences of commands over the
control period). The reference is the last command, not the measured state, so the limits hold for what is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign, inf, sqrt

import numpy as np

from vla_ros.safety import governor, laws
from vla_ros.safety.arm import Arm, Verdict
from vla_ros.safety.barrier import FAILED, Barrier
from vla_ros.safety.distances import POSES
from vla_ros.safety.limits import Limits
from vla_ros.safety.path import ChunkPath
from vla_ros.types import Array, Obstacle

PATH_GAIN = 0.3  # per tick, of the path speed towards its target
WAIT_FROM, WAIT_OVER = 0.004, 0.02  # rad off the path: from where on the path waits for the arm, and over what range
# Of the acceleration limit that the start of a path may ask for; its first row comes later otherwise. 1 costs 5 to 40 % of
# time where the limits are tight, without a limit the tip is twice as far off its path there.
TAKEOVER = 2.5
AHEAD = 3.5  # ticks that the acceleration of an evasion is taken to last: with 0.5, the end of this one, it rings
SLOWEST = 0.05  # path speed that a moving arm takes over with at least
BACK_OFF = 0.8  # the path speed's ceiling after a refusal, as a share of it; comes back within RECOVERY
RECOVERY = 0.3  # s


class Follower:
    """State of the command, and the laws that move it.

    Attributes:
        states: [3, n] rad, rad/s, rad/s² of the last command; n is 0 before the first.
        evading: what the barrier of moving obstacles changed in the last tick.
        refused: what the last tick's motion would have broken, '' if nothing.
        off_path: rad, largest distance of a joint from the path.
        verdict: on the last command that was accepted; a stop from it keeps what it says.
    """

    def __init__(self, limits: Limits, dt: float, arm: Arm | None) -> None:
        self._names = limits.joints
        self._limit_names = governor.names(limits.joints)
        self._dt = dt
        self._arm = arm
        self.states: Array = np.empty((3, 0))
        self.off_path = 0.0
        self.verdict = Verdict("", inf, "", 0.0, 0.0)
        self.refused = ""
        self._path: ChunkPath | None = None
        self.time = 0.0  # s of path time
        self.speed = 0.0
        self._change = 0.0  # 1/s, of the path speed
        self._ceiling = 1.0
        self.evading: list[str] = []
        self._barrier: Barrier | None = None
        if arm is not None and limits.barrier is not None:
            self._barrier = Barrier(arm.model, arm.distances.links, limits)
        self._velocity, self._acceleration, self._jerk = map(laws.guarded, (limits.velocity, limits.acceleration, limits.jerk))
        self._torque = np.array(limits.torque)
        self._low, self._high = np.array(limits.lower) + laws.GUARD, np.array(limits.upper) - laws.GUARD

    def seed(self, position: Array) -> None:
        """Starts at rest at `position` [n] rad."""
        self.states = np.zeros((3, len(position)))
        self.states[0] = position
        # an arm that starts outside may not go further out
        low, high = np.minimum(self._low, position), np.maximum(self._high, position)
        self._joints = laws.joints(low, high, self._velocity, self._acceleration, self._jerk, self._dt)
        if self._arm is not None:
            self.verdict = self._arm.settle(self.position)

    def set_world(self, obstacles: Sequence[Obstacle], now: float) -> None:
        """Replaces the obstacles that move, as seen at `now` [s]."""
        if self._arm is not None:
            self._arm.set_world(obstacles)
            if self.seeded and not self.moving:
                self.verdict = self._arm.settle(self.position, anew=False)
        if self._barrier is not None:
            self._barrier.set_world(obstacles, now)

    @property
    def seeded(self) -> bool:
        return self.states.size > 0

    @property
    def position(self) -> Array:
        """[n] rad, the last command."""
        return self.states[0]

    @property
    def velocity(self) -> Array:
        """[n] rad/s."""
        return self.states[1]

    @property
    def moving(self) -> bool:
        return bool(self.states[1:].any())

    def stopping_time(self) -> float:
        """Time [s] that the fastest stop takes from here."""
        return laws.stops(self.states, self._acceleration, self._jerk)[1]

    def take(self, times: Array, rows: Array, settle: float, cap: float = 1.0) -> ChunkPath:
        """Follows the path from the command through `rows` [K, n] rad, due at times[1:] s; times[0] is now.

        It begins at the policy's own pace, or, where `cap` or a refusal of late holds the arm back, at the present one.
        """
        cap = min(cap, self._ceiling)
        speed = 1.0 if cap >= 1.0 else max(cap, min(self.speed, 1.0), SLOWEST if self.moving else 0.0)
        velocity = self.velocity / (speed or 1.0)
        self._path = path = ChunkPath(times, np.vstack((self.position, rows)), velocity, settle, TAKEOVER * self._acceleration)
        self._profile = governor.plan(path, self._velocity, self._acceleration, self._torque, self._arm)
        self.time, self.speed, self._change = path.start, speed, 0.0
        return path

    def stop(self) -> None:
        """One tick of the fastest stop, all joints on their own."""
        if self.moving:
            self.states = laws.stopped(self.states, self._joints, self._dt)
            if self._arm is not None:
                if self.moving:
                    self._arm.move(self.position, self.velocity)
                    self.verdict = self.verdict._replace(tip_speed=self._arm.tip_speed())
                else:
                    self.verdict = self._arm.settle(self.position, anew=False)
        self.speed = self._change = 0.0

    def follow(self, cap: float) -> list[str]:
        """One tick along the path, not faster than `cap` (0: braking on the path).

        Returns:
            the constraints "kind:name" that changed the command.
        """
        assert self._path is not None
        dt = self._dt
        self.refused, self.evading = "", []
        if cap <= 0.0 and self.off_path > WAIT_FROM:  # braking does not chase a path
            self.stop()
            return ["off_path"]
        self._ceiling = min(1.0, self._ceiling + dt / RECOVERY)
        here = self._path.at(self.time)
        cap = min(cap, self._ceiling)
        speed, change, active = self._advance(here, cap)
        states, limited = self._candidate(here, speed, change)
        if self._arm is not None:
            self._arm.distances.left = POSES
        if self._barrier is not None and cap > 0.0:  # a stop that was ordered is not evaded out of
            evasion, names = self._evade(self._barrier, states)
            if evasion is not states and self._accept(evasion):
                self.evading = names
                self._ran(speed, change)
                return list(dict.fromkeys(active + limited + names))
            limited += [name for name in names if name == FAILED]
            self.refused = ""
        if self._accept(states):
            self._ran(speed, change)
            return list(dict.fromkeys(active + limited))
        refused = self.refused
        self._ceiling = BACK_OFF * self.speed
        speed, change, _ = self._advance(here, 0.0)
        states, _ = self._candidate(here, speed, change)
        if self._accept(states):
            self._ran(speed, change)
        else:
            self.stop()
        return [*active, refused]

    def _ran(self, speed: float, change: float) -> None:
        self.time += 0.5 * (self.speed + speed) * self._dt
        self.speed, self._change = speed, change

    def _advance(self, here: Array, cap: float) -> tuple[float, float, list[str]]:
        """Path speed at the end of the tick, its change [1/s], and what holds it below the policy's own."""
        dt, speed = self._dt, self.speed
        least, most, jerk = laws.path_bounds(here, self._joints, speed * speed)
        allowed, tip, why = self._profile.at(self.time + speed * dt)
        # what the path speed needs to follow a falling profile without trailing it
        ahead, _, then = self._profile.at(self.time + speed * dt / PATH_GAIN)
        if ahead < allowed:
            allowed, why = ahead, then
        active = [self._limit_names[why]] if allowed < min(1.0, cap) - 1e-3 else []
        if self._arm is not None and tip * allowed > governor.TIP * self._arm.tip_limit:
            allowed, active = governor.TIP * self._arm.tip_limit / tip, ["tip_speed"]
        if self.off_path > WAIT_FROM:
            allowed *= max(0.0, 1.0 - (self.off_path - WAIT_FROM) / WAIT_OVER)
            active = ["off_path"]
        wanted = min(allowed, cap) - speed
        if wanted == 0.0 and self._change == 0.0:
            return speed, 0.0, active
        rate = 0.5 * jerk
        change = copysign(min(PATH_GAIN * abs(wanted) / dt, sqrt(2.0 * rate * abs(wanted))), wanted)
        change = max(least, min(most, change)) if least < most else 0.5 * (least + most)
        change = max(self._change - jerk * dt, min(self._change + jerk * dt, change))
        end = speed + change * dt
        if end <= 0.0 or (cap == 0.0 and end < 1e-3):
            return 0.0, 0.0, active
        return (1.0, 0.0, active) if end >= 1.0 else (end, change, active)

    def _candidate(self, here: Array, speed: float, change: float) -> tuple[Array, list[str]]:
        """The next states [3, n] towards the path, viable, and the constraints that changed them."""
        assert self._path is not None
        middle = self._path.at(self.time + 0.5 * (self.speed + speed) * self._dt)
        ends = speed == self.speed == 0.0 or self.time >= self._path.end
        states, kinds, self.off_path = laws.candidate(
            self.states, self._joints, here, middle, self.speed, speed, change, ends, self._dt
        )
        return states, [f"{laws.KINDS[kind]}:{name}" for kind, name in zip(kinds.tolist(), self._names, strict=True) if kind]

    def _evade(self, barrier: Barrier, states: Array) -> tuple[Array, list[str]]:
        """The states as moving obstacles let them be (barrier.py), every joint viable still; the same array if they do."""
        ahead = AHEAD * self._dt
        wanted, low, high = laws.evasion_room(self.states, states, self._joints, ahead, self._dt)
        velocity, names = barrier.adjust(self.position, wanted, low, high)
        if velocity is not wanted:
            states = laws.evaded(self.states, states, self._joints, wanted, velocity, ahead, self._dt)
        return states, list(names)

    def _accept(self, states: Array) -> bool:
        """Takes the states if the stop from them keeps every limit of the arm as a whole."""
        if self._arm is not None:
            verdict = self._arm.check(states, self.verdict.tip_speed)
            if verdict.refused:
                self.refused = verdict.refused
                return False
            self.verdict = verdict
        self.states = states
        return True
