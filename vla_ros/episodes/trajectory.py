"""A recorded episode as behaviour cloning and other stacks use it: observations, and what the arm was made to do after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.episodes.check import DEMONSTRATION, check, fail, joint_positions, seconds
from vla_ros.episodes.data import CHUNK, OBSERVATION, SAFETY
from vla_ros.episodes.labels import read_label
from vla_ros.episodes.reader import EpisodeReader
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import proprio_state
from vla_ros.types import Array, Image

TIP_DELTA = ("delta_x", "delta_y")  # of an action with `tip_delta_xy` [m]


@dataclass(frozen=True)
class Trajectory:
    """T equally spaced observations with the action that was executed from each to the next one."""

    path: Path
    instruction: str
    start: float  # s, stamp of the first observation
    states: NDArray[np.float32]  # [T, S] the contract's `observation.state`
    actions: NDArray[np.float32]  # [T, A] see `action_names`
    positions: NDArray[np.float32]  # [T, n] rad, of the joints
    images: dict[str, list[Image]]  # T of each of the contract's policy cameras, [H, W, 3]; views on the recording
    success: bool  # the operator's label if there is one, else the judge's verdict
    metadata: dict[str, str]
    label: dict[str, str]

    def __len__(self) -> int:
        return len(self.actions)


def state_names(contract: RobotContract) -> tuple[str, ...]:
    """The S parts of a state: the joints, or what the contract lists."""
    return contract.joints if contract.action.semantics == "joint_position" else contract.observation.state


def action_names(contract: RobotContract) -> tuple[str, ...]:
    """The A parts of an action: commanded position of each joint [rad] at the end of the step, or the commanded tip's
    displacement during the step [m]."""
    return contract.joints if contract.action.semantics == "joint_position" else TIP_DELTA


def load_trajectory(path: str | Path, contract: RobotContract) -> Trajectory:
    """Reads one episode.

    The action is the executed one, from /safety/state. A demonstration (metadata `kind`) has none of that: its chunks
    are what was executed.

    Raises:
        VlaRosError: the file has a fault on a topic that is used here; see `check`.
    """
    reader = EpisodeReader(Path(path), strict=False, only=(OBSERVATION, CHUNK, SAFETY))
    demonstration = reader.metadata.get("kind") == DEMONSTRATION
    fail(check(reader, contract, (OBSERVATION, CHUNK if demonstration else SAFETY)))
    if not (instruction := reader.metadata.get("instruction", "")):
        raise VlaRosError(f"{reader.path}: metadata: instruction: found none, expected what the episode is to do")
    observations = reader.of(OBSERVATION)
    stamps = np.array([seconds(message.header.stamp) for message in observations])
    positions = np.stack([joint_positions(message, contract.joints) for message in observations])
    actions = (_demonstrated if demonstration else _executed)(reader, stamps, contract)
    steps, label = len(actions), read_label(reader.path)
    return Trajectory(
        path=reader.path, instruction=instruction, start=float(stamps[0]),
        states=_states(positions[:steps], contract), actions=actions.astype(np.float32),
        positions=positions[:steps].astype(np.float32),
        images={name: [_image(m, name) for m in observations[:steps]] for name in contract.observation.cameras},
        success=(label.get("outcome") or reader.metadata.get("outcome")) == "success",
        metadata=reader.metadata, label=label,
    )  # fmt: skip


def _states(positions: Array, contract: RobotContract) -> NDArray[np.float32]:
    if contract.action.semantics == "joint_position":
        return positions.astype(np.float32)
    kinematics = Kinematics(contract)
    return np.stack([proprio_state(contract, kinematics.tip_pose(q)[:3]) for q in positions])


def _executed(reader: EpisodeReader, stamps: Array, contract: RobotContract) -> Array:
    """[T, A] of T + 1 observations. Commands are recorded at least every /safety/state period and change smoothly, so
    that the one at an observation's stamp is interpolated."""
    messages = reader.of(SAFETY)
    times = np.array([seconds(message.header.stamp) for message in messages])
    period = 1.0 / contract.observation.rate
    if times[0] > stamps[0] + period or times[-1] < stamps[-1] - period or np.diff(times).max(initial=0.0) > period:
        found = f"{len(times)} from {times[0]:.3f} to {times[-1]:.3f} s, at most {np.diff(times).max(initial=0.0):.3f} s apart"
        expected = f"from {stamps[0]:.3f} to {stamps[-1]:.3f} s, at most {period:g} s apart"
        raise VlaRosError(f"{reader.path}: {SAFETY}: found {found}, expected {expected}: executed actions are not known")
    recorded = np.stack([_ordered(message, contract.joints) for message in messages])
    commands = np.stack([np.interp(stamps, times, column) for column in recorded.T], axis=1)
    if contract.action.semantics == "joint_position":
        return commands[1:]
    kinematics = Kinematics(contract)
    return np.diff(np.stack([kinematics.tip_xy(q) for q in commands]), axis=0)


def _demonstrated(reader: EpisodeReader, stamps: Array, contract: RobotContract) -> Array:
    """[T, A] of T observations: the first row of each one's chunk."""
    if contract.action.semantics != "joint_position":
        raise VlaRosError(f"{reader.path}: a demonstration: found {contract.action.semantics}, expected joint_position")
    rows = {}
    for message in reader.of(CHUNK):
        if sorted(message.joint_names) != sorted(contract.joints) or message.semantics != "joint_position":
            found = f"{message.semantics} of {', '.join(message.joint_names) or 'no joints'}"
            raise VlaRosError(f"{reader.path}: {CHUNK}: found {found}, expected joint_position of {', '.join(contract.joints)}")
        row = np.asarray(message.data, np.float64).reshape(message.rows, -1)[0]
        rows[seconds(message.observation_stamp)] = row[[list(message.joint_names).index(name) for name in contract.joints]]
    for frame, stamp in enumerate(stamps):
        if stamp not in rows:
            raise VlaRosError(f"{reader.path}: {CHUNK}: found no answer to frame {frame} at {stamp:.3f} s, expected one")
    return np.stack([rows[stamp] for stamp in stamps])


def _ordered(message: Any, joints: Sequence[str]) -> Array:
    names = list(message.joint_names)
    return np.asarray(message.command, np.float64)[[names.index(name) for name in joints]]


def _image(message: Any, camera: str) -> Image:
    image = message.images[list(message.cameras).index(camera)]
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
