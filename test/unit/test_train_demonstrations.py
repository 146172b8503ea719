"""`vla-ros train sft` on somebody's demonstrations of a two-armed robot: from a LeRobot set to a policy, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import recordings
from recordings import START, Fields, command, picture, position, record, small_aloha

from vla_ros.cli.__main__ import main
from vla_ros.cli.train.place import Place
from vla_ros.cli.train.sft import read
from vla_ros.episodes import label
from vla_ros.episodes.check import DEMONSTRATION
from vla_ros.errors import VlaRosError
from vla_ros.policy.policy import VlaPolicy, load
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.shapes import model_shapes

Spoil = Callable[[str, int, Fields], "Fields | None"]
PERIOD = 0.02


def demonstration(path: Path, contract: RobotContract, steps: int = 5, spoil: Spoil | None = None, **metadata: str) -> Path:
    """Without policy, judge and filter: their topics are not in it."""

    def kept(topic: str, step: int, fields: Fields) -> Fields | None:
        if topic not in ("/observation", "/policy/chunk"):
            return None
        return spoil(topic, step, fields) if spoil else fields

    return record(path, contract, steps, kept, kind=DEMONSTRATION, **{"outcome": "", **metadata})


def test_from_a_lerobot_set_to_a_policy_that_acts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract = small_aloha(tmp_path)
    for k, steps in enumerate((6, 8, 7)):
        record(tmp_path / f"all/e{k}.mcap", contract, steps)
    label(tmp_path / "all", "e2", "failure")
    robot = ["--robot", str(contract.path)]
    assert main(["episodes", "export", str(tmp_path / "all"), "--out", str(tmp_path / "set"), "--images", *robot]) == 0
    assert main(["episodes", "import", str(tmp_path / "set"), "--out", str(tmp_path / "demos"), *robot]) == 0

    data = read([tmp_path / "demos"], Place.robot(contract), skip_bad=False)
    assert data.images.shape == (14, 2, 32, 48, 3)
    assert data.steps_to_go.tolist() == [5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0], "the failure is left out"
    for frame in range(6):
        np.testing.assert_array_equal(data.images[frame], [picture(frame, (32, 48), camera) for camera in (0, 1)])
        np.testing.assert_array_equal(data.states[frame], np.float32(position(contract, frame)))
        wanted = [command(contract, (min(frame + row, 5) + 1) * PERIOD) for row in range(100)]
        np.testing.assert_allclose(data.actions[frame], wanted, atol=1e-6)

    words = ["train", "sft", "--data", str(tmp_path / "demos"), "--policy", "small", "--out", str(tmp_path / "policy"), *robot]
    options = ["--steps", "4", "--batch", "8", "--evaluate-every", "4", "--held-out", "0.5", "--head", "laplace"]
    assert main([*words, *options]) == 0
    assert "2 episodes, 14 frames" in capsys.readouterr().err
    policy = VlaPolicy(*load(tmp_path / "policy", "aloha"))
    decision = policy.infer(data.images[0], "reach the red disc", data.states[0], greedy=True)
    assert decision.action.shape == (100, 14)
    low, high = data.actions.min((0, 1)), data.actions.max((0, 1))
    assert (abs(decision.action - 0.5 * (low + high)) < 3 * (high - low)).all(), "in the joints' units"


def test_a_demonstration_counts_unless_it_says_that_it_failed(tmp_path: Path) -> None:
    contract = small_aloha(tmp_path)
    for name, outcome in (("e0", ""), ("e1", "success"), ("e2", "failure"), ("e3", "")):
        demonstration(tmp_path / "demos" / f"{name}.mcap", contract, 3, outcome=outcome)
    label(tmp_path / "demos", "e3", "failure")
    assert len(read([tmp_path / "demos"], Place.robot(contract), skip_bad=False).images) == 2 * 4


def changed(topic: str, **values: Any) -> Spoil:
    """Other fields in the message of step 2."""
    return lambda t, k, fields: {**fields, **values} if (t, k) == (topic, 2) else fields


def images(**values: Any) -> Spoil:
    """Other fields of the second camera's image in step 2."""

    def spoil(topic: str, step: int, fields: Fields) -> Fields:
        if (topic, step) == ("/observation", 2):
            for name, value in values.items():
                setattr(fields["images"][1], name, value)
        return fields

    return spoil


def dropped(*steps: int) -> Spoil:
    return lambda topic, k, fields: None if topic == "/observation" and k in steps else fields


