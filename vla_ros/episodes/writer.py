"""Records one episode: raw serialised messages into an MCAP file that rosbag2 and Foxglove open."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from mcap.writer import CompressionType, Writer

import vla_ros
from vla_ros.episodes.definitions import schema_text
from vla_ros.errors import VlaRosError

METADATA = "vla_ros.episode"  # name of the MCAP metadata record
PART = ".part"
FLUSH_PERIOD = 0.5  # s


class EpisodeWriter:
    """Writes `<path>.part`; closing syncs it to disk and renames it, so that a file named *.mcap is always complete.

    Use as a context manager: leaving it with an exception keeps the .part file (what was recorded before a crash) and
    never produces `path`. Even a killed process leaves all but the last half second of what it was given. Not thread-safe.

    Args:
        path: *.mcap, must not exist; its folder is made.
        metadata: text by key: episode id, instruction, robot, seed, ... ; more through annotate().

    Raises:
        VlaRosError: the file exists, or cannot be written (full disk, permission).
    """

    def __init__(self, path: str | Path, metadata: dict[str, str]) -> None:
        self.path = Path(path)
        if self.path.suffix != ".mcap":
            raise VlaRosError(f"{self.path}: expected a file name that ends in .mcap")
        if self.path.exists():
            raise VlaRosError(f"{self.path}: exists already; a recorded episode is never overwritten")
        self.part = self.path.with_name(self.path.name + PART)
        self.metadata = {**metadata, "package_version": vla_ros.__version__}
        self._channels: dict[str, tuple[int, str]] = {}
        self._schemas: dict[str, int] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.part.open("wb")
            # zstd takes ten times as long for camera frames, whose noise it cannot compress either (benchmarks/recording.py).
            self._mcap = Writer(self._file, compression=CompressionType.LZ4)
            self._mcap.start(profile="ros2", library=f"vla_ros {vla_ros.__version__}")
            self._describe()  # what is known already; a crash must not leave messages of an unknown robot
            self._flushed = time.monotonic()
        except OSError as error:
            raise self._broken(error) from error

    def write(self, topic: str, type_name: str, cdr: bytes, stamp_ns: int) -> None:
        """Appends one message.

        Args:
            topic: e.g. /observation.
            type_name: `pkg/msg/Name`.
            cdr: serialised, with the 4-byte encapsulation header, as rclpy hands it to raw subscriptions.
            stamp_ns: ns on the ROS clock, when it was recorded.
        """
        channel, known = self._channels.get(topic, (0, ""))
        if not channel:
            channel = self._add_channel(topic, type_name)
        elif known != type_name:
            raise VlaRosError(f"{self.part}: topic {topic}: found a message of type {type_name}, until now {known}")
        try:
            self._mcap.add_message(channel, stamp_ns, cdr, stamp_ns)
            if time.monotonic() - self._flushed > FLUSH_PERIOD:  # a chunk of small messages fills up only after many seconds
                self._mcap.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            raise self._broken(error) from error

    def annotate(self, **metadata: str) -> None:
        """Adds to the metadata record, which is written when the file is closed: outcome, termination_reason, ..."""
        self.metadata.update(metadata)

    def close(self) -> Path:
        """Completes the file: metadata, index, sync, rename. Returns its path."""
        try:
            self._describe()
            self._mcap.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.part.rename(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._broken(error) from error
        return self.path

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            # On a full disk closing fails as well; the error that is already on its way says more.
            with contextlib.suppress(OSError):
                self._file.close()

    def _describe(self) -> None:
        """The metadata as it is now; of several such records the last one counts."""
        self._mcap.add_metadata(METADATA, {key: str(value) for key, value in self.metadata.items()})

    def _add_channel(self, topic: str, type_name: str) -> int:
        if type_name not in self._schemas:
            text = schema_text(type_name).encode()
            self._schemas[type_name] = self._mcap.register_schema(type_name, "ros2msg", text)
        qos = {"offered_qos_profiles": ""}  # rosbag2 wants the key
        channel = self._mcap.register_channel(topic, "cdr", self._schemas[type_name], qos)
        self._channels[topic] = channel, type_name
        return channel

    def _broken(self, error: OSError) -> VlaRosError:
        return VlaRosError(
            f"{self.part}: cannot record: {error.strerror or error}; earlier episodes are complete and untouched. "
            "Free disk space or choose another folder"
        )
