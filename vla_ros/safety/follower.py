"""The command of each joint, one control tick at a time: along the policy's path where the limits let it, and never
past them.

Every command is viable (braking.py) and its stop touches nothing (arm.py); where no such command goes along the path,
one tick of the last command's own stop is sent, which was found good before. So lower <= q <= upper, |dq/dt| <=
velocity, |d²q/dt²| <= acceleration and |d³q/dt³| <= jerk hold for every tick, from any path (differences of commands
over the control period). The reference is the last command, not the measured state, so the limits hold for what is sent.
"""

# ruff: noqa: PLR1730 (a call of min or max costs as much as the rest of its line, 14 joints and 200 times a second)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import copysign, inf, sqrt
from typing import NamedTuple

import numpy as np

from vla_ros.safety import governor
from vla_ros.safety.arm import Arm, Verdict
from vla_ros.safety.barrier import FAILED, Barrier
from vla_ros.safety.braking import GUARD, State, along, duration, stop, stretch
from vla_ros.safety.distances import POSES
from vla_ros.safety.limits import Limits
from vla_ros.safety.path import ChunkPath
from vla_ros.types import Array, Obstacle

RETURN_SHARE = 0.4  # of acceleration and jerk for coming back to the path; the rest is the path's own
POSITION_GAIN, VELOCITY_GAIN = 0.18, 0.46  # per tick; the fastest return: its three poles are at 0.61
PATH_GAIN = 0.3  # per tick, of the path speed towards its target
PATH_SHARE = 0.95  # of acceleration and jerk that the path speed's own change may use
WAIT_FROM, WAIT_OVER = 0.004, 0.02  # rad off the path: from where on the path waits for the arm, and over what range
# Of the acceleration limit that the start of a path may ask for; its first row comes later otherwise. 1 costs 5 to 40 % of
# time where the limits are tight, without a limit the tip is twice as far off its path there.
TAKEOVER = 2.5
AHEAD = 3.5  # ticks that the acceleration of an evasion is taken to last: with 0.5, the end of this one, it rings
SLOWEST = 0.05  # path speed that a moving arm takes over with at least
REST = (1e-7, 1e-5, 1e-2)  # rad off the path's end, rad/s, rad/s²: less is standstill
NOTICE = 1e-6  # rad in a tick; less is no limit worth reporting
HALVINGS = 8  # of the way between a command that is too much and one tick of the stop
BACK_OFF = 0.8  # the path speed's ceiling after a refusal, as a share of it; comes back within RECOVERY
RECOVERY = 0.3  # s


class _Joint(NamedTuple):
    """Limits of a joint, GUARD inside, and constants of its laws."""

    low: float
    high: float
    v: float
    a: float
    jerk: float
    near: float  # rad/s, under which the velocity limit cannot matter in this tick
    # A stop from v covers less than w (slope w + ramp), w = v + reserve: further from a limit its position cannot matter.
    reserve: float
    slope: float
    ramp: float
    # Return to the path: velocity sqrt(lag² + back e) - lag at e rad off it, under `straight` rad in proportion; likewise
    # acceleration sqrt(ease g) at g rad/s from the velocity wanted, under `steady` in proportion.
    back: float
    lag: float
    straight: float
    ease: float
    steady: float


