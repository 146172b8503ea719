"""A recorded episode as behaviour cloning and other stacks use it: observations, and what the arm was made to do after each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros.episodes.check import DEMONSTRATION, check, fail
from vla_ros.episodes.labels import read_label
from vla_ros.episodes.reader import EpisodeReader
from vla_ros.episodes.tensors import CHUNK, OBSERVATION, SAFETY, Seen, is_corrected, joint_rows
from vla_ros.episodes.tensors import commands as safe_commands
from vla_ros.errors import VlaRosError
from vla_ros.robots.actions import action_space
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import seconds
from vla_ros.types import Array, Image


@dataclass(frozen=True)
class Trajectory:
    """N equally spaced observations and the actions that were executed, in the tensors of the contract.

    `len` is the number T of observations that an action is known for: all N of a demonstration, else all but the last.
    """

    path: Path
    instruction: str
    start: float  # s, stamp of the first observation
    cameras: tuple[str, ...]
    images: NDArray[np.uint8]  # [N, (cameras,) H, W, 3]
    states: NDArray[np.float32]  # [N, S]
    positions: NDArray[np.float32]  # [N, n] rad, m of the joints
    commands: Array  # [T, n] rad, m, each at the time of the next observation
    actions: NDArray[np.float32]  # [N, chunk, D] that lead to the commands after an observation; past the end the last one
    corrected: NDArray[np.bool_]  # [N] a person acted after this observation, in the policy's place
    steps: int
    outcome: str  # the operator's label if there is one, else the judge's verdict; empty: neither was recorded
    metadata: dict[str, str]
    label: dict[str, str]

    def __len__(self) -> int:
        return self.steps

    @property
    def success(self) -> bool:
        return self.outcome == "success"

    def pictures(self, camera: str) -> list[Image]:
        """T of one camera, [H, W, 3]."""
        images = self.images[: self.steps]
        return list(images if len(self.cameras) == 1 else images[:, self.cameras.index(camera)])


def load_trajectory(path: str | Path, contract: RobotContract) -> Trajectory:
    """Reads one episode.

    What was executed is the safety filter's command at the time of the next observation, from /safety/state. A
    demonstration (metadata `kind`) has none of that: its chunks are what was executed.

    Raises:
        VlaRosError: the file has a fault on a topic that is used here; see `check`.
    """
    reader = EpisodeReader(Path(path), strict=False, only=(OBSERVATION, CHUNK, SAFETY))
    demonstration = reader.metadata.get("kind") == DEMONSTRATION
    fail(check(reader, contract, (OBSERVATION, CHUNK if demonstration else SAFETY)))
    if not (instruction := reader.metadata.get("instruction", "")):
        raise VlaRosError(f"{reader.path}: metadata: instruction: found none, expected what the episode is to do")
    if contract.action.rate != contract.observation.rate:
        found = f"action.rate: found {contract.action.rate:g} Hz"
        raise VlaRosError(f"{contract.path}: {found}, expected observation.rate ({contract.observation.rate:g} Hz)")
    messages, kinematics = reader.of(OBSERVATION), Kinematics(contract)
    stamps = np.array([seconds(message.header.stamp) for message in messages])
    seen = Seen.of(messages, contract, kinematics, reader.path)
    commands = (_demonstrated if demonstration else _executed)(reader, stamps, contract)
    by_hand = {seconds(message.observation_stamp) for message in reader.of(CHUNK) if is_corrected(message)}
    space, steps, label = action_space(contract, kinematics), len(commands), read_label(reader.path)
    due = np.minimum(np.arange(len(stamps))[:, None] + np.arange(contract.action.chunk), steps - 1)
    return Trajectory(
        path=reader.path, instruction=instruction, start=float(stamps[0]), cameras=contract.observation.cameras,
        images=seen.images, states=seen.states, positions=seen.positions.astype(np.float32),
        commands=commands,
        actions=np.stack([space.action(commands[rows], q) for rows, q in zip(due, seen.positions, strict=True)]),
        corrected=np.array([stamp in by_hand for stamp in stamps.tolist()]),
        steps=steps, outcome=label.get("outcome") or reader.metadata.get("outcome", ""), metadata=reader.metadata, label=label,
    )  # fmt: skip


def _executed(reader: EpisodeReader, stamps: Array, contract: RobotContract) -> Array:
    """Commands [N - 1, n] rad, m at all stamps [N] but the first. They are recorded at least every period and change
    smoothly, so that the one at an observation's stamp is interpolated."""
    times, recorded = safe_commands(reader.of(SAFETY), contract, reader.path)
    period = 1.0 / contract.observation.rate
    most = period + 1e-6  # stamps are rounded
    if times[0] > stamps[0] + most or times[-1] < stamps[-1] - most or np.diff(times).max(initial=0.0) > most:
        found = f"{len(times)} from {times[0]:.3f} to {times[-1]:.3f} s, at most {np.diff(times).max(initial=0.0):.3f} s apart"
        expected = f"from {stamps[0]:.3f} to {stamps[-1]:.3f} s, at most {period:g} s apart"
        raise VlaRosError(f"{reader.path}: {SAFETY}: found {found}, expected {expected}: executed actions are not known")
    return np.stack([np.interp(stamps[1:], times, column) for column in recorded.T], axis=1)


def _demonstrated(reader: EpisodeReader, stamps: Array, contract: RobotContract) -> Array:
    """Commands [N, n] rad, m after N observations: the first row of each one's chunk."""
    rows = {seconds(m.observation_stamp): joint_rows(m, contract, reader.path)[0] for m in reader.of(CHUNK)}
    for frame, stamp in enumerate(stamps):
        if stamp not in rows:
            raise VlaRosError(f"{reader.path}: {CHUNK}: found no answer to frame {frame} at {stamp:.3f} s, expected one")
    return np.stack([rows[stamp] for stamp in stamps])
