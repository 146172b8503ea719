"""A recorder that is killed (SIGKILL, power button of the process) loses at most the last second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from vla_ros.episodes import EpisodeReader
from vla_ros.episodes.check import check_episode
from vla_ros.paths import share

RECORDER = """
import sys, time
from recordings import header, message
from vla_ros.episodes import EpisodeWriter
from vla_ros.episodes.definitions import typestore

name = "std_msgs/msg/Header"
writer = EpisodeWriter(sys.argv[1], {"episode_id": "killed", "robot": "panda", "instruction": "reach"})
print("ready", flush=True)
while True:
    now = time.time_ns()
    writer.write("/small", name, bytes(typestore().serialize_cdr(header(now * 1e-9), name)), now)
    print(now, flush=True)
    time.sleep(0.01)
"""


def test_sigkill_loses_at_most_the_last_second(tmp_path: Path) -> None:
    """The messages are far too small to fill a chunk of 1 MiB."""
    path = tmp_path / "killed.mcap"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(share()), str(Path(__file__).parents[1])])}
    with subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as recorder:  # fmt: skip
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == "ready\n"
        told = [int(recorder.stdout.readline())]  # the first message takes as long as reading all definitions
        end = time.monotonic() + 1.7
        while time.monotonic() < end:
            told.append(int(recorder.stdout.readline()))
        recorder.send_signal(signal.SIGKILL)
        told += [int(line) for line in recorder.stdout.read().splitlines()]
    part = tmp_path / "killed.mcap.part"
    assert [file.name for file in tmp_path.iterdir()] == [part.name]
    reader = EpisodeReader(part, strict=False)
    kept = [message.stamp_ns for message in reader]
    assert kept == told[: len(kept)], "nothing inside is missing"
    assert (told[-1] - kept[-1]) * 1e-9 < 1.0
    assert reader.metadata["instruction"] == "reach", "what was known at the start is there as well"
    assert check_episode(part)[0].found.startswith("a recording that was not completed")
