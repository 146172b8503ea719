"""Rows of the running chunk, by the clock."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.policy.running import RECENT, RunningChunk

ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)  # due at t + 0.1, t + 0.2, ...


@pytest.mark.parametrize(
    ("later", "delay", "found"),
    [
        (0.1, 0.05, [1]),  # the arm is on its way to the next row when the answer comes
        (0.1, 0.25, [1, 2, 3]),
        (0.3, 0.15, [3, 4]),
        (0.1, 0.95, [1, 2, 3, 4]),  # as many as the network takes
        (0.8, 0.35, [8, 9]),  # it runs out
    ],
)
def test_rows_that_are_executed_meanwhile(later: float, delay: float, found: list[int]) -> None:
    running = RunningChunk(0.1, 4)
    assert running.rows(100.0) is None
    running.sent(100.0, ROWS, delay)
    rows = running.rows(100.0 + later)
    assert rows is not None
    np.testing.assert_array_equal(rows, ROWS[found])


def test_nothing_runs() -> None:
    running = RunningChunk(0.1, 4)
    running.sent(100.0, ROWS, 0.1)
    assert running.rows(101.0) is None, "the chunk is over"
    assert running.rows(99.0) is None, "the clock was set back"
    running.reset()
    assert running.rows(100.1) is None
    never = RunningChunk(0.1, 0)
    never.sent(100.0, ROWS, 0.1)
    assert never.rows(100.1) is None


def test_the_longest_of_the_recent_delays_counts() -> None:
    running = RunningChunk(0.1, 9)
    for delay in (0.45, *[0.05] * (RECENT - 1)):
        running.sent(100.0, ROWS, delay)
    assert len(running.rows(100.1)) == 5  # type: ignore[arg-type]
    running.sent(100.0, ROWS, 0.05)
    assert len(running.rows(100.1)) == 1  # type: ignore[arg-type]