class Follower:
    """State of the command, and the laws that move it.

    Attributes:
        states: per joint (q rad, v rad/s, a rad/s²) of the last command.
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
        self.states: list[State] = []
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
        self._velocity = np.array(limits.velocity) * (1.0 - GUARD)
        self._acceleration = np.array(limits.acceleration) * (1.0 - GUARD)
        self._jerk = np.array(limits.jerk) * (1.0 - GUARD)
        self._torque = np.array(limits.torque)
        self._bounds = list(zip(limits.lower, limits.upper, strict=True))
        self._joints: list[_Joint] = []

    def _constants(self, position: Sequence[float]) -> list[_Joint]:
        """What the laws need of each joint, computed once, for an arm that starts at `position` [n] rad."""
        dt = self._dt
        gain, damping = POSITION_GAIN / dt, VELOCITY_GAIN / dt
        rows = []
        for q, (low, high), v, a, jerk in zip(
            position, self._bounds, self._velocity.tolist(), self._acceleration.tolist(), self._jerk.tolist(), strict=True
        ):
            back, back_jerk = RETURN_SHARE * a, RETURN_SHARE * jerk
            lag = RETURN_SHARE * a * a / (2.0 * jerk)
            rows.append(
                _Joint(
                    # an arm that starts outside may not go further out
                    low=min(low + GUARD, q), high=max(high - GUARD, q), v=v, a=a, jerk=jerk,
                    near=v - 3.0 * a * dt - a * a / (2.0 * jerk),
                    reserve=a * dt + a * a / (2.0 * jerk), slope=0.5 / a, ramp=2.5 * a / jerk + 2.0 * dt,
                    back=2.0 * back, lag=lag, straight=max(0.0, 2.0 * (back - gain * lag) / gain**2),
                    ease=2.0 * back_jerk, steady=2.0 * back_jerk / damping**2,
                )
            )  # fmt: skip
        return rows

    def seed(self, position: Sequence[float]) -> None:
        """Starts at rest at `position` [n] rad."""
        self.states = [(q, 0.0, 0.0) for q in position]
        self._joints = self._constants(position)
        if self._arm is not None:
            self.verdict = self._arm.settle(position)

    def set_world(self, obstacles: Sequence[Obstacle], now: float) -> None:
        """Replaces the obstacles that move, as seen at `now` [s]."""
        if self._barrier is not None:
            self._barrier.set_world(obstacles, now)
        if self._arm is not None:
            self._arm.set_world(obstacles)
            if self.states and not self.moving:
                self.verdict = self._arm.settle(self.position, anew=False)

    @property
    def position(self) -> list[float]:
        """[n] rad, the last command."""
        return [q for q, _, _ in self.states]

    @property
    def velocity(self) -> list[float]:
        """[n] rad/s."""
        return [v for _, v, _ in self.states]

    @property
    def moving(self) -> bool:
        return any(v or a for _, v, a in self.states)

    def stopping_time(self) -> float:
        """Time [s] that the fastest stop takes from here."""
        return max(duration(stop(v, a, c.a, c.jerk)) for (_, v, a), c in zip(self.states, self._joints, strict=True))

    def take(self, times: Array, rows: Array, settle: float, cap: float = 1.0) -> ChunkPath:
        """Follows the path from the command through `rows` [K, n] rad, due at times[1:] s; times[0] is now.

        It begins at the policy's own pace, or, where `cap` or a refusal of late holds the arm back, at the present one.
        """
        cap = min(cap, self._ceiling)
        speed = 1.0 if cap >= 1.0 else max(cap, min(self.speed, 1.0), SLOWEST if self.moving else 0.0)
        velocity = np.array(self.velocity) / (speed or 1.0)
        self._path = path = ChunkPath(times, np.vstack((self.position, rows)), velocity, settle, TAKEOVER * self._acceleration)
        self._profile = governor.plan(path, self._velocity, self._acceleration, self._torque, self._arm)
        self.time, self.speed, self._change = path.start, speed, 0.0
        return path

    def stop(self) -> None:
        """One tick of the fastest stop, all joints on their own."""
        if self.moving:
            self.states = [self._stopped(state, joint) for state, joint in zip(self.states, self._joints, strict=True)]
            if self._arm is not None:
                if self.moving:
                    speed = self._arm.tip_speed(self.position, self.velocity)
                    self.verdict = replace(self.verdict, tip_speed=speed)
                else:
                    self.verdict = self._arm.settle(self.position, anew=False)
        self.speed = self._change = 0.0

    def _stopped(self, state: State, joint: _Joint) -> State:
        """One tick of a joint's fastest stop."""
        _, v, a = state
        return along(state, stop(v, a, joint.a, joint.jerk), self._dt) if v or a else state

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

    def _advance(self, here: tuple[list[float], list[float], list[float]], cap: float) -> tuple[float, float, list[str]]:
        """Path speed at the end of the tick, its change [1/s], and what holds it below the policy's own."""
        dt, speed = self._dt, self.speed
        least, most, jerk = -inf, inf, inf
        x = speed * speed
        for dq, ddq, (_, _, _, a_max, j_max, *_) in zip(here[1], here[2], self._joints, strict=True):
            if -1e-6 < dq < 1e-6:
                continue
            size = dq if dq > 0.0 else -dq
            room, used = PATH_SHARE * a_max / size, ddq * x / dq
            if -room - used > least:
                least = -room - used
            if room - used < most:
                most = room - used
            if PATH_SHARE * j_max < jerk * size:
                jerk = PATH_SHARE * j_max / size
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

    def _candidate(
        self, here: tuple[list[float], list[float], list[float]], speed: float, change: float
    ) -> tuple[list[State], list[str]]:
        """The next states [n] towards the path, viable, and the constraints that changed them."""
        assert self._path is not None
        dt, now = self._dt, self.speed
        slopes, bends = self._path.slopes(self.time + 0.5 * (now + speed) * dt)
        states, active, worst = [], [], 0.0
        x = speed * speed
        notice = NOTICE / (dt * dt)
        resting = speed == now == 0.0 or self.time >= self._path.end
        gain, damping = POSITION_GAIN / dt, VELOCITY_GAIN / dt
        for j, (state, joint, p, dp, dp1, ddp1) in enumerate(
            zip(self.states, self._joints, here[0], here[1], slopes, bends, strict=True)
        ):
            q, v, a = state
            low, high, v_max, a_max, j_max, near, reserve, slope, ramp, back, lag, straight, ease, steady = joint
            error = p - q
            size = error if error > 0.0 else -error
            if size > worst:
                worst = size
            if (
                resting
                and size < REST[0]
                and abs(v) < min(REST[1], 0.2 * j_max * dt * dt)
                and abs(a) < min(REST[2], 0.4 * j_max * dt)
            ):
                states.append((q, 0.0, 0.0))
                continue
            if size <= straight:
                gap = dp * now - v + gain * error
            else:
                gap = dp * now - v + copysign(sqrt(lag * lag + back * size) - lag, error)
            wanted = ddp1 * x + dp1 * change
            if -steady <= gap <= steady:
                wanted += damping * gap
            else:
                wanted += copysign(sqrt(ease * abs(gap)), gap)
            least, most, kind = a - j_max * dt, a + j_max * dt, "jerk"
            if wanted > a_max or wanted < -a_max:
                kind = "acceleration"
            if least < -a_max:
                least = -a_max
            if most > a_max:
                most = a_max
            end = most if wanted > most else least if wanted < least else wanted
            if v > near and end > (bound := _ceiling(v, a, v_max, j_max, dt)):
                end, kind = bound, "velocity"
            if -v > near and end < (bound := -_ceiling(-v, -a, v_max, j_max, dt)):
                end, kind = bound, "velocity"
            if end < least - 1e-9 * a_max or end > most + 1e-9 * a_max:
                new = self._stopped(state, joint)
            else:
                new = (q + dt * (v + dt * (2.0 * a + end) / 6.0), v + 0.5 * (a + end) * dt, end)
                w = (v if v > 0.0 else -v) + reserve
                far = w * (slope * w + ramp)
                if (high - q < far or q - low < far) and (inside := self._inside(state, new, joint)) is not new:
                    new, kind = inside, "position"
            if not -notice < wanted - new[2] < notice:
                active.append(f"{kind}:{self._names[j]}")
            states.append(new)
        self.off_path = worst
        return states, active

    def _evade(self, barrier: Barrier, states: list[State]) -> tuple[list[State], list[str]]:
        """The states as moving obstacles let them be (barrier.py), every joint viable still; the same list if they do."""
        dt, ahead, rows = self._dt, AHEAD * self._dt, []
        for (_, v, a), (_, _, end), c in zip(self.states, states, self._joints, strict=True):
            least = max(-c.a, a - c.jerk * dt, -_ceiling(-v, -a, c.v, c.jerk, dt))
            most = min(c.a, a + c.jerk * dt, _ceiling(v, a, c.v, c.jerk, dt))
            if least > most:
                least = most = end
            start = v + 0.5 * a * dt
            rows.append((start + ahead * end, start + ahead * min(least, end), start + ahead * max(most, end)))
        wanted, low, high = np.array(rows).T
        velocity, names = barrier.adjust(np.array(self.position), wanted, low, high)
        if velocity is wanted:
            return states, list(names)
        result = []
        for state, new, c, w, u in zip(self.states, states, self._joints, wanted.tolist(), velocity.tolist(), strict=True):
            if u == w:
                result.append(new)
                continue
            q, v, a = state
            end = (u - v - 0.5 * a * dt) / ahead
            moved = (q + dt * (v + dt * (2.0 * a + end) / 6.0), v + 0.5 * (a + end) * dt, end)
            result.append(self._inside(state, moved, c))
        return result, list(names)

    def _inside(self, state: State, new: State, joint: _Joint) -> State:
        """`new`, or the last point on the way to it from one tick of the stop whose own stop stays inside.

        Both are ends of one tick with jerk inside its limit, so all points between them are.
        """
        low, high, a, jerk = joint.low, joint.high, joint.a, joint.jerk
        if _stays(new, a, jerk, low, high):
            return new
        good = self._stopped(state, joint)
        share, width = 0.0, 1.0
        for _ in range(HALVINGS):
            width *= 0.5
            q, v, acceleration = (g + (share + width) * (n - g) for g, n in zip(good, new, strict=True))
            if _stays((q, v, acceleration), a, jerk, low, high):
                share += width
        if share == 0.0:
            return good
        q, v, acceleration = (g + share * (n - g) for g, n in zip(good, new, strict=True))
        return q, v, acceleration

    def _accept(self, states: list[State]) -> bool:
        """Takes the states if the stop from them keeps every limit of the arm as a whole."""
        if self._arm is not None:
            verdict = self._arm.check(states, self.verdict.tip_speed)
            if verdict.refused:
                self.refused = verdict.refused
                return False
            self.verdict = verdict
        self.states = states
        return True


def _ceiling(v: float, a: float, v_max: float, jerk: float, dt: float) -> float:
    """Largest acceleration [rad/s²] at the end of a tick after which the velocity stays below `v_max`.

    It leaves what taking that acceleration back costs, at full jerk and at the earliest by the end of the next tick: with
    less, the next tick would have to swing to the other side.
    """
    room = v_max - v - 0.5 * a * dt
    if room >= 0.0:
        return min(room / dt, jerk * (sqrt(0.25 * dt * dt + 2.0 * room / jerk) - 0.5 * dt))
    end = 2.0 * (v_max - v) / dt - a
    if v < v_max:  # nor may it pass inside the tick
        end = min(end, a - 0.5 * a * a * dt / (v_max - v))
    return end


def _stays(state: State, a_max: float, jerk: float, low: float, high: float) -> bool:
    q, v, a = state
    below, above = stretch(v, a, stop(v, a, a_max, jerk))
    return q + below >= low and q + above <= high
