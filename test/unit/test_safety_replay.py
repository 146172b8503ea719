"""`vla-ros safety replay` and `limits`: a recorded episode through other envelopes, and bad input."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from rclpy.serialization import serialize_message

from vla_ros.cli import __main__ as cli
from vla_ros.cli.safety import limits as limits_command
from vla_ros.cli.safety import recording
from vla_ros.cli.safety.replay import Replay, replay, summary
from vla_ros.cli.safety.watch import EstopKey
from vla_ros.episodes import EpisodeWriter
from vla_ros.errors import VlaRosError
from vla_ros.nodes import convert
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.filter import SafetyFilter
from vla_ros.types import ActionChunk, JointState, SafetyMode

CONTRACT = RobotContract.load("panda")
HOME = Kinematics(CONTRACT).home()
START = 1_700_000_000.2  # s, a stamp with a rounded double
SECONDS = 1.2
ROWS = 5
SWING = 0.8  # rad, of the first joint, there within SECONDS
CHUNKS = 12
HALF = "velocity_scale: 0.5\n"  # of what panda.yaml allows


def wish(time: float) -> np.ndarray:
    """Where the policy wants the arm [n] rad, `time` s after the start."""
    share = min(max(time / SECONDS, 0.0), 1.0)
    return HOME + SWING * 0.5 * (1.0 - np.cos(np.pi * share)) * np.eye(len(HOME))[0]


def record(path: Path, joint_states: bool = True, chunks: bool = True, safety_states: bool = True, **metadata: str) -> Path:
    """An episode as the graph records it: an arm that follows the filter's commands, a chunk of 5 rows every 0.1 s."""
    safety, period = SafetyFilter.for_robot(CONTRACT), 1.0 / CONTRACT.control.rate
    position, velocity = HOME, np.zeros(len(HOME))
    with EpisodeWriter(path, {"robot": "panda", "instruction": "swing", **metadata}) as writer:
        for k in range(round(SECONDS / period)):
            now = START + k * period
            state = JointState(now, CONTRACT.joints, position, velocity)
            sent = safety.tick(now, state)
            assert sent is not None
            nanoseconds = round(now * 1e9)
            if joint_states:
                cdr = serialize_message(convert.joint_state_message(state))
                writer.write("/joint_states", "sensor_msgs/msg/JointState", cdr, nanoseconds)
            if safety_states:
                cdr = serialize_message(convert.safety_message(sent, CONTRACT.joints, safety.counters))
                writer.write("/safety/state", "vla_ros/msg/SafetyState", cdr, nanoseconds)
            position, velocity = sent.command, sent.velocity
            if k % 20 == 0:
                elapsed = k * period
                rows = np.array([wish(elapsed + 0.1 * (row + 1)) for row in range(ROWS)])
                chunk = ActionChunk(now + 0.1, 0.1, CONTRACT.joints, rows, observation_stamp=now, episode_id=path.stem)
                safety.submit(chunk, now)
                if chunks:
                    cdr = serialize_message(convert.chunk_message(chunk))
                    writer.write("/policy/chunk", "vla_ros/msg/ActionChunk", cdr, nanoseconds)
    return path


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("episodes") / "swing.mcap")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("safety") / "half.yaml"
    file.write_text(HALF)
    return file


@pytest.fixture(scope="module")
def slow(episode: Path, half: Path) -> Replay:
    return replay(recording.load(episode), ["panda", half])


def test_the_same_envelope_gives_the_recorded_motion(episode: Path) -> None:
    figures = summary(replay(recording.load(episode)))
    assert figures["chunks"] == {"accepted": CHUNKS, "rejected": 0, "reasons": {}}
    assert max(joint["from_recorded"] for joint in figures["joints"].values()) < 1e-6
    assert figures["time_lost"]["total"] == pytest.approx(figures["recorded"]["time_lost"]["total"], abs=0.02)
    assert figures["limited_ticks"] == figures["recorded"]["limited_ticks"]
    assert not figures["latched"]


