"""LeRobotDataset v3.0: our episodes there and back, sets as LeRobot writes them, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recordings import START, STEPS, command, picture, position, record, small_aloha

from vla_ros.episodes import EpisodeReader, label
from vla_ros.episodes.check import check_episode
from vla_ros.episodes.demonstration import write_demonstration
from vla_ros.episodes.lerobot import LeRobotEpisode, LeRobotReader
from vla_ros.episodes.lerobot_stats import QUANTILES, ImageStats, merge, of_values
from vla_ros.episodes.lerobot_writer import LeRobotWriter
from vla_ros.episodes.trajectory import load_trajectory
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import proprio_state

FAR = 40  # of 255; a wrong frame has bars elsewhere and is further off


def export(folder: Path, contract: RobotContract, lengths: tuple[int, ...] = (STEPS, 8), video: bool = True) -> Path:
    """A set of episodes of that many steps; in each, a person acted in step 2. The second one was labelled a failure."""
    by_hand = lambda t, k, fields: {**fields, "corrected": k == 2} if t == "/policy/chunk" else fields  # noqa: E731
    with LeRobotWriter(folder / "set", contract, video) as writer:
        for k, steps in enumerate(lengths):
            path = record(folder / f"e{k}.mcap", contract, steps, by_hand, instruction=f"task {k}")
            if k == 1:
                label(folder, path.stem, "failure")
            writer.add(load_trajectory(path, contract))
    return folder / "set"


def same_frames(episode: LeRobotEpisode, size: tuple[int, int], tolerance: float) -> None:
    """Every frame is the one of its step, up to the codec."""
    frames = list(episode.frames())
    assert len(frames) == len(episode)
    for step, images in enumerate(frames):
        for camera, image in enumerate(images.values()):
            wanted = picture(step, size, camera).astype(int)
            assert image.shape == (*size, 3)
            assert abs(image - wanted).mean() <= tolerance
            assert not tolerance or np.abs(image - wanted).max() < FAR


@pytest.mark.parametrize(("video", "tolerance"), [(True, 3.0), (False, 0.0)])
def test_our_episodes_there_and_back(tmp_path: Path, video: bool, tolerance: float) -> None:
    contract = small_aloha(tmp_path)
    reader = LeRobotReader(export(tmp_path, contract, video=video), contract)
    episodes = list(reader)
    assert [len(e) for e in episodes] == [STEPS, 8]
    assert [e.instruction for e in episodes] == ["task 0", "task 1"]
    period = 1 / contract.observation.rate
    for episode in episodes:
        steps = len(episode)
        assert np.array_equal(episode.states, np.float32([position(contract, k) for k in range(steps)]))
        assert episode.actions == pytest.approx(np.array([command(contract, (k + 1) * period) for k in range(steps)]), abs=1e-6)
        assert episode.timestamps == pytest.approx(np.arange(steps) * period, abs=1e-6)
        assert np.flatnonzero(episode.others["corrected"]).tolist() == [2]
        assert episode.others["next.done"].tolist() == [False] * (steps - 1) + [True]
        same_frames(episode, contract.observation.size, tolerance)
    assert [bool(e.others["next.success"].any()) for e in episodes] == [True, False], "the operator's label counts"
    assert episodes[0].ours["episode_id"] == "e0"
    assert episodes[0].ours["start"] == pytest.approx(START)
    assert episodes[1].ours["label"]["outcome"] == "failure"
    small = next(episodes[0].frames((16, 24)))
    assert {image.shape for image in small.values()} == {(16, 24, 3)}


def test_a_tip_in_the_plane(tmp_path: Path) -> None:
    contract = RobotContract.load("panda")
    (episode,) = LeRobotReader(export(tmp_path, contract, (STEPS,)), contract)
    kinematics, period = Kinematics(contract), 1 / contract.observation.rate
    commanded = np.array([kinematics.tip_xy(command(contract, (k + 1) * period)) for k in range(STEPS)])
    measured = np.array([kinematics.tip_xy(position(contract, k)) for k in range(STEPS)])
    wanted = np.clip((commanded - measured) / contract.action.max_step, -1, 1)
    assert 0.3 < wanted[0].min() < wanted[0].max() < 1.0
    assert episode.actions == pytest.approx(wanted, abs=1e-5), "what makes a policy's rows end where the arm was sent"
    states = [proprio_state(contract, kinematics.tip_pose(position(contract, k))[:3]) for k in range(STEPS)]
    assert np.array_equal(episode.states, np.stack(states))
    assert np.array_equal(episode.others["joint_position"], np.float32([position(contract, k) for k in range(STEPS)]))


def test_the_layout_is_lerobots(tmp_path: Path) -> None:
    contract = small_aloha(tmp_path)
    folder = export(tmp_path, contract)
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", 50, "aloha")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 13, 2)
    assert info["splits"] == {"train": "0:2"}
    assert info["features"]["observation.images.cam_high"]["shape"] == [32, 48, 3]
    assert info["features"]["action"] == {"dtype": "float32", "shape": [14], "names": list(contract.joints)}
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    assert table.schema.field("action").type == pa.list_(pa.float32(), 14)
    assert table.schema.field("next.done").type == pa.bool_()
    assert table["index"].to_pylist() == list(range(13))
    assert pq.ParquetFile(folder / "data/chunk-000/file-000.parquet").num_row_groups == 2, "one per episode"
    episodes = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(e["length"], e["dataset_from_index"], e["dataset_to_index"]) for e in episodes] == [(5, 0, 5), (8, 5, 13)]
    key = "videos/observation.images.cam_high"
    assert [(e[f"{key}/from_timestamp"], e[f"{key}/to_timestamp"]) for e in episodes] == [(0.0, 0.1), (0.1, 0.26)]
    assert episodes[1]["tasks"] == ["task 1"]
    assert np.array(episodes[0]["stats/observation.images.cam_high/mean"]).shape == (3, 1, 1)
    video = folder / "videos/observation.images.cam_high/chunk-000/file-000.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 13
    stats = json.loads((folder / "meta/stats.json").read_text())
    actions = np.array(table["action"].to_pylist())
    assert stats["action"]["mean"] == pytest.approx(actions.mean(axis=0).tolist())
    assert stats["action"]["std"] == pytest.approx(actions.std(axis=0).tolist())
    assert stats["action"]["count"] == [13]
    tasks = pq.read_table(folder / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert tasks.to_pylist() == [{"task_index": 0, "task": "task 0"}, {"task_index": 1, "task": "task 1"}]


def test_statistics() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 3)), rng.normal(2.0, size=(10, 3))
    both = merge([of_values(a), of_values(b)])
    together = np.concatenate([a, b])
    for name in ("min", "max", "mean", "std"):
        assert both[name] == pytest.approx(getattr(together, name)(axis=0))
    images = rng.integers(0, 200, (4, 8, 8, 3), np.uint8)
    stats = ImageStats()
    for image in images:
        stats.add(image)
    found, pixels = stats.result(), images.reshape(-1, 3) / 255
    for name in ("min", "max", "mean", "std"):
        assert found[name].ravel() == pytest.approx(getattr(pixels, name)(axis=0))
    for name, share in QUANTILES.items():
        assert found[name].ravel() == pytest.approx(np.quantile(pixels, share, axis=0, method="inverted_cdf"))
    assert found["count"].tolist() == [4]


def test_files_grow_only_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ros.episodes.lerobot_writer.DATA_MB", 0)
    monkeypatch.setattr("vla_ros.episodes.lerobot_writer.VIDEO_MB", 0)
    contract = small_aloha(tmp_path)
    folder = export(tmp_path, contract, (3, 4, 5))
    assert len(list(folder.glob("data/*/*.parquet"))) == 3
    for episode in LeRobotReader(folder, contract):
        same_frames(episode, contract.observation.size, 3.0)


def test_a_set_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    contract = small_aloha(tmp_path)
    trajectory = load_trajectory(record(tmp_path / "e.mcap", contract), contract)
    with pytest.raises(RuntimeError), LeRobotWriter(tmp_path / "set", contract) as writer:
        writer.add(trajectory)
        assert not (tmp_path / "set").exists()
        raise RuntimeError
    assert not list(tmp_path.glob("set*"))
    with pytest.raises(VlaRosError, match="found no episode to write"), LeRobotWriter(tmp_path / "set", contract):
        pass
    (tmp_path / "set").mkdir()
    with pytest.raises(VlaRosError, match="set: exists already"):
        LeRobotWriter(tmp_path / "set", contract)


# -- as LeRobot writes it -----------------------------------------------------------------------------------------------


def lerobots_own(folder: Path, contract: RobotContract) -> Path:
    """Two episodes as LeRobot 0.4 writes ALOHA's: AV1, [3, H, W], names by group, an unnamed index of the tasks, two data
    files, further columns, and a start of the second episode that has drifted by a third of a frame."""
    size, fps, lengths = contract.observation.size, 50, (4, 6)
    vector = {"dtype": "float32", "shape": [14], "names": {"motors": list(contract.joints)}}
    scalar = {"dtype": "int64", "shape": [1], "names": None}
    camera = {"dtype": "video", "shape": [3, *size], "names": ["channels", "height", "width"], "info": {"video.codec": "av1"}}
    keys = [f"observation.images.{name}" for name in contract.observation.cameras]
    features = dict.fromkeys([*keys, "observation.images.other"], camera)
    features |= {
        "observation.state": vector,
        "observation.effort": vector,
        "action": vector,
        "note": {**scalar, "dtype": "string"},
    }
    features |= {"timestamp": {**scalar, "dtype": "float32"}} | dict.fromkeys(
        ("frame_index", "episode_index", "index", "task_index"), scalar
    )
    info = {
        "codebase_version": "v3.0", "robot_type": "aloha", "total_episodes": 2, "total_frames": 10, "total_tasks": 1,
        "chunks_size": 1000, "fps": fps, "splits": {"train": "0:2"}, "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    for name in ("meta/episodes/chunk-000", "data/chunk-000", *(f"videos/{key}/chunk-000" for key in keys)):
        (folder / name).mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    values = {name: [0.5] * 14 for name in ("min", "max", "mean", "std")}
    pixels = {name: [[[0.5]]] * 3 for name in ("min", "max", "mean", "std")}
    stats = {"observation.state": values, "action": values} | dict.fromkeys(keys, pixels)
    (folder / "meta/stats.json").write_text(json.dumps(stats))
    pq.write_table(pa.table({"task_index": [0], "__index_level_0__": ["lift the cube"]}), folder / "meta/tasks.parquet")
    rows = []
    for episode, length in enumerate(lengths):
        begin = sum(lengths[:episode])
        data = {
            "observation.state": [np.full(14, k, np.float32) for k in range(length)],
            "observation.effort": [np.zeros(14, np.float32)] * length,
            "action": [np.full(14, k + 0.5, np.float32) for k in range(length)], "note": ["text"] * length,
            "timestamp": np.arange(length, dtype=np.float32) / fps, "frame_index": np.arange(length),
            "episode_index": np.full(length, episode), "index": begin + np.arange(length),
            "task_index": np.zeros(length, np.int64),
        }  # fmt: skip
        pq.write_table(pa.table(data), folder / f"data/chunk-000/file-{episode:03d}.parquet")
        row = {
            "episode_index": episode, "tasks": ["lift the cube"], "length": length, "data/chunk_index": 0,
            "data/file_index": episode, "dataset_from_index": begin, "dataset_to_index": begin + length,
            "stats/action/mean": [0.0] * 14,
        }  # fmt: skip
        start = begin / fps + (0.3 / fps if episode else 0.0)
        for key in keys:
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            row |= {f"videos/{key}/from_timestamp": start, f"videos/{key}/to_timestamp": start + length / fps}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
    frames = b"".join(picture(k, size).tobytes() for length in lengths for k in range(length))
    for key in keys:
        subprocess.run(
            [
                imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
                "-s", f"{size[1]}x{size[0]}", "-r", str(fps), "-i", "-", "-c:v", "libsvtav1", "-g", "2", "-crf", "30",
                "-preset", "12", "-pix_fmt", "yuv420p", str(folder / f"videos/{key}/chunk-000/file-000.mp4"),
            ],
            input=frames, check=True, env={"SVT_LOG": "0"},
        )  # fmt: skip
    return folder


def test_a_set_as_lerobot_writes_it(tmp_path: Path) -> None:
    contract = small_aloha(tmp_path, (64, 96))
    folder = lerobots_own(tmp_path / "theirs", contract)
    episodes = list(LeRobotReader(folder, contract))
    assert [e.instruction for e in episodes] == ["lift the cube"] * 2
    assert [e.states[:, 0].tolist() for e in episodes] == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert [e.actions[:, 13].tolist() for e in episodes] == [[0.5, 1.5, 2.5, 3.5], [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]]
    assert set(episodes[0].others) == {"observation.effort"}
    for episode in episodes:
        for step, images in enumerate(episode.frames()):
            assert list(images) == ["cam_high", "cam_left_wrist"]
            distances = [abs(images["cam_high"].astype(int) - picture(k, (64, 96))).mean() for k in range(len(episode))]
            assert int(np.argmin(distances)) == step, "another frame of the concatenated video"


# -- what is refused ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RobotContract]:
    folder = tmp_path_factory.mktemp("exported")
    contract = small_aloha(folder)
    return export(folder, contract), contract


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_data(folder: Path, column: str, row: int, value: object) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type)), path)


def edit_info(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "meta/info.json", change)


def edit_stats(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "meta/stats.json", change)


SET_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "version": (
        edit_info(lambda i: i.update(codebase_version="v2.1")),
        r"info\.json: codebase_version: found v2\.1, expected v3\.0",
    ),
    "fps": (edit_info(lambda i: i.update(fps=30)), r"info\.json: fps: found 30, expected 50, observation\.rate of .*aloha\.yaml"),
    "action": (
        edit_info(lambda i: i["features"]["action"].update(shape=[7])),
        r"features: action: found shape \[7\], expected shape \[14\] \(left_waist, ",
    ),
    "order": (
        edit_info(lambda i: i["features"]["action"]["names"].reverse()),
        r"features: action: names: found right_gripper, .*, expected left_waist",
    ),
    "camera": (
        edit_info(lambda i: i["features"].pop("observation.images.cam_high")),
        r"features: found observation\.images\.cam_left_wrist, expected observation\.images\.cam_high",
    ),
    "stats": (lambda f: (f / "meta/stats.json").unlink(), r"stats\.json: cannot be read: No such file"),
    "no stats of images": (
        edit_stats(lambda s: s.pop("observation.images.cam_high")),
        r"stats\.json: observation\.images\.cam_high: min: found nothing, expected 3 finite numbers",
    ),
    "episodes": (edit_info(lambda i: i.update(total_episodes=3)), r"found 2 episode\(s\), expected 0 to 2, each once"),
    "tasks": (lambda f: (f / "meta/tasks.parquet").write_bytes(b"x"), r"tasks\.parquet: found no readable Parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("name", SET_FAULTS)
def test_a_set_that_does_not_fit_is_refused(name: str, exported: tuple[Path, RobotContract], tmp_path: Path) -> None:
    spoil, message = SET_FAULTS[name]
    folder = Path(shutil.copytree(exported[0], tmp_path / "set"))
    spoil(folder)
    with pytest.raises(VlaRosError, match=message):
        LeRobotReader(folder, exported[1], skip_bad=True)


EPISODE_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "duplicate": (
        lambda f: edit_data(f, "timestamp", 7, 0.02),
        r"data/chunk-000/file-000\.parquet: timestamp: episode 1 frame 2: found the timestamp of the frame before "
        r"\(0\.0200 s\), expected a later one",
    ),
    "gap": (
        lambda f: edit_data(f, "timestamp", 12, 0.5),
        r"timestamp: episode 1 frame 7: found 0\.38 s after the frame before, expected 0\.02 s",
    ),
    "nan": (
        lambda f: edit_data(f, "action", 6, [float("nan")] + [0.0] * 13),
        r"action: episode 1 frame 1: found \[nan, .*, expected finite numbers",
    ),
    "index": (lambda f: edit_data(f, "index", 5, 9), r"index: episode 1 frame 0: found 9, expected 5"),
    "task": (lambda f: edit_data(f, "task_index", 12, 7), r"task_index: episode 1: found \[1, 7\], expected one of those"),
    "rows": (lambda f: edit_data(f, "episode_index", 12, 4), r"file-000\.parquet: episode 1: found 7 rows, expected 8"),
}


@pytest.mark.parametrize("name", EPISODE_FAULTS)
def test_a_faulty_episode_is_named_or_skipped(name: str, exported: tuple[Path, RobotContract], tmp_path: Path) -> None:
    spoil, message = EPISODE_FAULTS[name]
    folder = Path(shutil.copytree(exported[0], tmp_path / "set"))
    spoil(folder)
    with pytest.raises(VlaRosError, match=message):
        list(LeRobotReader(folder, exported[1]))
    reader = LeRobotReader(folder, exported[1], skip_bad=True)
    assert [episode.index for episode in reader] == [0]
    assert str(reader.skipped[0].file).startswith(str(folder))
    assert "episode 1" in reader.skipped[0].at
    assert len(reader.skipped) == (2 if name == "rows" else 1), "the row that was taken away is a finding of its own"


def test_damaged_files_are_named(exported: tuple[Path, RobotContract], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported[0], tmp_path / "set"))
    video = folder / "videos/observation.images.cam_high/chunk-000/file-000.mp4"
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 3])
    episode = next(iter(LeRobotReader(folder, exported[1])))
    with pytest.raises(VlaRosError, match=r"cam_high/chunk-000/file-000\.mp4: cannot be decoded"):
        list(episode.frames())
    video.unlink()
    with pytest.raises(VlaRosError, match=r"file-000\.mp4: observation\.images\.cam_high: episode 0: found no such file"):
        list(LeRobotReader(folder, exported[1]))
    (folder / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    reader = LeRobotReader(folder, exported[1], skip_bad=True)
    assert list(reader) == []
    assert [finding.at for finding in reader.skipped] == ["episode 0", "episode 1"]


def test_a_video_that_is_too_short_is_an_error(exported: tuple[Path, RobotContract], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported[0], tmp_path / "set"))
    key = "videos/observation.images.cam_high"
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1] |= {f"{key}/from_timestamp": 0.2, f"{key}/to_timestamp": 0.36}
    pq.write_table(pa.Table.from_pylist(rows), path)
    episode = list(LeRobotReader(folder, exported[1]))[1]
    with pytest.raises(VlaRosError, match=r"from 0\.200 s: found 3 frames, expected 8 at 50 Hz"):
        list(episode.frames())


# -- import -------------------------------------------------------------------------------------------------------------


def test_an_imported_episode_is_a_demonstration(tmp_path: Path, exported: tuple[Path, RobotContract]) -> None:
    folder, contract = exported
    first, second = LeRobotReader(folder, contract)
    path = write_demonstration(tmp_path, second, contract)
    assert path == tmp_path / "e1.mcap"
    assert check_episode(path, contract) == []
    assert EpisodeReader(path).metadata["outcome"] == "failure"
    again = load_trajectory(path, contract)
    assert np.array_equal(again.actions[:, 0], second.actions)
    rows = [[min(frame + row, 7) for row in range(100)] for frame in range(8)]
    assert np.array_equal(again.actions, second.actions[rows]), "the recorded rows to come, the last one repeated"
    assert np.array_equal(again.states, second.states)
    assert np.flatnonzero(again.corrected).tolist() == [2]
    assert again.start == pytest.approx(START)
    assert again.instruction == "task 1"
    for before, after in zip(second.frames(), again.pictures("cam_high"), strict=True):
        assert np.array_equal(before["cam_high"], after)
    panda = RobotContract.load("panda")
    with pytest.raises(VlaRosError, match="action.semantics: found tip_delta_xy, expected joint_position"):
        write_demonstration(tmp_path, first, panda)
