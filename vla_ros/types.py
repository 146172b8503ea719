"""Value objects at the borders between parts. Each has one message in msg/ with the same fields.

Times are seconds on the ROS clock (float64), angles rad, lengths m. Arrays are read-only by convention.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

JOINT_POSITION = "joint_position"


@dataclass(frozen=True)
class JointState:
    """Measured state of the arm."""

    stamp: float
    names: tuple[str, ...]
    position: Array  # [n] rad
    velocity: Array  # [n] rad/s


@dataclass(frozen=True)
class Observation:
    """Camera frames and joint state that belong together, aligned by stamp."""

    stamp: float
    images: dict[str, Image]  # camera name -> [H, W, 3] uint8 RGB
    joints: JointState
    skew: float = 0.0  # s, largest difference of stamps inside the set


@dataclass(frozen=True)
class ActionChunk:
    """Rows of robot commands on an absolute time grid: row k is due at `stamp + k * period`."""

    stamp: float  # s, time of row 0
    period: float  # s
    joint_names: tuple[str, ...]
    rows: Array  # [T, n] rad
    semantics: str = JOINT_POSITION
    observation_stamp: float = 0.0  # s
    policy_version: int = 0  # 0: scripted motion (homing)
    episode_id: str = ""
    tokens: NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 0), np.int16))  # [T, action_dim] raw action
    log_probability: float = 0.0


class SafetyMode(IntEnum):
    """States of the safety filter; the numbers are SafetyState.msg's."""

    RUN = 0
    BRAKE = 1
    HELD = 2
    LATCHED = 3


@dataclass(frozen=True)
class SafeCommand:
    """One control tick's answer of the safety filter."""

    stamp: float  # s, of the joint state that it answers
    mode: SafetyMode
    reason: str  # typed; empty when all is well
    path_speed: float  # share of the policy's own speed, 0..1
    active: tuple[str, ...]  # "constraint:joint" that changed the command
    raw: Array  # [n] rad, what the policy asked for
    command: Array  # [n] rad, what is sent
    velocity: Array  # [n] rad/s, of the command
    policy_version: int = 0
    episode_id: str = ""


@dataclass(frozen=True)
class ProgressEstimate:
    """Steps-to-go as a distribution, reduced (arXiv 2509.15155, section 2.2)."""

    stamp: float
    steps_to_go: float  # expectation, policy steps
    spread: float  # standard deviation, policy steps
    success_probability: float  # mass at or under the threshold
    success: bool  # after debounce
    reward: float  # d(o_t) - d(o_t+1)
    policy_version: int = 0


@dataclass(frozen=True)
class PolicyVersion:
    """An entry of the weight store."""

    number: int
    parent: int
    sha256: str
    stage: str  # sft | self_improvement | ire_vla | rollback
    path: str
    metrics: dict[str, float] = field(default_factory=dict)
