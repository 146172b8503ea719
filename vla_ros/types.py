"""Value objects at the borders between parts. Each has one message in msg/ with the same fields.

Times are seconds on the ROS clock (float64), angles rad, lengths m. Arrays are read-only by convention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

# Semantics of a chunk's rows. Deltas are from row to row, the first from the command at admission.
JOINT_POSITION = "joint_position"  # [n] rad
JOINT_DELTA = "joint_delta"  # [n] rad
TIP_POSE = "tip_pose"  # [7] per tip: x, y, z m and quaternion x, y, z, w, base frame
TIP_DELTA = "tip_delta"  # [6] per tip: translation m and rotation vector rad, base frame's axes


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
    corrected: bool = False  # a person's rows; tokens and log_probability remain what the policy drew


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
    off_path: float = 0.0  # rad, largest distance of a joint's command from the policy's path
    speed_cap: float = 1.0  # bound of path_speed by people and other named sources
    tip_speed: float = 0.0  # m/s, of the fastest end effector
    torque_share: float = 0.0  # largest |torque| over its limit along the stop from here
    clearance: float = math.nan  # m, least distance to the arm itself or the world along the stop from here
    nearest: str = ""  # the pair "link~object" that `clearance` belongs to


@dataclass(frozen=True)
class Obstacle:
    """A body that the arm must not touch."""

    name: str
    shape: str  # box | sphere | cylinder
    size: tuple[float, ...]  # m; box: x, y, z edges; sphere: diameter; cylinder: diameter, height along z
    position: tuple[float, float, float]  # m, base frame
    quaternion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)  # x, y, z, w


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
    low: float = float("nan")  # 10 % and 90 % quantile, policy steps
    high: float = float("nan")


@dataclass(frozen=True)
class PolicyVersion:
    """An entry of the weight store."""

    number: int
    parent: int
    sha256: str
    stage: str  # sft | self_improvement | ire_vla | rollback
    path: str
    metrics: dict[str, float] = field(default_factory=dict)
    origin: str = ""  # where it was learned, if elsewhere than on the cell of its store: twin, run, version there
