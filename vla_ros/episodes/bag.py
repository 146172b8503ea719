"""Reads ROS 2 bags (mcap, sqlite3) as demonstrations: the topics that a contract names, or others in their places.

    joint states   sensor_msgs/JointState on control.state_topic
    cameras        sensor_msgs/Image on each camera's topic, or sensor_msgs/CompressedImage there or on <topic>/compressed
    actions        std_msgs/Float64MultiArray (joints in the contract's order) or sensor_msgs/JointState on control.command_topic;
                   or none: where the joints were at the next observation

Observations lie on a grid at the contract's rate: of each camera the nearest frame, of the joints what is between two states.
Header stamps are the time. A message without a header is as old as the joint state that was recorded before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.highlevel.anyreader import AnyReaderError
from rosbags.interfaces import Connection

from vla_ros.episodes.definitions import typestore
from vla_ros.episodes.demonstration import Incoming, Step, check_units
from vla_ros.episodes.reader import DAMAGE
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.image import decode
from vla_ros.robots.observation import positions_of, resize, seconds
from vla_ros.types import Array, Image, JointState

JOINTS = ("sensor_msgs/msg/JointState",)
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
COMMANDS = ("std_msgs/msg/Float64MultiArray", *JOINTS)
TEXTS = ("std_msgs/msg/String", "vla_ros/msg/Instruction")
ACTIONS = ("commands", "states")
OTHER_ORDER = 0.5  # rad; commands that are on average further from their joint than this are another joint's
GAP = 3.0  # periods of the contract's control rate between joint states that may be missing in an episode, at most 0.1 s
UNREADABLE = (*DAMAGE, AnyReaderError, OSError, IndexError)


@dataclass(frozen=True)
class BagOptions:
    """
    Args:
        instruction: of every episode; empty: `instruction_topic` tells.
        instruction_topic: each text on it begins an episode, an empty one or the next one ends it; empty: the bag is one.
        pause: s without joint states at which an episode ends and the next one begins; 0: never.
        actions: 'commands', or 'states' where the bag has none.
        topics: names in the bag of the contract's topics, where they are others.
    """

    instruction: str = ""
    instruction_topic: str = ""
    pause: float = 0.0
    actions: str = "commands"
    topics: Mapping[str, str] | None = None


class Bag:
    """The episodes of one bag, in the order of time.

    Args:
        path: the bag's folder, or a single *.mcap or *.db3.

    Raises:
        VlaRosError: no readable bag; a topic is missing or of another type; joints or commands that are not the contract's. While
            steps are read: a gap in a camera or in the joint states, a damaged picture.
    """

    def __init__(self, path: Path, contract: RobotContract, options: BagOptions) -> None:
        self.path, self.contract, self.options = path, contract, options
        if not (options.instruction or options.instruction_topic):
            raise VlaRosError(f"{path}: --instruction is missing, or --instruction-topic, which tells it")
        theirs = dict(options.topics or {})
        control, self.cameras = contract.control, contract.observation.cameras
        known = [control.state_topic, control.command_topic, *(contract.cameras[name].topic for name in self.cameras)]
        if unknown := [topic for topic in theirs if topic not in known]:
            raise VlaRosError(f"--map {unknown[0]}: expected a topic of {contract.path}: {', '.join(known)}")
        self._theirs = theirs
        try:
            with AnyReader([path], default_typestore=typestore()) as reader:
                self._found = {c.topic: c.msgtype for c in reader.connections}
                self._choose()
                self._read(reader)
        except UNREADABLE as error:
            raise VlaRosError(
                f"{path}: found no readable ROS 2 bag ({error}), expected a folder with metadata.yaml, or *.mcap"
            ) from error

    # -- topics ---------------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        control = self.contract.control
        self._joints = self._topic(control.state_topic, JOINTS)
        self._images = {name: self._topic(self.contract.cameras[name].topic, IMAGES, "/compressed") for name in self.cameras}
        self._commands = self._text = ""
        if self.options.actions == "commands":
            self._commands = self._topic(
                control.command_topic, COMMANDS, hint="; or --actions states: where the joints were next"
            )
        if self.options.instruction_topic:
            self._text = self._topic(self.options.instruction_topic, TEXTS)

    def _topic(self, ours: str, types: Sequence[str], also: str = "", hint: str = "") -> str:
        """The bag's name of one of the contract's topics."""
        name = self._theirs.get(ours, ours)
        for topic in (name, *((name + also,) if also else ())):
            if topic in self._found:
                if (kind := self._found[topic]) not in types:
                    raise VlaRosError(f"{self.path}: {topic}: found {kind}, expected {' or '.join(types)}")
                return topic
        there = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(self._found.items())) or "no topics"
        remedy = f"--map {ours}:=THEIRS tells its name{hint}"
        raise VlaRosError(f"{self.path}: found no {name} ({' or '.join(types)}); {remedy}; there are {there}")

    def _connections(self, reader: AnyReader, *topics: str) -> list[Connection]:
        return [c for c in reader.connections if c.topic in topics]

    # -- all that is small ----------------------------------------------------------------------------------------

    def _read(self, reader: AnyReader) -> None:
        """Joint states, commands, instructions, and the stamps of the pictures."""
        n, now = len(self.contract.joints), -np.inf
        states: dict[float, tuple[Array, Array]] = {}
        commands: dict[float, Array] = {}
        texts: list[tuple[float, str]] = []
        of_camera = {topic: name for name, topic in self._images.items()}
        stamps: dict[str, set[float]] = {name: set() for name in self.cameras}
        wanted = [t for t in (self._joints, self._commands, self._text, *of_camera) if t]
        for connection, _, data in reader.messages(connections=self._connections(reader, *wanted)):
            message: Any = reader.deserialize(data, connection.msgtype)
            topic = connection.topic
            if topic == self._joints:
                now = seconds(message.header.stamp)
                states[now] = self._ordered(message, topic), self._velocity(message)
            if topic in of_camera:
                stamps[of_camera[topic]].add(seconds(message.header.stamp))
            elif topic == self._text:
                texts.append((now, str(getattr(message, "text", getattr(message, "data", "")))))
            elif topic == self._commands:
                at = now
                if connection.msgtype in JOINTS:
                    at, command = seconds(message.header.stamp), self._ordered(message, topic)
                else:
                    command = np.asarray(message.data, np.float64)
                    if len(command) != n:
                        raise VlaRosError(
                            f"{self.path}: {topic}: found {len(command)} values, expected {n}: {', '.join(self.contract.joints)}"
                        )
                if np.isfinite(at):  # before the first joint state nobody knows when
                    commands[at] = command
        if len(states) < 2:
            raise VlaRosError(f"{self.path}: {self._joints}: found {len(states)} joint states, expected some")
        self.times = np.array(sorted(states))
        self.positions = np.stack([states[t][0] for t in self.times])
        self.velocities = np.stack([states[t][1] for t in self.times])
        check_units(self.positions, self.contract, f"{self.path}: {self._joints}")
        self.stamps = {name: np.array(sorted(found)) for name, found in stamps.items()}
        self._texts = texts
        if self._commands:
            if not commands:
                raise VlaRosError(f"{self.path}: {self._commands}: found no messages, expected commands")
            self._sent = np.array(sorted(commands))
            self._told = np.stack([commands[t] for t in self._sent])
            self._check_order()

    def _ordered(self, message: Any, topic: str) -> Array:
        """[n] in the contract's order."""
        try:
            names, position = tuple(map(str, message.name)), np.asarray(message.position, np.float64)
            return positions_of(self.contract, JointState(0.0, names, position, position))
        except VlaRosError as error:
            raise VlaRosError(f"{self.path}: {topic}: at {seconds(message.header.stamp):.3f} s: {error}") from error

    def _velocity(self, message: Any) -> Array:
        """[n], NaN where there is none."""
        names, velocity = list(message.name), np.asarray(message.velocity, np.float64)
        if len(velocity) != len(names):
            return np.full(len(self.contract.joints), np.nan)
        return velocity[[names.index(name) for name in self.contract.joints]]

    def _check_order(self) -> None:
        """Commands are bare numbers: that they are of another joint shows only in how far they are from where it is."""
        check_units(self._told, self.contract, f"{self.path}: {self._commands}")
        there = np.stack([np.interp(self._sent, self.times, column) for column in self.positions.T], axis=1)
        away = np.where(self.contract.limits.prismatic, 0.0, np.median(abs(self._told - there), axis=0))
        if away.max() > OTHER_ORDER:
            k = int(away.argmax())
            found = f"'{self.contract.joints[k]}': found commands {away[k]:.2f} rad from its positions"
            expected = f"expected at most {OTHER_ORDER:g}: are they in another order than {', '.join(self.contract.joints)}?"
            raise VlaRosError(f"{self.path}: {self._commands}: {found}, {expected}")

    # -- episodes -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Incoming]:
        size = sum(f.stat().st_size for f in ([self.path] if self.path.is_file() else self.path.iterdir()) if f.is_file())
        for k, (begin, end, text) in enumerate(self.parts()):
            source = f"{self.path.name} of {size} bytes, {begin:.3f} to {end:.3f} s"
            name = f"{self.path.stem}-{k:03d}"
            yield Incoming(name, source, text, lambda part=(begin, end): self._steps(*part))  # type: ignore[misc]

    def parts(self) -> list[tuple[float, float, str]]:
        """(begin, end, instruction) of each episode, s."""
        first, last = float(self.times[0]), float(self.times[-1])
        spans = [(first, last, self.options.instruction)]
        if self._text:
            ends = [t for t, _ in self._texts[1:]] + [last]
            spans = [
                (max(t, first), end, text or "") for (t, text), end in zip(self._texts, ends, strict=True) if text and end > t
            ]
            if not spans:
                raise VlaRosError(f"{self.path}: {self._text}: found no instruction, expected a text that begins an episode")
        if not self.options.pause:
            return spans
        pieces = []
        for begin, end, text in spans:
            times = self.times[(self.times >= begin) & (self.times <= end)]
            between = np.flatnonzero(np.diff(times) > self.options.pause) + 1
            pieces += [(float(p[0]), float(p[-1]), text) for p in np.split(times, between) if len(p) > 1]
        return pieces

    def _steps(self, begin: float, end: float) -> Iterator[Step]:
        period = 1.0 / self.contract.observation.rate
        first = max(begin, *(float(s[s >= begin][0]) if (s >= begin).any() else end for s in self.stamps.values()))
        last = min(end, *(float(s[s <= end][-1]) if (s <= end).any() else begin for s in self.stamps.values()))
        grid = np.asarray(first + period * np.arange(int((last - first) / period + 1e-6) + 1), np.float64)
        where = f"{self.path}: episode from {begin:.3f} to {end:.3f} s"
        if len(grid) < 3:
            raise VlaRosError(
                f"{where}: found pictures of {max(0.0, last - first):.3f} s, expected at least two steps of {period:g} s"
            )
        self._check_joints(begin, end, where)
        frames = {name: self._nearest(name, grid, where) for name in self.cameras}
        at = lambda table: np.stack([np.interp(grid, self.times, column) for column in table.T], axis=1)  # noqa: E731
        positions, velocities = at(self.positions), at(self.velocities)
        told = positions
        if self._commands:
            sent = (self._sent >= begin) & (self._sent <= end)
            if not sent.any() or self._sent[sent][0] > grid[1] + period:
                found = f"{sent.sum()} commands" + (f" from {self._sent[sent][0]:.3f} s on" if sent.any() else "")
                raise VlaRosError(
                    f"{where}: {self._commands}: found {found}, expected some from {grid[1]:.3f} s on; or --actions states"
                )
            told = np.stack([np.interp(grid, self._sent[sent], column) for column in self._told[sent].T], axis=1)
        for k, (images, skew) in enumerate(self._pictures(grid[:-1], frames)):
            velocity = velocities[k] if np.isfinite(velocities[k]).all() else None
            yield Step(float(grid[k]), images, positions[k], told[k + 1], velocity, skew)

    def _check_joints(self, begin: float, end: float, where: str) -> None:
        times = self.times[(self.times >= begin) & (self.times <= end)]
        gaps, most = np.diff(times), max(0.1, GAP / self.contract.control.rate)
        if gaps.max(initial=0.0) > most:
            k = int(gaps.argmax())
            expected = f"at most {most:g} s; --pause S splits the bag at pauses"
            raise VlaRosError(
                f"{where}: {self._joints}: found {gaps[k]:.3f} s between states at {times[k]:.3f} s, expected {expected}"
            )

    def _nearest(self, name: str, grid: Array, where: str) -> Array:
        """Stamps [N] of a camera's frames."""
        stamps, rate = self.stamps[name], self.contract.observation.rate
        after = np.searchsorted(stamps, grid).clip(1, len(stamps) - 1)
        nearest = np.where(grid - stamps[after - 1] <= stamps[after] - grid, stamps[after - 1], stamps[after])
        # A camera at the contract's rate, which nobody has synchronised with the others, is at most half a period off.
        away, most = abs(nearest - grid), 0.5 / rate + self.contract.observation.max_skew
        if away.max() > most:
            k = int(away.argmax())
            found = f"found no frame within {most:.3f} s of {grid[k]:.3f} s"
            raise VlaRosError(f"{where}: {self._images[name]}: {found}, expected {rate:g} Hz or more without a gap")
        return np.asarray(nearest, np.float64)

    def _pictures(self, grid: Array, frames: Mapping[str, Array]) -> Iterator[tuple[dict[str, Image], float]]:
        """Images by camera for each time of the grid [N], and the largest difference [s] of their stamps from it."""
        wanted: dict[str, dict[float, list[int]]] = {name: {} for name in self.cameras}
        for name, stamps in frames.items():
            for k, stamp in enumerate(stamps[: len(grid)].tolist()):
                wanted[name].setdefault(stamp, []).append(k)
        skew = np.max([abs(stamps[: len(grid)] - grid) for stamps in frames.values()], axis=0)
        of_camera, ready, due = {topic: name for name, topic in self._images.items()}, dict[int, dict[str, Image]](), 0
        try:
            with AnyReader([self.path], default_typestore=typestore()) as reader:
                for connection, _, data in reader.messages(connections=self._connections(reader, *of_camera)):
                    message: Any = reader.deserialize(data, connection.msgtype)
                    name = of_camera[connection.topic]
                    if steps := wanted[name].pop(seconds(message.header.stamp), []):
                        image = resize(self._decoded(message, connection), self.contract.observation.size)
                        for k in steps:
                            ready.setdefault(k, {})[name] = image
                    while len(ready.get(due, {})) == len(self.cameras):
                        images = ready.pop(due)
                        yield {camera: images[camera] for camera in self.cameras}, float(skew[due])
                        due += 1
        except UNREADABLE as error:
            raise VlaRosError(f"{self.path}: found no readable ROS 2 bag any more ({error}), expected one") from error

    def _decoded(self, message: Any, connection: Connection) -> Image:
        """[H, W, 3] RGB."""
        where = f"{self.path}: {connection.topic}: at {seconds(message.header.stamp):.3f} s"
        if connection.msgtype == IMAGES[0]:
            try:
                return decode(
                    np.asarray(message.data, np.uint8), str(message.encoding), message.height, message.width, message.step
                )
            except VlaRosError as error:
                raise VlaRosError(f"{where}: {error}") from error
        pixels = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise VlaRosError(f"{where}: found no picture in format '{message.format}', expected JPEG or PNG")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
