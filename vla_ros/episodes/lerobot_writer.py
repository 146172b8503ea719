"""Recorded episodes to a LeRobotDataset v3.0 that `lerobot` opens: LeRobotDataset("any/name", root=folder)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import vla_ros
from vla_ros.episodes import lerobot_meta as layout
from vla_ros.episodes import lerobot_stats
from vla_ros.episodes.lerobot_stats import ImageStats, Stats
from vla_ros.episodes.trajectory import Trajectory
from vla_ros.episodes.video import CODEC, PIXELS, VideoWriter
from vla_ros.episodes.writer import PART
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.shapes import action_names, state_names
from vla_ros.types import Image

DATA_MB, VIDEO_MB = 100, 200  # a file that has grown beyond this is not continued, as LeRobot's own writer does
BUFFERED_EPISODES = 100  # rows of meta/episodes in memory
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # how `datasets` stores an image


class LeRobotWriter:
    """Writes `<folder>.part`; closing renames it, so that a set under its own name is always complete.

    Use as a context manager: leaving it with an exception removes what was written. Equal features for every episode:
    observation.images.<camera>, observation.state, action, corrected (a person took over), next.done, next.success, and
    joint_position where the state is something else.

    Args:
        folder: must not exist.
        contract: the robot that all episodes are of.
        video: False stores the images themselves (PNG in the data files): larger, but exactly equal.

    Raises:
        VlaRosError: the folder exists, or the contract's rate is no whole number (LeRobot's fps is one).
    """

    def __init__(self, folder: str | Path, contract: RobotContract, video: bool = True) -> None:
        self.folder, self.contract, self.video = Path(folder), contract, video
        self.part = self.folder.with_name(self.folder.name + PART)
        rate = contract.observation.rate
        if not float(rate).is_integer():
            raise VlaRosError(f"{contract.path}: observation.rate: found {rate:g}, expected a whole number: it is LeRobot's fps")
        for there in (self.folder, self.part):
            if there.exists():
                raise VlaRosError(f"{there}: exists already; choose another folder, or remove it")
        self.fps = int(rate)
        self.episodes = self.frames = 0
        self._tasks: dict[str, int] = {}
        self._stats: dict[str, Stats] = {}
        self._features = _features(contract, video, self.fps)
        self._schema = _schema(self._features)
        self._rows: list[dict[str, Any]] = []
        self._data: pq.ParquetWriter | None = None
        self._meta: pq.ParquetWriter | None = None
        self._data_file = 0
        self._videos: dict[str, VideoWriter] = {}
        self._video_files: dict[str, int] = {}
        (self.part / "meta").mkdir(parents=True)

    def add(self, trajectory: Trajectory) -> None:
        """Appends one episode."""
        columns = self._columns(trajectory)
        stats = {key: lerobot_stats.of_values(np.asarray(values)) for key, values in columns.items()}
        row: dict[str, Any] = {
            "episode_index": self.episodes, "tasks": [trajectory.instruction], "length": len(trajectory),
            **_place("data", self._data_file), "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + len(trajectory),
        }  # fmt: skip
        table = {key: _arrow(values, self._schema.field(key).type) for key, values in columns.items()}
        for camera in trajectory.cameras:
            key, images = layout.camera_key(camera), trajectory.pictures(camera)
            stats[key] = _image_stats(images)
            if self.video:
                row |= self._write_video(key, images)
            else:
                cells = [{"bytes": _png(image), "path": f"frame-{k:06d}.png"} for k, image in enumerate(images)]
                table[key] = pa.array(cells, IMAGE_TYPE)
        self._write_data(pa.table([table[name] for name in self._schema.names], schema=self._schema))
        row |= {f"stats/{key}/{name}": value.tolist() for key, of in stats.items() for name, value in of.items()}
        row |= _place("meta/episodes", 0)
        self._rows.append(row)
        self._note(trajectory)
        self._stats = {key: lerobot_stats.merge([*filter(None, [self._stats.get(key)]), of]) for key, of in stats.items()}
        self.episodes += 1
        self.frames += len(trajectory)
        if len(self._rows) >= BUFFERED_EPISODES:
            self._write_rows()

    def close(self) -> Path:
        """Completes the set and returns its folder.

        Raises:
            VlaRosError: no episode was added.
        """
        if not self.episodes:
            raise VlaRosError(f"{self.folder}: found no episode to write, expected at least one")
        self._write_rows()
        for writer in (self._data, self._meta):
            if writer is not None:
                writer.close()
        for video in self._videos.values():
            video.close()
        self._videos = {}
        stats = {key: {name: value.tolist() for name, value in of.items()} for key, of in self._stats.items()}
        _write_json(self.part / layout.STATS, stats)
        pq.write_table(_tasks_table(self._tasks), self.part / layout.TASKS)
        _write_json(self.part / layout.INFO, self._info())
        self.part.rename(self.folder)
        return self.folder

    def abort(self) -> None:
        """Removes what was written."""
        for video in self._videos.values():
            video.abort()
        self._videos = {}
        shutil.rmtree(self.part)

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    def _columns(self, trajectory: Trajectory) -> dict[str, np.ndarray]:
        steps = len(trajectory)
        last = np.arange(steps) == steps - 1
        columns: dict[str, np.ndarray] = {
            layout.STATE: trajectory.states[:steps],
            layout.ACTION: trajectory.actions[:steps, 0],
            layout.JOINTS: trajectory.positions[:steps],
            layout.CORRECTED: trajectory.corrected[:steps],
            layout.DONE: last,
            layout.SUCCESS: last & trajectory.success,
            "timestamp": (np.arange(steps) / self.fps).astype(np.float32),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, self.episodes),
            "index": self.frames + np.arange(steps),
            "task_index": np.full(steps, self._tasks.setdefault(trajectory.instruction, len(self._tasks))),
        }
        return {key: values for key, values in columns.items() if key in self._features}

    def _write_data(self, table: pa.Table) -> None:
        """One row group per episode; the next file once this one has its size."""
        path = self.part / layout.DATA_PATH.format(**_indices(self._data_file))
        if self._data is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(path, self._schema, compression="snappy")
        self._data.write_table(table)
        if path.stat().st_size > DATA_MB * 2**20:
            self._data.close()
            self._data = None
            self._data_file += 1

    def _write_video(self, key: str, images: list[Image]) -> dict[str, Any]:
        file = self._video_files.setdefault(key, 0)
        path = self.part / layout.VIDEO_PATH.format(video_key=key, **_indices(file))
        if key not in self._videos:
            self._videos[key] = VideoWriter(path, self.contract.observation.size, self.fps)
        video = self._videos[key]
        # Times come from the number of frames: summed durations drift until a reader misses the frame (LeRobot #3177).
        begin = video.frames / self.fps
        for image in images:
            video.write(image)
        place = {f"videos/{key}/from_timestamp": begin, f"videos/{key}/to_timestamp": video.frames / self.fps}
        if path.exists() and path.stat().st_size > VIDEO_MB * 2**20:  # ffmpeg creates it in its own time
            self._videos.pop(key).close()
            self._video_files[key] = file + 1
        return {**_place(f"videos/{key}", file), **place}

    def _write_rows(self) -> None:
        if not self._rows:
            return
        path = self.part / layout.EPISODES_PATH.format(**_indices(0))
        table = pa.Table.from_pylist(self._rows, schema=None if self._meta is None else self._meta.schema)
        if self._meta is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._meta = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._meta.write_table(table)
        self._rows = []

    def _note(self, trajectory: Trajectory) -> None:
        line = {
            "episode_index": self.episodes, "episode_id": trajectory.path.stem, "start": trajectory.start,
            "success": trajectory.success, "metadata": trajectory.metadata, "label": trajectory.label,
        }  # fmt: skip
        with (self.part / layout.OURS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": layout.VERSION, "robot_type": self.contract.robot, "total_episodes": self.episodes,
            "total_frames": self.frames, "total_tasks": len(self._tasks), "chunks_size": layout.CHUNKS_SIZE,
            "data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": VIDEO_MB, "fps": self.fps,
            "splits": {"train": f"0:{self.episodes}"}, "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH if self.video else None, "features": self._features,
        }  # fmt: skip


def _features(contract: RobotContract, video: bool, fps: int) -> dict[str, dict[str, Any]]:
    height, width = contract.observation.size
    image: dict[str, Any] = {"dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    if video:
        image |= {
            "dtype": "video",
            "info": {
                "video.height": height, "video.width": width, "video.codec": CODEC, "video.pix_fmt": PIXELS,
                "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False,
            },
        }  # fmt: skip

    def vector(names: tuple[str, ...]) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [len(names)], "names": list(names)}

    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    features = {layout.camera_key(camera): image for camera in contract.observation.cameras}
    features |= {layout.STATE: vector(state_names(contract)), layout.ACTION: vector(action_names(contract))}
    if state_names(contract) != contract.joints:
        features[layout.JOINTS] = vector(contract.joints)
    features |= {key: scalar("bool") for key in (layout.CORRECTED, layout.DONE, layout.SUCCESS)}
    return features | {key: scalar("float32" if key == "timestamp" else "int64") for key in layout.INDICES}


def _schema(features: dict[str, dict[str, Any]]) -> pa.Schema:
    """Columns of the data files, as `datasets` stores them: scalars, and lists of fixed length."""
    scalars = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
    fields = []
    for key, feature in features.items():
        if feature["dtype"] == "image":
            fields.append((key, IMAGE_TYPE))
        elif feature["dtype"] != "video":
            kind = scalars[feature["dtype"]]
            fields.append((key, kind if feature["shape"] == [1] else pa.list_(kind, feature["shape"][0])))
    return pa.schema(fields)


def _arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind.value_type), kind.list_size)
    return pa.array(values.ravel(), kind)


def _tasks_table(tasks: dict[str, int]) -> pa.Table:
    """As pandas stores a frame with the column task_index and the instructions as its index; LeRobot reads it so."""
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), "task": pa.array(tasks.keys(), pa.string())})

    def column(name: str | None, kind: str, numpy_type: str, metadata: dict[str, str] | None = None) -> dict[str, Any]:
        return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": metadata}

    pandas = {
        "index_columns": ["task"], "column_indexes": [column(None, "unicode", "object", {"encoding": "UTF-8"})],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "vla_ros", "version": vla_ros.__version__}, "pandas_version": "2.2.0",
    }  # fmt: skip
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _image_stats(images: list[Image]) -> Stats:
    stats = ImageStats()
    for image in images:
        stats.add(image)
    return stats.result()


def _png(image: Image) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def _indices(file: int) -> dict[str, int]:
    return {"chunk_index": file // layout.CHUNKS_SIZE, "file_index": file % layout.CHUNKS_SIZE}


def _place(prefix: str, file: int) -> dict[str, int]:
    return {f"{prefix}/{name}": value for name, value in _indices(file).items()}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
