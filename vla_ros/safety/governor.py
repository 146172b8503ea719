"""How fast the arm may run along a path: the largest path speed that meets all limits on the way ahead.

With x = (ds/dt)² and u = d²s/dt² every limit on acceleration or torque is a band lo <= a u + b x <= hi at each point of
the path, and velocities bound x alone. Going backwards from the end, x[k] is the largest from which some u inside the
bands reaches x[k+1] (the backward pass of Pham & Pham, "A New Approach to Time-Optimal Path Parameterization Based on
Reachability Analysis", T-RO 2018, with the lower edge of u only: how fast to accelerate is decided tick by tick).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numba import float64, int64
from numba.types import Tuple, UniTuple
from numpy.typing import NDArray

from vla_ros.safety.arm import Arm
from vla_ros.safety.compiled import compiled
from vla_ros.safety.path import ChunkPath
from vla_ros.types import Array

STEP = 0.015  # s of path time between points, unless that makes more than POINTS
POINTS = 96
BLUNT = 0.05  # s of path time, over which a corner's acceleration is averaged: the arm cuts it by less than 1 mm
COARSE = 6  # every so many points torques and tip speed are evaluated
TINY = 1e-9
SHARE = 0.95  # of acceleration and torque that a path may use; the rest corrects and turns corners
FULL = 0.98  # of velocity, likewise
TIP = 0.95  # of tip speed, which is known at every COARSE point only
CRAWL = 1e-4  # path speed squared that no single point forbids: where the path turns sharply it is left to the follower


@dataclass(frozen=True)
class SpeedProfile:
    """Largest path speed over path time, on a grid."""

    start: float  # s
    step: float  # s
    speeds: Sequence[float]  # [K]
    tips: Sequence[float]  # [K] m/s, speed of the fastest tip at path speed 1
    why: Sequence[int]  # [K] which limit it is: an index of names()

    def at(self, time: float) -> tuple[float, float, int]:
        """Path speed and tip speed around `time` [s], and the limit."""
        place = (time - self.start) / self.step
        k = int(place)
        if k >= len(self.speeds) - 1:
            return self.speeds[-1], self.tips[-1], self.why[-1]
        share = max(place - k, 0.0)
        speeds, tips = self.speeds, self.tips
        lower = k if speeds[k] < speeds[k + 1] else k + 1
        return speeds[k] + share * (speeds[k + 1] - speeds[k]), max(tips[k], tips[k + 1]), self.why[lower]


def names(joints: Sequence[str]) -> list[str]:
    """The limits that `why` counts, "kind:name"."""
    acceleration, torque, velocity = ([f"{kind}:{joint}" for joint in joints] for kind in ("acceleration", "torque", "velocity"))
    return [*acceleration, *torque, *velocity, "tip_speed", *acceleration, *torque]


def plan(path: ChunkPath, velocity: Array, acceleration: Array, torque: Array, arm: Arm | None) -> SpeedProfile:
    """The profile of `path` under limits [n]; without an arm torques and tip speed are not looked at."""
    count = min(max(int((path.end - path.start) / STEP), 4), POINTS)
    step = (path.end - path.start) / count
    times: Array = path.start + step * np.arange(count, dtype=np.float64)
    points = path.sample(times)
    # A corner that the arm rounds within BLUNT needs no more acceleration than the mean over it.
    ahead, behind = np.minimum(times + 0.5 * BLUNT, path.end - 1e-9), np.maximum(times - 0.5 * BLUNT, path.start)
    points[:, 2] = (path.sample(ahead)[:, 1] - path.sample(behind)[:, 1]) / (ahead - behind)[:, None]
    coarse = np.arange(0, count, COARSE)
    tip_limit, tips, loads = inf, np.zeros(count), np.zeros((0, 3, len(torque)))
    if arm is not None:
        tip_limit = TIP * arm.tip_limit
        loads, fastest = _dynamics(arm, points[coarse])
        tips = np.interp(np.arange(count), coarse, fastest)
        torque = np.maximum(SHARE * torque - arm.friction, 0.0)
    x, why = _profile(points, tips, loads, FULL * velocity, SHARE * acceleration, torque, tip_limit, 2.0 * step)
    return SpeedProfile(path.start, step, np.sqrt(x).tolist(), tips.tolist(), why.tolist())


def _dynamics(arm: Arm, points: Array) -> tuple[Array, list[float]]:
    """At points of the path [C, 3, n]: what gravity needs, the inertia at u = 1 and the motion at x = 1 beyond it
    [C, 3, n] N m; and [C] m/s of the fastest tip at path speed 1."""
    loads, tips, none = np.empty_like(points), [], np.zeros(points.shape[2])
    for (q, dq, ddq), load in zip(points, loads, strict=True):
        load[0] = arm.torques(q, none, none)
        load[1] = arm.torques(q, none, dq) - load[0]
        load[2] = arm.torques(q, dq, ddq) - load[0]
        tips.append(arm.tip_speed())
    return loads, tips


_f8, _row, _cube = float64, float64[::1], float64[:, :, ::1]


@compiled(_f8(_f8, _f8, _f8))
def _alone(b: float, low: float, high: float) -> float:
    """Largest x for which low <= b x <= high."""
    return (high if b > 0.0 else low) / b if abs(b) > TINY else inf


@compiled(UniTuple(_f8, 2)(_f8, _f8, _f8, _f8, _f8))
def _reach(a: float, b: float, low: float, high: float, span: float) -> tuple[float, float]:
    """c and d of the bound x[k] <= c + d x[k+1], from the lowest u of low <= a u + b x <= high."""
    if abs(a) <= TINY:
        return inf, 0.0
    denominator = 1.0 - span * b / a
    if denominator <= TINY:
        return inf, 0.0
    return -span * (low if a > 0.0 else high) / a / denominator, 1.0 / denominator


@compiled(Tuple((_row, int64[::1]))(_cube, _row, _cube, _row, _row, _row, _f8, _f8))
def _profile(
    points: Array, tips: Array, loads: Array, velocity: Array, acceleration: Array, torque: Array, tip_limit: float,
    span: float,
) -> tuple[Array, NDArray[np.int64]]:  # fmt: skip
    """x [K] in [CRAWL, 1], and which of names() decides it; `span` = 2 ds, `loads` [C, 3, n] N m of _dynamics()."""
    count, _, n = points.shape
    x, why = np.ones(count), np.zeros(count, np.int64)
    middle, reach = np.empty(n), np.empty(n)
    for k in range(count - 1, -1, -1):
        dq, ddq = points[k, 1], points[k, 2]
        at = k // COARSE if k % COARSE == 0 and len(loads) else -1
        cap, column = 4.0, 2 * n  # what the point alone allows; nobody asks for more than 1
        for j in range(n):
            if abs(dq[j]) * sqrt(cap) > velocity[j]:
                cap, column = (velocity[j] / dq[j]) ** 2.0, 2 * n + j
        if tips[k] * sqrt(cap) > tip_limit:
            cap, column = (tip_limit / tips[k]) ** 2.0, 3 * n
        for j in range(n):  # some u must keep each joint's acceleration together with every other's
            if abs(dq[j]) > 0.0:
                middle[j], reach[j] = ddq[j] / dq[j], acceleration[j] / abs(dq[j])  # u is within reach of -middle x
        for j in range(n):
            if abs(dq[j]) <= TINY:
                most = _alone(ddq[j], -acceleration[j], acceleration[j])
                if most < cap:
                    cap, column = most, 3 * n + 1 + j
                continue
            for i in range(n):
                if i != j and abs(dq[i]) > 0.0:
                    apart, together = abs(middle[j] - middle[i]), reach[j] + reach[i]
                    if together < cap * apart:
                        cap, column = together / apart, 3 * n + 1 + j
        if at >= 0:
            for j in range(n):
                low, high = min(-torque[j] - loads[at, 0, j], 0.0), max(torque[j] - loads[at, 0, j], 0.0)
                most = _alone(loads[at, 2, j], low, high)
                if most < cap:
                    cap, column = most, 4 * n + 1 + j
        x[k], why[k] = min(max(cap, CRAWL), 1.0), column
        if k == count - 1:
            continue
        for j in range(n):  # and it must be able to slow down to what follows
            c, d = _reach(dq[j], ddq[j], -acceleration[j], acceleration[j], span)
            if c + d * x[k + 1] < x[k]:
                x[k], why[k] = max(c + d * x[k + 1], CRAWL), j
        if at >= 0:
            for j in range(n):
                low, high = min(-torque[j] - loads[at, 0, j], 0.0), max(torque[j] - loads[at, 0, j], 0.0)
                c, d = _reach(loads[at, 1, j], loads[at, 2, j], low, high, span)
                if c + d * x[k + 1] < x[k]:
                    x[k], why[k] = max(c + d * x[k + 1], CRAWL), n + j
    return x, why
