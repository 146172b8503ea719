"""From held-out episodes to a calibration: threshold, release level, and whether the distributions can be believed.

Both levels come from the same frames, those that are no success. At the threshold hardly any of them pass (0.5 %), at the
release level ten times as many: noise of a single frame does not take a success back, and one that is really lost (the
block slips) is noticed at 19 frames out of 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.progress.calibration import Calibration, Evidence, detected

Array = NDArray[np.float64]
CENTRAL = (0.1, 0.9)  # quantiles around the predicted central 80 %
BINS = 10  # of predicted success probability
EVERY = 5  # steps per row of `Evidence.course`
LEVELS = 20  # candidates per step
MARGIN = 5  # steps before its end from which on a frame of a demonstration that a person ended is surely no success
DEBOUNCE = 2  # frames in a row that say so
HELD = 10.0  # false positives at the release level, in units of those at the threshold


def calibrate(
    probabilities: NDArray[np.floating[Any]],
    true: NDArray[np.integer[Any]],
    episode: NDArray[np.integer[Any]],
    failed: Sequence[NDArray[np.floating[Any]]] = (),
    wanted_rate: float = 0.005,
    margin: int = MARGIN,
    debounce: int = DEBOUNCE,
) -> Calibration:
    """Largest threshold whose false-positive rate on held-out frames stays at or under `wanted_rate`.

    Labels need no ground truth: a demonstration's final frame is a success, frames `margin` or more steps before the end
    are not, and those between do not count. Failed episodes, where there are any, count with all their frames.

    Args:
        probabilities: [N, K] p(steps-to-go) of the frames of held-out demonstrations, in order.
        true: [N] steps-to-go by the clock.
        episode: [N] which one a frame belongs to.
        failed: [T, K] each, of held-out episodes that never succeeded.

    Raises:
        VlaRosError: no frames before or at the end, or no threshold keeps the rate.
    """
    steps = np.arange(probabilities.shape[1])
    d = (probabilities @ steps).astype(np.float64)
    failures = [(p @ steps).astype(np.float64) for p in failed]
    negative, positive = np.concatenate([d[true >= margin], *failures]), d[true == 0]
    if not len(negative) or not len(positive):
        raise VlaRosError(f"calibration needs frames before and at the end, found {len(negative)} and {len(positive)}")
    threshold = _largest(np.arange(5, LEVELS * margin) / LEVELS, negative, wanted_rate)
    if threshold is None:
        best = (negative <= 0.25).mean()
        raise VlaRosError(f"no threshold keeps false positives at {wanted_rate}: best is {best:.4f}; train longer")
    higher = np.arange(round(LEVELS * threshold), LEVELS * (len(steps) - 1)) / LEVELS
    release = _largest(higher, negative, HELD * wanted_rate) or threshold
    everything = np.concatenate([probabilities, *failed])
    over = np.concatenate([true <= int(threshold), np.zeros(len(everything) - len(d), bool)])
    found = Calibration(
        threshold, debounce, float((negative <= threshold).mean()), float((positive <= threshold).mean()), len(everything),
        spearman(d, true), release,
    )  # fmt: skip
    early = [_fires_early(d[episode == k], true[episode == k], margin, found) for k in np.unique(episode)]
    early += [detected(f, found) is not None for f in failures]
    evidence = Evidence(
        reliability=reliability(at_goal(everything, threshold), over), auc=auc(-positive, -negative),
        coverage=coverage(probabilities, true), course=_course(d, true), episodes=len(early), early=float(np.mean(early)),
        held=float((positive <= release).mean()), lost=float((negative <= release).mean()),
    )  # fmt: skip
    return replace(found, evidence=evidence)


def at_goal(probabilities: Any, threshold: float) -> Any:
    """Predicted success probability, [...]: the mass of p(steps-to-go) [..., K] at or under the threshold."""
    return probabilities[..., : int(threshold) + 1].sum(-1)


def reliability(predicted: NDArray[np.floating[Any]], observed: NDArray[np.bool_]) -> tuple[tuple[float, float, int], ...]:
    """Frames binned by predicted probability [N]: mean prediction, share observed [N], and how many; empty bins left out."""
    index = np.minimum((predicted * BINS).astype(int), BINS - 1)
    bins = ((index == k) for k in np.unique(index))
    return tuple((float(predicted[b].mean().clip(0, 1)), float(observed[b].mean()), int(b.sum())) for b in bins)


def coverage(probabilities: NDArray[np.floating[Any]], true: NDArray[np.integer[Any]]) -> float:
    """Share of frames whose true steps-to-go lies within the predicted quantiles CENTRAL; 0.8 if the spread is right.

    Steps are whole, so quantiles are compared with the distribution function half-way up the true step (mid-PIT), which
    covers 0.8 on average where an interval of whole steps covers more. The last bin is "that many or more".
    """
    true = np.minimum(true, probabilities.shape[1] - 1)
    rows = np.arange(len(true))
    position = probabilities.cumsum(1)[rows, true] - 0.5 * probabilities[rows, true]
    return float(((position >= CENTRAL[0]) & (position <= CENTRAL[1])).mean())


def auc(positive: Array, negative: Array) -> float:
    """Probability that a positive's score [n] is above a negative's [m], ties counting half (Mann-Whitney)."""
    n, m = len(positive), len(negative)
    return float((ranks(np.concatenate([positive, negative]))[:n].sum() - n * (n + 1) / 2) / (n * m))


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Rank correlation with ties sharing their rank; 0 where one of the two [N] does not vary."""
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip(x @ y / size, -1, 1)) if size else 0.0


def ranks(values: NDArray[Any]) -> Array:
    """[N] 1, 2, … in ascending order; equal values get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], np.float64)


def _largest(levels: Array, negative: Array, rate: float) -> float | None:
    good = [level for level in levels if (negative <= level).mean() <= rate]
    return float(good[-1]) if good else None


def _fires_early(d: Array, true: NDArray[np.integer[Any]], margin: int, c: Calibration) -> bool:
    at = detected(d, c)
    return at is not None and bool(true[at] >= margin)


def _course(d: Array, true: NDArray[np.integer[Any]]) -> tuple[tuple[float, float, float, float], ...]:
    """Quantiles of d along the episode; the end by itself, then EVERY steps a row."""
    group = np.where(true == 0, 0, 1 + (true - 1) // EVERY)
    rows = []
    for k in np.unique(group):
        low, middle, high = np.quantile(d[group == k], (CENTRAL[0], 0.5, CENTRAL[1]))
        rows.append((float(true[group == k].mean()), float(low), float(middle), float(high)))
    return tuple(rows)
