"""Steps-to-go to reward and success: calibrated levels and their evidence, debounce and hysteresis, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import cv2
import numpy as np
import pytest
import torch
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.learning import stage1
from vla_ros.learning.data import Demonstrations
from vla_ros.policy.model import steps_to_go_quantiles
from vla_ros.policy.policy import load
from vla_ros.progress import evidence, picture
from vla_ros.progress.calibration import Detector
from vla_ros.progress.judge import CALIBRATION, Calibration, Judge, calibrate, detected

IMAGE, STATE = np.full((64, 64, 3), 40, np.uint8), np.zeros(2, np.float32)


STEPS = np.arange(61)


def calibration(threshold: float = 1.5, debounce: int = 2, release: float | None = None) -> Calibration:
    return Calibration(threshold, debounce, 0.0, 1.0, 10, 1.0, release)


def distributions(mean: NDArray[Any], spread: float) -> NDArray[Any]:
    """[N, 61] discretised normal distributions."""
    p = np.exp(-0.5 * ((STEPS - mean[:, None]) / spread) ** 2)
    return p / p.sum(1, keepdims=True)


def held_out(
    episodes: int = 200, length: int = 30, noise: float = 1.2, spread: float = 1.2, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A judge that errs by `noise` steps and owns up to `spread`: distributions, steps-to-go and episodes."""
    true = np.tile(np.arange(length - 1, -1, -1), episodes)
    found = true + np.random.default_rng(seed).normal(0, noise, len(true))
    return distributions(found, spread), true, np.repeat(np.arange(episodes), length)


def judge(threshold: float = 1.5, debounce: int = 2) -> Judge:
    made = Judge(checkpoints.model(), checkpoints.prompt(), calibration(threshold, debounce), version=4)
    made.begin(checkpoints.TEXT)
    return made


def test_calibration_keeps_the_false_positive_rate() -> None:
    p, true, episode = held_out()
    c = calibrate(p, true, episode, wanted_rate=0.002, margin=4)
    d = p @ STEPS
    negatives, finals = d[true >= 4], d[true == 0]
    assert (negatives <= c.threshold).mean() <= 0.002
    assert (negatives <= c.threshold + 0.1).mean() > 0.002, "a larger threshold would have done"
    assert c.false_positive_rate == (negatives <= c.threshold).mean()
    assert c.recall == (finals <= c.threshold).mean()
    assert 0.5 < c.recall <= 1
    assert c.frames == len(true)
    assert c.rank_correlation > 0.95
    stricter = calibrate(p, true, episode, wanted_rate=0.0, margin=4)
    assert stricter.threshold < c.threshold
    assert stricter.false_positive_rate == 0


def test_the_release_level_lets_ten_times_as_many_pass() -> None:
    p, true, episode = held_out()
    c = calibrate(p, true, episode, wanted_rate=0.002, margin=4)
    assert c.release is not None
    assert c.evidence is not None
    negatives, finals = (p @ STEPS)[true >= 4], (p @ STEPS)[true == 0]
    assert c.release > c.threshold + 0.3
    assert 0.015 < (negatives <= c.release).mean() <= 0.02
    assert c.evidence.lost == (negatives <= c.release).mean()
    assert c.evidence.held == (finals <= c.release).mean() > c.recall


def test_failures_lower_the_threshold() -> None:
    p, true, episode = held_out()
    before = calibrate(p, true, episode)
    stuck = [distributions(np.full(20, 3.0), 1.2) for _ in range(30)]  # the judge takes these for nearly done
    after = calibrate(p, true, episode, failed=stuck)
    assert after.threshold < 3.1 < before.threshold
    assert after.false_positive_rate <= 0.005
    assert after.frames == before.frames + 600
    assert after.evidence is not None
    assert after.evidence.episodes == 230


def test_a_frame_more_than_the_margin_waits_for_success() -> None:
    _, true, episode = held_out()
    true = np.maximum(true - 3, 0)  # the expert stayed for three decisions more
    p = distributions(true.astype(float), 0.3)

    def fires(debounce: int) -> set[int]:
        c = calibrate(p, true, episode, margin=2, debounce=debounce)
        return {int(true[episode == k][detected(p[episode == k] @ STEPS, c) or 0]) for k in range(200)}

    assert fires(debounce=2) == {0}
    slow = np.insert(true[episode == 0], -4, 1)  # one whose last decision but one takes two
    c2, c3 = (calibrate(p, true, episode, margin=2, debounce=n) for n in (2, 3))
    d = distributions(slow.astype(float), 0.3) @ STEPS
    assert slow[detected(d, c2) or 0] == 1, "before success"
    assert slow[detected(d, c3) or 0] == 0


