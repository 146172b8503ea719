"""Episodes of other recorders (LeRobot sets, ROS 2 bags, ALOHA's HDF5) as recordings of ours: for `vla-ros episodes`, training,
and `vla-ros safety replay`, which tells what a safety envelope would have changed in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.episodes.check import DEMONSTRATION
from vla_ros.episodes.folder import read_info
from vla_ros.episodes.lerobot import LeRobotEpisode
from vla_ros.episodes.lerobot_meta import CORRECTED, JOINTS, SUCCESS
from vla_ros.episodes.messages import chunk, observation, write
from vla_ros.episodes.tensors import CHUNK, OBSERVATION
from vla_ros.episodes.writer import EpisodeWriter
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.types import Array, Image

FIRST_STAMP = 1.0  # s, of the first frame where the set does not tell when it was recorded; 0 means "no time" in ROS
BEYOND = 0.1, 0.2  # rad beyond a joint's limit that a real arm may be measured at; of a gripper, share of its way


@dataclass(frozen=True)
class Step:
    """An observation, and where the joints were told to be at the next one."""

    stamp: float  # s
    images: dict[str, Image]  # by camera, [H, W, 3] RGB at the contract's size
    position: Array  # [n] rad, m in the contract's order
    command: Array  # [n] rad, m
    velocity: Array | None = None  # [n]; None: not recorded
    skew: float = 0.0  # s, the largest difference of an image's stamp
    corrected: bool = False  # a person took over from a policy


@dataclass(frozen=True)
class Incoming:
    """An episode that somebody else recorded; its steps are read when they are asked for."""

    name: str
    source: str  # what tells it from every other one: file, size, number
    instruction: str
    steps: Callable[[], Iterator[Step]]


def write_new(folder: Path, episode: Incoming, contract: RobotContract) -> bool:
    """Writes <folder>/<name>.mcap, complete or not at all; False where it is there already, from an import that was interrupted.

    Raises:
        VlaRosError: the episode has a fault, or the file is of another source.
    """
    path = folder / f"{episode.name}.mcap"
    if path.exists():
        if (found := read_info(path).metadata.get("source", "nothing")) != episode.source:
            raise VlaRosError(f"{path}: exists already, made of {found}, not of {episode.source}; choose another --out")
        return False
    metadata = {"episode_id": episode.name, "instruction": episode.instruction, "source": episode.source}
    write_steps(path, metadata, contract, episode.steps())
    return True


def write_demonstration(folder: Path, episode: LeRobotEpisode, contract: RobotContract) -> Path:
    """Writes <folder>/<id>.mcap with /observation and /policy/chunk (one row: the action), and returns its path.

    Images are brought to the contract's size. The set holds no joint velocities: that field stays empty.

    Raises:
        VlaRosError: the actions are no joint positions, a video is damaged, or the file exists.
    """
    if contract.action.semantics != "joint_position":
        raise VlaRosError(
            f"{contract.path}: action.semantics: found {contract.action.semantics}, expected joint_position: only such "
            "actions can be written as commands for the joints"
        )
    name = str(episode.ours.get("episode_id") or f"episode-{episode.index:06d}")
    metadata = {key: str(value) for key, value in episode.ours.get("metadata", {}).items()}
    metadata |= {"episode_id": name, "instruction": episode.instruction}
    if SUCCESS in episode.others:
        metadata["outcome"] = "success" if bool(episode.others[SUCCESS].any()) else "failure"
    return write_steps(folder / f"{name}.mcap", metadata, contract, _lerobot_steps(episode, contract))


def _lerobot_steps(episode: LeRobotEpisode, contract: RobotContract) -> Iterator[Step]:
    start, period = float(episode.ours.get("start", FIRST_STAMP)), 1.0 / contract.observation.rate
    positions = episode.others.get(JOINTS, episode.states)
    by_hand = episode.others.get(CORRECTED, np.zeros(len(episode), np.bool_))  # sets of others do not tell
    for k, images in enumerate(episode.frames(contract.observation.size)):
        yield Step(start + k * period, images, positions[k], episode.actions[k], corrected=bool(by_hand[k]))


def write_steps(path: Path, metadata: dict[str, str], contract: RobotContract, steps: Iterable[Step]) -> Path:
    """A recording of kind DEMONSTRATION; nothing is left of one whose steps have a fault."""
    writer = EpisodeWriter(path, {**metadata, "robot": contract.robot, "kind": DEMONSTRATION})
    try:
        with writer:
            period = 1.0 / contract.observation.rate
            for step in steps:
                seen = observation(step.stamp, step.images, step.position, contract, step.velocity, step.skew)
                write(writer, OBSERVATION, "vla_ros/msg/Observation", step.stamp, seen)
                said = chunk(step.stamp, period, step.command, contract, metadata["episode_id"], step.corrected)
                write(writer, CHUNK, "vla_ros/msg/ActionChunk", step.stamp, said)
    except VlaRosError:
        writer.part.unlink(missing_ok=True)  # it can be made again from the set
        raise
    return writer.path


def check_units(values: Array, contract: RobotContract, where: str) -> None:
    """Positions [N, n] in the contract's order can be those of its joints.

    Raises:
        VlaRosError: one is not finite, or so far beyond its joint's limit that it is another joint or unit; the first is named.
    """
    limits = contract.limits
    beyond = np.where(limits.prismatic, BEYOND[1] * (limits.upper - limits.lower), BEYOND[0])
    bad = ~((values >= limits.lower - beyond) & (values <= limits.upper + beyond))
    if bad.any():
        row, k = np.argwhere(bad)[0].tolist()
        unit = "m" if limits.prismatic[k] else "rad"
        remedy = "is it in radians, or a share?" if unit == "m" else "are the joints in another order, or is it in degrees?"
        expected = f"expected {limits.lower[k]:g} to {limits.upper[k]:g} {unit}"
        raise VlaRosError(f"{where}: row {row}: '{contract.joints[k]}': found {values[row, k]:g}, {expected}; {remedy}")
