"""The recorder's thread: a slow disk keeps nobody waiting, a full queue is counted and told, an error is heard."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
from recordings import header

from vla_ros.episodes import EpisodeReader, EpisodeWriter
from vla_ros.episodes.definitions import typestore
from vla_ros.errors import VlaRosError

TYPE = "std_msgs/msg/Header"
CDR = bytes(typestore().serialize_cdr(header(1.0), TYPE))
SIZE = len(CDR)


class Disk(EpisodeWriter):
    """Takes nothing until `free` is set, then fails if there is an `error`."""

    def __init__(self, path: Path, memory: int = 1 << 20, patience: float | None = None) -> None:
        self.free, self.error = threading.Event(), 0
        super().__init__(path, {"robot": "panda"}, memory, patience)

    def _append(self, message: object) -> None:
        assert self.free.wait(10.0)
        if self.error:
            raise OSError(self.error, "No space left on device")
        super()._append(message)  # type: ignore[arg-type]


def stamps(path: Path, topic: str = "/a") -> list[int]:
    return [message.stamp_ns for message in EpisodeReader(path) if message.topic == topic]


def test_a_disk_that_stands_still_keeps_nobody_waiting(tmp_path: Path) -> None:
    with Disk(tmp_path / "x.mcap") as disk:
        start = time.monotonic()
        assert all(disk.write("/a", TYPE, CDR, k) for k in range(1000))
        assert time.monotonic() - start < 1.0
        assert disk.most_waiting == 1000 * SIZE
        disk.free.set()
    assert stamps(disk.path) == list(range(1000))
    metadata = EpisodeReader(disk.path).metadata
    assert (metadata["dropped_messages"], metadata["waited_s"]) == ("0", "0.000")
    assert "dropped_topics" not in metadata


def test_what_finds_no_room_is_counted_and_told(tmp_path: Path) -> None:
    with Disk(tmp_path / "x.mcap", memory=10 * SIZE, patience=0.05) as disk:
        told = [disk.write("/a" if k < 12 else "/b", TYPE, CDR, k) for k in range(13)]
        assert told == [True] * 10 + [False] * 3
        disk.free.set()
        while disk._queue:
            time.sleep(0.001)
        assert disk.write("/a", TYPE, CDR, 13)
    assert stamps(disk.path) == [*range(10), 13], "nothing that was taken is lost"
    metadata = EpisodeReader(disk.path).metadata
    assert metadata["dropped_messages"] == "3"
    assert metadata["dropped_topics"] == "/a: 2, /b: 1"
    assert 0.15 <= float(metadata["waited_s"]) < 2.0


def test_without_patience_the_caller_waits_and_nothing_is_lost(tmp_path: Path) -> None:
    with Disk(tmp_path / "x.mcap", memory=10 * SIZE) as disk:
        threading.Timer(0.1, disk.free.set).start()
        assert all(disk.write("/a", TYPE, CDR, k) for k in range(100))
        assert disk.most_waiting == 10 * SIZE
    assert stamps(disk.path) == list(range(100))
    assert float(EpisodeReader(disk.path).metadata["waited_s"]) > 0.05


def test_a_message_larger_than_the_memory_is_taken_alone(tmp_path: Path) -> None:
    with Disk(tmp_path / "x.mcap", memory=SIZE // 2) as disk:
        disk.free.set()
        assert all(disk.write("/a", TYPE, CDR, k) for k in range(5))
    assert stamps(disk.path) == list(range(5))


def test_who_waits_for_a_disk_that_fails_hears_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "x.mcap", memory=10 * SIZE)
    disk.error = errno.ENOSPC
    threading.Timer(0.1, disk.free.set).start()
    with pytest.raises(VlaRosError, match=r"x\.mcap\.part: cannot record: No space left on device.*Free disk"), disk:
        for k in range(100):
            disk.write("/a", TYPE, CDR, k)
    assert [file.name for file in tmp_path.iterdir()] == ["x.mcap.part"]


def test_who_only_closes_hears_it_too(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "x.mcap")
    disk.write("/a", TYPE, CDR, 0)
    disk.error = errno.ENOSPC
    disk.free.set()
    with pytest.raises(VlaRosError, match="No space left on device"):
        disk.close()
    assert not disk.path.exists()


def test_an_exception_leaves_what_was_taken_in_the_part_file(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "x.mcap")

    def crash() -> None:
        with disk:
            for k in range(50):
                disk.write("/a", TYPE, CDR, k)
            disk.free.set()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    reader = EpisodeReader(disk.part, strict=False)
    assert [message.stamp_ns for message in reader] == list(range(50))
    assert reader.metadata["dropped_messages"] == "0"


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    def run(topic: str) -> None:
        for k in range(300):
            disk.write(topic, TYPE, CDR, k)

    topics = [f"/topic{i}" for i in range(4)]
    with Disk(tmp_path / "x.mcap", memory=20 * SIZE) as disk:
        disk.free.set()
        threads = [threading.Thread(target=run, args=(topic,)) for topic in topics]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for topic in topics:
        assert stamps(disk.path, topic) == list(range(300))


def test_a_closed_recording_takes_nothing(tmp_path: Path) -> None:
    with Disk(tmp_path / "x.mcap") as disk:
        disk.free.set()
        disk.write("/a", TYPE, CDR, 0)
    with pytest.raises(VlaRosError, match="after the recording was closed"):
        disk.write("/a", TYPE, CDR, 1)
