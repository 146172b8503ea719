"""Discrete-time braking distance of one joint: the invariant that keeps position, velocity and acceleration limits
together.

A control tick of length dt sets the velocity v' of the next command, q' = q + v' dt. After it the joint can lose a dt
of speed per tick, so it still travels

    D(v') = v' dt + (v' - a dt) dt + (v' - 2 a dt) dt + ...        while the velocity is positive.

With u = v' / (a dt) and n = floor(u): D = a dt² (u (n + 1) - n (n + 1) / 2), continuous, monotone and piecewise
linear, hence invertible in closed form. v' is viable iff D(v') <= room to the limit. Because D(v) = v dt + D(max(v - a
dt, 0)), braking with a keeps a viable joint viable: position and acceleration limits hold at once, whatever comes in.
"""

from __future__ import annotations

from math import sqrt


def stopping_distance(velocity: float, acceleration: float, dt: float) -> float:
    """Distance [m or rad] covered from this tick to standstill when the tick moves with `velocity` >= 0 and braking
    follows.

    Args:
        velocity: rad/s, of the coming tick.
        acceleration: rad/s², the braking limit, > 0.
        dt: s, the control period.
    """
    step = acceleration * dt
    u = velocity / step
    n = int(u)
    return step * dt * (u * (n + 1) - 0.5 * n * (n + 1))


def viable_velocity(room: float, acceleration: float, dt: float) -> float:
    """Largest velocity [rad/s] of the coming tick after which the joint still stops within `room` [rad]; 0 if there is
    none."""
    if room <= 0.0:
        return 0.0
    step = acceleration * dt
    scaled = room / (step * dt)
    n = int(0.5 * (sqrt(1.0 + 8.0 * scaled) - 1.0))
    return step * (scaled + 0.5 * n * (n + 1)) / (n + 1)


def brake(velocity: float, acceleration: float, dt: float) -> float:
    """Velocity [rad/s] of the coming tick when braking as hard as allowed."""
    step = acceleration * dt
    if velocity > step:
        return velocity - step
    if velocity < -step:
        return velocity + step
    return 0.0


def stopping_time(velocity: float, acceleration: float, dt: float) -> float:
    """Time [s] from a command with `velocity` until the first command with velocity zero."""
    step = acceleration * dt
    speed = abs(velocity)
    ticks = int(speed / step)
    return dt * (ticks if speed <= ticks * step else ticks + 1)
