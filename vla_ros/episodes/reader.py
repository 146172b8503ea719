"""Reads recorded episodes, complete or torn, without ROS."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import zstandard
from mcap.exceptions import McapError
from mcap.records import Channel, Message, Metadata, Schema
from mcap.stream_reader import CRCValidationError, StreamReader
from rosbags.serde import SerdeError
from rosbags.typesys.store import Typestore

from vla_ros.episodes.definitions import recorded_types
from vla_ros.episodes.writer import METADATA
from vla_ros.errors import VlaRosError

# What a torn or corrupt file makes the parsers raise.
DAMAGE = (
    McapError, CRCValidationError, SerdeError, struct.error, zstandard.ZstdError, ValueError, KeyError, EOFError, MemoryError,
    RuntimeError,  # of lz4
)  # fmt: skip


@dataclass
class Definitions:
    """A file's message definitions: texts by type name."""

    texts: dict[str, str] = field(default_factory=dict)

    @cached_property
    def store(self) -> Typestore:
        return recorded_types(tuple(sorted(self.texts.items())))


@dataclass(frozen=True)
class Recorded:
    """One message as it was recorded; `message` deserialises it."""

    topic: str
    type_name: str  # pkg/msg/Name
    cdr: bytes
    stamp_ns: int  # ns on the ROS clock
    definitions: Definitions

    def message(self) -> Any:
        """The message as the file defines it, with rosbags' classes; arrays are numpy views on `cdr`."""
        return self.definitions.store.deserialize_cdr(self.cdr, self.type_name)


@dataclass
class EpisodeReader:
    """One MCAP file in memory, messages in the order of recording.

    Args:
        path: *.mcap, or the *.mcap.part of a crash with strict=False.
        strict: False keeps what could be read of a damaged file; `damage` then tells what is wrong.
        only: topics to keep in memory; empty keeps all.

    Raises:
        VlaRosError: cannot be opened, or (strict) is torn, corrupt or no MCAP file.
    """

    path: Path
    strict: bool = True
    only: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    damage: str = ""

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self._messages: list[Recorded] = []
        try:
            with self.path.open("rb") as file:
                self._read(StreamReader(file, validate_crcs=True))
        except OSError as error:
            raise VlaRosError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except DAMAGE as error:
            self.damage = (
                f"torn or corrupt after {len(self._messages)} messages ({type(error).__name__}: {error}); "
                "expected a complete MCAP file"
            )
        if self.strict and self.damage:
            raise VlaRosError(f"{self.path}: {self.damage}; read it with strict=False to keep what is there")
        self._messages.sort(key=lambda m: m.stamp_ns)

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self._messages)

    def topics(self) -> dict[str, int]:
        """Number of messages by topic."""
        counts: dict[str, int] = {}
        for message in self._messages:
            counts[message.topic] = counts.get(message.topic, 0) + 1
        return counts

    def of(self, topic: str) -> list[Any]:
        """Deserialised messages of a topic.

        Raises:
            VlaRosError: (strict) one does not fit its definition.
        """
        result = []
        for recorded in self._messages:
            if recorded.topic == topic:
                try:
                    result.append(recorded.message())
                except (*DAMAGE, IndexError) as error:
                    self.damage = f"{topic} at {recorded.stamp_ns} ns: no valid {recorded.type_name} ({error})"
                    if self.strict:
                        raise VlaRosError(f"{self.path}: {self.damage}") from error
        return result

    def _read(self, stream: StreamReader) -> None:
        names: dict[int, str] = {}
        definitions = Definitions()
        channels: dict[int, tuple[str, str]] = {}
        for record in stream.records:
            if isinstance(record, Schema):
                names[record.id] = record.name
                definitions.texts[record.name] = record.data.decode()
            elif isinstance(record, Channel):
                channels[record.id] = record.topic, names[record.schema_id]
            elif isinstance(record, Message):
                topic, type_name = channels[record.channel_id]
                if not self.only or topic in self.only:
                    self._messages.append(Recorded(topic, type_name, record.data, record.log_time, definitions))
            elif isinstance(record, Metadata) and record.name == METADATA:
                self.metadata.update(record.metadata)
