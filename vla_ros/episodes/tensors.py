"""Recorded messages to the tensors of a robot's contract, through the functions that the live graph calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import images_of, of_message, positions_of, seconds, state_of
from vla_ros.robots.shapes import image_shape, state_names
from vla_ros.types import JOINT_POSITION, Array

OBSERVATION, CHUNK, PROGRESS, SAFETY = "/observation", "/policy/chunk", "/progress", "/safety/state"


@dataclass(frozen=True)
class Seen:
    """N recorded observations as the policy saw them."""

    images: NDArray[np.uint8]  # [N, (cameras,) H, W, 3]
    states: NDArray[np.float32]  # [N, S]
    positions: Array  # [N, n] rad, m in the contract's order

    @classmethod
    def of(cls, messages: Sequence[Any], contract: RobotContract, kinematics: Kinematics, path: Path) -> Seen:
        """
        Raises:
            VlaRosError: an observation that the live graph would refuse, too; told with file and frame.
        """
        seen = cls(
            np.empty((len(messages), *image_shape(contract)), np.uint8),
            np.empty((len(messages), len(state_names(contract))), np.float32), np.empty((len(messages), len(contract.joints))),
        )  # fmt: skip
        for frame, message in enumerate(messages):
            try:
                value = of_message(message)
                seen.images[frame] = images_of(contract, value)
                seen.states[frame] = state_of(contract, kinematics, value.joints)
                seen.positions[frame] = positions_of(contract, value.joints)
            except VlaRosError as error:
                raise VlaRosError(f"{path}: {OBSERVATION}: frame at {seconds(message.header.stamp):.3f} s: {error}") from error
        return seen


def joint_rows(message: Any, contract: RobotContract, path: Path) -> Array:
    """[rows, n] rad, m of a recorded chunk, in the contract's order.

    Raises:
        VlaRosError: rows of other joints, of another semantics, not finite, or that do not fit `data`.
    """
    names, data = list(message.joint_names), np.asarray(message.data, np.float64)
    where = f"{path}: {CHUNK}: answer to {seconds(message.observation_stamp):.3f} s"
    if sorted(names) != sorted(contract.joints) or message.semantics != JOINT_POSITION:
        found = f"{message.semantics} of {len(names)} columns ({', '.join(names) or 'none'})"
        raise VlaRosError(f"{where}: found {found}, expected {JOINT_POSITION} of {', '.join(contract.joints)}")
    if message.rows < 1 or data.size != message.rows * len(names):
        raise VlaRosError(f"{where}: found {data.size} values in {message.rows} rows, expected {len(names)} a row")
    if not np.isfinite(data).all():
        bad = int(np.isfinite(data).argmin())
        raise VlaRosError(f"{where}: row {bad // len(names)}: {names[bad % len(names)]}: found {data[bad]}, expected a number")
    return data.reshape(message.rows, -1)[:, [names.index(name) for name in contract.joints]]


def is_corrected(message: Any) -> bool:
    """Whether a person's action was sent; recordings of before a person could take over have no such field."""
    return bool(getattr(message, "corrected", False))


def commands(states: Sequence[Any], contract: RobotContract, path: Path) -> tuple[Array, Array]:
    """What the safety filter sent: times [N] s and joint positions [N, n] rad, m in the contract's order.

    Raises:
        VlaRosError: a state of other joints.
    """
    rows = np.empty((len(states), len(contract.joints)))
    for row, message in zip(rows, states, strict=True):
        names = list(message.joint_names)
        if sorted(names) != sorted(contract.joints) or len(message.command) != len(names):
            found = f"{len(message.command)} commands for {', '.join(names) or 'no joints'}"
            where = f"{path}: {SAFETY}: state at {seconds(message.header.stamp):.3f} s"
            raise VlaRosError(f"{where}: found {found}, expected one for each of {', '.join(contract.joints)}")
        row[:] = np.asarray(message.command, np.float64)[[names.index(name) for name in contract.joints]]
    return np.array([seconds(message.header.stamp) for message in states]), rows


def tokens_of(message: Any, path: Path) -> NDArray[np.int16]:
    """[rows, D]; joint_rows() has checked that there are rows."""
    tokens = np.asarray(message.action_tokens, np.int16)
    if tokens.size % message.rows:
        where = f"{path}: {CHUNK}: answer to {seconds(message.observation_stamp):.3f} s"
        raise VlaRosError(f"{where}: found {tokens.size} action_tokens in {message.rows} rows, expected as many in each")
    return tokens.reshape(message.rows, -1)
