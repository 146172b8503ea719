"""Admission of action chunks: a chunk is taken whole or rejected whole, with a typed reason."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from vla_ros.safety.limits import Limits
from vla_ros.types import JOINT_POSITION, ActionChunk

MAX_ROWS = 10_000  # a bound on memory, far above any chunk or homing motion


def admit(
    chunk: ActionChunk, limits: Limits, command: Sequence[float], now: float, newest: float
) -> tuple[str, list[float], list[list[float]]]:
    """Checks one chunk; the rejected reasons are `semantics`, `joint_names`, `shape`, `non_finite`, `period`,
    `not_monotonic`, `too_old`, `too_far_ahead`, `position_limit:<joint>`, `row_jump:<joint>`.

    Args:
        chunk: as it came.
        limits: of the arm; joint_names may be any permutation of its joints.
        command: [n] rad, the last command.
        now: s.
        newest: s, stamp of the newest observation that an accepted chunk answered; 0 if none.

    Returns:
        reason ('' when accepted), due times [K] s and rows [K][n] rad of the rows that are not late.
    """
    rows = chunk.rows
    n = len(limits.joints)
    if chunk.semantics != JOINT_POSITION:
        return "semantics", [], []
    if len(chunk.joint_names) != n or set(chunk.joint_names) != set(limits.joints):
        return "joint_names", [], []
    if rows.ndim != 2 or not 1 <= rows.shape[0] <= MAX_ROWS or rows.shape[1] != n:
        return "shape", [], []
    if not (isfinite(chunk.stamp) and isfinite(chunk.period) and isfinite(chunk.observation_stamp)):
        return "non_finite", [], []
    if not np.isfinite(rows).all():
        return "non_finite", [], []
    if chunk.period <= 0.0:
        return "period", [], []
    if chunk.observation_stamp > 0.0:
        if chunk.observation_stamp < newest:
            return "not_monotonic", [], []
        if now - chunk.observation_stamp > limits.chunk_age:
            return "too_old", [], []
    due = [chunk.stamp + k * chunk.period for k in range(rows.shape[0])]
    first = next((k for k, time in enumerate(due) if time > now), len(due))
    if first == len(due):
        return "too_old", [], []
    if max(chunk.period, due[first] - now) > limits.chunk_lead or due[-1] - now > limits.chunk_horizon:
        return "too_far_ahead", [], []
    order = [chunk.joint_names.index(name) for name in limits.joints]
    kept: list[list[float]] = rows[first:, order].tolist()
    reason = _check_rows(kept, limits, command)
    return (reason, [], []) if reason else ("", due[first:], kept)


def _check_rows(rows: list[list[float]], limits: Limits, command: Sequence[float]) -> str:
    before: Sequence[float] = command
    for row in rows:
        for name, q, last, low, high in zip(limits.joints, row, before, limits.lower, limits.upper, strict=True):
            if not low <= q <= high:
                return f"position_limit:{name}"
            if abs(q - last) > limits.row_jump:
                return f"row_jump:{name}"
        before = row
    return ""
