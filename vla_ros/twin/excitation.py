"""A motion that shows what drives do: every joint swings at frequencies of its own, around the contract's posture.

Tasks on a table move the tip slowly in one plane; the drives' gains show only in accelerations, friction in turning round.
"""

from __future__ import annotations

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.limits import Limits
from vla_ros.types import Array

SWING = 0.12  # rad, of each of a joint's sines
RATES = (0.3, 1.4)  # Hz, slowest and fastest sine
SINES = 3  # of a joint
RAMP = 1.0  # s, from rest and back
SHARE = 0.8  # of the safety envelope's velocity and acceleration
APPROACH = 2.0  # s, from the start to the posture


def excitation(contract: RobotContract, seconds: float = 8.0, seed: int = 0, start: Array | None = None) -> Array:
    """Commands [T, n] rad, one a control period, from `start` [n] (the posture) to the posture and round it.

    Raises:
        VlaRosError: it would leave the limits of the robot's safety envelope.
    """
    rng, limits, dt = np.random.default_rng(seed), Limits.load(contract), 1.0 / contract.control.rate
    centre = np.array(contract.posture)
    t = np.arange(0.0, seconds, dt)
    ends = np.minimum(t, seconds - t) / RAMP
    ramp = _smooth(np.clip(ends, 0.0, 1.0))[:, None]
    rates = rng.uniform(*RATES, (SINES, len(centre)))
    swing = ramp * (SWING * np.sin(2 * np.pi * (rates * t[:, None, None] + rng.random((SINES, len(centre)))))).sum(1)
    path = centre + swing * np.minimum(1.0, SHARE / _load(swing, limits, dt))
    if start is not None:
        share = _smooth(np.arange(0.0, APPROACH, dt) / APPROACH)[:, None]
        path = np.concatenate([start + share * (centre - start), path])
    if (_load(path, limits, dt) > 1.0).any():
        j = int(np.argmax(_load(path, limits, dt)))
        raise VlaRosError(
            f"{contract.robot}: excitation: {contract.joints[j]}: found {_load(path, limits, dt)[j]:.2f} of its velocity or "
            "acceleration limit in the safety envelope, expected at most 1: start closer to the posture"
        )
    return path


def _load(path: Array, limits: Limits, dt: float) -> Array:
    """[n], largest share of a joint's limit of velocity or acceleration."""
    velocity = np.diff(path, axis=0) / dt
    acceleration = np.diff(velocity, axis=0) / dt
    return np.asarray(np.maximum(abs(velocity).max(0) / limits.velocity, abs(acceleration).max(0) / limits.acceleration))


def _smooth(share: Array) -> Array:
    """0..1 to 0..1, at rest at both ends, without a step in acceleration."""
    return np.asarray(share**3 * (10 - 15 * share + 6 * share**2))
