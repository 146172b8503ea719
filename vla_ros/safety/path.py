"""The path through a chunk's rows: what the arm follows between the policy's rows at the control rate.

A cubic through the rows with continuous velocity, so that the arm does not stop or jerk at a row. It starts with the
command's present position and velocity, and its tangents are those of Fritsch and Carlson (no overshoot past a row,
zero speed at a reversal). After the last row it runs out and comes back to that row within `settle`: the first tick or
two of lateness of the next chunk cost little speed, and a chunk that stays the last one ends exactly at its last row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from vla_ros.types import Array

# Of the mean speed before the last row that is kept at it: enough for the next chunk to go on without a stop, and less
# to brake if that one turns. With one row per chunk 0.8 met the rows of turning motions best: 6 mm p90 at the tip
# against 14 mm with 1.0; less than 0.8 only adds ticks at a limit.
END_SHARE = 0.8
TAKEOVER_GROWTH = 1.02  # by which the way to the first row is made longer at least, until the limits let it be driven
TAKEOVER_TRIES = 24

Point = tuple[list[float], list[float], list[float]]


def _tangents(times: Array, rows: Array, first: Array) -> Array:
    """Velocity [K, n] at each knot; `first` [n] is that of the command at takeover."""
    slopes = np.diff(rows, axis=0) / np.diff(times)[:, None]
    tangents = np.zeros_like(rows)
    tangents[0] = first
    before, after = slopes[:-1], slopes[1:]
    product = before * after
    np.divide(2.0 * product, before + after, out=tangents[1:-1], where=product > 0.0)
    last = slopes[-1]
    if len(slopes) > 1:
        further = 1.5 * last - 0.5 * slopes[-2]
        last = np.where(further * last <= 0.0, 0.0, np.where(abs(further) < abs(last), further, last))
    tangents[-1] = END_SHARE * last
    return tangents


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
        self.delay = 0.0
        if acceleration is not None:
            lead = times[1] - times[0]
            self.delay = _takeover(times, rows, velocity, acceleration) - lead
            if self.delay > 0.0:
                times = np.concatenate((times[:1], times[1:] + self.delay))
        self.last_due = float(times[-1])
        self.start, self.end = float(times[0]), float(times[-1]) + settle
        self.last_row = rows[-1]
        knots = np.append(times, self.end)
        values = np.concatenate((rows, rows[-1:]))
        tangents = np.concatenate((_tangents(times, rows, velocity), np.zeros((1, len(velocity)))))
        h = np.diff(knots)[:, None]
        slope = np.diff(values, axis=0) / h
        m0, m1 = tangents[:-1], tangents[1:]
        # [segment, power, joint]
        self._coefficients = np.stack(
            (values[:-1], m0, (3.0 * slope - 2.0 * m0 - m1) / h, (m0 + m1 - 2.0 * slope) / (h * h)), axis=1
        )
        self._knots = knots
        self._starts: list[float] = knots[:-1].tolist()
        self._at = -1
        self._segment: list[tuple[float, float, float, float]] = []

    def at(self, time: float) -> Point:
        """Position [n] rad and its first and second derivatives by path time [s]; at rest on the last row after the
        end."""
        if time >= self.end:
            zero = [0.0] * len(self.last_row)
            return self.last_row.tolist(), zero, zero
        t = self._enter(time)
        q, v, a = [], [], []
        for c0, c1, c2, c3 in self._segment:
            ct = c3 * t
            q.append(c0 + t * (c1 + t * (c2 + ct)))
            v.append(c1 + t * (2.0 * c2 + 3.0 * ct))
            a.append(2.0 * c2 + 6.0 * ct)
        return q, v, a

    def slopes(self, time: float) -> tuple[list[float], list[float]]:
        """The derivatives of at() alone."""
        if time >= self.end:
            zero = [0.0] * len(self.last_row)
            return zero, zero
        t = self._enter(time)
        segment = self._segment
        return (
            [c1 + t * (2.0 * c2 + 3.0 * (c3 * t)) for _, c1, c2, c3 in segment],
            [2.0 * c2 + 6.0 * (c3 * t) for _, _, c2, c3 in segment],
        )

    def _enter(self, time: float) -> float:
        """Time [s] since the start of the segment, which is made the present one."""
        k = self._at
        if k < 0 or time < self._starts[k] or (k + 1 < len(self._starts) and time >= self._starts[k + 1]):
            k = self._at = max(0, bisect_right(self._starts, time) - 1)
            self._segment = list(zip(*self._coefficients[k].tolist(), strict=True))
        return time - self._starts[k]

    def sample(self, times: Array) -> tuple[Array, Array, Array]:
        """at() for many times [K] before the end: three arrays [K, n]."""
        k = np.searchsorted(self._knots[:-1], times, side="right") - 1
        t = (times - self._knots[k])[:, None]
        c0, c1, c2, c3 = (self._coefficients[k, power] for power in range(4))
        return c0 + t * (c1 + t * (c2 + t * c3)), c1 + t * (2.0 * c2 + 3.0 * t * c3), 2.0 * c2 + 6.0 * t * c3

    def asked(self, time: float) -> Sequence[float]:
        """Joint positions [n] rad that the policy asks for at `time` on the clock: linear between its rows, held at
        the ends."""
        times = self.raw_times
        if time >= times[-1]:
            return self.last_row  # type: ignore[return-value]
        k = bisect_right(times, time) - 1
        if k < 0:
            return self.raw_rows[0]  # type: ignore[return-value]
        share = (time - times[k]) / (times[k + 1] - times[k])
        return self.raw_rows[k] + share * (self.raw_rows[k + 1] - self.raw_rows[k])  # type: ignore[return-value]


def _takeover(times: Array, rows: Array, velocity: Array, acceleration: Array) -> float:
    """Time [s] that the way to the first row takes at least, so that the cubic starts within `acceleration` [n]: there,
    other than later on, the path speed cannot help, as the arm already moves."""
    lead, way = times[1] - times[0], rows[1] - rows[0]
    further = (rows[2] - rows[1]) / (times[2] - times[1]) if len(rows) > 2 else None
    for _ in range(TAKEOVER_TRIES):
        slope = way / lead
        if further is None:
            arrival = END_SHARE * slope
        else:
            product = slope * further
            arrival = np.divide(2.0 * product, slope + further, out=np.zeros_like(slope), where=product > 0.0)
        need = float((abs(6.0 * slope - 4.0 * velocity - 2.0 * arrival) / (lead * acceleration)).max())
        if need <= 1.0:
            break
        lead *= min(max(need**0.5, TAKEOVER_GROWTH), 4.0)
    return float(lead)
