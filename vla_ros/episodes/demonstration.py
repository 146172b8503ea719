"""An episode of a LeRobot set as a recording of ours: for `vla-ros episodes`, and for `vla-ros safety replay`, which tells
what a safety envelope would have changed in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_ros.episodes.check import DEMONSTRATION
from vla_ros.episodes.lerobot import LeRobotEpisode
from vla_ros.episodes.lerobot_meta import CORRECTED, JOINTS, SUCCESS
from vla_ros.episodes.messages import chunk, observation, write
from vla_ros.episodes.tensors import CHUNK, OBSERVATION
from vla_ros.episodes.writer import EpisodeWriter
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract

FIRST_STAMP = 1.0  # s, of the first frame where the set does not tell when it was recorded; 0 means "no time" in ROS


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
    start, period = float(episode.ours.get("start", FIRST_STAMP)), 1.0 / contract.observation.rate
    positions = episode.others.get(JOINTS, episode.states)
    by_hand = episode.others.get(CORRECTED, np.zeros(len(episode), np.bool_))  # sets of others do not tell
    metadata = {key: str(value) for key, value in episode.ours.get("metadata", {}).items()}
    metadata |= {"episode_id": name, "robot": contract.robot, "instruction": episode.instruction, "kind": DEMONSTRATION}
    if SUCCESS in episode.others:
        metadata["outcome"] = "success" if bool(episode.others[SUCCESS].any()) else "failure"
    writer = EpisodeWriter(folder / f"{name}.mcap", metadata)
    try:
        with writer:
            for step, images in enumerate(episode.frames(contract.observation.size)):
                stamp = start + step * period
                seen = observation(stamp, images, positions[step], contract)
                write(writer, OBSERVATION, "vla_ros/msg/Observation", stamp, seen)
                said = chunk(stamp, period, episode.actions[step], contract, name, bool(by_hand[step]))
                write(writer, CHUNK, "vla_ros/msg/ActionChunk", stamp, said)
    except VlaRosError:
        writer.part.unlink(missing_ok=True)  # it can be made again from the set
        raise
    return writer.path
