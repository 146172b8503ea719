"""When a judge may say "success", and on what evidence: a file beside its checkpoint, and the detector that obeys it.

success(o, g) begins after `debounce` frames in a row with d(o, g) <= threshold, and lasts until d(o, g) > release
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vla_ros.errors import VlaRosError

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Evidence:
    """How far the judge's distributions p(steps-to-go | o, g) can be believed, on held-out episodes."""

    reliability: tuple[tuple[float, float, int], ...]  # per bin: predicted success probability, share observed, frames
    auc: float  # final frames against those that are no success, by d
    coverage: float  # share of frames whose true steps-to-go lies in the predicted central 80 %
    course: tuple[tuple[float, float, float, float], ...]  # true steps-to-go; 10, 50 and 90 % quantile of d there
    episodes: int
    early: float  # share of the episodes in which the debounced detector fires too early
    held: float  # share of final frames at or under the release level
    lost: float  # share of frames that are no success at or under the release level

    def check(self) -> None:
        """Raises ValueError that names the first figure which cannot be."""
        for name in ("auc", "coverage", "early", "held", "lost"):
            _within(f"evidence.{name}", getattr(self, name), 0, 1)
        _whole("evidence.episodes", self.episodes)
        _rows("evidence.reliability", self.reliability, 3)
        for predicted, observed, frames in self.reliability:
            _within("evidence.reliability", predicted, 0, 1)
            _within("evidence.reliability", observed, 0, 1)
            _whole("evidence.reliability", frames)
        _rows("evidence.course", self.course, 4)
        for value in (v for row in self.course for v in row):
            _within("evidence.course", value, 0, math.inf)


@dataclass(frozen=True)
class Calibration:
    """How the detector decides, and on what evidence; lies beside the judge's checkpoint."""

    threshold: float  # s, policy steps
    debounce: int  # consecutive frames at or under s
    false_positive_rate: float  # of held-out frames that are no success: `margin` or more steps before the end, or of failures
    recall: float  # of held-out final frames
    frames: int  # held-out frames behind the two figures
    rank_correlation: float  # Spearman's, d against true steps-to-go, held-out
    release: float | None = None  # policy steps; None: the threshold, no hysteresis
    evidence: Evidence | None = None  # None: set by hand, for a detector in memory; from a file it is refused

    def save(self, folder: Path) -> None:
        (Path(folder) / CALIBRATION).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """
        Raises:
            VlaRosError: the file or part of it is missing, unknown, of another kind, or cannot be.
        """
        path = Path(folder) / CALIBRATION
        if not path.is_file():
            raise VlaRosError(f"{path} is missing: a judge without calibration is not used; train it with `vla-ros train`")
        try:
            values = _keys(cls, json.loads(path.read_text(encoding="utf-8")), "")
            if values["evidence"] is None:
                raise ValueError("evidence is null, expected what held-out episodes say of it")
            evidence = _keys(Evidence, values["evidence"], "evidence.")
            tables = {name: tuple(tuple(row) for row in evidence[name]) for name in ("reliability", "course")}
            values["evidence"] = Evidence(**{**evidence, **tables})
            found = cls(**values)
            found.check()
        except (ValueError, TypeError) as error:
            raise VlaRosError(f"{path}: not a calibration: {error}; train the judge again") from error
        return found

    def check(self) -> None:
        """Raises ValueError that names the first figure which cannot be."""
        _within("threshold", self.threshold, 0, math.inf)
        if self.release is not None:
            _within("release", self.release, self.threshold, math.inf)
        _whole("debounce", self.debounce)
        _whole("frames", self.frames)
        for name in ("false_positive_rate", "recall"):
            _within(name, getattr(self, name), 0, 1)
        _within("rank_correlation", self.rank_correlation, -1, 1)
        if self.evidence is not None:
            self.evidence.check()
            if (counted := sum(row[2] for row in self.evidence.reliability)) != self.frames:
                raise ValueError(f"evidence.reliability counts {counted} frames, expected {self.frames}")

    def check_range(self, bins: int) -> None:
        """Raises VlaRosError where a network of so many steps-to-go bins never reaches a level, or never leaves it."""
        limit = bins - 1
        if not 0 < self.threshold < limit:
            raise VlaRosError(f"{CALIBRATION}: threshold is {self.threshold}, expected within 0..{limit} steps")
        if self.release is not None and not self.threshold <= self.release < limit:
            found = f"release is {self.release}, expected from the threshold {self.threshold} to {limit}"
            raise VlaRosError(f"{CALIBRATION}: {found}")


class Detector:
    """Debounced success with hysteresis, one observation after another. What decides live and offline alike."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._release = calibration.threshold if calibration.release is None else calibration.release
        self.reset()

    def reset(self) -> None:
        """A new episode."""
        self.success = False
        self._hits = 0

    def step(self, d: float) -> bool:
        """Success as of this observation; `d` is its expected steps-to-go."""
        if self.success and d <= self._release:
            return True
        self._hits = self._hits + 1 if d <= self.calibration.threshold else 0
        self.success = self._hits >= self.calibration.debounce
        return self.success


def detected(steps_to_go: Iterable[float], calibration: Calibration) -> int | None:
    """Index of the observation at which the detector first fires on a whole episode, or None."""
    detector = Detector(calibration)
    return next((index for index, d in enumerate(steps_to_go) if detector.step(float(d))), None)


def _keys(kind: type[Calibration | Evidence], found: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise TypeError(f"found {type(found).__name__}, expected an object")
    expected = {f.name for f in fields(kind)}
    if missing := sorted(expected - set(found)):
        raise ValueError(f"{prefix}{missing[0]} is missing")
    if unknown := sorted(set(found) - expected):
        raise ValueError(f"{prefix}{unknown[0]} is unknown")
    return dict(found)


def _within(name: str, value: Any, low: float, high: float) -> None:
    """Also refuses what is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, expected a number within {low:g}..{high:g}")


def _whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected a whole number from 1")


def _rows(name: str, rows: tuple[tuple[float, ...], ...], length: int) -> None:
    if not rows or any(len(row) != length for row in rows):
        raise ValueError(f"{name} is {len(rows)} rows, expected some, of {length} numbers each")
