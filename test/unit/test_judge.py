"""Steps-to-go to reward and success: the calibrated threshold, the debounce, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401

from vla_ros.errors import VlaRosError
from vla_ros.policy.policy import load
from vla_ros.progress.judge import CALIBRATION, Calibration, Judge, calibrate, detected

IMAGE, STATE = np.full((64, 64, 3), 40, np.uint8), np.zeros(2, np.float32)


def calibration(threshold: float = 1.5, debounce: int = 2) -> Calibration:
    return Calibration(threshold, debounce, 0.0, 1.0, 10, 1.0)


def judge(threshold: float = 1.5, debounce: int = 2) -> Judge:
    made = Judge(checkpoints.model(), checkpoints.prompt(), calibration(threshold, debounce), version=4)
    made.begin(checkpoints.TEXT)
    return made


def test_calibration_keeps_the_false_positive_rate() -> None:
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(30), 200)
    found = np.clip(true + rng.normal(0, 1.2, len(true)), 0, None)
    c = calibrate(found, true, wanted_rate=0.002, margin=4)
    negatives, finals = found[true >= 4], found[true == 0]
    assert (negatives <= c.threshold).mean() <= 0.002
    assert (negatives <= c.threshold + 0.1).mean() > 0.002, "a larger threshold would have done"
    assert c.false_positive_rate == (negatives <= c.threshold).mean()
    assert c.recall == (finals <= c.threshold).mean()
    assert 0.5 < c.recall <= 1
    assert c.frames == len(true)
    assert c.rank_correlation > 0.95
    stricter = calibrate(found, true, wanted_rate=0.0, margin=4)
    assert stricter.threshold < c.threshold
    assert stricter.false_positive_rate == 0


def test_calibration_refuses_the_impossible() -> None:
    true = np.repeat(np.arange(10), 20)
    with pytest.raises(VlaRosError, match=r"no threshold keeps false positives at 0.002: best is 1\.0000; train longer"):
        calibrate(np.zeros(len(true)), true, wanted_rate=0.002)
    with pytest.raises(VlaRosError, match="found 0 and 20"):
        calibrate(np.zeros(20), np.zeros(20, np.int64))


def test_success_wants_frames_in_a_row() -> None:
    j = judge(threshold=1.5, debounce=2)
    course = [9.0, 1.0, 2.0, 1.4, 1.5, 0.1, 3.0]
    found = [j.estimate(0.1 * k, d, 1.0, 0.0) for k, d in enumerate(course)]
    assert [e.success for e in found] == [False, False, False, False, True, True, False]
    assert [e.reward for e in found] == pytest.approx([0.0, 8.0, -1.0, 0.6, -0.1, 1.4, -2.9])
    assert [e.stamp for e in found] == pytest.approx([0.1 * k for k in range(7)])
    assert {e.policy_version for e in found} == {4}
    assert detected(course, j.calibration) == 4
    assert detected(course[:4], j.calibration) is None


def test_a_new_episode_begins_afresh() -> None:
    j = judge(threshold=1.5, debounce=2)
    j.estimate(0.0, 1.0, 1.0, 0.0)
    j.begin("reach the blue cylinder")
    first = j.estimate(0.1, 1.0, 1.0, 0.0)
    assert first.reward == 0.0
    assert not first.success
    assert j.estimate(0.2, 1.0, 1.0, 0.0).success


def test_an_observation_is_judged_by_the_network() -> None:
    j = judge(threshold=5.0)
    ids, mask = (t for t in (j._words(checkpoints.TEXT)))
    with torch.inference_mode():
        p = j.model(torch.from_numpy(IMAGE)[None], ids, mask, torch.zeros(1, 2))["steps_to_go"].softmax(-1)[0].double()
    steps = torch.arange(61).double()
    mean = float(p @ steps)
    e = j.observe(3.5, IMAGE, STATE)
    assert e.steps_to_go == pytest.approx(mean, abs=1e-3)
    assert e.spread == pytest.approx(float((p @ (steps - mean) ** 2).sqrt()), abs=1e-2)
    assert e.success_probability == pytest.approx(float(p[:6].sum()), abs=1e-5)
    assert (e.stamp, e.reward, e.success) == (3.5, 0.0, False)
    other = j.observe(3.6, 255 - IMAGE, STATE)
    assert other.reward == pytest.approx(e.steps_to_go - other.steps_to_go)
    assert not any(p.requires_grad for p in j.model.parameters())


def test_what_a_judge_is_not_made_for() -> None:
    j = judge()
    with pytest.raises(VlaRosError, match="the policy expects"):
        j.observe(0.0, IMAGE[:32], STATE)
    j.begin("juggle the red cube")
    with pytest.raises(VlaRosError, match="juggle"):
        j.observe(0.0, IMAGE, STATE)
    j.begin(checkpoints.TEXT)
    with torch.no_grad():
        j.model.steps_to_go_head[2].bias.fill_(torch.nan)
    with pytest.raises(VlaRosError, match="steps-to-go is not finite"):
        j.observe(0.0, IMAGE, STATE)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 60.0, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(VlaRosError, match=r"calibration\.json: threshold is .*expected within 0\.\.60 steps"):
        Judge(checkpoints.model(), checkpoints.prompt(), calibration(threshold))


def test_calibration_lies_beside_the_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(tiny.judge, folder)
    wanted = replace(calibration(2.5), rank_correlation=0.9)
    wanted.save(folder)
    assert Calibration.load(folder) == wanted
    Judge(*load(folder, "panda"), Calibration.load(folder))
    fields = json.loads((folder / CALIBRATION).read_text())
    for text in ("{", "[]", json.dumps({**fields, "treshold": 1}), json.dumps({"threshold": 1.0})):
        (folder / CALIBRATION).write_text(text)
        with pytest.raises(VlaRosError, match=r"calibration\.json"):
            Calibration.load(folder)
    (folder / CALIBRATION).unlink()
    with pytest.raises(VlaRosError, match=r"calibration\.json is missing: a judge without calibration is not used"):
        Calibration.load(folder)
