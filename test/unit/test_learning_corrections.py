"""What a person does who takes over: it is learned where it was done, and nothing else of the episode answers for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from torch import Tensor

from vla_ros.episodes import EpisodeData
from vla_ros.errors import VlaRosError
from vla_ros.learning.corrections import CorrectionConfig, Corrections, rows_of_the_person, undoubted
from vla_ros.learning.data import Inputs
from vla_ros.learning.learner import load_corrections, practice
from vla_ros.learning.self_improvement import ImproveConfig, SelfImprovement, stack
from vla_ros.policy import adapter
from vla_ros.policy.model import VlaModel

STEPS, PERIOD = 12, 0.1
HABIT, RIGHT = -0.5, 0.5  # what the policy does everywhere, and what is right in the green scenes
RED, GREEN = (200, 30, 30), (30, 200, 30)
CONFIG = CorrectionConfig(passes=600)  # a toy of twenty steps is to be learned by heart


def pictures(colour: tuple[int, int, int], count: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 12, (count, 64, 64, 3))
    return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)


def episode(colour: tuple[int, int, int], by_hand: tuple[int, ...] = (), seed: int = 0, chunk: int = 1) -> EpisodeData:
    """The policy's habit, and in the steps `by_hand` a person who does what is right; version 1 throughout."""
    corrected = np.isin(np.arange(STEPS), by_hand)
    stamps = 50 + PERIOD * np.arange(STEPS + 1)
    actions = np.where(corrected, RIGHT, HABIT).astype(np.float32)[:, None, None].repeat(chunk, 1)
    d = np.linspace(20, 20 - STEPS, STEPS + 1, dtype=np.float32)
    return EpisodeData(
        path=Path("e.mcap"), instruction=checkpoints.TEXT, stamps=stamps, images=pictures(colour, STEPS + 1, seed),
        states=np.zeros((STEPS + 1, 2), np.float32), actions=actions, executed=actions,
        due=stamps[:-1, None] + PERIOD * (1 + np.arange(chunk)), corrected=corrected,
        tokens=np.full((STEPS, chunk, 1), 5, np.int16), log_probabilities=np.full(STEPS, -0.7, np.float32),
        policy_versions=np.ones(STEPS, np.int64), steps_to_go=d, rewards=d[:-1] - d[1:], success=False,
        latched=np.zeros(STEPS, np.bool_), limited=np.zeros(STEPS, np.bool_), unanswered=0, metadata={}, label={},
    )  # fmt: skip


@torch.no_grad()
def policy_in(model: VlaModel, colour: tuple[int, int, int], seed: int = 99) -> Tensor:
    """Probabilities [bins], the mean of some pictures that nothing has learned from."""
    images, states = pictures(colour, 8, seed), np.zeros((8, 2), np.float32)
    inputs = Inputs.of(images, np.zeros(8, np.int32), (checkpoints.TEXT,), states, checkpoints.prompt())
    return model(*inputs[torch.arange(8)])["action"][:, 0, 0].softmax(-1).mean(0)


def most_probable(p: Tensor) -> float:
    return float(torch.linspace(-1, 1, len(p))[p.argmax()])


@pytest.fixture
def model() -> VlaModel:
    """Does out of habit the same in both scenes."""
    model = adapter.add(checkpoints.model(bins=21, action_dim=1))
    teacher = Corrections(model, checkpoints.prompt(), replace(CONFIG, passes=400, learning_rate=3e-3))
    for k, colour in enumerate((RED, GREEN)):
        everything = episode(colour, tuple(range(STEPS)), seed=10 + k)
        teacher.add(replace(everything, executed=np.full_like(everything.executed, HABIT)))
    teacher.learn([])
    assert most_probable(policy_in(model, RED)) == most_probable(policy_in(model, GREEN)) == HABIT
    return model


def taught(model: VlaModel, config: CorrectionConfig) -> dict[str, float]:
    """Two red episodes of the policy's, and two green ones in which a person took over from the third step on."""
    by_hand = tuple(range(2, STEPS))
    episodes = [episode(RED, seed=1), episode(RED, seed=2), episode(GREEN, by_hand, seed=3), episode(GREEN, by_hand, seed=4)]
    corrections = Corrections(model, checkpoints.prompt(), config)
    for data in episodes:
        corrections.add(data)
    return corrections.learn(episodes)


def test_a_correction_teaches_where_it_was_made_and_leaves_the_rest(model: VlaModel) -> None:
    before = policy_in(model, RED)
    figures = taught(model, CONFIG)
    assert figures["corrected_steps"] == 2 * (STEPS - 2)
    assert most_probable(policy_in(model, GREEN)) == pytest.approx(RIGHT, abs=0.11), "a bin of 21 beside it is as good"
    after = policy_in(model, RED)
    assert most_probable(after) == HABIT
    moved = 0.5 * float((after - before).abs().sum())
    assert moved < 0.1, "total variation"
    assert figures["kept"] < 0.1


def test_without_the_second_term_the_rest_would_go_along(model: VlaModel) -> None:
    before = policy_in(model, RED)
    figures = taught(model, replace(CONFIG, keep=0.0))
    assert "kept" not in figures
    assert 0.5 * float((policy_in(model, RED) - before).abs().sum()) > 0.3


