"""The laws of single joints: the jerk-limited stop that keeps all their limits together, and the motion towards a path.

A state (q, v, a) is viable when the fastest stop from it (the acceleration goes at full jerk to a peak, is held, and
goes back to zero together with the velocity) stays inside all limits. A command that leads to a viable state can always
be followed by the stop from there, which is viable all along: so all limits hold at once, whatever comes in.

Time is continuous here and commands are samples of it. A third difference of samples is a weighted mean of the jerk
between them, likewise the second of the acceleration and the first of the velocity, so the limits hold for what a
controller sees, too.

States of n joints are arrays [3, n]: rad, rad/s, rad/s².
"""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign, inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import boolean, float64, from_dtype, int64
from numba.types import Tuple, UniTuple
from numpy.typing import NDArray

from vla_ros.safety.compiled import compiled
from vla_ros.types import Array

if TYPE_CHECKING:
    State = tuple[float, float, float]  # rad, rad/s, rad/s²
    Stop = tuple[float, float, float, float]  # jerk of the first phase [rad/s³] (0, then its opposite, follow), times [s]

GUARD = 1e-6  # share of acceleration and jerk (and velocity) that stops and motions leave to rounding
RETURN_SHARE = 0.4  # of acceleration and jerk for coming back to the path; the rest is the path's own
POSITION_GAIN, VELOCITY_GAIN = 0.18, 0.46  # per tick; the fastest return: its three poles are at 0.61
PATH_SHARE = 0.95  # of acceleration and jerk that the path speed's own change may use
REST = (1e-7, 1e-5, 1e-2)  # rad off the path's end, rad/s, rad/s²: less is standstill
NOTICE = 1e-6  # rad in a tick; less is no limit worth reporting
HALVINGS = 8  # of the way between a command that is too much and one tick of the stop
OVERSHOOT = 4.0 / 3.0  # largest travel past a turn and back, in v² / |a|
KINDS = ("", "jerk", "acceleration", "velocity", "position")  # of constraints, as candidate() counts them
JERK, ACCELERATION, VELOCITY, POSITION = 1, 2, 3, 4

# Limits of a joint, GUARD inside, and constants of its laws.
JOINT = np.dtype(
    [
        ("low", "f8"),
        ("high", "f8"),
        ("v", "f8"),
        ("a", "f8"),
        ("jerk", "f8"),
        ("near", "f8"),  # rad/s, under which the velocity limit cannot matter in this tick
        # A stop from v covers less than w (slope w + ramp), w = v + reserve: further from a limit its position cannot
        # matter.
        ("reserve", "f8"),
        ("slope", "f8"),
        ("ramp", "f8"),
        # Return to the path: velocity sqrt(lag² + back e) - lag at e rad off it, under `straight` rad in proportion;
        # likewise acceleration sqrt(ease g) at g rad/s from the velocity wanted, under `steady` in proportion.
        ("back", "f8"),
        ("lag", "f8"),
        ("straight", "f8"),
        ("ease", "f8"),
        ("steady", "f8"),
    ],
    align=True,
)

_f8, _row, _rows, _joints = float64, float64[::1], float64[:, ::1], from_dtype(JOINT)[::1]
_state, _stop = UniTuple(float64, 3), UniTuple(float64, 4)


def guarded(limit: Sequence[float]) -> Array:
    """A limit [n], GUARD inside."""
    return np.array(limit) * (1.0 - GUARD)


