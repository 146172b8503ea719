"""Stage 1: labels, cloning, what stays frozen, and the split of demonstrations."""

from __future__ import annotations

import time
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch

from vla_ros.errors import VlaRosError
from vla_ros.learning import sft, stage1
from vla_ros.learning.data import Demonstrations, Inputs, batches
from vla_ros.policy.heads import soft_labels

EPISODES, LENGTH = 8, 6


def data() -> Demonstrations:
    """Pictures whose brightness counts down; the action is the remaining steps, times three, and its mirror."""
    togo = np.tile(np.arange(LENGTH - 1, -1, -1), EPISODES).astype(np.int32)
    rng = np.random.default_rng(0)
    images = (40 * togo[:, None, None, None] + rng.integers(0, 30, (len(togo), 64, 64, 3))).astype(np.uint8)
    actions = (np.stack([3 * togo, 20 - 3 * togo], 1)[:, None] / 10 - 1).astype(np.float32)
    texts = ("push the red cube to the left", "reach the blue cylinder")
    episode = np.repeat(np.arange(EPISODES), LENGTH).astype(np.int32)
    states = (togo[:, None] / 5 * np.array([1, -1])).astype(np.float32)
    return Demonstrations(images, states, actions, togo, (episode % 2).astype(np.int32), texts, episode)


def inputs(d: Demonstrations) -> Inputs:
    return Inputs.of(d.images, d.instruction, d.instructions, d.states, checkpoints.prompt())


def quiet(share: float, figures: dict[str, float]) -> None:
    assert 0 <= share <= 1
    assert all(np.isfinite(v) for v in figures.values())


def test_soft_labels() -> None:
    target = torch.tensor([[0, 4], [9, 20]])
    labels = soft_labels(target, 21, 1.0)
    assert labels.shape == (2, 2, 21)
    torch.testing.assert_close(labels.sum(-1), torch.ones(2, 2))
    assert torch.equal(labels.argmax(-1), target)
    inner = labels[0, 1]
    assert float(inner[3] / inner[4]) == pytest.approx(np.exp(-0.5), abs=1e-5)
    assert float(inner[2] / inner[4]) == pytest.approx(np.exp(-2.0), abs=1e-5)
    assert torch.equal(soft_labels(target, 21, 0.0), torch.nn.functional.one_hot(target, 21).float())


@pytest.mark.parametrize("frozen", [0.0, 0.5])
def test_cloning_learns_both_heads(frozen: float) -> None:
    d = data()
    model, x = checkpoints.model(), inputs(d)
    before = sft.evaluate(model, x, d)
    c = sft.SftConfig(steps=160, batch=16, learning_rate=3e-3, frozen=frozen, bf16=False)
    sft.clone(model, x, d, c, quiet)
    after = sft.evaluate(model, x, d)
    assert before["action_within_one_bin"] < 0.5
    assert after["action_within_one_bin"] > before["action_within_one_bin"] + 0.25
    assert after["steps_to_go_error"] < 1.0 < before["steps_to_go_error"]
    assert after["steps_to_go_rank_correlation"] > 0.9
    assert not model.training


def test_a_frozen_trunk_stays_as_it_is() -> None:
    d = data()
    model, x = checkpoints.model(), inputs(d)
    before = {name: t.detach().clone() for name, t in model.state_dict().items()}
    sft.clone(model, x, d, sft.SftConfig(steps=5, batch=16, frozen=1.0, bf16=False), quiet)
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    trunk = ("vision_tower", "connector", "slot_embedding", "word_position", "state_in", "language_model.embed_tokens")
    assert not [name for name in changed if name.startswith(trunk)]
    for part in ("action_head", "steps_to_go_head", "language_model.layers", "readout"):
        assert any(name.startswith(part) for name in changed), part


def test_a_judge_does_not_learn_to_act() -> None:
    d = data()
    model = checkpoints.model()
    before = model.action_head[2].weight.detach().clone()
    sft.clone(model, inputs(d), d, sft.SftConfig(steps=5, batch=16, behaviour_weight=0.0, bf16=False), quiet)
    assert torch.equal(model.action_head[2].weight, before)


