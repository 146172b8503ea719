"""Judges what a safety filter sent, from the commands alone: no line of the filter's code or of its own velocities.

Stands in test/, not in vla_ros/, because it is no part of the product; the property tests import it, and
benchmarks/safety_fuzz.py and safety_latency.py put this folder on their path, so that the few thousand ticks of
`make test` and a run of ten million are the same fuzz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 1e-9  # of the limit (position: of the joint's range)
EPS = float(np.finfo(np.float64).eps)
STANDSTILL = 1e-6  # rad/s, of the command: it has stopped
KINDS = ("finite", "position", "velocity", "acceleration", "jerk")


@dataclass(frozen=True)
class Bounds:
    """What the commands must keep: arrays are [n] rad, rad/s, rad/s², rad/s³ (None: not judged); period s."""

    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    jerk: Array | None
    period: float

    @classmethod
    def of(cls, safety: Any) -> Bounds:
        limits = safety.limits
        jerk = getattr(limits, "jerk", None)
        return cls(
            np.array(limits.lower), np.array(limits.upper), np.array(limits.velocity), np.array(limits.acceleration),
            None if jerk is None else np.array(jerk), float(safety.period),
        )  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A limit that was broken: `tick` is the index of the command, `excess` the share above the limit."""

    kind: str
    tick: int
    joint: int
    excess: float


@dataclass(frozen=True)
class Verdict:
    """counts: commands and joints over a limit, by kind. overshoot: largest excess by kind (negative: margin left).
    first: the first findings of each kind."""

    counts: dict[str, int]
    overshoot: dict[str, float]
    first: tuple[Finding, ...]


def _excess(commands: Array, anchor: Array, bounds: Bounds) -> dict[str, tuple[Array, Array]]:
    """Per kind: share over the limit [T, n], and the tolerance [n]. The arm stood at `anchor` before."""
    dt = bounds.period
    padded = np.vstack([np.broadcast_to(anchor, (3, len(anchor))), commands])
    scale = max(1.0, float(np.abs(padded[np.isfinite(padded)]).max(initial=0.0)))
    spread = bounds.upper - bounds.lower
    out = {"position": (np.maximum(commands - bounds.upper, bounds.lower - commands) / spread, np.full(len(anchor), TOLERANCE))}
    rows = padded
    orders = (("velocity", bounds.velocity), ("acceleration", bounds.acceleration), ("jerk", bounds.jerk))
    for order, (kind, limit) in enumerate(orders, 1):
        rows = np.diff(rows, axis=0) / dt
        if limit is not None:
            # A difference of order k of numbers rounded to eps carries up to 2^k eps / dt^k that no filter can avoid.
            out[kind] = (np.abs(rows[3 - order :]) / limit - 1.0, TOLERANCE + 2.0**order * EPS * scale / dt**order / limit)
    return out


def segments(commands: Array, bounds: Bounds, begins: Sequence[tuple[int, Array | None]]) -> list[tuple[int, int, Array]]:
    """Cuts [start, end, anchor] where the arm begins from a standstill.

    Args:
        commands: [T, n] rad.
        bounds: limits.
        begins: index of a command and the measured pose [n] that it may start from. None: a new filter, which starts at
            its own first command. A pose: after a reset, where commands may go on from the last one or start where the
            arm is; it counts as a start only if it keeps the limits better than going on.
    """
    cuts: list[tuple[int, Array]] = []
    for index, pose in begins:
        if index >= len(commands):
            continue
        if pose is None or not cuts:
            cuts.append((index, commands[index]))
            continue
        since = cuts[-1][0]
        last = commands[max(since, index - 3) : index]
        if not len(last) or np.abs(np.diff(last, axis=0)).max(initial=0.0) > STANDSTILL * bounds.period:
            continue  # no standstill before: it has to go on
        window = commands[index : index + 3]
        on, new = (
            max(float((e - t).max(initial=-1.0)) for e, t in _excess(window, start, bounds).values())
            for start in (last[-1], pose)
        )
        if on > 0.0 and new < on:
            cuts.append((index, pose))
    ends = [start for start, _ in cuts[1:]] + [len(commands)]
    return [(start, end, anchor) for (start, anchor), end in zip(cuts, ends, strict=True)]


def judge(commands: Array, bounds: Bounds, begins: Sequence[tuple[int, Array | None]] = ((0, None),), keep: int = 3) -> Verdict:
    """Position, velocity, acceleration and jerk of all commands [T, n] by finite differences over the control period.

    Every answered tick is one period, whatever the clock did. `begins` as in segments(); `keep`: findings per kind.
    """
    counts = dict.fromkeys(KINDS if bounds.jerk is not None else KINDS[:-1], 0)
    overshoot = {kind: -1.0 for kind in counts if kind != "finite"}
    first: list[Finding] = []
    bad = ~np.isfinite(commands)
    counts["finite"] = int(bad.sum())
    first += [Finding("finite", int(t), int(j), np.inf) for t, j in np.argwhere(bad)[:keep]]
    for start, end, anchor in segments(commands, bounds, begins):
        with np.errstate(invalid="ignore", over="ignore"):
            for kind, (excess, tolerance) in _excess(commands[start:end], anchor, bounds).items():
                over = excess > tolerance
                overshoot[kind] = max(overshoot[kind], float(np.nanmax(excess, initial=-1.0)))
                if over.any():
                    counts[kind] += int(over.sum())
                    left = max(0, keep - sum(f.kind == kind for f in first))
                    first += [Finding(kind, start + int(t), int(j), float(excess[t, j])) for t, j in np.argwhere(over)[:left]]
    return Verdict(counts, overshoot, tuple(first))


def standstill(commands: Array, order: int, period: float) -> int:
    """Index of the first command at or after `order` that does not move from the one before; -1 if none."""
    moved = np.abs(np.diff(commands[max(0, order - 1) :], axis=0)).max(axis=1)
    still = np.flatnonzero(moved <= STANDSTILL * period)
    return max(0, order - 1) + 1 + int(still[0]) if len(still) else -1


class Histogram:
    """Counts over logarithmic bins, so that ten million ticks need no memory; percentiles are good to 3 %."""

    def __init__(self, counts: Sequence[int] | None = None, extremes: Sequence[float] = ()) -> None:
        self.edges = np.geomspace(1e-8, 1e3, 850)
        self.counts = np.zeros(len(self.edges) + 1, np.int64) if counts is None else np.array(counts, np.int64)
        self.least, self.most = (extremes[0], extremes[1]) if len(extremes) else (np.inf, -np.inf)

    def add(self, values: Array) -> None:
        values = values[np.isfinite(values)]
        if len(values):
            self.counts += np.bincount(np.searchsorted(self.edges, values), minlength=len(self.counts))
            self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))

    def merge(self, other: Histogram) -> None:
        self.counts += other.counts
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    def percentile(self, share: float) -> float:
        """Upper edge of the bin that holds the share (0..100) of the values, within their extremes; NaN without values."""
        total = self.counts.sum()
        if not total:
            return float("nan")
        k = int(np.searchsorted(np.cumsum(self.counts), share / 100 * total))
        return float(np.clip(self.edges[min(k, len(self.edges) - 1)], self.least, self.most))

    def state(self) -> dict[str, Any]:
        """For JSON; Histogram(**state) is the same again."""
        return {"counts": self.counts.tolist(), "extremes": [self.least, self.most] if self.counts.any() else []}