def joints(low: Array, high: Array, v: Array, a: Array, jerk: Array, dt: float) -> Any:
    """[n] JOINT of guarded limits [n] rad.., for control periods of `dt` s."""
    gain, damping = POSITION_GAIN / dt, VELOCITY_GAIN / dt
    back, back_jerk = RETURN_SHARE * a, RETURN_SHARE * jerk
    rows = np.empty(len(low), JOINT)
    rows["low"], rows["high"], rows["v"], rows["a"], rows["jerk"] = low, high, v, a, jerk
    rows["near"] = v - 3.0 * a * dt - a * a / (2.0 * jerk)
    rows["reserve"], rows["slope"], rows["ramp"] = a * dt + a * a / (2.0 * jerk), 0.5 / a, 2.5 * a / jerk + 2.0 * dt
    rows["back"], rows["lag"] = 2.0 * back, RETURN_SHARE * a * a / (2.0 * jerk)
    rows["straight"] = np.maximum(0.0, 2.0 * (back - gain * rows["lag"]) / gain**2)
    rows["ease"], rows["steady"] = 2.0 * back_jerk, 2.0 * back_jerk / damping**2
    return rows


@compiled(_stop(_f8, _f8, _f8, _f8))
def stop(velocity: float, acceleration: float, most: float, jerk: float) -> Stop:
    """The fastest stop from `velocity` [rad/s] and `acceleration` [rad/s²] with |a| <= most and |da/dt| <= jerk."""
    v, a, first = velocity, acceleration, -jerk
    if v + 0.5 * a * abs(a) / jerk < 0.0:  # the velocity that taking the acceleration back would leave
        v, a, first = -v, -a, jerk
    peak = sqrt(max(jerk * v + 0.5 * a * a, 0.0))
    if peak <= most:
        return first, max((a + peak) / jerk, 0.0), 0.0, peak / jerk
    return first, (a + most) / jerk, (v + (0.5 * a * a - most * most) / jerk) / most, most / jerk


@compiled(_state(_state, _f8, _f8))
def move(state: State, jerk: float, time: float) -> State:
    """The state after `time` [s] with constant `jerk` [rad/s³]."""
    q, v, a = state
    change = jerk * time
    return q + time * (v + time * (a / 2.0 + change / 6.0)), v + time * (a + change / 2.0), a + change


@compiled(_state(_state, _stop, _f8))
def along(state: State, plan: Stop, time: float) -> State:
    """The state `time` [s] into the stop; exactly at rest from its end on."""
    jerk, first, hold, last = plan
    for phase, length in ((jerk, first), (0.0, hold), (-jerk, last)):
        if time < length:
            return move(state, phase, time)
        state = move(state, phase, length)
        time -= length
    return state[0], 0.0, 0.0


@compiled(UniTuple(_f8, 2)(_f8, _f8, _stop))
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


@compiled(_f8(_stop))
def duration(plan: Stop) -> float:
    """Time [s] to standstill."""
    return plan[1] + plan[2] + plan[3]


@compiled(Tuple((_rows, _f8, _row))(_rows, _row, _row))
def stops(states: Array, most: Array, jerk: Array) -> tuple[Array, float, Array]:
    """Every joint's stop: jerks and times [4, n] (stop()), time [s] to standstill of all, and [n] rad that each travels
    at least more than from end to end: one that brakes harder than it can take back in time overshoots standstill and
    returns."""
    n = states.shape[1]
    plans, turns, longest = np.empty((4, n)), np.zeros(n), 0.0
    for j in range(n):
        v, a = states[1, j], states[2, j]
        plan = stop(v, a, most[j], jerk[j])
        plans[0, j], plans[1, j], plans[2, j], plans[3, j] = plan
        longest = max(longest, duration(plan))
        if v * a < 0.0 and a * a > 2.0 * jerk[j] * abs(v):
            turns[j] = OVERSHOOT * v * v / abs(a)
    return plans, longest, turns


@compiled(_rows(_rows, _rows, _f8))
def during(states: Array, plans: Array, time: float) -> Array:
    """The states [3, n] `time` [s] into the stops [4, n]."""
    moved = np.empty_like(states)
    for j in range(states.shape[1]):
        plan = plans[0, j], plans[1, j], plans[2, j], plans[3, j]
        moved[0, j], moved[1, j], moved[2, j] = along((states[0, j], states[1, j], states[2, j]), plan, time)
    return moved


