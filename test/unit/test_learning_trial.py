"""A trial of two versions: how often it errs, what it spares, and which episodes count."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import checkpoints
import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.learning import deployments
from vla_ros.learning.deployments import Deployment
from vla_ros.learning.trial import STOPS, VOIDS, Outcome, Ran, Trial, TrialConfig, Verdict, accepted, decide
from vla_ros.policy.store import WeightStore

CONFIG = TrialConfig()


def drawn(old: float, new: float, seed: int, config: TrialConfig = CONFIG, drift: float = 0.0) -> tuple[Verdict, int]:
    """A trial of two versions with these success rates, and its pairs. `drift`: both lose as much over the whole batch."""
    rng, pairs = np.random.default_rng(seed), list[Outcome]()
    while (verdict := decide(pairs, config)) is None:
        now = 1 - drift * len(pairs) / config.pairs
        pairs.append(Outcome(bool(rng.random() < old * now), bool(rng.random() < new * now)))
    return verdict, len(pairs)


RUNS = 400


@pytest.mark.parametrize(("old", "new"), [(0.6, 0.2), (0.6, 0.4), (0.6, 0.6), (0.6, 0.8), (0.9, 0.9)])
@pytest.mark.parametrize("config", [CONFIG, TrialConfig(10), TrialConfig(20, margin=0.1), TrialConfig(30, 0.01, -0.1)])
def test_it_accepts_as_often_as_it_says(old: float, new: float, config: TrialConfig) -> None:
    """Ending early changes no decision."""
    p = accepted(config, old, new)
    found = np.mean([drawn(old, new, seed, config)[0].accepted for seed in range(RUNS)])
    assert found == pytest.approx(p, abs=4 * (max(p * (1 - p), 0.01) / RUNS) ** 0.5)


def test_the_figures_that_are_stated() -> None:
    """In the docstring, --help and docs/twin.md."""
    for pairs, margin, rates in (
        (10, 0.0, (4.4, 24.5, 59.0, 89.5)), (20, 0.0, (0.5, 13.0, 56.4, 94.4)), (20, 0.1, (2.9, 31.1, 79.0, 98.9)),
        (20, -0.1, (0.1, 3.9, 31.4, 81.3)), (50, 0.0, (0.0, 2.7, 54.1, 99.0)),
    ):  # fmt: skip
        config = TrialConfig(pairs, margin=margin)
        assert [round(100 * accepted(config, 0.6, p), 1) for p in (0.2, 0.4, 0.6, 0.8)] == list(rates)


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("drift", [0.0, 0.8])
def test_equal_versions_are_rarely_called_worse(rate: float, drift: float) -> None:
    """`short` set aside, at any success rate, and in a cell that goes down."""
    config = TrialConfig(20, 0.05, margin=0.99)
    worse = np.mean([drawn(rate, rate, seed, config, drift)[0].rule == "worse" for seed in range(RUNS)])
    assert worse <= 0.05 + 2 * (0.05 * 0.95 / RUNS) ** 0.5


def test_what_is_clear_ends_it_early() -> None:
    pairs = [drawn(0.9, 0.0, seed)[1] for seed in range(50)]
    assert np.median(pairs) <= 11
    verdict, count = drawn(1.0, 0.0, 0)
    assert (verdict.rule, verdict.accepted, count) == ("worse", False, CONFIG.bound)
    assert verdict.sentence.startswith("significantly worse (new 0, old 9 of 9: 0 gained, 9 lost")
    assert drawn(0.0, 1.0, 0)[1] == 10, "ten more gained can no longer be lost"


def test_safety_stops_end_it() -> None:
    stopped = Outcome(True, False, new_stopped=True)
    both = Outcome(False, False, True, True)
    assert decide([stopped] * (STOPS - 1) + [both] * 3, CONFIG) is None
    verdict = decide([stopped] * STOPS, CONFIG)
    assert verdict is not None
    assert (verdict.rule, verdict.accepted) == ("stops", False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pairs": 0}, "pairs: found 0, expected at least 1"),
        ({"level": 0.0}, "level: found 0.0, expected above 0 and under 1"),
        ({"level": float("nan")}, "level: found nan, expected above 0 and under 1"),
        ({"margin": 1.0}, "margin: found 1.0, expected above -1 and under 1"),
    ],
)
def test_bad_settings_name_themselves(values: dict[str, float], message: str) -> None:
    with pytest.raises(VlaRosError, match=f"^{message}$"):
        TrialConfig(**values)  # type: ignore[arg-type]


class Cell:
    """Runs episodes that end as told; what an operator says of them may come later."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.void: set[int] = set()  # numbers of episodes
        self.labels: dict[str, bool | None] = {}

    def run(self, version: int, k: int) -> Ran:
        self.asked.append((version, k))
        n = len(self.asked)
        return Ran(f"e{n}", version, True, void="a person took over" if n in self.void else "")

    def success(self, ran: Ran) -> bool | None:
        return None if ran.void else self.labels.get(ran.id, ran.detected)


