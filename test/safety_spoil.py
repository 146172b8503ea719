"""What goes wrong on the way: chunks and joint states that come late, cut, mixed up or full of rubbish.

Why it stands in test/: see safety_judge.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from safety_judge import Array

from vla_ros.types import ActionChunk, JointState

BAD = (math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e9, -1e3)
STATES = {
    "silent": 4, "stale": 2, "partial": 2, "non_finite": 2, "shape": 1, "frozen": 2, "noise": 2, "permuted": 2, "extra": 2,
    "glitch": 1, "nameless": 1,
}  # fmt: skip
SPOILS = {
    "late": 3, "ahead": 1, "twice": 3, "reordered": 3, "period": 2, "names": 2, "permuted": 3, "shape": 2, "empty": 1,
    "stamp": 1, "old": 2, "value": 4, "far": 1,
}  # fmt: skip


def pick(rng: np.random.Generator, weights: Mapping[str, int]) -> str:
    """A key, as often as its weight says."""
    names, shares = _table(tuple(weights.items()))
    return names[int(np.searchsorted(shares, rng.random()))]


@functools.cache
def _table(weights: tuple[tuple[str, int], ...]) -> tuple[list[str], Array]:
    shares = np.cumsum([often for _, often in weights], dtype=np.float64)
    return [name for name, _ in weights], shares / shares[-1]


def spoil_chunk(rng: np.random.Generator, chunk: ActionChunk, kind: str, now: float) -> ActionChunk:
    """`kind` is a key of SPOILS; `twice` and `reordered` are the sender's, and leave it as it is."""
    rows, names = chunk.rows, chunk.joint_names
    if kind == "late":
        return replace(chunk, stamp=chunk.stamp - rng.uniform(0, 1.5) * len(rows) * chunk.period)
    if kind == "ahead":
        return replace(chunk, stamp=chunk.stamp + float(rng.choice([0.2, 0.9, 5.0, 1e9])))
    if kind == "period":
        return replace(chunk, period=float(rng.choice([0.0, -0.1, 1e-9, 1e-4, 0.9, 1e6, math.nan, math.inf])))
    if kind == "names":
        wrong = ("x", *names[1:]) if rng.random() < 0.5 else (names[0],) * len(names)
        return replace(chunk, joint_names=wrong)
    if kind == "permuted":
        order = rng.permutation(len(names))
        rows = rows[:, order] if rows.shape[1] == len(names) else rows
        return replace(chunk, joint_names=tuple(names[j] for j in order), rows=rows)
    if kind == "shape":
        shapes = [rows[:, :-1], rows[0], rows[None], np.hstack([rows, rows])]
        return replace(chunk, rows=shapes[int(rng.integers(4))])
    if kind == "empty":
        return replace(chunk, rows=rows[:0])
    if kind == "stamp":
        return replace(chunk, stamp=float(rng.choice([math.nan, math.inf, -math.inf, 0.0, -1e300])))
    if kind == "old":
        return replace(chunk, observation_stamp=now - float(rng.choice([0.05, 0.4, 0.6, 100.0, math.nan])))
    if kind == "far":
        return replace(chunk, rows=np.repeat(rows, 400, axis=0)[:20_000])
    if kind == "value" and rows.size:
        rows = rows.copy()
        rows[rng.integers(len(rows)), rng.integers(rows.shape[1])] = BAD[int(rng.integers(len(BAD)))]
    return replace(chunk, rows=rows)


def spoil_state(rng: np.random.Generator, state: JointState, kind: str) -> JointState:
    """`kind` is a key of STATES; `silent` and `frozen` are the sender's. `permuted` and `extra` stay valid."""
    q, v, names = state.position, state.velocity, state.names
    k = int(rng.integers(len(names)))
    if kind == "stale":
        return replace(state, stamp=state.stamp - float(rng.choice([0.02, 0.2, 2.0])))
    if kind == "partial":
        return replace(state, names=names[:k] + names[k + 1 :], position=np.delete(q, k), velocity=np.delete(v, k))
    if kind == "non_finite":
        (q if rng.random() < 0.5 else v)[k] = BAD[int(rng.integers(3))]
        return replace(state, stamp=math.nan) if rng.random() < 0.1 else state
    if kind == "shape":
        return replace(state, position=q[:-1]) if rng.random() < 0.5 else replace(state, velocity=np.zeros(0))
    if kind == "noise":
        return replace(state, position=q + rng.normal(0, 1e-3, len(names)), velocity=v + rng.normal(0, 0.01, len(names)))
    if kind == "permuted":
        order = rng.permutation(len(names))
        return replace(state, names=tuple(names[j] for j in order), position=q[order], velocity=v[order])
    if kind == "extra":
        more = rng.normal(size=2)
        q, v = np.r_[more[0], q, more[1]], np.r_[0.0, v, 0.0]
        return replace(state, names=("lift", *names, "finger"), position=q, velocity=v)
    if kind == "nameless":
        return replace(state, names=())
    q[k] += float(rng.choice([0.05, 0.2, 0.5, -1.0]))  # glitch
    return state