@compiled(_state(_state, _f8, _f8, _f8))
def _stopped(state: State, a_max: float, jerk: float, dt: float) -> State:
    """One tick of a joint's fastest stop."""
    _, v, a = state
    return along(state, stop(v, a, a_max, jerk), dt) if v != 0.0 or a != 0.0 else state


@compiled(_rows(_rows, _joints, _f8))
def stopped(states: Array, joints: Any, dt: float) -> Array:
    """One tick of the fastest stop, all joints on their own."""
    new = np.empty_like(states)
    for j in range(len(joints)):
        state = states[0, j], states[1, j], states[2, j]
        new[0, j], new[1, j], new[2, j] = _stopped(state, joints[j].a, joints[j].jerk, dt)
    return new


@compiled(_f8(_f8, _f8, _f8, _f8, _f8))
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


@compiled(boolean(_state, _f8, _f8, _f8, _f8))
def _stays(state: State, a_max: float, jerk: float, low: float, high: float) -> bool:
    q, v, a = state
    below, above = stretch(v, a, stop(v, a, a_max, jerk))
    return q + below >= low and q + above <= high


@compiled(_state(_state, _state, _f8, _f8, _f8, _f8, _f8))
def _inside(state: State, new: State, low: float, high: float, a_max: float, jerk: float, dt: float) -> State:
    """`new`, or the last point on the way to it from one tick of the stop whose own stop stays inside.

    Both are ends of one tick with jerk inside its limit, so all points between them are.
    """
    if _stays(new, a_max, jerk, low, high):
        return new
    good = _stopped(state, a_max, jerk, dt)
    share, width, best = 0.0, 1.0, good
    for _ in range(HALVINGS):
        width *= 0.5
        s = share + width
        between = (
            good[0] + s * (new[0] - good[0]),
            good[1] + s * (new[1] - good[1]),
            good[2] + s * (new[2] - good[2]),
        )
        if _stays(between, a_max, jerk, low, high):
            share, best = s, between
    return best


@compiled(UniTuple(_f8, 3)(_rows, _joints, _f8))
def path_bounds(here: Array, joints: Any, x: float) -> tuple[float, float, float]:
    """What the path speed's change [1/s] may be, least and most, and its own change [1/s²]: at a point of the path
    `here` [3, n] (derivatives by path time), at path speed squared `x`."""
    least, most, jerk = -inf, inf, inf
    for j in range(len(joints)):
        dq, ddq = here[1, j], here[2, j]
        size = abs(dq)
        if size < 1e-6:
            continue
        room, used = PATH_SHARE * joints[j].a / size, ddq * x / dq
        least, most, jerk = max(least, -room - used), min(most, room - used), min(jerk, PATH_SHARE * joints[j].jerk / size)
    return least, most, jerk


