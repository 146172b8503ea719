"""Honest figures for success rates: Wilson intervals, a paired test on the same scenes before and after, and two samples
compared stratum by stratum (a stratum is a task), so that another mixture of easy and hard ones is no difference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

Z = 1.959964  # two-sided 95 %
Counts = tuple[int, int, int, int]  # of one stratum: successes and trials before, successes and trials after


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a success rate (Wilson 1927), which stays inside 0..1 also for few episodes."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Exact two-sided p-value that success on the same scenes is unchanged (binomial on the discordant pairs)."""
    gained = sum(a and not b for b, a in zip(before, after, strict=True))
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    n = gained + lost
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    return min(1.0, 2 * tail)


def difference(strata: Iterable[Counts]) -> float:
    """Success rate after minus before at the same mixture (Mantel and Haenszel's weights); nan where no stratum has both."""
    parts = [(n * m / (n + m), b / m - a / n) for a, n, b, m in strata if n and m]
    return sum(w * d for w, d in parts) / sum(w for w, _ in parts) if parts else math.nan


def fewer(strata: Iterable[Counts]) -> float:
    """Exact one-sided p-value that successes are no rarer after than before, strata held apart.

    Given each stratum's totals, the number of successes after is a sum of independent hypergeometric ones: Fisher's test in
    one stratum, the exact test of a common odds ratio (Gart 1970) in several.
    """
    found, chances = 0, np.ones(1)
    for a, n, b, m in strata:
        ways = [math.comb(m, k) * math.comb(n, a + b - k) for k in range(min(m, a + b) + 1)]
        every = math.comb(n + m, a + b)
        found, chances = found + b, np.convolve(chances, [way / every for way in ways])
    return min(1.0, float(chances[: found + 1].sum()))


def lower(strata: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float:
    """One-sided p-value that values are no lower after than before: Wilcoxon's rank sums added over strata, ties counted half,
    normal approximation (van Elteren 1960, with equal weights)."""
    excess = variance = 0.0
    for before, after in strata:
        x, y = np.asarray(before, float), np.asarray(after, float)
        n, m, total = len(x), len(y), len(x) + len(y)
        if n and m:
            excess += float(np.sign(x[:, None] - y).sum()) / 2
            ties = np.unique(np.concatenate([x, y]), return_counts=True)[1].astype(float)
            variance += n * m / 12 * (total + 1 - float((ties**3 - ties).sum()) / (total * (total - 1)))
    return 0.5 * math.erfc(excess / math.sqrt(2 * variance)) if variance else 1.0
