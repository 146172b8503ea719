"""LeRobotDataset v3.0 on disk: its layout, and what its meta folder says, checked against a robot's contract.

    meta/info.json                              features, fps, path templates
    meta/stats.json                             what normalisation uses
    meta/tasks.parquet                          instruction by task_index
    meta/episodes/chunk-000/file-000.parquet    per episode: length, where its rows and frames are, statistics
    data/chunk-000/file-000.parquet             one row per frame, many episodes per file
    videos/<key>/chunk-000/file-000.mp4         frames of many episodes; or images as PNG in the data file
    meta/vla_ros.jsonl                          ours: metadata and labels of the recordings; LeRobot does not read it

The layout is LeRobot's (docs/source/lerobot-dataset-v3.mdx and src/lerobot/datasets of huggingface/lerobot); `lerobot` itself
is not needed here. LeRobot reads a set whose fps, dimensions or statistics are wrong and trains on it; here that is an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_ros.episodes.check import Finding
from vla_ros.episodes.lerobot_stats import NEEDED
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.shapes import action_names, state_names

VERSION = "v3.0"
CHUNKS_SIZE = 1000  # files per chunk folder
FILE_PATTERN = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{FILE_PATTERN}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{FILE_PATTERN}.mp4"
EPISODES_PATH = f"meta/episodes/{FILE_PATTERN}.parquet"
INFO, STATS, TASKS, OURS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/vla_ros.jsonl"
STATE, ACTION, JOINTS, DONE, SUCCESS = "observation.state", "action", "joint_position", "next.done", "next.success"
CORRECTED = "corrected"  # a person took over from the policy
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
UNREADABLE = (OSError, ValueError, KeyError, pa.ArrowException)


def camera_key(camera: str) -> str:
    """Feature of a camera of the contract."""
    return f"observation.images.{camera}"


def is_lerobot(folder: Path) -> bool:
    """Whether this folder claims to be a LeRobot set (of whatever version)."""
    return (folder / INFO).is_file()


def contract_of(folder: Path, robot: str = "") -> RobotContract:
    """The contract of that name or path; empty: of the robot that the set names.

    Raises:
        VlaRosError: no set, or it names none, or an unknown one.
    """
    name = robot or str(_json(folder / INFO).get("robot_type") or "")
    if not name:
        raise VlaRosError(f"{folder / INFO}: robot_type: found nothing, expected a robot; give --robot")
    return RobotContract.load(name)


class LeRobotMeta:
    """The meta folder of a v3.0 set that fits a robot's contract.

    Raises:
        VlaRosError: no v3.0 set, another fps, action or state dimension than the contract's, a camera or statistics are
            missing, or a file is damaged.
    """

    def __init__(self, folder: Path, contract: RobotContract) -> None:
        self.folder, self.contract = folder, contract
        self.info = _json(folder / INFO)
        self._check_info()
        self._check_stats()
        self.fps = float(self.info["fps"])
        self.features: dict[str, dict[str, Any]] = self.info["features"]
        self.cameras = {camera: camera_key(camera) for camera in contract.observation.cameras}  # feature by camera
        self.episodes = self._read_episodes()  # rows of meta/episodes without statistics, by episode_index
        self.tasks = self._read_tasks()  # instruction by task_index
        self.ours = self._read_ours()  # lines of meta/vla_ros.jsonl by episode_index

    def _check_info(self) -> None:
        path, contract, info = self.folder / INFO, self.contract, self.info

        def wrong(key: str, found: object, expected: object) -> VlaRosError:
            return VlaRosError(str(Finding(path, key, "", str(found), str(expected))))

        if info.get("codebase_version") != VERSION:
            raise wrong("codebase_version", info.get("codebase_version", "none"), VERSION)
        for key in ("fps", "features", "data_path", "total_episodes"):
            if key not in info:
                raise wrong(key, "nothing", "a value")
        if info["fps"] != contract.observation.rate:
            raise wrong("fps", info["fps"], f"{contract.observation.rate:g}, observation.rate of {contract.path}")
        features = info["features"]
        for key, names in ((STATE, state_names(contract)), (ACTION, action_names(contract))):
            shape = features.get(key, {}).get("shape")
            if list(shape or ()) != [len(names)]:
                expected = f"shape [{len(names)}] ({', '.join(names)}), as {contract.path} says"
                raise wrong(f"features: {key}", "nothing" if shape is None else f"shape {list(shape)}", expected)
            there = _names(features[key])
            if sorted(there) == sorted(names) and there != list(names):
                raise wrong(f"features: {key}: names", ", ".join(there), ", ".join(names))
        for camera in contract.observation.cameras:
            if features.get(camera_key(camera), {}).get("dtype") not in ("video", "image"):
                known = ", ".join(key for key, f in features.items() if f.get("dtype") in ("video", "image")) or "no images"
                raise wrong("features", known, f"{camera_key(camera)}, a video or image, as {contract.path} says")
        if missing := [key for key in INDICES if key not in features]:
            raise wrong("features", ", ".join(features), f"'{missing[0]}' among them")

    def _check_stats(self) -> None:
        path = self.folder / STATS
        stats = _json(path)
        for key in (STATE, ACTION, *map(camera_key, self.contract.observation.cameras)):
            for name in NEEDED:
                values = np.asarray(stats.get(key, {}).get(name, []), np.float64).ravel()
                size = 3 if key not in (STATE, ACTION) else self.info["features"][key]["shape"][0]
                if len(values) != size or not np.isfinite(values).all():
                    found = "nothing" if not len(values) else str(values.tolist())
                    raise VlaRosError(str(Finding(path, f"{key}: {name}", "", found, f"{size} finite numbers")))

    def _read_episodes(self) -> list[dict[str, Any]]:
        folder, rows = self.folder / "meta" / "episodes", []
        videos = [key for key in self.cameras.values() if self.dtype(key) == "video"]
        parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        needed = {
            "episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index",
            *(f"videos/{key}/{part}" for key in videos for part in parts),
        }  # fmt: skip
        for file in sorted(folder.glob("*/*.parquet")):
            try:
                columns = pq.read_schema(file).names
                rows += pq.read_table(file, columns=[name for name in columns if name in needed]).to_pylist()
            except UNREADABLE as error:
                raise VlaRosError(f"{file}: found no readable Parquet file ({error}), expected one") from error
            if missing := needed - set(columns):
                raise VlaRosError(f"{file}: found no column '{min(missing)}', expected it in a LeRobot {VERSION} set")
        rows.sort(key=lambda row: int(row["episode_index"]))
        if [row["episode_index"] for row in rows] != list(range(int(self.info["total_episodes"]))):
            raise VlaRosError(
                f"{folder}: found {len(rows)} episode(s), expected 0 to {int(self.info['total_episodes']) - 1}, each once, as "
                f"total_episodes of {INFO} says"
            )
        return rows

    def _read_tasks(self) -> dict[int, str]:
        path = self.folder / TASKS
        try:
            table = pq.read_table(path)
        except UNREADABLE as error:
            raise VlaRosError(f"{path}: found no readable Parquet file ({error}), expected one") from error
        # pandas' index holds the instruction; without a name its column is __index_level_0__.
        text = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
        if text is None or "task_index" not in table.column_names:
            raise VlaRosError(f"{path}: found columns {', '.join(table.column_names)}, expected task_index and task")
        return dict(zip(table["task_index"].to_pylist(), map(str, table[text].to_pylist()), strict=True))

    def _read_ours(self) -> dict[int, dict[str, Any]]:
        path = self.folder / OURS
        if not path.is_file():
            return {}
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return {int(line["episode_index"]): line for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise VlaRosError(f"{path}: found a line that is no JSON object with episode_index ({error})") from error

    def dtype(self, key: str) -> str:
        """Of a feature: video, image, float32, ..."""
        return str(self.features[key]["dtype"])

    def image_size(self, key: str) -> tuple[int, int]:
        """px, height and width; LeRobot's sets state [H, W, 3] or [3, H, W]."""
        feature = self.features[key]
        sizes = dict(zip((name.rstrip("s") for name in _names(feature)), feature["shape"], strict=False))
        if {"height", "width"} <= set(sizes):
            return int(sizes["height"]), int(sizes["width"])
        a, b, c = feature["shape"]
        return (b, c) if a == 3 else (a, b)

    def path(self, template: str, row: dict[str, Any], prefix: str, key: str = "") -> Path:
        """The file that holds an episode (a row of meta/episodes): of `data`, or of `videos/<key>`.

        Raises:
            VlaRosError: the template in info.json is none.
        """
        where = {"chunk_index": row[f"{prefix}/chunk_index"], "file_index": row[f"{prefix}/file_index"], "video_key": key}
        try:
            return self.folder / str(self.info[template]).format(**where)
        except (KeyError, IndexError, ValueError) as error:
            raise VlaRosError(f"{self.folder / INFO}: {template}: found '{self.info.get(template)}' ({error})") from error

    def numbers(self) -> list[str]:
        """Columns of numbers; texts and nested arrays are not read."""
        return [
            key for key, feature in self.features.items()
            if feature["dtype"] not in ("image", "video", "string", "language") and len(feature["shape"]) == 1
        ]  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VlaRosError(
            f"{path}: cannot be read: {error.strerror or error}; expected part of a LeRobot {VERSION} set"
        ) from error
    except ValueError as error:
        raise VlaRosError(f"{path}: found no valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise VlaRosError(f"{path}: found {type(value).__name__}, expected a JSON object")
    return value


def _names(feature: dict[str, Any]) -> list[str]:
    """A feature's `names`: a list, or one list per group, in their order; empty if it has none."""
    names = feature.get("names") or []
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return [str(name) for name in names]
