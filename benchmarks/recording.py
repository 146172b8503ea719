"""Recording of 4 cameras, 640x480 rgb8 at 30 Hz, through EpisodeWriter in one process: frames lost, processor, bytes per
second, and the longest that a write keeps its caller waiting. LeRobot's own writer does the same where it is installed.

The pictures are a smooth scene with moving objects and sensor noise, drawn before the clock runs; the last bits are noise,
as in a camera's, so that they compress no better. A frame is lost when the writer is so late that a subscription of depth 5
would have dropped it. The load of the machine before the start stands beside the figures: others' work shows in them.

LeRobot's add_frame only puts the pictures into a queue without bound and encodes them in save_episode (`close_s`); its
bytes are those of the finished set, without the temporary PNG files.

    python benchmarks/recording.py [--quick] [--json] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vla_ros.episodes import EpisodeReader, EpisodeWriter  # noqa: E402
from vla_ros.episodes.definitions import typestore  # noqa: E402
from vla_ros.types import Image  # noqa: E402

CAMERAS = 4
RATE = 30.0  # Hz
HEIGHT, WIDTH = 480, 640
DEPTH = 5  # frames that a subscription keeps
PICTURES = 12  # different ones per camera
NOISE = 2.0  # standard deviation of 255, of a webcam's sensor in room light
TYPE = "sensor_msgs/msg/Image"


def scenes(camera: int) -> list[Image]:
    """[PICTURES] of [H, W, 3]: a lit table, three coloured objects that move, noise."""
    rng = np.random.default_rng(camera)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    light = 120 + 60 * np.exp(-((rows - 200) ** 2 + (columns - 300) ** 2) / 9e4) + 6 * np.sin(columns / 7) * np.sin(rows / 11)
    table = light[..., None] * np.array([1.0, 0.93, 0.82], np.float32)
    pictures = []
    for k in range(PICTURES):
        picture = table.copy()
        for thing in range(3):
            x, y = 150 + 150 * thing + 6 * k, 160 + 90 * thing - 4 * k
            inside = (rows - y) ** 2 + (columns - x) ** 2 < (38 + 8 * thing) ** 2
            shade = (0.7 + 0.3 * (x - columns[inside]) / 60)[:, None]
            picture[inside] = shade * np.eye(3, dtype=np.float32)[thing] * 180 + 30
        noisy = picture + rng.normal(0, NOISE, picture.shape)
        pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return pictures


def cpu_seconds() -> float:
    """CPU time of this process and of those it has ended [s]."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def drive(seconds: float, write: Callable[[int], None]) -> tuple[list[float], int]:
    """Calls write(tick) at RATE; returns how long each call took [s], and the ticks that came too late to be written."""
    took, lost = [], 0
    start = time.perf_counter()
    for tick in range(round(seconds * RATE)):
        due = start + tick / RATE
        wait = due - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        elif -wait > DEPTH / RATE:
            lost += 1
            continue
        before = time.perf_counter()
        write(tick)
        took.append(time.perf_counter() - before)
    return took, lost


def figures(took: list[float], lost: int, cpu: float, wall: float, closing: float, disk: int) -> dict[str, float]:
    """`write_` is the time that the caller waits for the 4 frames of a tick."""
    milliseconds = np.array(took) * 1e3
    return {
        "frames_sent": CAMERAS * (len(took) + lost), "frames_lost": CAMERAS * lost, "cpu_percent": 100 * cpu / wall,
        "raw_mb_per_s": CAMERAS * len(took) * HEIGHT * WIDTH * 3 / wall / 1e6, "disk_mb_per_s": disk / wall / 1e6,
        "write_p50_ms": float(np.median(milliseconds)), "write_p99_ms": float(np.percentile(milliseconds, 99)),
        "write_max_ms": float(milliseconds.max()), "close_s": closing,
    }  # fmt: skip