def test_calibration_refuses_the_impossible() -> None:
    p, true, episode = held_out(episodes=20, length=10)
    nothing = np.zeros_like(p)
    nothing[:, 0] = 1
    with pytest.raises(VlaRosError, match=r"no threshold keeps false positives at 0.002: best is 1\.0000; train longer"):
        calibrate(nothing, true, episode, wanted_rate=0.002)
    with pytest.raises(VlaRosError, match="found 0 and 20"):
        calibrate(nothing[:20], np.zeros(20, np.int64), np.zeros(20, np.int64))


def test_evidence_of_an_honest_judge_and_of_a_boaster() -> None:
    """Noise and spread agree, or the spread is a third of the noise."""
    honest, boaster = (calibrate(*held_out(episodes=2000, noise=2.0, spread=s)) for s in (2.0, 0.7))
    assert honest.evidence is not None
    assert boaster.evidence is not None
    assert honest.evidence.coverage == pytest.approx(0.8, abs=0.03)
    assert boaster.evidence.coverage < 0.45
    assert honest.evidence.auc > 0.995
    assert honest.evidence.early < 0.02, "two frames in a row are rarer than one"
    assert [row[0] for row in honest.evidence.course[:3]] == [0.0, 3.0, 8.0]
    for true, low, middle, high in honest.evidence.course[2:-1]:
        assert low < middle < high
        assert middle == pytest.approx(true, abs=0.6)

    def error(c: Calibration) -> float:
        assert c.evidence is not None
        return sum(n * abs(a - b) for a, b, n in c.evidence.reliability) / c.frames

    assert error(boaster) > 2 * error(honest)


def test_reliability_by_hand() -> None:
    rows = evidence.reliability(np.array([0.04, 0.06, 0.95, 1.0]), np.array([False, True, True, True]))
    assert rows == ((pytest.approx(0.05), 0.5, 2), (pytest.approx(0.975), 1.0, 2))
    assert evidence.at_goal(np.array([[0.1, 0.2, 0.3, 0.4]]), 1.9) == pytest.approx([0.3])


