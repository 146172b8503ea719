"""Admission of action chunks: a chunk is taken whole or rejected whole, with a typed reason."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import isfinite

import numpy as np

from vla_ros.safety.limits import Limits
from vla_ros.safety.semantics import Rows
from vla_ros.types import JOINT_DELTA, TIP_DELTA, TIP_POSE, ActionChunk, Array

MAX_TIP_ROWS = 100  # inverse kinematics of more would hold up the control loop
MAX_ROWS = 10_000  # a bound on memory, far above any chunk or homing motion
SCRIPTED = 0  # policy version of scripted motions, which are always known
RESOLUTION = 1e-4  # s; rows that are closer to each other, or to the present, are not told apart
NOTHING: Array = np.empty(0)


def admit(
    chunk: ActionChunk,
    limits: Limits,
    rows: Rows,
    command: Array,
    now: float,
    newest: float,
    versions: Collection[int] | None = None,
) -> tuple[str, Array, Array]:
    """Checks one chunk; the reasons to reject are `semantics`, `unknown_version`, `joint_names`, `shape`, `non_finite`,
    `period`, `not_monotonic`, `too_old`, `from_the_future`, `too_far_ahead`, `too_many_rows`, `quaternion`,
    `unreachable:<tip>`, `position_limit:<joint>`, `row_jump:<joint>`.

    Args:
        chunk: as it came.
        limits: of the arm; joint_names may be any permutation of its joints (or of the tips).
        rows: what turns other semantics into joint positions.
        command: [n] rad, the last command.
        now: s.
        newest: s, stamp of the newest observation that an accepted chunk answered; 0 if none.
        versions: policy versions that may move the arm; None: any.

    Returns:
        reason ('' when accepted), due times [K] s and joint positions [K, n] rad of the rows that are not late.
    """
    names = rows.names(chunk.semantics)
    if not names:
        return "semantics", NOTHING, NOTHING
    if versions is not None and chunk.policy_version != SCRIPTED and chunk.policy_version not in versions:
        return "unknown_version", NOTHING, NOTHING
    if len(chunk.joint_names) != len(names) or set(chunk.joint_names) != set(names):
        return "joint_names", NOTHING, NOTHING
    values = chunk.rows
    if values.ndim != 2 or not 1 <= len(values) <= MAX_ROWS or values.shape[1] != rows.width(chunk.semantics):
        return "shape", NOTHING, NOTHING
    if not (isfinite(chunk.stamp) and isfinite(chunk.period) and isfinite(chunk.observation_stamp)):
        return "non_finite", NOTHING, NOTHING
    if not np.isfinite(values).all():
        return "non_finite", NOTHING, NOTHING
    if chunk.period < RESOLUTION:
        return "period", NOTHING, NOTHING
    if chunk.observation_stamp > 0.0:
        if chunk.observation_stamp < newest:
            return "not_monotonic", NOTHING, NOTHING
        if now - chunk.observation_stamp > limits.chunk_age:
            return "too_old", NOTHING, NOTHING
        if chunk.observation_stamp - now > limits.state_age:
            return "from_the_future", NOTHING, NOTHING
    with np.errstate(over="ignore"):  # infinity is too far ahead
        due: Array = np.asarray(chunk.stamp + chunk.period * np.arange(len(values)), np.float64)
    first = int(np.searchsorted(due, now + RESOLUTION, side="right"))
    # The sum of a delta with one that is too late to be driven is a place the policy did not mean.
    if first == len(due) or (first and chunk.semantics in (JOINT_DELTA, TIP_DELTA)):
        return "too_old", NOTHING, NOTHING
    if max(chunk.period, due[first] - now) > limits.chunk_lead or due[-1] - now > limits.chunk_horizon:
        return "too_far_ahead", NOTHING, NOTHING
    if len(due) - first > MAX_TIP_ROWS and chunk.semantics in (TIP_POSE, TIP_DELTA):
        return "too_many_rows", NOTHING, NOTHING
    reason, positions = rows.joint_positions(replace(chunk, rows=values[first:]), command)
    reason = reason or _check_rows(positions, limits, command)
    return (reason, NOTHING, NOTHING) if reason else ("", due[first:], positions)


def _check_rows(rows: Array, limits: Limits, command: Array) -> str:
    inside = (rows >= limits.lower) & (rows <= limits.upper)  # NaN is not
    if not inside.all():
        return f"position_limit:{limits.joints[int(inside.all(axis=0).argmin())]}"
    near = (abs(np.diff(rows, axis=0, prepend=command[None])) <= limits.row_jump).all(axis=0)
    return "" if near.all() else f"row_jump:{limits.joints[int(near.argmin())]}"