NAN = np.where(np.arange(14) == 3, np.nan, 0.0)
AT = r"frame 2 at 1700000000\.2[46]0 s: found "  # a chunk is stamped with its first row
FAULTS: dict[str, tuple[Spoil, str]] = {
    "size": (images(height=16, width=96), AT + "image of 'cam_left_wrist' rgb8 16x96 .*expected rgb8 32x48"),
    "channel order": (images(encoding="bgr8"), AT + "image of 'cam_left_wrist' bgr8 .*expected rgb8"),
    "one camera": (changed("/observation", cameras=["cam_high"]), AT + "cameras cam_high, expected 'cam_left_wrist'"),
    "no image": (changed("/observation", images=[]), AT + "0 images, expected 2"),
    "state": (changed("/observation", position=NAN), AT + "position of right_forearm_roll nan"),
    "state dimension": (changed("/observation", position=np.zeros(13)), AT + "13 positions, expected 14"),
    "action": (changed("/policy/chunk", data=NAN), AT + "value 3 nan, expected a finite number"),
    "action dimension": (changed("/policy/chunk", data=np.zeros(13)), AT + "13 columns for left_waist, .*one for each of"),
    "other joints": (changed("/policy/chunk", joint_names=["a"] * 14), AT + "14 columns for a, a, .*one for each of"),
    "other actions": (changed("/policy/chunk", semantics="tip_pose"), "found tip_pose of 14 columns .* joint_position of"),
    "no action": (lambda topic, k, fields: None if (topic, k) == ("/policy/chunk", 2) else fields, "found no answer to frame 2"),
    "duplicate": (
        changed("/observation", header=recordings.header(START + PERIOD)),
        r"frame 2 at 1700000000\.220 s: found the stamp of the frame before, expected a later one",
    ),
    "gap": (dropped(2), r"frame 2 at 1700000000\.260 s: found 0\.04 s after the frame before, expected 0\.02 s"),
    "one frame": (dropped(1, 2, 3, 4, 5), r"found 1 frame\(s\), expected at least 2"),
    "empty": (dropped(0, 1, 2, 3, 4, 5), "/observation: found nothing .*expected at least one message"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_demonstration_is_refused_or_listed_and_counted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = FAULTS[name]
    contract = small_aloha(tmp_path)
    for k in range(3):
        demonstration(tmp_path / f"demos/e{k}.mcap", contract, spoil=spoil if k == 1 else None)
    with pytest.raises(VlaRosError, match=rf"e1\.mcap: .*{message}.*; --skip-bad leaves such episodes out"):
        read([tmp_path / "demos"], Place.robot(contract), skip_bad=False)
    assert len(read([tmp_path / "demos"], Place.robot(contract), skip_bad=True).images) == 2 * 6
    told = capsys.readouterr().err
    assert "skipped: " in told
    assert "e1.mcap" in told.replace("\n", "")
    assert "skipped 1 episodes" in told


def test_another_rate_is_refused(tmp_path: Path) -> None:
    contract = small_aloha(tmp_path)
    demonstration(tmp_path / "demos/e0.mcap", contract)
    faster = replace(contract, observation=replace(contract.observation, rate=100.0), action=replace(contract.action, rate=100.0))
    with pytest.raises(VlaRosError, match=r"e0\.mcap: /observation: found 50 Hz \(median\), expected 100 Hz, as .*small_aloha"):
        read([tmp_path / "demos"], Place.robot(faster), skip_bad=False)
    apart = replace(contract, action=replace(contract.action, rate=25.0))
    with pytest.raises(VlaRosError, match=r"small_aloha\.yaml: action\.rate: found 25 Hz, expected observation\.rate \(50 Hz\)"):
        read([tmp_path / "demos"], Place.robot(apart), skip_bad=False)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract = small_aloha(tmp_path)
    for k in range(2):
        demonstration(tmp_path / f"demos/e{k}.mcap", contract)
    fits = {**model_shapes(contract), "robot": "aloha"}
    wrong = {
        "robot": ({}, "checkpoint is for robot 'panda', running 'aloha'"),
        "cameras": ({**fits, "cameras": 1}, "config.json: cameras: found 1, expected 2"),
        "actions": ({**fits, "action_dim": 7}, "config.json: action_dim: found 7, expected 14"),
        "chunk": ({**fits, "chunk": 50}, "config.json: chunk: found 50, expected 100"),
        "state": ({**fits, "state_dim": 2}, "config.json: state_dim: found 2, expected 14"),
        "size": ({**fits, "image_size": [64, 64]}, "config.json: image_size: found [64, 64], expected [32, 48]"),
        "words": (fits, "disc"),
    }  # fmt: skip
    for name, (shapes, message) in wrong.items():
        folder = checkpoints.save(tmp_path / name, **shapes)
        words = ["train", "sft", "--data", str(tmp_path / "demos"), "--policy", str(folder), "--out", str(tmp_path / "out")]
        assert main([*words, "--robot", str(contract.path)]) == 2, name
        assert message in capsys.readouterr().err.replace("\n", ""), name
