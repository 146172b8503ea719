"""The learner from recorded episodes to the next version, in process and as the child that the trainer talks to."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import practice
import pytest
import torch
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401

from vla_ros.episodes import load_episode
from vla_ros.errors import VlaRosError
from vla_ros.learning.child import LearnerProcess
from vla_ros.learning.corrections import CorrectionConfig
from vla_ros.learning.data import Inputs
from vla_ros.learning.learner import Learner, load_config
from vla_ros.learning.self_improvement import ImproveConfig
from vla_ros.learning.stopping import StopConfig
from vla_ros.policy.policy import VlaPolicy
from vla_ros.policy.store import WeightStore

CONFIG = "config/training/self_improvement.yaml"
BY_HEART = CorrectionConfig(passes=1500)  # of a few random pictures
TEXTS = (checkpoints.TEXT, "reach the blue cylinder")


def test_the_configuration_that_comes_along_is_valid() -> None:
    assert load_config(CONFIG) == (ImproveConfig(), StopConfig())
    critic = ImproveConfig(method="critic", updates=100, batch=256, learning_rate=5e-4)
    assert load_config("config/training/critic.yaml") == (critic, StopConfig()), "what benchmarks/headline.py practises with"
    assert load_config("config/training/demo.yaml") == (replace(critic, strength=10.0), StopConfig())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("gama: 0.9", "unknown key 'gama'"),
        ("gamma: high", "gamma is 'high', expected float"),
        ("updates: 1.5", "updates is 1.5, expected int"),
        ("baseline: 3", "baseline is 3, expected str"),
        ("method: magic", "method is 'magic', expected one of reinforce, critic"),
        ("batch: true", "batch is True, expected int"),
        ("learning_rate: [1]", "learning_rate is \\[1\\]"),
        ("gamma: [", "not valid YAML"),
        ("- gamma", "expected a mapping"),
        ("stopping: 3", "stopping is 3, expected a mapping"),
        ("stopping: {windows: 3}", "stopping: unknown key 'windows'"),
        ("stopping: {window: 2.5}", "stopping: window is 2.5, expected int"),
        ("stopping: {window: 0}", "stopping: window is 0, expected at least 1"),
        ("stopping: {level: 2}", "stopping: level is 2, expected above 0 and under 1"),
        ("stopping: {canary: 0.8}", "stopping: canary is 0.8, expected above 0 and at most 0.5, or 1"),
        ("stopping: {canary: 30%}", "stopping: canary is '30%', expected float"),
    ],
)
def test_a_wrong_configuration_names_file_and_key(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "training.yaml"
    file.write_text(text + "\n")
    with pytest.raises(VlaRosError, match=rf"training\.yaml.*{part}"):
        load_config(str(file))
    with pytest.raises(VlaRosError, match="'none.yaml' not found"):
        load_config("none.yaml")


@pytest.fixture
def learner(tiny: Tiny, tmp_path: Path) -> Learner:
    return Learner(tiny.policy, tmp_path / "store", "panda", load_config(CONFIG)[0], corrections=BY_HEART)


def episodes(learner: Learner, folder: Path, version: int = 1) -> list[str]:
    policy = VlaPolicy(learner.model, learner.prompt)
    return [str(practice.record(folder / f"e{version}{k}.mcap", policy, version, text, seed=k)) for k, text in enumerate(TEXTS)]


def test_two_recorded_episodes_make_the_next_version(learner: Learner, tiny: Tiny, tmp_path: Path) -> None:
    assert learner.version.number == 1
    answer = learner.update(episodes(learner, tmp_path))
    assert (answer["version"], answer["used"], answer["samples"]) == (2, 2, 12)
    assert answer["first_ratio"] == pytest.approx(1.0, abs=1e-4), "what was recorded is what was drawn"
    assert answer["mean_return"] > 2, "the judge counts two steps down with every step"
    store = WeightStore(tmp_path / "store")
    first, second = store.load(1), store.load(2)
    assert all(torch.isfinite(t).all() for t in second.values())
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert {n for n in first if "lora_B" in n} <= moved
    record = store.record(2)
    assert (record.parent, record.stage, record.metrics["episodes"]) == (1, "self_improvement", 2)
    assert record.metrics["parent_success"] == 0.0
    again = Learner(tiny.policy, tmp_path / "store", "panda", load_config(CONFIG)[0])
    assert again.version.number == 2
    for name, tensor in second.items():
        assert torch.equal(dict(again.model.named_parameters())[name], tensor)


def test_episodes_of_another_version_are_not_learned_from(learner: Learner, tmp_path: Path) -> None:
    with pytest.raises(VlaRosError, match="none of 2 episodes was practised with version 1"):
        learner.update(episodes(learner, tmp_path, version=7))
    mixed = [str(tmp_path / "e70.mcap"), *episodes(learner, tmp_path)]
    assert learner.update(mixed)["used"] == 2


def corrected(learner: Learner, path: Path, by_hand: range, version: int = 1, **metadata: str) -> str:
    """An episode in which a person went to the right and left for these steps."""
    policy = VlaPolicy(learner.model, learner.prompt)
    return str(practice.record(path, policy, version, checkpoints.TEXT, by_hand=by_hand, action=(0.5, -0.5), **metadata))


def agreement(learner: Learner, path: str) -> float:
    """Mean probability of what the person did, within a bin of it, in the states where it was done."""
    data = load_episode(path)
    steps = data.corrected.nonzero()[0]
    images, states = data.images[steps], data.states[steps]
    inputs = Inputs.of(images, np.zeros(len(steps), np.int32), (data.instruction,), states, learner.prompt)
    with torch.no_grad():
        p = learner.model(*inputs[torch.arange(len(steps))])["action"][:, 0].softmax(-1)  # [n, 2, bins]
    bins = np.rint((data.executed[steps, 0] + 1) * 10).astype(int)
    return float(np.mean([p[i, d, bins[i, d] - 1 : bins[i, d] + 2].sum() for i in range(len(steps)) for d in range(2)]))


@pytest.mark.parametrize("by_hand", [range(6), range(1, 6), range(2, 5)])
@pytest.mark.parametrize("name", ["self_improvement", "critic"])
def test_either_method_takes_what_people_leave_it(tiny: Tiny, tmp_path: Path, name: str, by_hand: range) -> None:
    """Nothing, a step, or the two ends of an episode."""
    learner = Learner(tiny.policy, tmp_path / "store", "panda", load_config(f"config/training/{name}.yaml")[0], None, BY_HEART)
    path = corrected(learner, tmp_path / "b.mcap", by_hand)
    before = agreement(learner, path)
    answer = learner.update([path], corrected=[path])
    assert answer.get("samples", 0) == 6 - len(by_hand)
    assert agreement(learner, path) > 2 * before, "though an untrained network hardly tells noise from noise, which it is to keep"
    assert all(torch.isfinite(t).all() for t in learner.store.load(2).values())


def test_people_teach_and_are_no_evidence(learner: Learner, tmp_path: Path) -> None:
    """Of two practised episodes a person acted in half of one; the version says what it was trained with."""
    policy = VlaPolicy(learner.model, learner.prompt)
    alone = str(practice.record(tmp_path / "a.mcap", policy, 1, TEXTS[1], outcome="failure"))
    helped = corrected(learner, tmp_path / "b.mcap", range(2, 5), outcome="success")
    before = agreement(learner, helped)
    answer = learner.update([alone, helped], corrected=[helped])
    assert (answer["version"], answer["used"], answer["samples"], answer["corrected_steps"]) == (2, 2, 12 - 3, 3)
    assert answer["first_ratio"] == pytest.approx(1.0, abs=1e-4), "what remains is the policy's own"
    metrics = WeightStore(tmp_path / "store").record(2).metrics
    assert (metrics["episodes"], metrics["corrected_episodes"], metrics["corrected_steps"]) == (2, 1, 3)
    assert metrics["parent_success"] == 0.0, "the success was not the policy's alone"
    assert before < 0.25
    assert agreement(learner, helped) > 0.6


def test_a_persons_work_outlives_the_episode_the_batch_and_the_process(learner: Learner, tiny: Tiny, tmp_path: Path) -> None:
    """Of an aborted episode, which is in no batch; learned again after each update, and by a learner that starts anew."""
    broken = corrected(learner, tmp_path / "b.mcap", range(1, 6), outcome="aborted")
    learner.update(episodes(learner, tmp_path), corrected=[broken])
    assert agreement(learner, broken) > 0.6
    paths = episodes(learner, tmp_path / "more", version=2)
    assert learner.update(paths)["corrected_steps"] == 5, "it is not given again"
    assert agreement(learner, broken) > 0.6
    config = load_config(CONFIG)[0]
    again = Learner(tiny.policy, tmp_path / "store", "panda", config, 2, BY_HEART)
    assert again.update(paths, corrected=[broken])["corrected_steps"] == 5
    ignorant = Learner(tiny.policy, tmp_path / "store", "panda", config, 1, CorrectionConfig(passes=0, again=0))
    answer = ignorant.update(episodes(ignorant, tmp_path / "last"), corrected=[broken])
    assert answer["corrected_steps"] == 0
    assert agreement(ignorant, broken) < 0.25


def test_a_batch_that_people_acted_in_alone(learner: Learner, tmp_path: Path) -> None:
    path = corrected(learner, tmp_path / "b.mcap", range(7))
    answer = learner.update([path], corrected=[path])
    assert (answer["version"], answer["used"], answer["corrected_steps"]) == (2, 0, 6)
    assert "loss" not in answer
    metrics = WeightStore(tmp_path / "store").record(2).metrics
    assert "parent_success" not in metrics
    assert all(np.isfinite(v) for v in metrics.values())


def test_it_goes_back_to_a_named_version(learner: Learner, tiny: Tiny, tmp_path: Path) -> None:
    store, config = WeightStore(tmp_path / "store"), load_config(CONFIG)[0]
    paths = episodes(learner, tmp_path)
    learner.update(paths)
    worse = store.load(2)
    assert learner.update(paths, version=1)["version"] == 3
    assert [store.record(n).parent for n in (2, 3)] == [1, 1], "the lineage shows where practice went on from"
    assert store.record(3).metrics["first_ratio"] == pytest.approx(1.0, abs=1e-4), "with the weights of version 1"
    assert [e.number for e in store.lineage(3)] == [3, 1]
    again = store.load(3)
    assert all(torch.equal(worse[name], again[name]) for name in worse), "and with an optimiser that remembers nothing"
    with pytest.raises(VlaRosError, match=r"no version 9; it has \[1, 2, 3\]"):
        learner.update(paths, version=9)
    store.activate(2)
    assert Learner(tiny.policy, store.folder, "panda", config).version.number == 2, "what ran last goes on"
    assert Learner(tiny.policy, store.folder, "panda", config, version=1).version.number == 1


def test_a_version_with_an_unknown_parent_is_not_practised(learner: Learner, tiny: Tiny, tmp_path: Path) -> None:
    learner.update(episodes(learner, tmp_path))
    shutil.rmtree(tmp_path / "store" / "000001")
    with pytest.raises(VlaRosError, match=r"version 2 has the unknown parent 1; the store has \[2\]"):
        Learner(tiny.policy, tmp_path / "store", "panda", load_config(CONFIG)[0])


def test_the_child_answers_reports_and_dies_loudly(learner: Learner, tiny: Tiny, tmp_path: Path) -> None:
    child = LearnerProcess(tiny.policy, tmp_path / "store", "panda", CONFIG)
    try:
        assert child.answer(timeout=60.0) == {"version": 1}
        assert child.answer(timeout=0.05) is None
        child.submit(episodes(learner, tmp_path), corrected=[corrected(learner, tmp_path / "b.mcap", range(2))])
        answer = child.answer(timeout=30.0)
        assert answer is not None
        assert (answer["version"], answer["corrected_steps"]) == (2, 2)
        assert answer["first_ratio"] == pytest.approx(1.0, abs=1e-4)
        child.submit([str(tmp_path / "none.mcap")])
        with pytest.raises(VlaRosError, match=r"learner: .*none\.mcap: cannot be read"):
            child.answer(timeout=30.0)
        child.submit([str(tmp_path / "e10.mcap")])
        with pytest.raises(VlaRosError, match="none of 1 episodes was practised with version 2"):
            child.answer(timeout=30.0)
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(VlaRosError, match=r"learner process has ended \(exit status -9\)"):
            child.answer(timeout=10.0)
        with pytest.raises(VlaRosError, match="learner process has ended"):
            child.submit([])
    finally:
        child.close()
    assert WeightStore(tmp_path / "store").numbers() == [1, 2]


def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    child = LearnerProcess(tmp_path / "nothing", tmp_path / "store", "panda", CONFIG)
    try:
        with pytest.raises(VlaRosError, match=r"learner: checkpoint .*nothing: config\.json is missing"):
            child.answer(timeout=60.0)
    finally:
        child.close()
    assert child._process.returncode == 2