@compiled(Tuple((_rows, int64[::1], _f8))(_rows, _joints, _rows, _rows, _f8, _f8, _f8, boolean, _f8))
def candidate(
    states: Array, joints: Any, here: Array, middle: Array, now: float, speed: float, change: float, ends: bool, dt: float
) -> tuple[Array, NDArray[np.int64], float]:
    """The next states [3, n] towards the path, viable, one by one.

    Args:
        states: [3, n] now.
        here, middle: points of the path [3, n] (position, derivatives by path time), at the tick's start and middle.
        now, speed: path speed at its start and its end.
        change: 1/s, of the path speed.
        ends: the path has come to its end, where joints may come to rest.

    Returns:
        states, [n] which of KINDS changed each joint's, and the largest distance from the path [rad].
    """
    n = len(joints)
    new, kinds, worst = np.empty((3, n)), np.zeros(n, np.int64), 0.0
    x = speed * speed
    notice = NOTICE / (dt * dt)
    gain, damping = POSITION_GAIN / dt, VELOCITY_GAIN / dt
    for j in range(n):
        c = joints[j]
        q, v, a = states[0, j], states[1, j], states[2, j]
        error = here[0, j] - q
        size = abs(error)
        worst = max(worst, size)
        if ends and size < REST[0] and abs(v) < min(REST[1], 0.2 * c.jerk * dt * dt) and abs(a) < min(REST[2], 0.4 * c.jerk * dt):
            new[0, j], new[1, j], new[2, j] = q, 0.0, 0.0
            continue
        if size <= c.straight:
            gap = here[1, j] * now - v + gain * error
        else:
            gap = here[1, j] * now - v + copysign(sqrt(c.lag * c.lag + c.back * size) - c.lag, error)
        wanted = middle[2, j] * x + middle[1, j] * change
        wanted += damping * gap if abs(gap) <= c.steady else copysign(sqrt(c.ease * abs(gap)), gap)
        kind = ACCELERATION if abs(wanted) > c.a else JERK
        least, most = max(a - c.jerk * dt, -c.a), min(a + c.jerk * dt, c.a)
        end = min(max(wanted, least), most)
        if v > c.near:
            bound = _ceiling(v, a, c.v, c.jerk, dt)
            if end > bound:
                end, kind = bound, VELOCITY
        if -v > c.near:
            bound = -_ceiling(-v, -a, c.v, c.jerk, dt)
            if end < bound:
                end, kind = bound, VELOCITY
        state = q, v, a
        if end < least - 1e-9 * c.a or end > most + 1e-9 * c.a:
            moved = _stopped(state, c.a, c.jerk, dt)
        else:
            moved = (q + dt * (v + dt * (2.0 * a + end) / 6.0), v + 0.5 * (a + end) * dt, end)
            w = abs(v) + c.reserve
            far = w * (c.slope * w + c.ramp)
            if c.high - q < far or q - c.low < far:
                inside = _inside(state, moved, c.low, c.high, c.a, c.jerk, dt)
                if inside != moved:
                    moved, kind = inside, POSITION
        if abs(wanted - moved[2]) >= notice:
            kinds[j] = kind
        new[0, j], new[1, j], new[2, j] = moved
    return new, kinds, worst


@compiled(_rows(_rows, _rows, _joints, _f8, _f8))
def evasion_room(states: Array, new: Array, joints: Any, ahead: float, dt: float) -> Array:
    """[3, n] rad/s: the velocities in `ahead` s if the accelerations of `new` [3, n] last, and the least and the largest
    that each joint could have by then."""
    room = np.empty_like(states)
    for j in range(len(joints)):
        c, v, a, end = joints[j], states[1, j], states[2, j], new[2, j]
        least = max(-c.a, a - c.jerk * dt, -_ceiling(-v, -a, c.v, c.jerk, dt))
        most = min(c.a, a + c.jerk * dt, _ceiling(v, a, c.v, c.jerk, dt))
        if least > most:
            least = most = end
        start = v + 0.5 * a * dt
        room[0, j], room[1, j], room[2, j] = start + ahead * end, start + ahead * min(least, end), start + ahead * max(most, end)
    return room


@compiled(_rows(_rows, _rows, _joints, _row, _row, _f8, _f8))
def evaded(states: Array, new: Array, joints: Any, wanted: Array, velocity: Array, ahead: float, dt: float) -> Array:
    """`new` [3, n], where it matters on the way to `velocity` [n] in place of `wanted` [n] (evasion_room), viable."""
    result = new.copy()
    for j in range(len(joints)):
        if velocity[j] != wanted[j]:
            c, q, v, a = joints[j], states[0, j], states[1, j], states[2, j]
            end = (velocity[j] - v - 0.5 * a * dt) / ahead
            moved = (q + dt * (v + dt * (2.0 * a + end) / 6.0), v + 0.5 * (a + end) * dt, end)
            result[0, j], result[1, j], result[2, j] = _inside((q, v, a), moved, c.low, c.high, c.a, c.jerk, dt)
    return result
