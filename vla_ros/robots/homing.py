"""Joint-space homing path: minimum-jerk timing, slow enough that the safety filter leaves it alone."""

from __future__ import annotations

import math

import numpy as np

from vla_ros.types import Array


def homing_rows(start: Array, goal: Array, velocity_limit: Array, period: float, share: float = 0.25) -> Array:
    """Rows [T, n] rad from `start` (excluded) to `goal`, `period` s apart, at most `share` of the velocity limit.

    Minimum jerk peaks at 1.875 times the mean velocity.
    """
    seconds = float(np.max(np.abs(goal - start) * 1.875 / (share * velocity_limit)))
    count = max(2, math.ceil(seconds / period))
    s = np.arange(1, count + 1) / count
    blend = 10 * s**3 - 15 * s**4 + 6 * s**5
    return np.asarray(start + blend[:, None] * (goal - start))
