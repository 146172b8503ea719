"""`vla-ros episodes`: list, show, check, merge, split, export, import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import START, STEPS, Fields, header, image, picture, record, small_aloha

from vla_ros.cli import __main__ as cli
from vla_ros.cli.episodes.show import HEIGHT, curve
from vla_ros.episodes import label, load_episode
from vla_ros.episodes.check import check_episode
from vla_ros.episodes.lerobot import LeRobotReader
from vla_ros.robots.contract import RobotContract

CONTRACT = RobotContract.load("panda")
Spoiled = Callable[[str, int, Fields], "Fields | None"]


def run(*words: object) -> int:
    return cli.main(["episodes", *map(str, words)])


def folder_of(path: Path, *names: str, **metadata: str) -> Path:
    for name in names:
        record(path / f"{name}.mcap", CONTRACT, **metadata)
    return path


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["episodes", "--help"])
    assert ended.value.code == 0
    assert "examples:\n  vla-ros episodes list" in capsys.readouterr().out


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of(tmp_path, "e0", "e1", "e2")
    label(tmp_path, "e1", "failure")
    torn = tmp_path / "e2.mcap"
    torn.write_bytes(torn.read_bytes()[:-300])
    (tmp_path / "e0.mcap").rename(tmp_path / "e0.mcap.part")
    assert run("list", tmp_path) == 0
    out = capsys.readouterr().out
    rows = {cells[1].strip(): [cell.strip() for cell in cells] for line in out.splitlines() if len(cells := line.split("│")) > 5}
    assert rows["e1"][2:9] == ["panda", "reach the red disc", "3", str(STEPS), "0.6", "yes", "failure"]
    assert rows["e1"][10] == "-"
    assert rows["e2"][10] != "-"
    assert rows["e0"][10] == "not completed"
    assert "3 episodes, 3 successful, 2 damaged" in out


def test_list_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", tmp_path) == 2
    assert "found no *.mcap" in capsys.readouterr().err
    assert run("list", tmp_path / "no") == 2
    assert "found no such folder" in capsys.readouterr().err


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(topic: str, step: int, fields: Fields) -> Fields | None:
        if topic == "/policy/chunk":
            return {**fields, "corrected": step in (1, 2)}
        return None if (topic, step) == ("/observation", 3) else fields

    path = record(tmp_path / "e.mcap", CONTRACT, spoil=spoil)
    label(tmp_path, "e", "success", "clean grasp")
    assert run("show", path, "--plot", tmp_path / "e.png") == 0
    out = capsys.readouterr().out
    assert "/safety/state" in out
    assert "missing frames: 1 at 10 Hz (1 before 0.40 s)" in out
    assert "late frames:    0" in out
    assert "success (clean grasp, " in out
    assert "a person acted: 2 of 6 steps, from 0.10 to 0.20 s" in out
    assert "steps to go: 10.0 at the beginning, 0.0 at the end, least 0.0" in out
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    assert run("show", path, "--plot", tmp_path / "e.jpg") == 2
    assert "expected a file name that ends in .png" in capsys.readouterr().err


def test_show_finds_the_latest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of(tmp_path / "latest" / "episodes", "first")
    assert run("show", "latest", "--runs", tmp_path) == 0
    assert "first" in capsys.readouterr().out


def test_curve() -> None:
    lines = curve(np.array([8.0, 4.0, 0.0, np.nan]), 1.5)
    assert len(lines) == HEIGHT + 2
    assert [line[9:13] for line in lines[:HEIGHT]] == ["█   "] * 4 + ["██  "] * 4
    assert lines[0].startswith("    8.0")
    assert lines[-1].endswith("1.5 s")


# -- check --------------------------------------------------------------------------------------------------------------


def changed(topic: str, step: int, **values: Any) -> Spoiled:
    """Other fields in one message."""
    return lambda t, k, fields: {**fields, **values} if (t, k) == (topic, step) else fields


def dropped(topic: str, *steps: int) -> Spoiled:
    """No message in these steps; without steps, none at all."""
    return lambda t, k, fields: None if t == topic and (not steps or k in steps) else fields


def array(size: int, value: float) -> np.ndarray:
    return np.where(np.arange(size) == 2, value, 0.0)


AT = START + 0.2  # s, of step 2
FAULTS: dict[str, tuple[Spoiled, str, str, str, str]] = {  # spoil, topic, at, found, expected
    "topic": (dropped("/policy/chunk"), "/policy/chunk", "", "nothing (/observation, ", "at least one message"),
    "duplicate": (
        changed("/observation", 2, header=header(START + 0.1)), "/observation", "frame 2 at 1700000000.300 s",
        "the stamp of the frame before", "a later one",
    ),
    "backwards": (
        changed("/observation", 2, header=header(START)), "/observation", "frame 2 at 1700000000.200 s",
        "a stamp 0.100 s before", "a later one",
    ),
    "estimates": (
        changed("/progress", 3, header=header(START + 0.2)), "/progress", "frame 3 at 1700000000.400 s",
        "the stamp of the frame before", "a later one",
    ),
    "gap": (dropped("/observation", 2), "/observation", "frame 2 at 1700000000.500 s", "0.2 s after", "0.1 s (10 Hz, as "),
    "nan state": (
        changed("/observation", 2, position=array(7, np.nan)), "/observation", "frame 2 at 1700000000.400 s",
        "position of panda_joint5 nan", "a finite number",
    ),
    "nan action": (
        changed("/policy/chunk", 2, data=array(7, np.inf)), "/policy/chunk", "frame 2 at 1700000000.400 s", "value 2 inf",
        "a finite number",
    ),
    "nan command": (
        changed("/safety/state", 2, command=array(7, np.nan)), "/safety/state", "frame 8 at 1700000000.400 s",
        "command of panda_joint3 nan", "a finite number",
    ),
    "nan estimate": (
        changed("/progress", 2, steps_to_go=float("nan")), "/progress", "frame 2 at 1700000000.400 s", "steps_to_go nan",
        "finite numbers",
    ),
    "image": (
        changed("/observation", 2, images=[image(picture(0, (32, 64)), AT)]), "/observation", "frame 2 at 1700000000.400 s",
        "image of 'front' rgb8 32x64 in 6144 bytes", "rgb8 64x64 in 12288 bytes",
    ),
    "camera": (
        changed("/observation", 2, cameras=["side"]), "/observation", "frame 2 at 1700000000.400 s", "cameras side",
        "'front' among them",
    ),
    "joint": (
        changed("/observation", 2, joint_names=["a"] * 7), "/observation", "frame 2 at 1700000000.400 s", "joints a, a, ",
        "'panda_joint1' among them",
    ),
    "one frame": (dropped("/observation", *range(1, 9)), "/observation", "", "1 frame(s)", "at least 2"),
    "empty": (dropped("/observation"), "/observation", "", "nothing (/policy/chunk, ", "at least one message"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_check_names_the_fault(name: str, tmp_path: Path) -> None:
    spoil, topic, at, found, expected = FAULTS[name]
    findings = check_episode(record(tmp_path / "e.mcap", CONTRACT, spoil=spoil))
    (first,) = [finding for finding in findings if finding.topic == topic][:1]
    assert first.file == tmp_path / "e.mcap"
    assert first.at == at
    assert first.found.startswith(found)
    assert first.expected.startswith(expected)


def test_check_of_the_rate(tmp_path: Path) -> None:
    slow = RobotContract.load("panda").path.read_text().replace("rate: 10  ", "rate: 20  ")
    (tmp_path / "fast.yaml").write_text(slow)
    path = record(tmp_path / "e.mcap", CONTRACT)
    (finding,) = check_episode(path, RobotContract.load(tmp_path / "fast.yaml"))
    assert (finding.topic, finding.found) == ("/observation", "10 Hz (median)")
    assert finding.expected.startswith("20 Hz, as ")


def test_check_counts_what_repeats(tmp_path: Path) -> None:
    def spoil(topic: str, step: int, fields: Fields) -> Fields:
        return {**fields, "position": array(7, np.nan)} if topic == "/observation" else fields

    (finding,) = check_episode(record(tmp_path / "e.mcap", CONTRACT, spoil=spoil))
    assert finding.times == STEPS + 1
    assert str(finding).endswith("expected a finite number (6 times, this is the first)")


def test_check_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = folder_of(tmp_path / "good", "e0", "e1")
    assert run("check", good) == 0
    assert capsys.readouterr().out == "2 episodes checked, 0 findings in 0 files\n"
    torn = tmp_path / "torn" / "e2.mcap"
    record(torn, CONTRACT)
    content = bytearray(torn.read_bytes())
    content[len(content) // 2] ^= 0xFF
    torn.write_bytes(bytes(content))
    assert run("check", good, torn, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["checked"] == 3
    assert told["findings"][0]["file"] == str(torn)
    assert told["findings"][0]["expected"] == "a complete MCAP file"
    assert run("check", tmp_path / "none.mcap") == 2
    record(tmp_path / "no_robot.mcap", CONTRACT, robot="")
    assert run("check", tmp_path / "no_robot.mcap") == 1
    assert "metadata: found no robot, expected its name; give --robot" in capsys.readouterr().out
    assert run("check", tmp_path / "no_robot.mcap", "--robot", "panda") == 0


# -- merge and split ----------------------------------------------------------------------------------------------------


def test_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monday, tuesday = folder_of(tmp_path / "mon", "e0", "e1"), folder_of(tmp_path / "tue" / "deeper", "e2")
    label(monday, "e1", "failure")
    (monday / "e9.mcap.part").write_bytes(b"crashed")
    assert run("merge", monday, tmp_path / "tue", "--out", tmp_path / "week") == 0
    assert f"left out: {monday / 'e9.mcap.part'}: not completed" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "week").iterdir()) == ["e0.mcap", "e1.labels.jsonl", "e1.mcap", "e2.mcap"]
    assert (tmp_path / "week" / "e2.mcap").read_bytes() == (tuesday / "e2.mcap").read_bytes()
    assert load_episode(tmp_path / "week" / "e1.mcap").label["outcome"] == "failure"
    assert run("merge", monday, tuesday, "--out", tmp_path / "week") == 2
    assert "week: exists already" in capsys.readouterr().err


def test_merge_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = folder_of(tmp_path / "one", "e0"), folder_of(tmp_path / "other", "e0")
    assert run("merge", one, other, "--out", tmp_path / "out") == 2
    assert "episode 'e0': found twice" in capsys.readouterr().err
    record(tmp_path / "aloha" / "a.mcap", small_aloha(tmp_path))
    assert run("merge", one, tmp_path / "aloha", "--out", tmp_path / "out") == 2
    assert "robots of the episodes: found aloha in " in capsys.readouterr().err
    (one / "e0.mcap").write_bytes(b"torn")
    assert run("merge", one, "--out", tmp_path / "out") == 2
    assert "expected a complete recording" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_split_is_by_episode_and_repeatable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "all", *(f"e{k}" for k in range(6)))
    label(folder, "e3", "failure")
    sides = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / name
        assert run("split", folder, "--out", out, "--share", 0.34, "--seed", seed) == 0
        sides.append([sorted(p.stem for p in (out / side).glob("*.mcap")) for side in ("train", "held_out")])
    assert sides[0] == sides[1] != sides[2]
    train, held_out = sides[0]
    assert len(held_out) == 2
    assert sorted(train + held_out) == [f"e{k}" for k in range(6)]
    assert len(list((tmp_path / "a").rglob("e3.labels.jsonl"))) == 1
    capsys.readouterr()
    for share, message in ((1.5, "expected a number between 0 and 1"), (0.01, "expected at least one on each side")):
        assert run("split", folder, "--out", tmp_path / "d", "--share", share) == 2
        assert message in capsys.readouterr().err


# -- export and import --------------------------------------------------------------------------------------------------


def test_export_and_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract = small_aloha(tmp_path)
    for name, steps in (("e0", 3), ("e1", 4)):
        record(tmp_path / "all" / f"{name}.mcap", contract, steps)
    record(tmp_path / "all" / "e2.mcap", contract, spoil=changed("/observation", 2, position=array(14, np.nan)))
    words = ("export", tmp_path / "all", "--out", tmp_path / "set", "--robot", contract.path)
    assert run(*words) == 2
    assert "e2.mcap: /observation: frame 2 at 1700000000.240 s: found position of " in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    assert run(*words, "--skip-bad", "--images") == 1
    out = capsys.readouterr().out
    assert out.startswith(f"skipped: {tmp_path / 'all' / 'e2.mcap'}: /observation: frame 2")
    assert out.endswith("LeRobotDataset v3.0, 2 episodes, 7 frames at 50 Hz; 1 skipped\n")
    assert run("check", tmp_path / "set", "--robot", contract.path) == 0
    assert [len(episode) for episode in LeRobotReader(tmp_path / "set", contract)] == [3, 4]
    assert run("import", tmp_path / "set", "--robot", contract.path, "--out", tmp_path / "demos") == 0
    assert sorted(p.name for p in (tmp_path / "demos").iterdir()) == ["e0.mcap", "e1.mcap"]
    assert run("check", tmp_path / "demos", "--robot", contract.path) == 0
    video = ("export", tmp_path / "demos", "--out", tmp_path / "video", "--robot", contract.path)
    assert run(*video) == 0, "demonstrations go back as well"
    for file in (tmp_path / "video").rglob("*.mp4"):
        file.write_bytes(file.read_bytes()[:900])
    words = ("import", tmp_path / "video", "--robot", contract.path, "--out", tmp_path / "again")
    assert run(*words) == 2
    assert not (tmp_path / "again").exists()
    assert run(*words, "--skip-bad") == 1
    assert "0 episodes; 2 skipped" in capsys.readouterr().out
    assert run("check", tmp_path / "set") == 1, "the installed contract has four cameras"
    assert "expected observation.images.cam_low" in capsys.readouterr().out
    assert run("import", tmp_path / "all", "--out", tmp_path / "more") == 2
    assert "found none of the formats that can be imported, expected meta/info.json" in capsys.readouterr().err


def test_export_of_the_panda(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "all", "e0", "e1")
    assert run("export", folder, "--format", "lerobot", "--out", tmp_path / "set") == 0
    assert capsys.readouterr().out.endswith("2 episodes, 10 frames at 10 Hz; 0 skipped\n")
    assert run("check", tmp_path / "set") == 0
