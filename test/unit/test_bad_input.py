"""Wrong input to the nodes as processes: exit status 2 and one clear line, never a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import practice
import pytest
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401

from vla_ros.episodes import load_episode
from vla_ros.errors import VlaRosError
from vla_ros.policy.policy import VlaPolicy, load

CASES = {
    "no policy": ("policy_node", ["policy:={folder}/nothing"], "checkpoint {folder}/nothing: config.json is missing"),
    "training typo": (
        "trainer_node", ["policy:={policy}", "store:={folder}/store", "config:={folder}/training.yaml"],
        "{folder}/training.yaml: unknown key 'gama'",
    ),
    "no robot": ("camera_node", ["robot:=pnada"], "unknown robot 'pnada'; known robots:"),
    "robot's file": ("safety_node", ["robot:={folder}/nothing.yaml"], "{folder}/nothing.yaml: cannot be read"),
    "no node": ("polcy_node", [], "no node 'polcy_node' in vla_ros; known: camera_node"),
}  # fmt: skip


def start(name: str, parameters: list[str]) -> subprocess.Popen[str]:
    words = [word for p in parameters for word in ("-p", p)]
    command = [sys.executable, "-m", "vla_ros.cli", "exec", name, "--ros-args", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def processes(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[subprocess.Popen[str], str]]]:
    """All at once, because most of their time is imports."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "training.yaml").write_text("gama: 0.9\n")
    fill = {"folder": folder, "policy": tiny.policy}
    started = {
        case: (start(name, [p.format(**fill) for p in parameters]), part.format(**fill))
        for case, (name, parameters, part) in CASES.items()
    }
    yield started
    for process, _ in started.values():
        if process.poll() is None:
            process.kill()
            process.communicate()


BACKENDS = {
    "no episode": ("replay_node", [], "parameter episode: found '', expected a recorded episode; add episode:=FILE.mcap"),
    "no such episode": ("replay_node", ["episode:={folder}/none.mcap"], "{folder}/none.mcap: cannot be read"),
    "no camera of Gazebo's": ("description_node", ["cameras:={folder}/none.yaml"], "{folder}/none.yaml: cannot be read"),
    "no driver's file": ("interbotix_node", ["robot:=panda"], "config/drivers/panda.yaml: cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BACKENDS)
def test_what_stands_behind_the_topics_complains_too(case: str, tmp_path: Path) -> None:
    name, parameters, part = BACKENDS[case]
    output, _ = start(name, [p.format(folder=tmp_path) for p in parameters]).communicate(timeout=60)
    (line,) = [line for line in output.splitlines() if line.strip() and "[INFO]" not in line]
    assert part.format(folder=tmp_path) in line


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line_and_status_2(processes: dict[str, tuple[subprocess.Popen[str], str]], case: str) -> None:
    process, part = processes[case]
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    lines = [line for line in output.splitlines() if line.strip()]
    assert len(lines) == 1, output
    assert part in lines[0]


def test_a_mistyped_parameter_is_logged_with_the_closest_name() -> None:
    process = start("camera_node", ["robto:=panda"])
    watchdog = threading.Timer(30.0, process.kill)
    watchdog.start()
    try:
        found = ""
        assert process.stdout
        for line in process.stdout:
            found = line
            if "robto" in line:
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
    finally:
        watchdog.cancel()
        process.kill()
    assert "ERROR" in found
    assert "robto" in found
    assert "closest declared name is 'robot'" in found
    assert process.returncode == 0


def test_a_truncated_recording_names_its_file(tiny: Tiny, tmp_path: Path) -> None:
    path = practice.record(tmp_path / "cut.mcap", VlaPolicy(*load(tiny.policy)), 1, "push the red cube to the left")
    assert len(load_episode(path)) == 6
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(VlaRosError, match=r"cut\.mcap: torn or corrupt after \d+ messages.*strict=False"):
        load_episode(path, robot="panda")
