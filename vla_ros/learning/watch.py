"""Warnings about what practice learns from, out of the log that it leaves: they hold after a restart, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 5  # last updates on episodes
DIFFER = 0.01  # variance of returns under which there is nothing to explain: nearly all episodes end alike


def warnings(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """
    Args:
        points: of log.jsonl, each with `practised` episodes (`group`, `success`), and of a method with a critic
            `explained_variance` and `return_variance`.
    """
    recent = [p for p in points if p["practised"]][-WINDOW:]
    if len(recent) < WINDOW:
        return []
    out, outcomes = [], dict[str, list[bool]]()
    for episode in (e for p in recent for e in p["practised"]):
        outcomes.setdefault(episode["group"], []).append(episode["success"])
    for task, successes in sorted(outcomes.items()):
        if not any(successes):
            remedy = "begin with a better stage 1, easier scenes, or demonstrations of it"
            out.append(f"reward: none of the last {len(successes)} episodes of {task} had any, expected some: {remedy}")
    known = [(p["explained_variance"], p["return_variance"]) for p in recent if p.get("return_variance", 0.0) > DIFFER]
    if len(known) == WINDOW and (share := sum(e * v for e, v in known) / sum(v for _, v in known)) <= 0:
        remedy = "its advantages are noise; try a higher `critic_rate`, a longer `warmup`, or larger batches"
        out.append(f"critic: explained variance {share:.2f} over the last {WINDOW} updates, expected more than 0: {remedy}")
    return out
