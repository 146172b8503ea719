"""Warnings of a log: a reward that never comes, and a critic that explains nothing."""

from __future__ import annotations

from typing import Any

import pytest

from vla_ros.learning.watch import WINDOW, warnings


def point(success: bool, explained: float | None = None, variance: float = 0.1, group: str = "push") -> dict[str, Any]:
    critic = {} if explained is None else {"explained_variance": explained, "return_variance": variance}
    return {"practised": [{"group": group, "success": success}, {"group": "reach", "success": True}], **critic}


def test_a_reward_that_never_comes_is_named_by_task() -> None:
    assert warnings([point(False)] * (WINDOW - 1)) == [], "too early to tell"
    told = warnings([point(True)] + [point(False)] * WINDOW)
    assert len(told) == 1
    assert f"reward: none of the last {WINDOW} episodes of push had any, expected some" in told[0]
    assert warnings([point(False)] * (WINDOW - 1) + [point(True)]) == []
    between = [{"practised": []}] * 3  # stage 2 of iRe-VLA
    assert warnings([point(False)] * (WINDOW - 1) + between + [point(False)])


@pytest.mark.parametrize(
    ("points", "rings"),
    [
        ([point(True, -0.3)] * WINDOW, True),
        ([point(True, 0.0)] * WINDOW, True),
        ([point(True, -0.3)] * (WINDOW - 1) + [point(True, 0.9, 0.5)], False),  # together they do explain
        ([point(True, -9.0, 0.001)] * WINDOW, False),  # all episodes end alike
        ([point(True)] * WINDOW, False),  # no critic
    ],
)
def test_a_critic_that_explains_nothing_is_named(points: list[dict[str, Any]], rings: bool) -> None:
    told = warnings(points)
    assert bool(told) == rings
    assert not rings or "critic: explained variance" in told[0]
