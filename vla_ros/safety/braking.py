"""The jerk-limited stop of one joint: the invariant that keeps position, velocity, acceleration and jerk limits together.

A state (q, v, a) is viable when the fastest stop from it (the acceleration goes at full jerk to a peak, is held, and
goes back to zero together with the velocity) stays inside all limits. A command that leads to a viable state can always
be followed by the stop from there, which is viable all along: so all limits hold at once, whatever comes in.

Time is continuous here and commands are samples of it. A third difference of samples is a weighted mean of the jerk
between them, likewise the second of the acceleration and the first of the velocity, so the limits hold for what a
controller sees, too.
"""

from __future__ import annotations

from math import sqrt

GUARD = 1e-6  # share of acceleration and jerk (and velocity) that stops and motions leave to rounding

State = tuple[float, float, float]  # rad, rad/s, rad/s²
Stop = tuple[float, float, float, float]  # jerk of the first phase [rad/s³] (0, then its opposite, follow), times [s]


def stop(velocity: float, acceleration: float, most: float, jerk: float) -> Stop:
    """The fastest stop from `velocity` [rad/s] and `acceleration` [rad/s²] with |a| <= most and |da/dt| <= jerk."""
    v, a, first = velocity, acceleration, -jerk
    if v + 0.5 * a * abs(a) / jerk < 0.0:  # the velocity that taking the acceleration back would leave
        v, a, first = -v, -a, jerk
    peak = sqrt(max(jerk * v + 0.5 * a * a, 0.0))
    if peak <= most:
        return first, max((a + peak) / jerk, 0.0), 0.0, peak / jerk
    return first, (a + most) / jerk, (v + (0.5 * a * a - most * most) / jerk) / most, most / jerk


def move(state: State, jerk: float, time: float) -> State:
    """The state after `time` [s] with constant `jerk` [rad/s³]."""
    q, v, a = state
    change = jerk * time
    return q + time * (v + time * (a / 2.0 + change / 6.0)), v + time * (a + change / 2.0), a + change


def along(state: State, plan: Stop, time: float) -> State:
    """The state `time` [s] into the stop; exactly at rest from its end on."""
    jerk, *times = plan
    for phase, length in zip((jerk, 0.0, -jerk), times, strict=True):
        if time < length:
            return move(state, phase, time)
        state = move(state, phase, length)
        time -= length
    return state[0], 0.0, 0.0


def stretch(velocity: float, acceleration: float, plan: Stop) -> tuple[float, float]:
    """How far the stop goes below and above its start [rad]: (<= 0, >= 0)."""
    jerk, t1, t2, t3 = plan
    a1 = acceleration + jerk * t1
    v1 = velocity + t1 * (acceleration + 0.5 * jerk * t1)
    v2 = v1 + a1 * t2
    end = (
        t1 * (velocity + t1 * (acceleration / 2.0 + jerk * t1 / 6.0))
        + t2 * (v1 + 0.5 * a1 * t2)
        + t3 * (v2 + t3 * (a1 / 2.0 - jerk * t3 / 6.0))
    )
    if velocity * jerk > 0.0:  # it first goes the other way, until the acceleration has turned it
        turn = (abs(acceleration) - sqrt(max(acceleration * acceleration - 2.0 * jerk * velocity, 0.0))) / abs(jerk)
        back = turn * (velocity + turn * (acceleration / 2.0 + jerk * turn / 6.0))
        return min(back, end, 0.0), max(back, end, 0.0)
    return min(end, 0.0), max(end, 0.0)


def duration(plan: Stop) -> float:
    """Time [s] to standstill."""
    return plan[1] + plan[2] + plan[3]
