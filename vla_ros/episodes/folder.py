"""The episodes of a folder, told from the index at the end of each file, without reading the messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcap.reader import make_reader

from vla_ros.episodes.labels import read_label
from vla_ros.episodes.reader import DAMAGE, EpisodeReader
from vla_ros.episodes.tensors import OBSERVATION
from vla_ros.episodes.writer import METADATA, PART
from vla_ros.errors import VlaRosError


@dataclass(frozen=True)
class EpisodeInfo:
    """What a table tells of one episode."""

    path: Path
    metadata: dict[str, str]
    label: dict[str, str]  # the operator's; empty if there is none
    steps: int  # policy steps: one less than observations
    seconds: float  # from the first to the last message, ROS clock
    size: int  # bytes
    damage: str  # empty: the file is complete. Flipped bits inside are `check`'s affair

    @property
    def id(self) -> str:
        return self.path.name.removesuffix(PART).removesuffix(".mcap")


def find_episodes(folder: Path, with_parts: bool = False) -> list[Path]:
    """*.mcap in a folder and below it, by name; with_parts: also what crashes have left (*.mcap.part).

    Raises:
        VlaRosError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise VlaRosError(f"{folder}: found no such folder, expected one with recordings (*.mcap)")
    found = [*folder.rglob("*.mcap"), *(folder.rglob(f"*.mcap{PART}") if with_parts else ())]
    if not found:
        raise VlaRosError(f"{folder}: found no *.mcap in it or below it")
    return sorted(found, key=lambda path: (path.name, path))


def corrected_episodes(folder: Path, robot: str) -> list[Path]:
    """Recordings of a robot in which a person took over from the policy, by name; none where nothing was recorded yet.
    Where there was no policy (metadata `kind`), nobody took over from it.

    Raises:
        VlaRosError: a file cannot be opened.
    """
    infos = (read_info(path) for path in sorted(folder.rglob("*.mcap"), key=lambda path: (path.name, path)))
    ours = [i for i in infos if i.metadata.get("robot") == robot and "kind" not in i.metadata]
    return [i.path for i in ours if int(i.metadata.get("corrected_steps", "0"))]


class Shelf:
    """Room for the newest recordings of a folder, not of those below it; older ones are deleted. What people gave stays: labels,
    and episodes in which they took over.

    Args:
        keep: newest recordings; 0 keeps all.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._kept: set[Path] = set()  # given by people, so far as was looked at

    def clear(self) -> int:
        """Deletes what has become too old; how many.

        Raises:
            VlaRosError: a file cannot be opened or deleted.
        """
        if not self._keep:
            return 0
        recorded = sorted(path for path in self._folder.glob("*.mcap") if path not in self._kept)
        deleted = 0
        for path in recorded[: -self._keep]:
            if _given(path):
                self._kept.add(path)
                continue
            try:
                path.unlink()
            except OSError as error:
                raise VlaRosError(f"{path}: cannot be deleted: {error.strerror or error}") from error
            deleted += 1
        return deleted


def _given(path: Path) -> bool:
    info = read_info(path)
    return bool(info.label) or bool(int(info.metadata.get("corrected_steps", "0")))


def read_info(path: Path) -> EpisodeInfo:
    """
    Raises:
        VlaRosError: the file cannot be opened, or its label is damaged.
    """
    try:
        with path.open("rb") as file:
            reader = make_reader(file)
            summary = reader.get_summary()
            if summary is None or summary.statistics is None:
                return _torn(path)
            metadata: dict[str, str] = {}
            for record in reader.iter_metadata():
                if record.name == METADATA:
                    metadata.update(record.metadata)
    except OSError as error:
        raise VlaRosError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DAMAGE:
        return _torn(path)
    counts = {channel.topic: summary.statistics.channel_message_counts.get(id_, 0) for id_, channel in summary.channels.items()}
    span = summary.statistics.message_end_time - summary.statistics.message_start_time
    steps, damage = max(0, counts.get(OBSERVATION, 0) - 1), "not completed" if path.name.endswith(PART) else ""
    return EpisodeInfo(path, metadata, read_label(path), steps, span * 1e-9, path.stat().st_size, damage)


def _torn(path: Path) -> EpisodeInfo:
    """Without an index all messages are read, as far as they go."""
    reader = EpisodeReader(path, strict=False)
    stamps = [message.stamp_ns for message in reader]
    damage = "not completed" if path.name.endswith(PART) else reader.damage.split("; expected")[0] or "no index at the end"
    seconds = (stamps[-1] - stamps[0]) * 1e-9 if stamps else 0.0
    steps = max(0, reader.topics().get(OBSERVATION, 0) - 1)
    return EpisodeInfo(path, reader.metadata, read_label(path), steps, seconds, path.stat().st_size, damage)
