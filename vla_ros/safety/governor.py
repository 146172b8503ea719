"""How fast the arm may run along a path: the largest path speed that meets all limits on the way ahead.

With x = (ds/dt)² and u = d²s/dt² every limit on acceleration or torque is a band lo <= a u + b x <= hi at each point of
the path, and velocities bound x alone. Going backwards from the end, x[k] is the largest from which some u inside the
bands reaches x[k+1] (the backward pass of Pham & Pham, "A New Approach to Time-Optimal Path Parameterization Based on
Reachability Analysis", T-RO 2018, with the lower edge of u only: how fast to accelerate is decided tick by tick).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.safety.arm import Arm
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
    """The limits that `why` counts, "kind:name": the columns of bands and caps in plan()."""
    acceleration, torque, velocity = ([f"{kind}:{joint}" for joint in joints] for kind in ("acceleration", "torque", "velocity"))
    return [*acceleration, *torque, *velocity, "tip_speed", *acceleration, *torque]


def plan(path: ChunkPath, velocity: Array, acceleration: Array, torque: Array, arm: Arm | None) -> SpeedProfile:
    """The profile of `path` under limits [n]; without an arm torques and tip speed are not looked at."""
    count = int(np.clip((path.end - path.start) / STEP, 4, POINTS))
    times, step = np.linspace(path.start, path.end, count, endpoint=False, retstep=True)
    q, dq, ddq = path.sample(times)
    # A corner that the arm rounds within BLUNT needs no more acceleration than the mean over it.
    ahead, behind = np.minimum(times + 0.5 * BLUNT, path.end - 1e-9), np.maximum(times - 0.5 * BLUNT, path.start)
    ddq = (path.sample(ahead)[1] - path.sample(behind)[1]) / (ahead - behind)[:, None]
    n = dq.shape[1]
    shape = (count, n)
    band = SHARE * acceleration
    bands = [(dq, ddq, np.broadcast_to(-band, shape), np.broadcast_to(band, shape))]
    heavy, tips = np.full(shape, np.inf), np.zeros(count)
    if arm is not None:
        bands.append(_dynamics(arm, torque, q, dq, ddq))
        heavy = _alone(*bands[1][1:])
        coarse = np.arange(0, count, COARSE)
        tips = np.interp(np.arange(count), coarse, [arm.tip_speed(q[k], dq[k]) for k in coarse])
    else:
        bands.append((np.zeros(shape), np.zeros(shape), -heavy, heavy))
    with np.errstate(divide="ignore", over="ignore"):
        fast = (FULL * velocity / abs(dq)) ** 2
        tip = (TIP * (arm.tip_limit if arm is not None else np.inf) / tips) ** 2
    caps = np.concatenate((fast, tip[:, None], _meeting(dq, ddq, band), heavy), axis=1)
    a, b, low, high = (np.concatenate(pair, axis=1) for pair in zip(*bands, strict=True))
    x, why = _backward(a, b, low, high, caps, 2.0 * float(step))
    return SpeedProfile(path.start, float(step), np.sqrt(x).tolist(), tips.tolist(), why.tolist())


def _meeting(a: Array, b: Array, band: Array) -> Array:
    """Largest x [K, n] for which some u keeps a joint's |a u + b x| <= band together with every other joint's."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        middle, reach = b / a, band / abs(a)  # u is within `reach` of -middle x
        apart = abs(middle[:, :, None] - middle[:, None, :])
        x = (reach[:, :, None] + reach[:, None, :]) / apart
    together = np.fmin.reduce(x, axis=2)
    return np.where(abs(a) > TINY, together, _alone(b, -band, band))


def _alone(b: Array, low: Array, high: Array) -> Array:
    """Largest x for which low <= b x <= high, elementwise."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(abs(b) > TINY, np.where(b > 0.0, high, low) / b, np.inf)


def _dynamics(arm: Arm, torque: Array, q: Array, dq: Array, ddq: Array) -> tuple[Array, Array, Array, Array]:
    """Torques as bands [K, n]: M dq u + (M ddq + C dq) x within the limits less gravity and friction."""
    shape = q.shape
    a, b = np.zeros(shape), np.zeros(shape)
    low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
    zero = np.zeros(shape[1])
    band = np.maximum(SHARE * torque - arm.friction(), 0.0)
    for k in range(0, shape[0], COARSE):
        gravity = arm.torques(q[k], zero, zero)
        a[k] = arm.torques(q[k], zero, dq[k]) - gravity
        b[k] = arm.torques(q[k], dq[k], ddq[k]) - gravity
        low[k], high[k] = np.minimum(-band - gravity, 0.0), np.maximum(band - gravity, 0.0)
    return a, b, low, high


def _backward(a: Array, b: Array, low: Array, high: Array, caps: Array, span: float) -> tuple[Array, NDArray[np.intp]]:
    """x [K] in [CRAWL, 1]: below `caps` [K, c], and able to slow down inside the bands [K, m] to what follows; and the
    column of bands and caps that decides it. `span` = 2 ds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # lowest u of a band: edge - slope x
        edge = np.where(abs(a) > TINY, np.where(a > 0.0, low, high) / a, -np.inf)
        slope = np.where(abs(a) > TINY, b / a, 0.0)
        denominator = 1.0 - span * slope
        inverse = np.where(denominator > TINY, 1.0 / denominator, 0.0)
        reach = np.where(denominator > TINY, -span * edge * inverse, np.inf)
    reach = np.fmin(reach, np.inf)
    why = caps.argmin(axis=1)
    x = np.clip(caps[np.arange(len(why)), why], CRAWL, 1.0)
    why += a.shape[1]
    # `reach` is the bound at x[k+1] = 0: where it is above x[k], slowing down for what follows costs nothing
    for k in np.flatnonzero(reach[:-1].min(axis=1) < x[:-1])[::-1].tolist():
        allowed = reach[k] + x[k + 1] * inverse[k]
        tightest = int(allowed.argmin())
        if allowed[tightest] < x[k]:
            x[k], why[k] = max(float(allowed[tightest]), CRAWL), tightest
    return x, why
