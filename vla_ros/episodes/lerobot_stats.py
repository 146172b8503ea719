"""Statistics of LeRobotDataset v3.0: per episode, and merged into those of the whole set (meta/stats.json).

min, max, mean, std, count and the quantiles q01 to q99 of every feature; of images per channel, pixels as 0..1, [3, 1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.types import Image

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
NEEDED = ("min", "max", "mean", "std")  # by what normalises with them

Stats = dict[str, NDArray[Any]]


def of_values(values: NDArray[Any]) -> Stats:
    """Statistics [D] of [T, D], or [1] of [T]."""
    rows = values.reshape(len(values), -1)
    return {
        "min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0, dtype=np.float64),
        "std": rows.std(axis=0, dtype=np.float64), "count": np.array([len(rows)]),
        **{name: np.quantile(rows.astype(np.float64), share, axis=0) for name, share in QUANTILES.items()},
    }  # fmt: skip


class ImageStats:
    """Statistics of all pixels of an episode, exact, from one histogram per channel."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, image: Image) -> None:
        """One more frame [H, W, 3]."""
        for channel in range(3):
            self._counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
        self._images += 1

    def result(self) -> Stats:
        """[3, 1, 1] each, of at least one image."""
        levels, below = np.arange(256) / 255.0, np.cumsum(self._counts, axis=1)
        pixels = below[:, -1:]
        mean = (self._counts * levels).sum(axis=1, keepdims=True) / pixels
        variance = (self._counts * (levels - mean) ** 2).sum(axis=1, keepdims=True) / pixels
        used = self._counts > 0
        values = {
            "min": levels[used.argmax(axis=1)], "max": levels[255 - used[:, ::-1].argmax(axis=1)], "mean": mean,
            "std": np.sqrt(variance),
            **{name: levels[(below >= share * pixels).argmax(axis=1)] for name, share in QUANTILES.items()},
        }  # fmt: skip
        return {**{name: value.reshape(3, 1, 1) for name, value in values.items()}, "count": np.array([self._images])}


def merge(parts: Sequence[Stats]) -> Stats:
    """Statistics of one feature over several episodes.

    Mean and standard deviation are exact; quantiles are the mean of the episodes' own weighted by their length, as LeRobot
    merges them.
    """
    counts = np.array([part["count"][0] for part in parts], np.float64)
    shares = counts / counts.sum()

    def weighted(name: str) -> NDArray[np.float64]:
        return np.asarray(np.tensordot(shares, np.stack([part[name] for part in parts]), axes=1), np.float64)

    mean = weighted("mean")
    spread = np.stack([part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts])
    return {
        "min": np.min([part["min"] for part in parts], axis=0), "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean, "std": np.sqrt(np.tensordot(shares, spread, axes=1)), "count": np.array([round(counts.sum())]),
        **{name: weighted(name) for name in QUANTILES},
    }  # fmt: skip
