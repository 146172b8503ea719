"""A motion that shows what drives do: every joint swings at frequencies of its own, around the contract's posture.

Tasks on a table move the tip slowly in one plane; the drives' gains show only in accelerations, friction in turning round.
"""

from __future__ import annotations

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.limits import Limits
from vla_ros.types import ActionChunk, Array

SWING = 0.12  # rad, of each of a joint's sines
RATES = (0.3, 1.4)  # Hz, slowest and fastest sine
SINES = 3  # of a joint
RAMP = 1.0  # s, from rest and back
ROW = 0.02  # s between rows of a chunk
PIECE = 1.5  # s, of a piece; another one comes every NEXT
NEXT = 0.2  # s
LEAD = 0.05  # s until a piece's first row: the filter takes over without a jerk
HALT = 0.2  # s
SHARE = 0.8  # of the safety envelope's velocity and acceleration
APPROACH = 2.0  # s at least, from the start to the posture
FASTEST, HARDEST = 1.875, 5.774  # largest velocity and acceleration of _smooth


def excitation(
    contract: RobotContract, seconds: float = 8.0, seed: int = 0, start: Array | None = None, limits: Limits | None = None
) -> Array:  # fmt: skip
    """Commands [T, n] rad, one a control period, from `start` [n] (the posture) to the posture and round it.

    Args:
        limits: that hold in the cell; None: those of the robot's safety file.

    Raises:
        VlaRosError: it would leave them.
    """
    rng, limits, dt = np.random.default_rng(seed), limits or Limits.load(contract), 1.0 / contract.control.rate
    centre = np.array(contract.posture)
    t = np.arange(0.0, seconds, dt)
    ends = np.minimum(t, seconds - t) / RAMP
    ramp = _smooth(np.clip(ends, 0.0, 1.0))[:, None]
    rates = rng.uniform(*RATES, (SINES, len(centre)))
    swing = ramp * (SWING * np.sin(2 * np.pi * (rates * t[:, None, None] + rng.random((SINES, len(centre)))))).sum(1)
    path = centre + swing * np.minimum(1.0, SHARE / _load(swing, limits, dt))
    if start is not None:
        way = abs(centre - start) / SHARE
        least = max(APPROACH, (FASTEST * way / limits.velocity).max(), np.sqrt(HARDEST * way / limits.acceleration).max())
        share = _smooth(np.arange(0.0, least, dt) / least)[:, None]
        path = np.concatenate([start + share * (centre - start), path])
    if (_load(path, limits, dt) > 1.0).any():
        j = int(np.argmax(_load(path, limits, dt)))
        raise VlaRosError(
            f"{contract.robot}: excitation: {contract.joints[j]}: found {_load(path, limits, dt)[j]:.2f} of its velocity or "
            "acceleration limit in the safety envelope, expected at most 1"
        )
    return path


class Player:
    """The motion in pieces, as chunks for the safety filter: when nobody sends the next one, the arm comes to rest by itself.

    Args:
        path: [T, n] rad, a row each control period.
        begin: s on the graph's clock, when the first row is due.
    """

    def __init__(self, contract: RobotContract, path: Array, begin: float, episode_id: str) -> None:
        self._contract, self._path, self._begin, self._id = contract, path, begin, episode_id
        self._rate = contract.control.rate
        self.end = begin + len(path) / self._rate  # s
        self.complete = False  # a piece had the end in it: no other one is needed

    def piece(self, now: float) -> ActionChunk:
        """What is due from `now` [s] on."""
        due = np.arange(max(self._begin, now + LEAD), min(now + LEAD + PIECE, self.end + 2 * ROW), ROW)
        self.complete = now + LEAD + PIECE >= self.end + ROW
        return self._chunk(due[0] if len(due) else now + LEAD, due)

    def halt(self, now: float) -> ActionChunk:
        """Where the arm would be shortly: it comes to rest there."""
        return self._chunk(now + HALT, np.array([now + HALT]))

    def _chunk(self, stamp: float, due: Array) -> ActionChunk:
        k = np.clip(np.round((due - self._begin) * self._rate).astype(int), 0, len(self._path) - 1)
        return ActionChunk(stamp, ROW, self._contract.joints, self._path[k], episode_id=self._id)


def _load(path: Array, limits: Limits, dt: float) -> Array:
    """[n], largest share of a joint's limit of velocity or acceleration."""
    velocity = np.diff(path, axis=0) / dt
    acceleration = np.diff(velocity, axis=0) / dt
    return np.asarray(np.maximum(abs(velocity).max(0) / limits.velocity, abs(acceleration).max(0) / limits.acceleration))


def _smooth(share: Array) -> Array:
    """0..1 to 0..1, at rest at both ends, without a step in acceleration."""
    return np.asarray(share**3 * (10 - 15 * share + 6 * share**2))