def test_half_the_velocity_costs_time_and_holds_the_tighter_limit(slow: Replay, half: Path) -> None:
    figures = summary(slow)
    limit = SafetyFilter.for_robot(CONTRACT, "panda", half).limits.velocity[0]
    assert limit == pytest.approx(0.5 * SafetyFilter.for_robot(CONTRACT).limits.velocity[0])
    speeds = np.abs(np.diff(slow.command, axis=0)) * CONTRACT.control.rate
    assert speeds[:, 0].max() <= limit * (1 + 1e-6)
    assert speeds[:, 0].max() > 0.9 * limit
    assert figures["time_lost"]["slowed"] > figures["recorded"]["time_lost"]["slowed"] + 0.1
    assert figures["constraints"]["velocity:panda_joint1"] > 0.05
    assert figures["joints"]["panda_joint1"]["worst_deviation"] > 0.03
    assert figures["joints"]["panda_joint1"]["from_recorded"] > 0.03
    assert figures["limited_ticks"] > figures["recorded"]["limited_ticks"]


def test_recorded_states_of_another_motion_are_tracking_faults(episode: Path, tmp_path: Path) -> None:
    same = summary(replay(recording.load(episode), as_recorded=True))
    assert max(joint["from_recorded"] for joint in same["joints"].values()) < 1e-6
    crawl = tmp_path / "crawl.yaml"
    crawl.write_text("velocity_scale: 0.02\n")
    other = replay(recording.load(episode), ["panda", crawl], as_recorded=True)
    assert any(tick.reason.startswith("tracking_brake:panda_joint1") for tick in other.ticks)
    assert "tracking" in summary(other)["latched"]
    assert all(tick.mode != SafetyMode.LATCHED for tick in replay(recording.load(episode), ["panda", crawl]).ticks)


