"""A new version that shares the episodes with the proven one: who runs when, and how often the comparison of the two errs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.learning.canary import Canary
from vla_ros.learning.stopping import Stop, StopConfig, Stopping

SHARE = 0.3
CONFIG = StopConfig(canary=SHARE)
PROBATION = CONFIG.probation


def on_trial(share: float = SHARE) -> Canary:
    """2 beside 1."""
    canary = Canary(share)
    canary.begin(1, 0)
    canary.begin(2, PROBATION)
    return canary


def test_until_it_is_proven_it_runs_its_share() -> None:
    canary = on_trial()
    drawn = [canary.draw() for _ in range(3000)]
    assert set(drawn) == {1, 2}
    assert drawn.count(2) == pytest.approx(SHARE * 3000, abs=4 * (SHARE * (1 - SHARE) * 3000) ** 0.5)
    assert (canary.trial, canary.beside(1), canary.beside(2), canary.trusted, canary.settled) == (2, 2, 0, 1, False)
    assert canary.sentence == "version 2 is on probation for 20 more episodes: it runs 30% of all, version 1 the others"
    assert [canary.ran(version) for version in (1, 2) * PROBATION] == [False] * (2 * PROBATION - 1) + [True]
    assert (canary.trial, canary.beside(1), canary.trusted, canary.settled, canary.sentence) == (0, 0, 2, True, "")
    assert {canary.draw() for _ in range(100)} == {2}
    assert [canary.knows(version) for version in (1, 2)] == [False, True]


def test_going_back_ends_it_and_the_next_one_is_compared_with_the_version_that_returned() -> None:
    canary = on_trial()
    canary.begin(1, 0)
    assert (canary.trial, canary.draw()) == (0, 1)
    canary.begin(3, PROBATION)
    assert (canary.trial, canary.trusted) == (3, 1)


@pytest.mark.parametrize("how", ["a share of 1", "nothing is proven", "an operator has chosen it"])
def test_it_runs_all_where(how: str) -> None:
    canary = Canary(SHARE) if how == "nothing is proven" else on_trial(1.0 if how == "a share of 1" else SHARE)
    if how != "a share of 1":
        canary.alone()
        canary.begin(2, PROBATION)
    assert {canary.draw() for _ in range(100)} == {2}
    assert (canary.trial, canary.trusted, canary.sentence, canary.left) == (0, 2, "", PROBATION)
    assert canary.settled == (how == "a share of 1"), "else the next one would have nothing proven beside it"


def tried(
    old: float, new: float, seed: int, config: StopConfig = CONFIG, cell: float = 1.0
) -> tuple[Stop | None, Counter[int], Stopping]:
    """Version 2 beside 1, which has practised for 4 windows. Of two tasks, one succeeds by 20 points less.

    Args:
        old, new: success rates.
        cell: factor on both from the moment that 2 is there: the light is another.

    Returns:
        The stop, and the episodes by version until then, or until 2 is proven.
    """
    random, stopping, canary, ran = np.random.default_rng(seed), Stopping(config), Canary(config.canary, seed), Counter[int]()

    def episode(version: int, rate: float, beside: int) -> Stop | None:
        hard = bool(random.random() < 0.3)
        success = bool(random.random() < rate - 0.2 * hard)
        return stopping.episode(version, success, group="push" if hard else "reach", beside=beside)

    canary.begin(1, 0)
    for _ in range(4 * config.window):
        episode(1, old, 0)
    canary.begin(2, config.probation)
    while canary.left:
        version = canary.draw()
        ran[version] += 1
        if stop := episode(version, cell * (old, new)[version - 1], canary.beside(version)):
            return stop, ran, stopping
        canary.ran(version)
    return None, ran, stopping


RUNS = 100  # 1000 for the figures in stopping.py's docstring


def test_one_that_is_as_good_is_rarely_refused() -> None:
    assert sum(tried(0.65, 0.65, seed)[0] is not None for seed in range(RUNS)) <= 0.01 * RUNS


@pytest.mark.parametrize(("old", "new", "least"), [(0.65, 0.05, 0.85), (0.85, 0.35, 0.6)])
def test_one_that_breaks_something_goes_having_run_its_share(old: float, new: float, least: float) -> None:
    found = [tried(old, new, seed) for seed in range(RUNS)]
    gone = [(stop, ran) for stop, ran, _ in found if stop]
    assert len(gone) >= least * RUNS
    assert {(stop.rule, stop.best, stop.ends) for stop, _ in gone} == {("canary", 1, False)}
    assert np.median([ran[2] for _, ran in gone]) <= 16
    assert np.median([ran[2] / ran.total() for _, ran in gone]) == pytest.approx(SHARE, abs=0.05)


def test_a_cell_that_drifts_is_no_bad_version() -> None:
    """All succeeds half as often from the moment that a version comes, and that is blamed for it, unless the old one is seen
    to do no better."""
    alone, beside = (
        sum(tried(0.85, 0.85, seed, StopConfig(canary=canary), cell=0.5)[0] is not None for seed in range(RUNS))
        for canary in (1.0, SHARE)
    )
    assert alone > 0.3 * RUNS
    assert beside <= 0.01 * RUNS


def test_after_it_all_is_as_if_it_had_not_been_tried() -> None:
    """A version that is gone leaves no trace in the windows, though one was closed while it ran."""
    stopping = Stopping(StopConfig(canary=SHARE, window=30))
    episodes = [(1, k % 5 > 0, 0) for k in range(80)]
    assert [stopping.episode(v, s, beside=b) for v, s, b in episodes] == [None] * 80
    before, stop = stopping.best, None
    for k in range(15):
        for version, success, beside in ((1, True, 2), (1, k % 5 > 0, 2), (2, False, 0)):
            stop = stop or stopping.episode(version, success, beside=beside)
        assert (stop is None) == (k < 6)
    assert stop is not None
    assert (stop.rule, stop.best, stop.ends) == ("canary", 1, False)
    assert stop.sentence == "success of version 2 is 0% in 7 episodes, of version 1 beside it 86% in 14 episodes"
    assert stopping.best == before
    for k in range(10):
        assert stopping.episode(1, False) is None
        assert stopping.best == before, (k, "the third window is not full before")
    best = stopping.best
    assert best is not None
    assert (best.version, best.rate) == (1, pytest.approx(0.8))


def test_three_bad_ones_in_a_row_end_it() -> None:
    stopping, stops = Stopping(CONFIG), list[Stop]()
    for version in (2, 3, 4):
        for _ in range(PROBATION):
            stopping.episode(1, True, beside=version)
            if stop := stopping.episode(version, False):
                stops.append(stop)
    assert [(s.rule, s.best, s.ends) for s in stops] == [("canary", 1, False)] * 2 + [("canary", 1, True)]
    assert stops[-1].sentence.endswith("2 returns to it gained nothing: look at learning rate, rewards and calibration")


@pytest.mark.parametrize("canary", [0.0, -0.3, 0.7, 1.5, float("nan")])
def test_a_share_that_says_nothing_is_refused(canary: float) -> None:
    with pytest.raises(VlaRosError, match=rf"^canary is {canary}, expected above 0 and at most 0.5, or 1 for all episodes$"):
        StopConfig(canary=canary)


def test_a_share_of_no_probation_is_refused() -> None:
    with pytest.raises(VlaRosError, match=r"^canary is 0.3, expected 1 where probation is 0"):
        StopConfig(canary=0.3, probation=0)
