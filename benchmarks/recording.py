"""Recording of 4 cameras, 640x480 rgb8 at 30 Hz, through EpisodeWriter in one process: frames lost, processor, bytes per
second, and the longest that a write keeps its caller waiting; once more with a disk that takes nothing for STALL seconds in
the middle. LeRobot's own writer does the same where it is installed: in this environment, or in .venv-lerobot, which
`make bench-lerobot` prepares.

The pictures are a smooth scene with moving objects and sensor noise, drawn before the clock runs; the last bits are noise,
as in a camera's, so that they compress no better. A frame is lost when it is written so late that a subscription of depth 5
would have dropped it, or when the writer has no room for it, which the file tells (`dropped_messages`). The load of the
machine stands beside the figures: others' work shows in them.

LeRobot's add_frame only puts the pictures into a queue without bound and encodes them in save_episode (`close_s`), several
times longer than it recorded, so it records for LEROBOT_SECONDS at most. Its bytes are those of the finished set, a lossy
video, without the temporary PNG files; ours are the pictures as they came. `cpu_percent_closed` is the processor time with
closing, over the time recorded.

    python benchmarks/recording.py [--quick] [--json] [--folder FOLDER] [--lerobot PYTHON]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
LEROBOT = ROOT / ".venv-lerobot" / "bin" / "python"
sys.path.insert(0, str(ROOT))

from vla_ros.types import Image  # noqa: E402  (all else of vla_ros where it is used: LeRobot's environment lacks what it needs)

CAMERAS = 4
RATE = 30.0  # Hz
HEIGHT, WIDTH = 480, 640
DEPTH = 5  # frames that a subscription keeps
PICTURES = 12  # different ones per camera
NOISE = 2.0  # standard deviation of 255, of a webcam's sensor in room light
STALL = 1.0  # s
LEROBOT_SECONDS = 5.0
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


def figures(took: list[float], lost: int, cpu: tuple[float, float], wall: float, closing: float, disk: int) -> dict[str, float]:
    """`write_` is the time that the caller waits for the 4 frames of a tick; `cpu` [s] without and with closing."""
    milliseconds = np.array(took) * 1e3
    return {
        "recorded_s": wall, "frames_sent": CAMERAS * (len(took) + lost), "frames_lost": CAMERAS * lost,
        "cpu_percent": 100 * cpu[0] / wall, "cpu_percent_closed": 100 * cpu[1] / wall,
        "raw_mb_per_s": CAMERAS * len(took) * HEIGHT * WIDTH * 3 / wall / 1e6, "disk_mb_per_s": disk / wall / 1e6,
        "write_p50_ms": float(np.median(milliseconds)), "write_p99_ms": float(np.percentile(milliseconds, 99)),
        "write_max_ms": float(milliseconds.max()), "close_s": closing,
    }  # fmt: skip


def measure_ours(folder: Path, seconds: float, pictures: list[list[Image]], stall: float = 0.0) -> dict[str, float]:
    """Serialised messages, as a raw subscription hands them over, into one MCAP file; read back and counted. The disk takes
    nothing for `stall` s in the middle."""
    from vla_ros.episodes import EpisodeReader
    from vla_ros.episodes.definitions import typestore
    from vla_ros.episodes.writer import EpisodeWriter, Message

    class Stalled(EpisodeWriter):
        """Whose thread stands still once."""

        due = time.perf_counter() + seconds / 2 if stall else float("inf")

        def _append(self, message: Message) -> None:
            if time.perf_counter() > self.due:
                self.due = float("inf")
                time.sleep(stall)
            super()._append(message)

    store = typestore()
    stamp = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
    fields: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * WIDTH}

    def message(picture: Image) -> bytes:
        return bytes(store.serialize_cdr(store.types[TYPE](header=header, data=picture.ravel(), **fields), TYPE))

    cdr = [[message(picture) for picture in camera] for camera in pictures]
    writer = Stalled(folder / f"episode-{stall:g}.mcap", {"episode_id": "episode", "robot": "panda"}, patience=0.0)

    def write(tick: int) -> None:
        for camera in range(CAMERAS):
            writer.write(f"/camera/{camera}/image_raw", TYPE, cdr[camera][tick % PICTURES], time.time_ns())

    cpu, wall = cpu_seconds(), time.perf_counter()
    took, lost = drive(seconds, write)
    used, span = cpu_seconds() - cpu, time.perf_counter() - wall
    before = time.perf_counter()
    path = writer.close()
    closing, closed = time.perf_counter() - before, cpu_seconds() - cpu
    there = sum(EpisodeReader(path).topics().values())
    dropped = writer.dropped.total()
    if there != CAMERAS * len(took) - dropped:
        raise RuntimeError(f"{path}: found {there} messages, expected the {CAMERAS * len(took) - dropped} written ones")
    found = figures(took, lost, (used, closed), span, closing, path.stat().st_size)
    found["frames_lost"] += dropped
    return {**found, "most_waiting_mb": writer.most_waiting / 1e6, "dropped_messages": dropped}


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
    closing, closed = time.perf_counter() - before, cpu_seconds() - cpu
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    return figures(took, lost, (used, closed), span, closing, size)


def ask_lerobot(python: str, folder: Path, seconds: float) -> dict[str, float]:
    """measure_lerobot() in the process of an interpreter that has lerobot."""
    command = [python, __file__, "--serve", str(seconds), "--folder", str(folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 s of recording, not 20 s")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    parser.add_argument("--folder", type=Path, help="where to record (a temporary folder): the disk that is measured")
    parser.add_argument("--lerobot", default=str(LEROBOT if LEROBOT.exists() else sys.executable), help="interpreter that has it")
    parser.add_argument("--serve", type=float, metavar="SECONDS", help="what the process of LeRobot's writer runs")
    options = parser.parse_args()
    pictures = [scenes(camera) for camera in range(CAMERAS)]
    if options.serve:
        print(json.dumps(measure_lerobot(options.folder, options.serve, pictures)))
        return
    seconds = 3.0 if options.quick else 20.0
    load = os.getloadavg()[0]
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results["ours"] = measure_ours(Path(folder), seconds, pictures)
        results["disk stalls"] = measure_ours(Path(folder), seconds, pictures, STALL)
        if subprocess.run([options.lerobot, "-c", "import lerobot"], capture_output=True, check=False).returncode == 0:
            results["lerobot"] = ask_lerobot(options.lerobot, Path(folder), min(seconds, LEROBOT_SECONDS))
    print(
        f"{CAMERAS} cameras x {RATE:.0f} Hz x {WIDTH}x{HEIGHT} rgb8, one process; load of the machine before and after: "
        f"{load:.1f}, {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    print(f"  {'':<18}" + "".join(f"{name:>12}" for name in results))
    for key in results["ours"]:
        row = (f"{values[key]:12.2f}" if key in values else f"{'':>12}" for values in results.values())
        print(f"  {key:<18}" + "".join(row))
    if "lerobot" not in results:
        print(f"  lerobot is not installed for {options.lerobot}: nothing to compare with")
    if options.json:
        rounded = {name: {key: round(value, 4) for key, value in values.items()} for name, values in results.items()}
        print(json.dumps({"load": [load, os.getloadavg()[0]], **rounded}))


if __name__ == "__main__":
    main()
