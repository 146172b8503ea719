"""The path through a chunk's rows: what the arm follows between the policy's 10 Hz rows at the control rate.

A cubic through the rows with continuous velocity, so that the arm does not stop or jerk at a row. It starts with the
command's present position and velocity, and its tangents are those of Fritsch and Carlson (no overshoot past a row,
zero speed at a reversal). After the last row it runs out and comes back to that row within `settle`: the first tick or
two of lateness of the next chunk cost little speed, and a chunk that stays the last one ends exactly at its last row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

Row = Sequence[float]

# Of the mean speed before the last row that is kept at it: enough for the next chunk to go on without a stop, and less
# to brake if that one turns. With one row per chunk 0.8 met the rows of turning motions best: 6 mm p90 at the tip
# against 14 mm with 1.0; less than 0.8 only adds ticks at a limit.
END_SHARE = 0.8


def _tangents(times: Sequence[float], values: Sequence[float], first: float) -> list[float]:
    """Velocity at each knot; `first` is that of the command at takeover."""
    slopes = [(values[k + 1] - values[k]) / (times[k + 1] - times[k]) for k in range(len(times) - 1)]
    tangents = [first]
    for k in range(1, len(slopes)):
        before, after = slopes[k - 1], slopes[k]
        tangents.append(2.0 * before * after / (before + after) if before * after > 0.0 else 0.0)
    last = slopes[-1]
    if len(slopes) > 1:
        extrapolated = 1.5 * last - 0.5 * slopes[-2]
        last = 0.0 if extrapolated * last <= 0.0 else min(extrapolated, last, key=abs)
    tangents.append(END_SHARE * last)
    return tangents


class ChunkPath:
    """Piecewise cubic over path time, which is the ROS clock [s] less what slow-downs have cost.

    Args:
        times: s, strictly rising; the first is the takeover, the others are the rows' due times.
        rows: [K][n] rad, the command at takeover and the rows.
        velocity: [n] rad/s, of the command at takeover.
        settle: s, from the last row to standstill on it.
    """

    def __init__(self, times: Sequence[float], rows: Sequence[Row], velocity: Row, settle: float) -> None:
        self.last_due = times[-1]
        self.end = times[-1] + settle
        self.last_row = tuple(rows[-1])
        self.raw_times = list(times)
        self.raw_rows = [tuple(row) for row in rows]
        self._starts = list(times)
        joints = range(len(velocity))
        knots = [*times, self.end]
        columns = []
        for j in joints:
            values = [row[j] for row in rows]
            columns.append(([*values, values[-1]], [*_tangents(times, values, velocity[j]), 0.0]))
        self._segments: list[list[tuple[float, float, float, float]]] = []
        for k in range(len(knots) - 1):
            h = knots[k + 1] - knots[k]
            segment = []
            for values, tangents in columns:
                slope = (values[k + 1] - values[k]) / h
                m0, m1 = tangents[k], tangents[k + 1]
                segment.append((values[k], m0, (3.0 * slope - 2.0 * m0 - m1) / h, (m0 + m1 - 2.0 * slope) / (h * h)))
            self._segments.append(segment)
        self._at = 0

    def at(self, time: float) -> list[float]:
        """Joint positions [n] rad at path time [s]; the last row after the end."""
        if time >= self.end:
            return list(self.last_row)
        starts = self._starts
        k = self._at
        if time < starts[k] or (k + 1 < len(starts) and time >= starts[k + 1]):
            k = self._at = max(0, bisect_right(starts, time) - 1)
        t = time - starts[k]
        return [c0 + t * (c1 + t * (c2 + t * c3)) for c0, c1, c2, c3 in self._segments[k]]

    def asked(self, time: float) -> Row:
        """Joint positions [n] rad that the policy asks for at `time` on the clock: linear between its rows, held at
        the ends."""
        times = self.raw_times
        if time >= times[-1]:
            return self.raw_rows[-1]
        k = bisect_right(times, time) - 1
        if k < 0:
            return self.raw_rows[0]
        share = (time - times[k]) / (times[k + 1] - times[k])
        return [a + share * (b - a) for a, b in zip(self.raw_rows[k], self.raw_rows[k + 1], strict=True)]