def test_pairs_share_their_scene_and_their_order_is_drawn() -> None:
    cell = Cell()
    trial = Trial(4, 7, TrialConfig(20), cell.run, cell.success)
    assert trial.conduct().accepted
    pairs = [cell.asked[k : k + 2] for k in range(0, 40, 2)]
    assert [{k for _, k in pair} for pair in pairs] == [{n} for n in range(20)]
    assert [{v for v, _ in pair} for pair in pairs] == [{4, 7}] * 20
    assert 4 <= sum(pair[0][0] == 4 for pair in pairs) <= 16


def test_a_late_label_counts_and_a_void_pair_is_run_again() -> None:
    cell = Cell()
    cell.void = {2, 5}
    told: list[int] = []

    def tell(trial: Trial) -> None:
        told.append(len(trial.ran))
        cell.labels |= {r.id: False for r in trial.ran[:-2] if r.version == 7}  # the operator is two episodes late

    trial = Trial(4, 7, TrialConfig(6), cell.run, cell.success)
    verdict = trial.conduct(tell)
    assert (verdict.rule, verdict.accepted) == ("short", False)
    assert told == list(range(1, len(trial.ran) + 1))
    assert sum(bool(r.void) for r in trial.ran) == 2
    assert all(o.old for o in trial.outcomes())
    cell = Cell()
    cell.labels = {"e1": None}  # `aborted`, an operator says
    trial = Trial(4, 7, TrialConfig(3), cell.run, cell.success)
    trial.conduct()
    assert (len(trial.ran), len(trial.outcomes())) == (8, 3)


def test_what_never_says_anything_ends_in_an_error() -> None:
    cell = Cell()
    cell.void = set(range(1, 100))
    with pytest.raises(VlaRosError, match=f"trial: {VOIDS} pairs in a row say nothing, the last one for: a person took over"):
        Trial(4, 7, CONFIG, cell.run, cell.success).conduct()


def test_the_record_is_whole_at_any_time(tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    record = Deployment.begin(tmp_path, at, by="somebody", new={"number": 7})
    assert json.loads(record.path.read_text())["decision"] == "running", "a kill leaves no decision"
    record.episodes([{"id": "e1", "success": True}])
    record.end("rejected", "worse", "0 of 9")
    (found,) = deployments.load(tmp_path)
    assert found.content == {
        "at": "2026-01-02T03:04:05+00:00", "by": "somebody", "new": {"number": 7}, "episodes": [{"id": "e1", "success": True}],
        "decision": "rejected", "rule": "worse", "reason": "0 of 9",
    }  # fmt: skip
    record.path.write_text("{}")
    with pytest.raises(VlaRosError, match=r"json: not the record of a deployment"):
        deployments.load(tmp_path)


def test_a_version_of_another_store_is_adopted_once(tmp_path: Path) -> None:
    cell, twin = WeightStore(tmp_path / "cell"), WeightStore(tmp_path / "twin")
    checkpoints.tune(cell, 1, 0)
    old = checkpoints.tune(cell, 2, 1)
    practised = twin.record(checkpoints.tune(twin, 3, 0))
    new = cell.adopt(practised, old, "twin cell.yaml, version 1 of runs/x")
    assert (new.number, new.parent, new.sha256, new.origin) == (3, old, practised.sha256, "twin cell.yaml, version 1 of runs/x")
    assert cell.adopt(practised, old, "again") == cell.record(3)
    assert cell.numbers() == [1, 2, 3]
    assert cell.load(3).keys() == twin.load(1).keys()
    assert cell.record(1).origin == ""
    (Path(practised.path) / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(VlaRosError, match=r"version 4: sha256 is .*not taken"):
        cell.adopt(practised, 3, "")
    assert cell.numbers() == [1, 2, 3]