def measure_ours(folder: Path, seconds: float, pictures: list[list[Image]]) -> dict[str, float]:
    """Serialised messages, as a raw subscription hands them over, into one MCAP file; read back and counted."""
    store = typestore()
    stamp = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
    fields = {"height": HEIGHT, "width": WIDTH, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * WIDTH}

    def message(picture: Image) -> bytes:
        return bytes(store.serialize_cdr(store.types[TYPE](header=header, data=picture.ravel(), **fields), TYPE))

    cdr = [[message(picture) for picture in camera] for camera in pictures]
    writer = EpisodeWriter(folder / "episode.mcap", {"episode_id": "episode", "robot": "panda"})

    def write(tick: int) -> None:
        for camera in range(CAMERAS):
            writer.write(f"/camera/{camera}/image_raw", TYPE, cdr[camera][tick % PICTURES], time.time_ns())

    cpu, wall = cpu_seconds(), time.perf_counter()
    took, lost = drive(seconds, write)
    used, span = cpu_seconds() - cpu, time.perf_counter() - wall
    before = time.perf_counter()
    path = writer.close()
    closing = time.perf_counter() - before
    there = sum(EpisodeReader(path).topics().values())
    if there != CAMERAS * len(took):
        raise RuntimeError(f"{path}: found {there} messages, expected the {CAMERAS * len(took)} written ones")
    return figures(took, lost, used, span, closing, path.stat().st_size)


def measure_lerobot(folder: Path, seconds: float, pictures: list[list[Image]]) -> dict[str, float]:
    """LeRobotDataset with its threads for images, as `lerobot-record` uses it: add_frame while it runs, then save_episode."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = [f"observation.images.camera_{camera}" for camera in range(CAMERAS)]
    image = {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    features = dict.fromkeys(names, image) | {"action": {"dtype": "float32", "shape": (7,), "names": None}}
    root = folder / "lerobot"
    data = LeRobotDataset.create(
        "bench/recording", int(RATE), features, root=root, use_videos=True, image_writer_threads=4 * CAMERAS
    )  # fmt: skip

    def write(tick: int) -> None:
        frame: dict[str, Any] = {name: pictures[camera][tick % PICTURES] for camera, name in enumerate(names)}
        data.add_frame(frame | {"action": np.zeros(7, np.float32), "task": "record"})

    cpu, wall = cpu_seconds(), time.perf_counter()
    took, lost = drive(seconds, write)
    used, span = cpu_seconds() - cpu, time.perf_counter() - wall
    before = time.perf_counter()
    data.save_episode()
    data.finalize()
    closing = time.perf_counter() - before
    return figures(took, lost, used, span, closing, sum(file.stat().st_size for file in root.rglob("*") if file.is_file()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 s of recording, not 20 s")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    parser.add_argument("--folder", type=Path, help="where to record (a temporary folder): the disk that is measured")
    options = parser.parse_args()
    seconds = 3.0 if options.quick else 20.0
    pictures = [scenes(camera) for camera in range(CAMERAS)]
    load = os.getloadavg()[0]
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results["ours"] = measure_ours(Path(folder), seconds, pictures)
        if importlib.util.find_spec("lerobot") is not None:
            results["lerobot"] = measure_lerobot(Path(folder), seconds, pictures)
    print(
        f"{CAMERAS} cameras x {RATE:.0f} Hz x {WIDTH}x{HEIGHT} rgb8, {seconds:.0f} s, one process; load of the machine before: "
        f"{load:.1f} on {os.cpu_count()} cores"
    )
    print(f"  {'':<16}" + "".join(f"{name:>12}" for name in results))
    for key in results["ours"]:
        print(f"  {key:<16}" + "".join(f"{values[key]:12.2f}" for values in results.values()))
    if "lerobot" not in results:
        print("  lerobot is not installed: nothing to compare with")
    if options.json:
        rounded = {name: {key: round(value, 4) for key, value in values.items()} for name, values in results.items()}
        print(json.dumps({"load_before": load, **rounded}))


if __name__ == "__main__":
    main()