def test_table_json_and_plot(
    episode: Path, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["safety", "replay", str(episode), "--safety", "panda", str(half)]
    assert cli.main([*words, "--out", "plots/swing.png"]) == 0
    text = capsys.readouterr().out
    assert "velocity:panda_joint1" in text
    assert "worst |raw - executed| [rad]" in text
    picture = image.imread("plots/swing.png")
    assert picture.shape[0] > 600
    assert picture.shape[1] > 1000
    assert picture.std() > 0.05, "not an empty page"
    assert cli.main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["time_lost"]["total"] > 0.1
    assert [p.name for p in tmp_path.iterdir()] == ["plots"], "with --json a plot is drawn only where --out says"
    assert cli.main(["safety", "replay", str(episode)]) == 0
    assert (tmp_path / "replay-swing.png").is_file()


def test_an_envelope_that_rejects_everything(episode: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text("chunk_horizon: 0.01\n")
    words = ["safety", "replay", str(episode), "--safety", "panda", str(strict), "--out", str(tmp_path / "strict.png")]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "too_far_ahead" in text
    result = replay(recording.load(episode), ["panda", strict])
    figures = summary(result)
    assert figures["chunks"] == {"accepted": 0, "rejected": CHUNKS, "reasons": {"too_far_ahead": CHUNKS}}
    assert figures["time_lost"]["stopped"] == pytest.approx(SECONDS, abs=0.02)
    assert np.array_equal(result.command[0], result.command[-1])
    assert (tmp_path / "strict.png").is_file()


def test_episodes_are_found_by_id_and_as_latest(episode: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "latest" / "episodes"
    folder.mkdir(parents=True)
    (folder / "first.mcap").write_bytes(episode.read_bytes())
    assert recording.find("latest", tmp_path / "runs") == folder / "first.mcap"
    assert recording.find("first", tmp_path / "runs") == folder / "first.mcap"
    assert recording.find(str(episode), tmp_path) == episode
    with pytest.raises(VlaRosError, match=r"episode 'frst': not among the 1 of .*; the nearest is 'first'"):
        recording.find("frst", tmp_path / "runs")
    with pytest.raises(VlaRosError, match=r"episode 'latest': found no \*\.mcap in .*; give a path, or --runs"):
        recording.find("latest", tmp_path / "none")
    with pytest.raises(VlaRosError, match=r"none\.mcap: no such file"):
        recording.find("none.mcap", tmp_path)


def test_bad_recordings_are_named(episode: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(episode.read_bytes()[:-2000])
    with pytest.raises(VlaRosError, match=r"torn\.mcap: torn or corrupt after \d+ messages.*; found .*\d+ of /policy/chunk"):
        recording.load(torn)
    (tmp_path / "text.mcap").write_text("no recording")
    with pytest.raises(VlaRosError, match=r"text\.mcap: torn or corrupt after 0 messages"):
        recording.load(tmp_path / "text.mcap")
    silent = record(tmp_path / "silent.mcap", chunks=False)
    with pytest.raises(VlaRosError, match=r"silent\.mcap: /policy/chunk was not recorded; found /joint_states, /safety/state;"):
        recording.load(silent)
    blind = record(tmp_path / "blind.mcap", joint_states=False)
    with pytest.raises(VlaRosError, match=r"blind\.mcap: /joint_states was not recorded; found /policy/chunk, .*; expected"):
        recording.load(blind)
    other = record(tmp_path / "other.mcap", robot="pandaa")
    with pytest.raises(VlaRosError, match="unknown robot 'pandaa'"):
        recording.load(other)


def test_without_safety_states_there_is_no_comparison(tmp_path: Path) -> None:
    figures = summary(replay(recording.load(record(tmp_path / "bare.mcap", safety_states=False))))
    assert figures["recorded"] is None
    assert figures["joints"]["panda_joint1"]["from_recorded"] is None
    assert figures["chunks"]["accepted"] == CHUNKS


def test_as_recorded_needs_joint_states_at_the_control_rate(episode: Path) -> None:
    whole = recording.load(episode)
    sparse = recording.Recording(**{**vars(whole), "state_topic": "/observation"})
    with pytest.raises(VlaRosError, match=r"/joint_states was not recorded; found joint states in /observation.*record_topics"):
        replay(sparse, as_recorded=True)


def test_limits_tell_the_file_of_each_value(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = limits_command.provenance(CONTRACT, ["panda", half])
    assert known.sources == ("urdf/panda.urdf", "config/safety/panda.yaml", str(half))
    origins = {key: known.entries[f"{key}.panda_joint1"].origin for key in ("lower", "velocity", "acceleration")}
    assert origins == {"lower": 1, "velocity": 2, "acceleration": 1}
    assert known.entries["policy_silence"].origin == 1
    assert cli.main(["safety", "limits", "--safety", "panda", str(half)]) == 0
    text = capsys.readouterr().out
    assert "[rad/s]" in text
    assert f"[2] {half}" in text.replace("\n", "")
    assert "policy_silence" in text
    assert "after the last row was due" in text


def test_a_loosening_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loose = tmp_path / "loose.yaml"
    loose.write_text("policy_silence: 5.0\n")
    assert cli.main(["safety", "limits", "--safety", "panda", str(loose)]) == 2
    assert "loose.yaml: policy_silence: found 5.0, expected at most 0.3" in capsys.readouterr().err


def test_a_key_that_cannot_publish_ends_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def broken(stop: bool) -> None:
        raise RuntimeError("no publisher")

    reader, writer = os.pipe()
    keys = EstopKey(broken, lambda: None, reader)
    keys.start()
    os.write(writer, b"e")
    keys.join(5.0)
    assert keys.failed
    assert keys.quit.is_set()
    assert told
    os.close(writer)
    healthy = EstopKey(broken, lambda: None, reader)
    healthy.start()  # end of file: the terminal is gone
    healthy.join(5.0)
    assert healthy.quit.is_set()
    assert not healthy.failed
    os.close(reader)


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["safety", "--help"])
    assert ended.value.code == 0
    assert "examples:\n  vla-ros safety watch" in capsys.readouterr().out
