"""Checkpoint folders: what is saved is what is loaded, and a wrong or damaged one is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from safetensors.torch import load_file, save_file

from vla_ros.errors import VlaRosError
from vla_ros.policy.policy import VlaPolicy, load

WEIGHTS = "model.safetensors"


def test_round_trip_gives_equal_outputs(tiny: Tiny) -> None:
    made = VlaPolicy(checkpoints.model(), checkpoints.prompt())
    model, tokenizer = load(tiny.policy, "panda")
    assert not model.training
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in made.model.named_parameters()}
    loaded = VlaPolicy(model, tokenizer)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for text in (checkpoints.TEXT, "reach the blue cylinder"):
        a, b = (p.infer(image, text, np.array([0.2, -0.4], np.float32), greedy=True) for p in (made, loaded))
        assert a.tokens.tolist() == b.tokens.tolist()
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-6)
        assert a.entropy == pytest.approx(b.entropy, abs=1e-6)
    assert json.loads((tiny.policy / "training.json").read_text()) == {"stage": "test"}


def edit_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda f: (f / WEIGHTS).unlink(), ("model.safetensors is missing", "vla-ros train")),
        (lambda f: (f / "tokenizer.json").unlink(), ("tokenizer.json is missing",)),
        (lambda f: (f / "config.json").unlink(), ("config.json is missing",)),
        (cut, ("cannot be read",)),
        (lambda f: (f / WEIGHTS).write_bytes(b"not weights"), ("cannot be read",)),
        (lambda f: (f / "config.json").write_text("{"), ("cannot be read",)),
        (lambda f: (f / "tokenizer.json").write_text("{}"), ("cannot be read",)),
        (lambda f: edit_config(f, model_type="llama"), ("config.json", "'llama'", "expected 'vla_ros'")),
        (lambda f: edit_config(f, robot="aloha"), ("config.json", "robot 'aloha'", "running 'panda'")),
        (lambda f: edit_config(f, bins=11), ("cannot be read",)),
        (lambda f: edit_weights(f, lambda w: w.pop("readout")), ("model.safetensors", "readout", "missing")),
        (
            lambda f: edit_weights(f, lambda w: w["state_in.bias"].fill_(torch.inf)),
            ("model.safetensors", "state_in.bias holds non-finite"),
        ),
    ],
)
def test_a_wrong_checkpoint_is_refused(
    tiny: Tiny, tmp_path: Path, damage: Callable[[Path], object], parts: tuple[str, ...]
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny.policy, folder)
    damage(folder)
    with pytest.raises(VlaRosError) as caught:
        load(folder, "panda")
    for part in (str(folder), *parts):
        assert part in str(caught.value)
