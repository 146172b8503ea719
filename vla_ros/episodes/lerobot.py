"""Reads a LeRobotDataset v3.0 one episode after the other, in bounded memory. The layout is in lerobot_meta."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla_ros.episodes.check import JITTER, Finding
from vla_ros.episodes.lerobot_meta import ACTION, INDICES, STATE, TASKS, UNREADABLE, LeRobotMeta
from vla_ros.episodes.video import read_video
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.types import Image

BATCH, IMAGE_BATCH = 4096, 32  # rows in memory at a time, beside those of one episode


@dataclass(frozen=True)
class LeRobotEpisode:
    """T frames at equal intervals. Numbers are in memory, images are decoded on demand."""

    index: int
    instruction: str
    timestamps: NDArray[np.float64]  # [T] s from the episode's beginning
    states: NDArray[np.float32]  # [T, S]
    actions: NDArray[np.float32]  # [T, A]
    others: dict[str, NDArray[Any]]  # [T, ...] by feature: the set's further numbers
    ours: dict[str, Any]  # its line of meta/vla_ros.jsonl; empty if this package did not write the set
    decode: Callable[[], Iterator[dict[str, Image]]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.actions)

    def frames(self, size: tuple[int, int] | None = None) -> Iterator[dict[str, Image]]:
        """T times an image [H, W, 3] RGB by camera; one at a time is in memory.

        Args:
            size: px, height and width to resize to; None: as stored.

        Raises:
            VlaRosError: a video is missing, damaged or too short.
        """
        for images in self.decode():
            yield images if size is None else {name: resize(image, size) for name, image in images.items()}


class LeRobotReader:
    """Iterates over the episodes of a v3.0 set that fits a robot's contract; each iteration begins anew.

    Args:
        folder: the set's root.
        contract: the robot. Its rate, dimensions and policy cameras are the expected ones; further cameras are not read.
        skip_bad: leave out episodes with a fault, and keep the fault in `skipped`.

    Raises:
        VlaRosError: no v3.0 set, another fps, action or state dimension than the contract's, a camera or statistics are
            missing; and, while iterating without skip_bad, the first fault of an episode.
    """

    def __init__(self, folder: str | Path, contract: RobotContract, skip_bad: bool = False) -> None:
        self.meta, self.skip_bad = LeRobotMeta(Path(folder), contract), skip_bad
        self.skipped: list[Finding] = []

    def __len__(self) -> int:
        return len(self.meta.episodes)

    def __iter__(self) -> Iterator[LeRobotEpisode]:
        self.skipped = []
        files: dict[Path, list[dict[str, Any]]] = {}
        for row in self.meta.episodes:
            files.setdefault(self.meta.path("data_path", row, "data"), []).append(row)
        for file, rows in files.items():
            yield from self._episodes(file, rows)

    # -- one data file --------------------------------------------------------------------------------------------

    def _episodes(self, file: Path, rows: Sequence[dict[str, Any]]) -> Iterator[LeRobotEpisode]:
        wanted = {int(row["episode_index"]): row for row in rows}
        try:
            for table in self._runs(file):
                index = int(table["episode_index"][0].as_py())
                if index not in wanted:
                    found = "rows that are not in meta/episodes, or are not consecutive"
                    self._reject(Finding(file, "episode_index", f"episode {index}", found, "one run of rows per known episode"))
                    continue
                row = wanted.pop(index)
                values = {key: _array(table[key]) for key in self.meta.numbers()}
                fault = self._fault(file, row, table.num_rows, values)
                if fault:
                    self._reject(fault)
                else:
                    yield self._episode(row, table, values)
        except UNREADABLE as error:
            for index in wanted:
                self._reject(Finding(file, "", f"episode {index}", f"no readable data ({error})", "a Parquet file"))
            return
        for index in wanted:
            self._reject(Finding(file, "", f"episode {index}", "no rows", f"{wanted[index]['length']} rows"))

    def _runs(self, file: Path) -> Iterator[pa.Table]:
        """Consecutive rows of one episode each."""
        images = [key for key in self.meta.cameras.values() if self.meta.dtype(key) == "image"]
        columns = [*self.meta.numbers(), *images]
        with pq.ParquetFile(file) as parquet:
            if missing := [name for name in columns if name not in parquet.schema_arrow.names]:
                raise ValueError(f"column '{missing[0]}' is missing")
            kept: list[pa.RecordBatch] = []
            for batch in parquet.iter_batches(IMAGE_BATCH if images else BATCH, columns=columns):
                indices = batch["episode_index"].to_numpy(zero_copy_only=False)
                edges = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
                for begin, end in pairwise(edges):
                    if kept and kept[-1]["episode_index"][-1].as_py() != indices[begin]:
                        yield pa.Table.from_batches(kept)
                        kept = []
                    kept.append(batch.slice(begin, end - begin))
            if kept:
                yield pa.Table.from_batches(kept)

    def _fault(self, file: Path, row: dict[str, Any], length: int, values: dict[str, NDArray[Any]]) -> Finding | None:
        """The first fault of one episode's numbers, or where its videos are."""
        episode, fps = int(row["episode_index"]), self.meta.fps

        def finding(feature: str, frame: int | None, found: str, expected: str) -> Finding:
            at = f"episode {episode}" + ("" if frame is None else f" frame {frame}")
            return Finding(file, feature, at, found, expected)

        if length != row["length"]:
            return finding("", None, f"{length} rows", f"{row['length']}, as meta/episodes says")
        steps = np.diff(values["timestamp"].astype(np.float64))
        for frame in np.flatnonzero(steps <= 0)[:1]:
            stamp = float(values["timestamp"][frame + 1])
            kind = "the timestamp of the frame before" if steps[frame] == 0 else "an earlier timestamp than the frame before"
            return finding("timestamp", int(frame) + 1, f"{kind} ({stamp:.4f} s)", "a later one")
        for frame in np.flatnonzero(abs(steps * fps - 1) > JITTER)[:1]:
            return finding("timestamp", int(frame) + 1, f"{steps[frame]:.4g} s after the frame before", f"{1 / fps:.4g} s")
        counted = {"frame_index": np.arange(length), "index": row["dataset_from_index"] + np.arange(length)}
        for key, expected in counted.items():
            for frame in np.flatnonzero(values[key] != expected)[:1]:
                return finding(key, int(frame), str(values[key][frame]), str(expected[frame]))
        for key in (STATE, ACTION):
            width = self.meta.features[key]["shape"][0]
            if values[key].size != length * width:
                return finding(key, None, f"shape {list(values[key].shape)}", f"[{length}, {width}]")
        for key, array in values.items():
            if len(array) != length:
                return finding(key, None, f"{len(array)} values", f"{length} rows of equal length")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                frame = int(np.flatnonzero(~np.isfinite(array.reshape(length, -1)).all(axis=1))[0])
                return finding(key, frame, str(array[frame].tolist()), "finite numbers")
        tasks = set(values["task_index"].tolist())
        if len(tasks) != 1 or next(iter(tasks)) not in self.meta.tasks:
            return finding("task_index", None, str(sorted(tasks)), f"one of those of {TASKS}")
        return self._video_fault(row)

    def _video_fault(self, row: dict[str, Any]) -> Finding | None:
        for key in self.meta.cameras.values():
            if self.meta.dtype(key) != "video":
                continue
            file, at = self.meta.path("video_path", row, f"videos/{key}", key), f"episode {row['episode_index']}"
            if not file.is_file():
                return Finding(file, key, at, "no such file", "a video")
            begin, end = float(row[f"videos/{key}/from_timestamp"]), float(row[f"videos/{key}/to_timestamp"])
            length = row["length"] / self.meta.fps
            if abs(end - begin - length) > JITTER / self.meta.fps:
                return Finding(file, key, at, f"{end - begin:.3f} s of video", f"{length:.3f} s ({row['length']} frames)")
        return None

    def _episode(self, row: dict[str, Any], table: pa.Table, values: dict[str, NDArray[Any]]) -> LeRobotEpisode:
        index = int(row["episode_index"])
        return LeRobotEpisode(
            index=index, instruction=self.meta.tasks[int(values["task_index"][0])],
            timestamps=values["timestamp"].astype(np.float64), states=_rows(values[STATE]), actions=_rows(values[ACTION]),
            others={key: value for key, value in values.items() if key not in (STATE, ACTION, *INDICES)},
            ours=self.meta.ours.get(index, {}), decode=lambda: self._decode(row, table),
        )  # fmt: skip

    def _decode(self, row: dict[str, Any], table: pa.Table) -> Iterator[dict[str, Image]]:
        """Images by camera, frame by frame."""
        streams: dict[str, Iterator[Image]] = {}
        with ExitStack() as stack:
            for camera, key in self.meta.cameras.items():
                height, width = self.meta.image_size(key)
                if self.meta.dtype(key) == "video":
                    file = self.meta.path("video_path", row, f"videos/{key}", key)
                    start = float(row[f"videos/{key}/from_timestamp"])
                    frames = read_video(file, start, int(row["length"]), self.meta.fps, (height, width))
                    streams[camera] = stack.enter_context(closing(frames))  # type: ignore[type-var]
                else:
                    streams[camera] = self._stored(key, row, table, (height, width))
            for _ in range(int(row["length"])):
                yield {camera: next(stream) for camera, stream in streams.items()}
            for stream in streams.values():
                next(stream, None)  # a video that has ended too early raises here

    def _stored(self, key: str, row: dict[str, Any], table: pa.Table, size: tuple[int, int]) -> Iterator[Image]:
        for frame, cell in enumerate(table[key]):
            encoded = (cell.as_py() or {}).get("bytes") or b""
            image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
            if image is None or image.shape[:2] != size:
                found = f"{len(encoded)} bytes, no image" if image is None else f"{image.shape[0]}x{image.shape[1]}"
                at = f"episode {row['episode_index']} frame {frame}"
                file = self.meta.path("data_path", row, "data")
                raise VlaRosError(str(Finding(file, key, at, found, f"an image of {size[0]}x{size[1]}")))
            yield np.asarray(image[..., ::-1])

    def _reject(self, finding: Finding) -> None:
        if not self.skip_bad:
            raise VlaRosError(str(finding))
        self.skipped.append(finding)


def _rows(values: NDArray[Any]) -> NDArray[np.float32]:
    """[T, D]; a feature of one number is stored as [T]."""
    return values.reshape(len(values), -1).astype(np.float32)


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """[T] of numbers, or [T, D] of lists of equal length; one-dimensional when the lengths differ."""
    array = column.combine_chunks()
    if not (pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type)):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    values = np.asarray(array.flatten().to_numpy(zero_copy_only=False))
    return values.reshape(len(array), -1) if len(array) and values.size % len(array) == 0 else values
