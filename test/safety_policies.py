"""Policies that a safety filter has to survive, from gentle ones to those that aim at the arm itself.

Why it stands in test/: see safety_judge.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from safety_judge import Array, Bounds
from safety_rig import Arm, Tips
from safety_spoil import BAD, pick

from vla_ros.robots.contract import RobotContract
from vla_ros.types import JOINT_DELTA, JOINT_POSITION, TIP_DELTA, TIP_POSE, ActionChunk

POLICIES = {  # name: how often
    "smooth": 4, "noisy": 3, "walk": 3, "steps": 2, "reversed": 2, "spike": 2, "chatter": 2, "limit": 3, "dive": 5,
    "plunge": 3, "tour": 4, "hold": 1, "junk": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Poses:
    """Sampled joint positions [n] rad: near the posture and anywhere free of contact, and in contact."""

    near: list[Array]
    free: list[Array]
    colliding: list[Array]


@functools.cache
def sample_poses(arm: Arm, posture: tuple[float, ...], lower: tuple[float, ...], upper: tuple[float, ...]) -> Poses:
    """The same ones in every process: aims of the dives, each pair of bodies about as often as the others."""
    rng = np.random.default_rng(0)
    middle = np.array(posture)
    near: list[Array] = [middle]
    free: list[Array] = []
    by_pair: dict[tuple[str, str], list[Array]] = {}
    around = np.clip(middle + rng.uniform(-0.4, 0.4, (60, len(lower))), lower, upper)
    for k, q in enumerate(np.vstack([around, rng.uniform(lower, upper, (500, len(lower)))])):
        arm.reset(q)
        pairs = arm.contacts()
        for pair in pairs:
            if len(by_pair.setdefault(pair, [])) < 8:
                by_pair[pair].append(q)
        if not pairs:
            (near if k < len(around) else free).append(q)
    return Poses(near, free[:64] or near, [q for poses in by_pair.values() for q in poses] or free)


class Policy:
    """Makes chunks around the last command; begin() takes another one out of POLICIES, and other habits.

    Attributes:
        name: key of POLICIES.
        every: ticks between chunks.
    """

    def __init__(self, contract: RobotContract, arm: Arm, bounds: Bounds, limits: Any, rng: np.random.Generator) -> None:
        self.bounds, self.rng, self.n = bounds, rng, len(bounds.lower)
        self.names = tuple(limits.joints)
        self.tips = Tips(contract)
        self.poses = sample_poses(arm, tuple(contract.posture), tuple(limits.lower), tuple(limits.upper))
        self._jump: Array = np.broadcast_to(limits.row_jump, self.n) * 1.0  # rad, from row to row
        self._horizon = min(float(limits.chunk_horizon), 8.0)
        self.command, self.now = np.array(contract.posture), 0.0
        self._target: Array | None = None

    def start(self) -> Array:
        """A pose free of contact, mostly near the posture."""
        starts = self.poses.near if self.rng.random() < 0.8 else self.poses.free
        return starts[int(self.rng.integers(len(starts)))]

    def begin(self, command: Array, now: float) -> None:
        """Another policy, from the command [n] rad that was sent last."""
        rng, dt = self.rng, self.bounds.period
        self.command, self.now = command, now
        self.name = pick(rng, POLICIES)
        self._row_period = float(rng.choice([dt, 2 * dt, 0.02, 0.05, 0.1, 0.1, 0.1, 0.2, 0.3]))
        self._row_count = int(rng.choice([1, 1, 2, 4, 4, 8, 8, 16, 50, 200]))
        self._row_count = max(1, min(self._row_count, int(self._horizon / self._row_period) - 1))
        length = max(1, round(self._row_period * self._row_count / dt))
        every = [1, 4, min(20, length), min(60, length), min(length + 10, 150)]
        self.every = int(rng.choice(every, p=[0.03, 0.07, 0.6, 0.2, 0.1]))
        self._polite = rng.random() < 0.85  # stays inside what admission takes, so that the followers get the work
        self._semantics = JOINT_POSITION if rng.random() < 0.8 else str(rng.choice([JOINT_DELTA, TIP_POSE, TIP_DELTA]))
        self._pace = float(rng.choice([0.2, 0.6, 0.95, 1.0, 1.5, 4.0]))
        self._centre, self._target = command.copy(), None
        self._sign, self._since = 1.0, now
        self._omega = rng.uniform(0.5, 6.0, self.n)
        self._phase = rng.uniform(0, 2 * np.pi, self.n)
        self._amplitude = np.minimum(self._pace * self.bounds.velocity / self._omega, 0.8) * rng.uniform(0, 1, self.n)
        self._noise = float(rng.choice([1e-5, 1e-3, 1e-2, 0.1]))

    def chunk(self, command: Array, now: float) -> ActionChunk:
        """The next chunk, from the command [n] rad that was sent last."""
        self.command, self.now = command, now
        rows = self._rows()
        lead = self._row_period if self.rng.random() < 0.9 else self.rng.uniform(-1.0, 1.0) * self._row_period
        names = self.tips.names if self._semantics in (TIP_POSE, TIP_DELTA) else self.names
        if self._semantics == JOINT_DELTA:
            rows = np.diff(np.vstack([self.command, rows]), axis=0)
        elif self._semantics == TIP_POSE and np.isfinite(rows).all():
            rows = self.tips.poses(rows[:50])
        elif self._semantics == TIP_DELTA and np.isfinite(rows).all():
            rows = self.tips.deltas(self.command, rows[:50])
        observed = self.now if self.rng.random() < 0.9 else 0.0
        return ActionChunk(self.now + lead, self._row_period, names, rows, self._semantics, observed, 1)

    def _rows(self) -> Array:
        rows: Array = getattr(self, f"_{self.name}")()
        if self._polite:
            step = 0.98 * self._jump
            if self.name != "junk" and (np.abs(np.diff(rows, axis=0, prepend=self.command[None])) > step).any():
                rows = np.clip(rows, self.command - 0.5 * step, self.command + 0.5 * step)
            return np.clip(rows, self.bounds.lower, self.bounds.upper)
        return rows

    def _towards(self, target: Array, straight: bool) -> Array:
        """Rows to `target` [n] at the pace of the episode: all joints together, or each as fast as it may."""
        step = np.minimum(self._pace * self.bounds.velocity * self._row_period, 0.98 * self._jump)
        way = target - self.command
        count = np.arange(1, self._row_count + 1)[:, None]
        if straight:
            return self.command + way * np.minimum(1.0, count / max(float((np.abs(way) / step).max()), 1e-9))
        return self.command + np.clip(way, -count * step, count * step)

    def _smooth(self) -> Array:
        time = self.now - self._since + self._row_period * np.arange(1, self._row_count + 1)[:, None]
        grow = np.clip(time, 0, 1)
        return self._centre + grow * self._amplitude * (np.sin(self._omega * time + self._phase) - np.sin(self._phase))

    def _noisy(self) -> Array:
        return self._smooth() + self.rng.normal(0, self._noise, (self._row_count, self.n))

    def _walk(self) -> Array:
        step = np.minimum(0.9 * self._jump, 0.5) * min(1.0, self._pace)
        return self.command + np.cumsum(self.rng.uniform(-step, step, (self._row_count, self.n)), axis=0)

    def _steps(self) -> Array:
        rows = self.rng.uniform(-self._jump, self._jump, (1, self.n))
        return self.command + np.repeat(rows, self._row_count, axis=0)

    def _reversed(self) -> Array:
        self._sign = -self._sign
        return self.command + self._sign * (self._smooth() - self._centre)

    def _spike(self) -> Array:
        rows = self._smooth()
        row, joint = self.rng.integers(len(rows)), self.rng.integers(self.n)
        rows[row, joint] += self.rng.choice([-1, 1]) * 0.7 * self._jump[joint]
        return rows

    def _chatter(self) -> Array:
        signs = (-1.0) ** np.arange(self._row_count)[:, None]
        self._sign = -self._sign
        return self.command + self._sign * signs * self._noise * 5 * np.sign(np.sin(self._phase))

    def _limit(self) -> Array:
        if self._target is None or self.rng.random() < 0.05:
            ends = np.where(self.rng.random(self.n) < 0.5, self.bounds.lower, self.bounds.upper)
            self._target = np.where(self.rng.random(self.n) < 0.7, ends, self.command)
        return self._towards(self._target, bool(self._sign > 0 and self._pace < 1))

    def _aim(self, poses: list[Array]) -> Array:
        if self._target is None or np.abs(self._target - self.command).max() < 0.02 or self.rng.random() < 0.02:
            if poses and self.rng.random() < 0.9:
                self._target = poses[int(self.rng.integers(len(poses)))]
            else:
                self._target = self.rng.uniform(self.bounds.lower, self.bounds.upper)
        return self._target

    def _dive(self) -> Array:
        return self._towards(self._aim(self.poses.colliding), True)

    def _plunge(self) -> Array:
        return self._towards(self._aim(self.poses.colliding), False)

    def _tour(self) -> Array:
        return self._towards(self._aim(self.poses.near if self.rng.random() < 0.8 else self.poses.free), True)

    def _hold(self) -> Array:
        return np.repeat(self.command[None], self._row_count, axis=0)

    def _junk(self) -> Array:
        rows = self.rng.normal(0, 3, (self._row_count, self.n))
        rows[self.rng.random(rows.shape) < 0.05] = BAD[int(self.rng.integers(len(BAD)))]
        return rows
