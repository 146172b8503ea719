"""Records one episode: raw serialised messages into an MCAP file that rosbag2 and Foxglove open."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, deque
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from mcap.writer import CompressionType, Writer

import vla_ros
from vla_ros.episodes.definitions import schema_text
from vla_ros.errors import VlaRosError

METADATA = "vla_ros.episode"  # name of the MCAP metadata record
PART = ".part"
FLUSH_PERIOD = 0.5  # s
PRIORITY = -8  # nice value of the thread that writes, under the safety filter: what it is too late for is lost
MEMORY = 256 << 20  # bytes that may wait for the disk: 2.3 s of four 640x480 cameras at 30 Hz


class Message(NamedTuple):
    """One message as it waits for the disk."""

    topic: str
    type_name: str
    cdr: bytes
    stamp_ns: int


class EpisodeWriter:
    """Writes `<path>.part`; closing syncs it to disk and renames it, so that a file named *.mcap is always complete.

    A thread of its own compresses and writes, so that a slow disk keeps nobody waiting until `memory` is used up. Then
    write() waits, for `patience` at most, and drops the message: it says so, and the file's metadata count what was dropped
    (`dropped_messages`, `dropped_topics`) and how long callers waited (`waited_s`).

    Use as a context manager: leaving it with an exception keeps the .part file (what was recorded before a crash) and
    never produces `path`. Even a killed process leaves all but the last half second of what it was given, and what then
    waited for the disk. Any thread may write.

    Args:
        path: *.mcap, must not exist; its folder is made.
        metadata: text by key: episode id, instruction, robot, seed, ... ; more through annotate().
        memory: bytes of messages that may wait; one message may always.
        patience: s; None waits until there is room, so that nothing is dropped.

    Raises:
        VlaRosError: the file exists, or cannot be written (full disk, permission); of what the thread finds, the next call
            hears.
    """

    def __init__(self, path: str | Path, metadata: dict[str, str], memory: int = MEMORY, patience: float | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix != ".mcap":
            raise VlaRosError(f"{self.path}: expected a file name that ends in .mcap")
        if self.path.exists():
            raise VlaRosError(f"{self.path}: exists already; a recorded episode is never overwritten")
        self.part = self.path.with_name(self.path.name + PART)
        self.metadata = {**metadata, "package_version": vla_ros.__version__}
        self.dropped: Counter[str] = Counter()  # by topic
        self.waited = 0.0  # s, of callers
        self.most_waiting = 0  # bytes
        self._memory, self._patience = memory, patience
        self._types: dict[str, str] = {}  # by topic
        self._texts: dict[str, str] = {}  # schemas by type
        self._changed = threading.Condition()  # guards the four below
        self._queue: deque[Message] = deque()
        self._waiting = 0  # bytes in the queue
        self._ending = False
        self._error: Exception | None = None
        # From here on only the thread touches file and MCAP writer, until it has ended.
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._thread = threading.Thread(target=self._record, name=f"record {self.path.name}", daemon=True)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.part.open("wb")
            # zstd takes ten times as long for camera frames, whose noise it cannot compress either (benchmarks/recording.py).
            self._mcap = Writer(self._file, compression=CompressionType.LZ4)
            self._mcap.start(profile="ros2", library=f"vla_ros {vla_ros.__version__}")
            self._describe()  # what is known already; a crash must not leave messages of an unknown robot
        except OSError as error:
            raise self._broken(error) from error
        self._thread.start()

    def write(self, topic: str, type_name: str, cdr: bytes, stamp_ns: int) -> bool:
        """Appends one message; False if it was dropped, because there was no room for `patience`.

        Args:
            topic: e.g. /observation.
            type_name: `pkg/msg/Name`.
            cdr: serialised, with the 4-byte encapsulation header, as rclpy hands it to raw subscriptions.
            stamp_ns: ns on the ROS clock, when it was recorded.
        """
        with self._changed:
            if self._ending:
                raise VlaRosError(f"{self.part}: found a message after the recording was closed")
            known = self._types.get(topic, type_name)
            if known != type_name:
                raise VlaRosError(f"{self.part}: topic {topic}: found a message of type {type_name}, until now {known}")
            if type_name not in self._texts:
                self._texts[type_name] = schema_text(type_name)
            self._types[topic] = type_name
            if not self._room(len(cdr)):
                before = time.monotonic()
                self._changed.wait_for(lambda: self._room(len(cdr)), self._patience)
                self.waited += time.monotonic() - before
            if self._error is not None:
                raise self._broken(self._error) from self._error
            if not self._room(len(cdr)):
                self.dropped[topic] += 1
                return False
            self._queue.append(Message(topic, type_name, cdr, stamp_ns))
            self._waiting += len(cdr)
            self.most_waiting = max(self.most_waiting, self._waiting)
            self._changed.notify_all()
        return True

    def annotate(self, **metadata: str) -> None:
        """Adds to the metadata record, which is written when the file is closed: outcome, termination_reason, ..."""
        self.metadata.update(metadata)

    def close(self) -> Path:
        """Completes the file: what waits, metadata, index, sync, rename. Returns its path."""
        self._end()
        if self._error is not None:
            raise self._broken(self._error) from self._error
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
            self._end()
            # On a full disk closing fails as well; the error that is already on its way says more.
            with contextlib.suppress(OSError):
                if self._error is None:
                    self._describe()
                    self._mcap.flush()
            with contextlib.suppress(OSError):
                self._file.close()

    def _room(self, size: int) -> bool:
        """Whether a caller need not wait: there is room, or an error to tell him."""
        return self._error is not None or not self._queue or self._waiting + size <= self._memory

    def _end(self) -> None:
        """The thread writes what waits, and ends; what was lost is known then."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        self.annotate(dropped_messages=str(self.dropped.total()), waited_s=f"{self.waited:.3f}")
        if self.dropped:
            self.annotate(dropped_topics=", ".join(f"{topic}: {number}" for topic, number in sorted(self.dropped.items())))

    def _record(self) -> None:
        """The thread: messages to the file as they come, and from there to the disk every FLUSH_PERIOD."""
        with contextlib.suppress(OSError):  # without CAP_SYS_NICE it is one among others
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
        flushed = time.monotonic()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._ending, FLUSH_PERIOD)
                    message = self._queue[0] if self._queue else None
                    if message is None and self._ending:
                        return
                if message is not None:
                    self._append(message)
                    with self._changed:
                        self._queue.popleft()
                        self._waiting -= len(message.cdr)
                        self._changed.notify_all()
                if time.monotonic() - flushed > FLUSH_PERIOD:  # a chunk of small messages fills up only after many seconds
                    self._mcap.flush()
                    flushed = time.monotonic()
        except Exception as error:  # noqa: BLE001  (whatever it is: the next caller hears it, and nobody waits for a dead thread)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _append(self, message: Message) -> None:
        channel = self._channels.get(message.topic) or self._add_channel(message.topic, message.type_name)
        self._mcap.add_message(channel, message.stamp_ns, message.cdr, message.stamp_ns)

    def _add_channel(self, topic: str, type_name: str) -> int:
        if type_name not in self._schemas:
            self._schemas[type_name] = self._mcap.register_schema(type_name, "ros2msg", self._texts[type_name].encode())
        qos = {"offered_qos_profiles": ""}  # rosbag2 wants the key
        channel = self._channels[topic] = self._mcap.register_channel(topic, "cdr", self._schemas[type_name], qos)
        return channel

    def _describe(self) -> None:
        """The metadata as it is now; of several such records the last one counts."""
        self._mcap.add_metadata(METADATA, {key: str(value) for key, value in self.metadata.items()})

    def _broken(self, error: Exception) -> VlaRosError:
        return VlaRosError(
            f"{self.part}: cannot record: {getattr(error, 'strerror', None) or error}; earlier episodes are complete and "
            "untouched. Free disk space or choose another folder"
        )
