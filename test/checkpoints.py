"""Checkpoints of a VlaModel small enough to build in a moment: real files of the real classes, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, ResNetConfig

from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.model import VlaConfig, VlaModel
from vla_ros.policy.prompt import WordPrompt
from vla_ros.policy.store import WeightStore
from vla_ros.progress.calibration import Calibration, Evidence
from vla_ros.sim.tasks import Tasks

torch.set_num_threads(1)  # two threads on two busy cores are 3-100 times slower

TEXT = "push the red cube to the left"
EVIDENCE = Evidence(((0.5, 0.5, 100),), 1.0, 0.8, ((0.0, 0.0, 0.0, 0.0),), 10, 0.0, 1.0, 0.0)
STRICT, EASY = 0.5, 59.0  # steps; a random judge says about 30, so that it never and always sees success


@dataclass(frozen=True)
class Tiny:
    """Folders of checkpoints for robot panda."""

    policy: Path
    judge: Path  # never detects success
    optimist: Path  # always does, after its debounce of 3 frames


def prompt() -> WordPrompt:
    return WordPrompt.of(Tasks.load().vocabulary)


def model(seed: int = 0, **config: object) -> VlaModel:
    """An untrained model for panda's contract: 64 x 64 px, one row of two axes in 21 bins."""
    torch.manual_seed(seed)
    vision = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic").to_dict()
    language = LlamaConfig(
        vocab_size=len(prompt().tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    ).to_dict()  # fmt: skip
    settings = {"vision": vision, "language": language, "slots": 3, "robot": "panda", **config}
    return VlaModel(VlaConfig(**settings)).eval()  # type: ignore[arg-type]


def save(folder: Path, seed: int = 0, threshold: float | None = None, **config: object) -> Path:
    """Write a checkpoint; with a threshold [steps] it is a judge's."""
    checkpoint.save(folder, model(seed, **config), prompt(), {"stage": "test"})
    if threshold is not None:
        Calibration(threshold, 3, 0.0, 1.0, 100, 1.0, evidence=EVIDENCE).save(folder)
    return folder


def tune(store: WeightStore, seed: int, parent: int) -> int:
    """A new version of the default model: its LoRA and head, moved at random."""
    generator = torch.Generator().manual_seed(seed)
    weights = {n: t + 0.3 * torch.randn(t.shape, generator=generator) for n, t in adapter.state(adapter.add(model())).items()}
    return store.write(weights, parent, "self_improvement", {"seed": seed}).number


@pytest.fixture(scope="session", name="tiny")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Built once a session, whichever modules import this fixture. Tests that damage a checkpoint copy it."""
    base = tmp_path_factory.getbasetemp() / "tiny-checkpoints"
    folders = Tiny(base / "policy", base / "judge", base / "optimist")
    if not base.exists():
        save(folders.policy)
        save(folders.judge, seed=1, threshold=STRICT)
        save(folders.optimist, seed=1, threshold=EASY)
    return folders
