"""What a replay needs of a recorded episode: raw chunks with their arrival, joint states, and what was executed then."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from vla_ros import embedded
from vla_ros.episodes.reader import EpisodeReader, Recorded
from vla_ros.episodes.tensors import CHUNK, OBSERVATION, SAFETY
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.types import ActionChunk, Array, JointState, SafetyMode


@dataclass(frozen=True)
class ExecutedState:
    """One recorded /safety/state; it holds until the next one, because safety_node publishes every change."""

    stamp: float  # s
    mode: SafetyMode
    reason: str
    path_speed: float
    active: tuple[str, ...]
    command: Array  # [n] rad
    limited_ticks: int
    rejected_chunks: int


@dataclass(frozen=True)
class Recording:
    """One episode. Arrival is the time on the ROS clock at which the recorder heard a message, s."""

    path: Path
    contract: RobotContract
    metadata: dict[str, str]
    chunks: tuple[tuple[float, ActionChunk], ...]  # by arrival
    states: tuple[tuple[float, JointState], ...]  # by arrival
    state_topic: str  # where the states were read: the contract's, or /observation at the policy's rate
    executed: tuple[ExecutedState, ...]  # by stamp; empty when /safety/state was not recorded

    @property
    def start(self) -> float:
        """Stamp of the first joint state [s]."""
        return self.states[0][1].stamp

    @property
    def end(self) -> float:
        """When the last of what drives the replay was recorded [s]."""
        return max(self.states[-1][1].stamp, self.chunks[-1][0], *(state.stamp for state in self.executed[-1:]))


def labels(contract: RobotContract) -> tuple[str, ...]:
    """Names of the joints for tables in rad; those in m say so."""
    return tuple(f"{name} (m)" if name in contract.grippers else name for name in contract.joints)


def find(episode: str, runs: Path) -> Path:
    """Path of an episode given by path, by id, or as `latest`.

    Raises:
        VlaRosError: there is none; the message tells where it was looked for and which id is nearest.
    """
    given = Path(episode)
    if given.is_file():
        return given
    if given.suffix == ".mcap" or len(given.parts) > 1:
        raise VlaRosError(f"{given}: no such file; expected a recorded episode (*.mcap)")
    folder = runs / "latest" / "episodes"
    known = sorted(folder.glob("*.mcap"), key=lambda p: (p.stat().st_mtime, p.name))
    if not known:
        raise VlaRosError(f"episode '{episode}': found no *.mcap in {folder}; give a path, or --runs FOLDER")
    if episode == "latest":
        return known[-1]
    path = folder / f"{episode}.mcap"
    if path not in known:
        near = difflib.get_close_matches(episode, [p.stem for p in known], n=1, cutoff=0.0)[0]
        raise VlaRosError(f"episode '{episode}': not among the {len(known)} of {folder}; the nearest is '{near}'")
    return path


def load(path: Path, robot: str = "") -> Recording:
    """Reads one episode; messages are decoded with the definitions in the file, so that older recordings stay readable.

    Raises:
        VlaRosError: damaged file, unknown robot, or no chunks or joint states in it.
    """
    embedded.activate()  # the message classes that nodes.convert imports
    from vla_ros.nodes import convert

    reader = _read(path, CHUNK, OBSERVATION, SAFETY)
    name = robot or reader.metadata.get("robot", "")
    if not name:
        raise VlaRosError(f"{path}: metadata: robot: not found, expected the name of a robot; give --robot")
    contract = RobotContract.load(name)
    topic = contract.control.state_topic
    joints = _read(path, topic)
    found = {**reader.topics(), **joints.topics()}
    if CHUNK not in found:
        raise _not_recorded(path, CHUNK, found, "vla_ros/msg/ActionChunk")
    source = topic if topic in found else OBSERVATION
    if source not in found:
        raise _not_recorded(path, topic, found, f"sensor_msgs/msg/JointState there, or vla_ros/msg/Observation on {OBSERVATION}")
    as_joints: Any = convert.joint_state if source == topic else _observed
    in_order = partial(convert.ordered, names=contract.joints)
    return Recording(
        path, contract, reader.metadata,
        chunks=tuple(_converted(path, (m for m in reader if m.topic == CHUNK), convert.chunk)),
        states=tuple(
            _converted(
                path, (m for m in (joints if source == topic else reader) if m.topic == source),
                lambda message: in_order(as_joints(message)),
            )
        ),
        state_topic=source,
        executed=tuple(
            state for _, state in _converted(
                path, (m for m in reader if m.topic == SAFETY), partial(_executed, joints=contract.joints)
            )
        ),
    )  # fmt: skip


def _read(path: Path, *topics: str) -> EpisodeReader:
    reader = EpisodeReader(path, strict=False, only=topics)
    if reader.damage:
        counts = ", ".join(f"{n} of {topic}" for topic, n in reader.topics().items()) or f"none of {', '.join(topics)}"
        raise VlaRosError(f"{path}: {reader.damage}; found {counts}")
    return reader


def _not_recorded(path: Path, topic: str, found: Iterable[str], expected: str) -> VlaRosError:
    there = ", ".join(sorted(found)) or "no messages"
    return VlaRosError(f"{path}: {topic} was not recorded; found {there}; expected {expected}")


def _converted(path: Path, messages: Iterable[Recorded], convert: Any) -> list[tuple[float, Any]]:
    """(arrival, value) of each message."""
    out = []
    for recorded in messages:
        try:
            out.append((recorded.stamp_ns * 1e-9, convert(recorded.message())))
        except (SerdeError, AttributeError, KeyError, ValueError) as error:
            raise VlaRosError(
                f"{path}: {recorded.topic} at {recorded.stamp_ns} ns: found no valid {recorded.type_name} ({error}); "
                f"expected the fields of msg/{recorded.type_name.rpartition('/')[2]}.msg"
            ) from error
    return out


def _observed(message: Any) -> JointState:
    stamp = message.header.stamp
    return JointState(
        float(stamp.sec) + float(stamp.nanosec) * 1e-9, tuple(message.joint_names),
        np.asarray(message.position, np.float64), np.asarray(message.velocity, np.float64),
    )  # fmt: skip


def _executed(message: Any, joints: tuple[str, ...]) -> ExecutedState:
    stamp, names = message.header.stamp, list(message.joint_names)
    command = np.asarray(message.command, np.float64)
    if sorted(names) != sorted(joints) or command.shape != (len(joints),):
        raise ValueError(f"joint_names: found {names} with {command.size} commands, expected {', '.join(joints)}")
    return ExecutedState(
        float(stamp.sec) + float(stamp.nanosec) * 1e-9, SafetyMode(int(message.state)), str(message.reason),
        float(message.path_speed), tuple(message.active_constraints), command[[names.index(name) for name in joints]],
        int(message.limited_ticks), int(message.rejected_chunks),
    )  # fmt: skip
