"""The path through a chunk's rows: what the arm follows between the policy's rows at the control rate.

A cubic through the rows with continuous velocity, so that the arm does not stop or jerk at a row. It starts with the
command's present position and velocity, and its tangents are those of Fritsch and Carlson (no overshoot past a row,
zero speed at a reversal). After the last row it runs out and comes back to that row within `settle`: the first tick or
two of lateness of the next chunk cost little speed, and a chunk that stays the last one ends exactly at its last row.
"""

from __future__ import annotations

from bisect import bisect_right
from math import sqrt

import numpy as np
from numba import float64
from numba.types import Tuple

from vla_ros.safety.compiled import compiled
from vla_ros.types import Array

# Of the mean speed before the last row that is kept at it: enough for the next chunk to go on without a stop, and less
# to brake if that one turns. With one row per chunk 0.8 met the rows of turning motions best: 6 mm p90 at the tip
# against 14 mm with 1.0; less than 0.8 only adds ticks at a limit.
END_SHARE = 0.8
TAKEOVER_GROWTH = 1.02  # by which the way to the first row is made longer at least, until the limits let it be driven
TAKEOVER_TRIES = 24


class ChunkPath:
    """Piecewise cubic over path time, which is the ROS clock [s] less what slow-downs have cost.

    Args:
        times: [K] s, strictly rising; the first is the takeover, the others are the rows' due times.
        rows: [K, n] rad, the command at takeover and the rows.
        velocity: [n] rad/s, of the command at takeover.
        settle: s, from the last row to standstill on it.
        acceleration: [n] rad/s², that the way to the first row keeps to: a row that is due too soon for that comes
            later, and so do all after it, by `delay` [s]. None: no row is delayed.
    """

    def __init__(self, times: Array, rows: Array, velocity: Array, settle: float, acceleration: Array | None = None) -> None:
        self.raw_times: list[float] = times.tolist()
        self.raw_rows = rows
        knots, self._coefficients, self.delay = _spline(
            np.ascontiguousarray(times), np.ascontiguousarray(rows), velocity, settle,
            np.full(rows.shape[1], np.inf) if acceleration is None else acceleration,
        )  # fmt: skip
        self.last_due, self.start, self.end = float(knots[-2]), float(knots[0]), float(knots[-1])
        self.last_row = rows[-1]
        self._knots = knots
        self._starts: list[float] = knots[:-1].tolist()
        self._end = np.zeros((3, rows.shape[1]))
        self._end[0] = self.last_row

    def at(self, time: float) -> Array:
        """[3, n]: position [rad] and its first and second derivatives by path time [s]; at rest on the last row after the
        end."""
        if time >= self.end:
            return self._end
        k = max(0, bisect_right(self._starts, time) - 1)
        return _cubic(self._coefficients[k], time - self._starts[k])

    def sample(self, times: Array) -> Array:
        """at() for many times [K]: [K, 3, n]."""
        return _sample(self._coefficients, self._knots, times)

    def asked(self, time: float) -> Array:
        """Joint positions [n] rad that the policy asks for at `time` on the clock: linear between its rows, held at
        the ends."""
        times = self.raw_times
        if time >= times[-1]:
            return self.last_row
        k = bisect_right(times, time) - 1
        if k < 0:
            return self.raw_rows[0]
        share = (time - times[k]) / (times[k + 1] - times[k])
        return self.raw_rows[k] + share * (self.raw_rows[k + 1] - self.raw_rows[k])


_f8, _row, _rows, _cube = float64, float64[::1], float64[:, ::1], float64[:, :, ::1]


@compiled(_rows(_rows, _f8))
def _cubic(coefficients: Array, t: float) -> Array:
    """[3, n]: value and first two derivatives at `t` of polynomials with coefficients [4, n]."""
    n = coefficients.shape[1]
    point = np.empty((3, n))
    for j in range(n):
        c0, c1, c2, c3 = coefficients[0, j], coefficients[1, j], coefficients[2, j], coefficients[3, j]
        ct = c3 * t
        point[0, j] = c0 + t * (c1 + t * (c2 + ct))
        point[1, j] = c1 + t * (2.0 * c2 + 3.0 * ct)
        point[2, j] = 2.0 * c2 + 6.0 * ct
    return point


@compiled(_f8(_f8, _f8))
def _tangent(before: float, after: float) -> float:
    """At a row between two slopes: their harmonic mean, zero at a reversal."""
    product = before * after
    return 2.0 * product / (before + after) if product > 0.0 else 0.0


@compiled(_f8(_row, _rows, _row, _row))
def _takeover(times: Array, rows: Array, velocity: Array, acceleration: Array) -> float:
    """Time [s] that the way to the first row takes at least, so that the cubic starts within `acceleration` [n]: there,
    other than later on, the path speed cannot help, as the arm already moves."""
    lead = times[1] - times[0]
    for _ in range(TAKEOVER_TRIES):
        need = 0.0
        for j in range(rows.shape[1]):
            slope = (rows[1, j] - rows[0, j]) / lead
            arrival = END_SHARE * slope
            if len(rows) > 2:
                arrival = _tangent(slope, (rows[2, j] - rows[1, j]) / (times[2] - times[1]))
            need = max(need, abs(6.0 * slope - 4.0 * velocity[j] - 2.0 * arrival) / (lead * acceleration[j]))
        if need <= 1.0:
            break
        lead *= min(max(sqrt(need), TAKEOVER_GROWTH), 4.0)
    return lead


@compiled(Tuple((_row, _cube, _f8))(_row, _rows, _row, _f8, _row))
def _spline(times: Array, rows: Array, velocity: Array, settle: float, acceleration: Array) -> tuple[Array, Array, float]:
    """Knots [K+1] s, coefficients [segment, power, joint] and the delay [s] of ChunkPath."""
    count, n = rows.shape
    delay = max(_takeover(times, rows, velocity, acceleration) - (times[1] - times[0]), 0.0)
    knots = np.append(times, times[-1] + settle)
    knots[1:] += delay
    coefficients = np.empty((count, 4, n))
    for j in range(n):
        tangent = velocity[j]
        slope = (rows[1, j] - rows[0, j]) / (knots[1] - knots[0])
        for k in range(count):
            h = knots[k + 1] - knots[k]
            if k < count - 2:
                following = (rows[k + 2, j] - rows[k + 1, j]) / (knots[k + 2] - knots[k + 1])
                end = _tangent(slope, following)
            elif k == count - 2:
                following, last = 0.0, slope
                if count > 2:  # three-point formula, limited
                    further = 1.5 * slope - 0.5 * (rows[k, j] - rows[k - 1, j]) / (knots[k] - knots[k - 1])
                    last = 0.0 if further * slope <= 0.0 else further if abs(further) < abs(slope) else slope
                end = END_SHARE * last
            else:  # out and back to the last row
                following, end = 0.0, 0.0
            coefficients[k, 0, j], coefficients[k, 1, j] = rows[k, j], tangent
            coefficients[k, 2, j] = (3.0 * slope - 2.0 * tangent - end) / h
            coefficients[k, 3, j] = (tangent + end - 2.0 * slope) / (h * h)
            tangent, slope = end, following
    return knots, coefficients, delay


@compiled(_cube(_cube, _row, _row))
def _sample(coefficients: Array, knots: Array, times: Array) -> Array:
    points = np.empty((len(times), 3, coefficients.shape[2]))
    for i in range(len(times)):
        k = min(max(np.searchsorted(knots, times[i], side="right") - 1, 0), len(coefficients) - 1)
        points[i] = _cubic(coefficients[k], times[i] - knots[k])
    return points