def test_ranks_share_ties() -> None:
    assert evidence.ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert evidence.spearman(np.array([1, 2, 3, 4]), np.array([10, 20, 20, 40])) == pytest.approx(0.9487, abs=1e-4)
    assert evidence.spearman(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    assert evidence.spearman(np.ones(3), np.array([3, 2, 1])) == 0
    assert evidence.auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(0.875)


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


def test_success_lasts_until_d_is_clearly_above() -> None:
    course = [1.4, 1.4, 1.8, 2.9, 3.1, 2.0, 1.5, 3.2, 1.5, 1.5]
    wanted = [False, True, True, True, False, False, False, False, False, True]
    c = calibration(threshold=1.5, debounce=2, release=3.0)
    detector = Detector(c)
    assert [detector.step(d) for d in course] == wanted
    j = Judge(checkpoints.model(), checkpoints.prompt(), c)
    assert [j.estimate(0.1 * k, d, 1.0, 0.0).success for k, d in enumerate(course)] == wanted
    assert detected(course, c) == 1 == detected(course, replace(c, release=None))
    j.begin("reach the blue cylinder")
    assert not j.estimate(2.0, 2.0, 1.0, 0.0).success, "another episode's success is forgotten"


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


@pytest.mark.parametrize("release", [1.4, 60.0, float("nan")])
def test_a_release_level_out_of_range_is_refused(release: float) -> None:
    with pytest.raises(VlaRosError, match=r"calibration\.json: release is .*expected from the threshold 1\.5 to 60"):
        Judge(checkpoints.model(), checkpoints.prompt(), calibration(1.5, release=release))


def test_calibration_lies_beside_the_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(tiny.judge, folder)
    wanted = replace(calibration(2.5), rank_correlation=0.9, frames=100, evidence=checkpoints.EVIDENCE)
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


def _set(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields.__setitem__(key, value)


def _of_evidence(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields["evidence"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda fields: fields.pop("evidence"), "evidence is missing"),
        (lambda fields: fields.update({"evidence": None}), "evidence is null, expected what held-out episodes say"),
        (lambda fields: fields.pop("release"), "release is missing"),
        (lambda fields: fields["evidence"].pop("auc"), r"evidence\.auc is missing"),
        (_set("evidence", []), "found list, expected an object"),
        (_set("threshold", float("nan")), "threshold is nan"),
        (_set("release", 0.1), r"release is 0\.1, expected a number within [0-9.]+\.\.inf"),
        (_set("debounce", 1.5), r"debounce is 1\.5, expected a whole number"),
        (_set("recall", "all"), "recall is 'all'"),
        (_set("frames", 7), "evidence.reliability counts 6000 frames, expected 7"),
        (_of_evidence("coverage", 1.5), r"evidence\.coverage is 1\.5"),
        (_of_evidence("early", None), r"evidence\.early is None"),
        (_of_evidence("reliability", []), r"evidence\.reliability is 0 rows"),
        (_of_evidence("reliability", [[0.1, 2.0, 6000]]), r"evidence\.reliability is 2\.0"),
        (_of_evidence("course", [[0.0, 1.0]]), r"evidence\.course is 1 rows, expected some, of 4"),
        (_of_evidence("course", 3), "not iterable"),
    ],
)  # fmt: skip
def test_damaged_evidence_is_refused(damage: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    wanted = calibrate(*held_out())
    wanted.save(tmp_path)
    assert Calibration.load(tmp_path) == wanted
    fields = json.loads((tmp_path / CALIBRATION).read_text())
    damage(fields)
    (tmp_path / CALIBRATION).write_text(json.dumps(fields))
    with pytest.raises(VlaRosError, match=rf"calibration\.json: not a calibration: .*{message}.*; train the judge again"):
        Calibration.load(tmp_path)


def test_a_calibration_as_a_picture(tmp_path: Path) -> None:
    picture.draw(calibrate(*held_out(episodes=50)), tmp_path / picture.PICTURE)
    drawn = cv2.imread(str(tmp_path / picture.PICTURE))
    assert drawn.shape == (520, 1170, 3)
    assert drawn.std() > 10
    with pytest.raises(VlaRosError, match="no evidence to draw"):
        picture.draw(calibration(), tmp_path / "none.png")


def test_a_trained_judge_comes_with_its_evidence(tmp_path: Path) -> None:
    """Pictures whose brightness counts down the remaining steps."""
    episodes, length = 8, 12
    true = np.tile(np.arange(length - 1, -1, -1), episodes).astype(np.int32)
    data = Demonstrations(
        (20 * true[:, None, None, None] * np.ones((1, 64, 64, 3))).astype(np.uint8), np.zeros((len(true), 2), np.float32),
        np.zeros((len(true), 1, 2), np.float32), true, np.zeros(len(true), np.int32), (checkpoints.TEXT,),
        np.repeat(np.arange(episodes), length).astype(np.int32),
    )  # fmt: skip
    checkpoints.save(tmp_path / "start")
    config = stage1.Stage1Config(judge_seconds=0.5, held_out=0.25)
    figures = stage1.train_judge(tmp_path / "start", tmp_path / "judge", data, config, lambda share, figures: None)
    c = Calibration.load(tmp_path / "judge")
    assert figures["threshold"] == c.threshold
    assert c.evidence is not None
    assert c.evidence.episodes == 2
    assert c.frames == 2 * length == sum(row[2] for row in c.evidence.reliability)
    assert (tmp_path / "judge" / picture.PICTURE).is_file()
    Judge(*load(tmp_path / "judge", "panda"), c)


def test_quantiles_of_a_distribution() -> None:
    steps = torch.arange(61)
    logits = torch.stack([-0.5 * ((steps - 30) / 5) ** 2, torch.where(steps == 7, 0.0, -1e4)])
    assert steps_to_go_quantiles(logits, (0.1, 0.5, 0.9)).tolist() == [[24, 30, 36], [7, 7, 7]]