def test_training_ends_after_its_seconds_of_work() -> None:
    """What the machine does meanwhile does not count."""
    d = data()
    shares, pause = list[float](), 0.6

    def report(share: float, figures: dict[str, float]) -> None:
        if not shares:
            time.sleep(pause)
        shares.append(share)

    sft.clone(checkpoints.model(), inputs(d), d, sft.SftConfig(steps=10**6, seconds=pause, batch=8, bf16=False), report)
    assert len(shares) > 2, "went on after a pause of all its seconds"
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_the_split_is_by_episode() -> None:
    d = data()
    training, held_out = d.split(0.25, seed=3)
    assert set(training.episode) | set(held_out.episode) == set(range(EPISODES))
    assert not set(training.episode) & set(held_out.episode)
    assert len(set(held_out.episode)) == 2
    assert len(training.images) == len(training.actions) == (EPISODES - 2) * LENGTH
    assert set(d.split(0.25, seed=3)[1].episode) == set(held_out.episode)
    assert len({tuple(np.unique(d.split(0.25, seed=s)[1].episode)) for s in range(8)}) > 2


def test_batches_cover_everything_once_an_epoch() -> None:
    stream = batches(10, 4, torch.Generator().manual_seed(0))
    first, second = ([next(stream) for _ in range(2)] for _ in range(2))
    for epoch in (first, second):
        index = torch.cat(epoch).tolist()
        assert len(index) == len(set(index)) == 8
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    assert len(next(batches(3, 64, torch.Generator()))) == 3


def test_demonstrations_on_disk(tmp_path: Path) -> None:
    d = data()
    stage1.save_demonstrations(tmp_path / "d.npz", d)
    found = stage1.load_demonstrations(tmp_path / "d.npz")
    assert found.instructions == d.instructions
    for name in ("images", "states", "actions", "steps_to_go", "instruction", "episode"):
        assert np.array_equal(getattr(found, name), getattr(d, name))
        assert getattr(found, name).dtype == getattr(d, name).dtype
    np.savez(tmp_path / "other.npz", images=d.images)
    (tmp_path / "torn.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:200])
    for name in ("other", "torn", "none"):
        with pytest.raises(VlaRosError, match=rf"{name}\.npz: not a demonstrations file"):
            stage1.load_demonstrations(tmp_path / f"{name}.npz")


def test_training_from_a_checkpoint_to_a_checkpoint(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "start")
    c = stage1.Stage1Config(policy_seconds=0.3, held_out=0.25)
    figures = stage1.train_policy(tmp_path / "start", tmp_path / "policy", data(), c, quiet)
    assert set(figures) >= {"action_within_one_bin", "steps_to_go_error"}
    from vla_ros.policy.policy import load

    old, new = (load(tmp_path / name, "panda")[0].state_dict() for name in ("start", "policy"))
    assert old.keys() == new.keys()
    assert not torch.equal(old["action_head.0.weight"], new["action_head.0.weight"])


@pytest.mark.parametrize("cameras", [1, 2])
def test_grounding_learns_where_to_look(cameras: int) -> None:
    """A square in each camera's picture, of another colour; slot c learns to look at that of camera c, in maps side by side."""
    rng = np.random.default_rng(0)
    at = rng.uniform(-0.8, 0.8, (96, cameras, 2)).astype(np.float32)  # x, y in a camera's picture
    images = np.zeros((len(at), cameras, 64, 64, 3), np.uint8)
    for picture, places in zip(images, at, strict=True):
        for camera, (x, y) in enumerate(((places + 1) * 32).astype(int)):
            picture[camera, max(y - 5, 0) : y + 5, max(x - 5, 0) : x + 5, camera] = 255
    points = at.copy()
    points[..., 0] = (at[..., 0] + 2 * np.arange(cameras) + 1 - cameras) / cameras
    shape = (len(at), 64, 64, 3) if cameras == 1 else images.shape
    words, states = np.zeros(len(at), np.int32), np.zeros((len(at), 2), np.float32)
    x = Inputs.of(images.reshape(shape), words, ("push the red cube to the left",), states, checkpoints.prompt())
    model = checkpoints.model(cameras=cameras, ground_dim=2)
    config = sft.SftConfig(steps=150, batch=16, learning_rate=5e-3, bf16=False)
    sft.ground(model, x, torch.from_numpy(points), torch.from_numpy(at[:, 0]), config, quiet)
    with torch.no_grad():
        _, _, looked, _ = model.point(*x[torch.arange(len(at))][:3])
    off = (looked[:, :cameras] - torch.from_numpy(points)).abs().mean((0, 1)) * torch.tensor([cameras, 1.0])
    assert (off < 0.15).all(), off