def test_it_survives_practice_that_wants_the_habit(model: VlaModel) -> None:
    """Each update of practice is followed by the corrections again, of this and of earlier batches."""
    method = SelfImprovement(model, ImproveConfig(updates=2, batch=16, learning_rate=3e-3, gamma=0.0, baseline="none"))
    corrections = Corrections(model, checkpoints.prompt(), CONFIG)
    corrections.add(episode(GREEN, tuple(range(STEPS)), seed=3))
    for seed in range(3):
        data = episode(RED, seed=20 + seed)
        method.update(practice(data, 1), stack(practice(data, 1), checkpoints.prompt()))
        assert corrections.learn([data])["corrected_steps"] == STEPS
    assert most_probable(policy_in(model, GREEN)) == pytest.approx(RIGHT, abs=0.11)
    assert most_probable(policy_in(model, RED)) == HABIT


def test_the_same_corrections_give_the_same_weights(model: VlaModel) -> None:
    start = {name: t.detach().clone() for name, t in adapter.state(model).items()}
    taught(model, CONFIG)
    once = {name: t.detach().clone() for name, t in adapter.state(model).items()}
    adapter.swap(model, start)
    taught(model, CONFIG)
    assert all(torch.equal(once[name], t) for name, t in adapter.state(model).items())
    assert not all(torch.equal(once[name], t) for name, t in start.items())


def test_no_step_of_the_policy_answers_for_a_persons(model: VlaModel) -> None:
    data = episode(RED, (4, 5, 6, 11))
    parts = practice(data, 1)
    assert [len(p.tokens) for p in parts] == [4, 4], "0 to 3, 7 to 10"
    assert [len(p.images) for p in parts] == [5, 5], "to the observation at which the person took over"
    assert all(p.usable.all() for p in parts)
    np.testing.assert_array_equal(parts[1].steps_to_go, data.steps_to_go[7:12])
    np.testing.assert_array_equal(parts[1].images, data.images[7:12])
    (whole,) = practice(episode(RED), 1)
    assert len(whole.tokens) == STEPS
    assert practice(episode(RED, tuple(range(STEPS))), 1) == []
    assert practice(data, 2) == [], "another version's"
    mine = replace(data, policy_versions=np.where(np.arange(STEPS) < 7, 2, 1))
    assert [len(p.tokens) for p in practice(mine, 1)] == [4]


def test_the_second_before_a_person_took_over_is_not_kept() -> None:
    data = replace(episode(RED, (6, 7)), stamps=50 + 0.4 * np.arange(STEPS + 1))
    assert np.flatnonzero(undoubted(data)).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert undoubted(episode(RED)).all()
    assert np.flatnonzero(undoubted(replace(data, latched=np.arange(STEPS) == 9))).tolist() == [0, 1, 2, 3, 8, 10, 11]


def test_rows_of_a_chunk_count_while_the_person_goes_on() -> None:
    data = episode(RED, (2, 3, 4, 8), chunk=3)
    rows = rows_of_the_person(data)
    assert {k: r.tolist() for k, r in enumerate(rows) if r.any()} == {
        2: [True, True, True], 3: [True, True, False], 4: [True, False, False], 8: [True, False, False],
    }  # fmt: skip
    unknown = data.executed.copy()
    unknown[3, 0] = np.nan
    assert not rows_of_the_person(replace(data, executed=unknown))[3, 0]
    latched = replace(data, latched=np.arange(STEPS) == 3)
    assert {k: r.tolist() for k, r in enumerate(rows_of_the_person(latched)) if r.any()} == {
        2: [True, False, False], 4: [True, False, False], 8: [True, False, False],
    }  # fmt: skip


def test_what_is_not_known_is_not_learned(model: VlaModel) -> None:
    corrections = Corrections(model, checkpoints.prompt(), CONFIG)
    data = episode(GREEN, (3, 4))
    unknown = np.full_like(data.executed, np.nan)
    corrections.add(replace(data, executed=unknown))
    assert len(corrections) == 0
    assert corrections.learn([]) == {"corrected_steps": 0}
    unknown[4] = data.executed[4]
    corrections.add(replace(data, executed=unknown))
    assert len(corrections) == 1
    corrections.learn([])
    assert all(torch.isfinite(t).all() for t in adapter.state(model).values())


def test_memory_keeps_the_last_episodes(model: VlaModel) -> None:
    corrections = Corrections(model, checkpoints.prompt(), replace(CONFIG, memory=5))
    for seed in range(4):
        corrections.add(episode(GREEN, (3, 4), seed=seed))
    assert len(corrections) == 4
    corrections.add(episode(GREEN, tuple(range(STEPS))))
    assert len(corrections) == STEPS, "an episode is kept whole, however long"


def test_words_of_another_policy_are_named_with_the_file(model: VlaModel) -> None:
    with pytest.raises(VlaRosError, match=r"e\.mcap: a person's correction: .*does not know \['juggle'\]"):
        Corrections(model, checkpoints.prompt(), CONFIG).add(replace(episode(RED, (1,)), instruction="juggle the red cube"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("corrections: 3", "corrections is 3, expected a mapping"),
        ("corrections: {pass: 3}", "corrections: unknown key 'pass'"),
        ("corrections: {passes: -1}", "corrections: passes is -1, expected at least 0"),
        ("corrections: {keep: -0.5}", "corrections: keep is -0.5"),
        ("corrections: {learning_rate: 0.0}", "corrections: learning_rate is 0.0, expected a number above 0"),
    ],
)
def test_a_wrong_section_is_named(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "training.yaml"
    file.write_text(text)
    with pytest.raises(VlaRosError, match=rf"training\.yaml: {part}"):
        load_corrections(str(file))


def test_the_sections_that_come_along_are_the_defaults(tmp_path: Path) -> None:
    for name in ("self_improvement", "critic", "demo"):
        assert load_corrections(f"config/training/{name}.yaml") == CorrectionConfig()
    (tmp_path / "none.yaml").write_text("gamma: 0.9")
    assert load_corrections(str(tmp_path / "none.yaml")) == CorrectionConfig()
