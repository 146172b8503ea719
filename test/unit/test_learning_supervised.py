"""Training of stage 1: what is learned and kept, resumption to the same weights, parts and processes that add up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from practice import CONTRACT, record
from safetensors.torch import load_file
from test_learning_sft import data
from test_policy_vlm import PUSH, ROBOT, config, tokenizer

from vla_ros.cli.__main__ import main
from vla_ros.cli.train.place import Place
from vla_ros.cli.train.sft import read
from vla_ros.episodes.data import load_episode
from vla_ros.episodes.labels import label
from vla_ros.errors import VlaRosError
from vla_ros.learning import sft, stage1
from vla_ros.learning.data import Demonstrations, together
from vla_ros.learning.supervised import STATE, SupervisedConfig, Trainer, augment
from vla_ros.policy import adapter
from vla_ros.policy.policy import VlaPolicy, load
from vla_ros.policy.vlm import VlmConfig, VlmModel, VlmPrompt
from vla_ros.progress.calibration import Calibration

CONFIG = SupervisedConfig(
    steps=40, batch=16, learning_rate=3e-3, warmup=5, ema=0.9, held_out=0.25, evaluate_every=10, patience=0, shift=0.0,
)  # fmt: skip
Figures = dict[str, float]


def trainer(folder: Path, c: SupervisedConfig = CONFIG) -> Trainer:
    torch.manual_seed(0)
    model = checkpoints.model()
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith("ground_head."))
    return Trainer(model, checkpoints.prompt(), data(), c, folder)


def quiet(step: int, figures: Figures) -> None:
    assert all(np.isfinite(v) for v in figures.values())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def test_it_learns_and_keeps_the_averaged_weights(tmp_path: Path) -> None:
    made = trainer(tmp_path, replace(CONFIG, steps=160))
    before = made.evaluate()
    figures = made.run(quiet)
    assert figures["loss"] < 0.6 * before["loss"]
    assert figures["action_within_one_bin"] > before["action_within_one_bin"] + 0.2
    model, _ = load(tmp_path, "panda")
    found = sft.evaluate(model, sft_inputs(made.held_out), made.held_out)
    assert found == pytest.approx({name: figures[name] for name in found}, abs=1e-5)
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), made.plain.parameters(), strict=True)), "not the last"
    assert json.loads((tmp_path / "training.json").read_text())["stage"] == "sft"


def sft_inputs(d: Demonstrations) -> sft.Inputs:
    return sft.Inputs.of(d.images, d.instruction, d.instructions, d.states, checkpoints.prompt())


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [13, 20, 39])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, at: int) -> None:
    def kill(step: int, figures: Figures) -> None:
        if step == at:
            raise Killed

    whole = trainer(tmp_path / "whole").run(quiet)
    with pytest.raises(Killed):
        trainer(tmp_path / "cut").run(kill)
    again = trainer(tmp_path / "cut")
    assert again.resume()
    assert again.step == at // 10 * 10
    assert again.run(quiet) == whole
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "cut")[name]), name


def test_a_state_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert not trainer(tmp_path).resume()
    trainer(tmp_path).run(quiet)
    with pytest.raises(VlaRosError, match="is of another run"):
        trainer(tmp_path, replace(CONFIG, learning_rate=1e-3)).resume()
    (tmp_path / STATE).write_bytes(b"nothing")
    with pytest.raises(VlaRosError, match="cannot be read: .*; remove it to begin anew"):
        trainer(tmp_path).resume()


def vlm() -> tuple[VlmModel, VlmPrompt, Demonstrations]:
    """A tiny SmolVLM (no batch normalisation, whose statistics would depend on the parts) and data in its words."""
    torch.manual_seed(0)
    shapes = {**ROBOT, "cameras": 1, "state_dim": 2, "bins": 21, "chunk": 1}
    model = VlmModel(VlmConfig(base=config("smolvlm").to_dict(), **shapes))
    prompt = VlmPrompt(tokenizer(), model.config.base_config(), 1)
    return model, prompt, replace(data(), instructions=(PUSH, "reach the cube"))


def test_parts_of_a_batch_add_up(tmp_path: Path) -> None:
    for name, accumulate in (("one", 1), ("parts", 3)):
        c = replace(CONFIG, steps=10, accumulate=accumulate, light=0.0)
        Trainer(*vlm(), c, tmp_path / name).run(quiet)
    start = vlm()[0].state_dict()
    moved = 0.0
    for name, tensor in weights(tmp_path / "one").items():
        moved = max(moved, float((tensor - start[name]).abs().max()))
        torch.testing.assert_close(tensor, weights(tmp_path / "parts")[name], atol=1e-4, rtol=1e-3, msg=name)
    assert moved > 1e-2


def test_what_has_no_part_in_the_loss_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = Trainer(checkpoints.model(), checkpoints.prompt(), data(), CONFIG, tmp_path)  # with pre-training's head
    with pytest.raises(VlaRosError, match=r"ground_head\.0\.weight: found no gradient, expected one or requires_grad False"):
        made.run(quiet)


def test_it_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    steps: list[int] = []
    made = trainer(tmp_path, replace(CONFIG, steps=400, learning_rate=1e-9, patience=2, ema=0.0))
    made._best = 0.0
    made.run(lambda step, figures: steps.append(step))
    assert steps[-1] == 20


def test_augmentation_moves_and_lights_each_picture_its_own_way() -> None:
    images = torch.randint(0, 256, (4, 2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    plain = SupervisedConfig(shift=0.0, light=0.0)
    assert torch.equal(augment(images, plain, torch.Generator().manual_seed(1)), images)
    changed = [augment(images, SupervisedConfig(), torch.Generator().manual_seed(k)) for k in (1, 1, 2)]
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], changed[2])
    moved = augment(images, replace(plain, shift=0.1), torch.Generator().manual_seed(3))
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
    for picture, source in zip(moved.flatten(0, 1), images.flatten(0, 1), strict=True):
        at = [(y, x) for y in range(-3, 4) for x in range(-3, 4)
              if torch.equal(picture[4:-4, 4:-4], source[4 + y : 28 + y, 4 + x : 28 + x])]  # fmt: skip
        assert len(at) == 1


def test_lora_on_a_pretrained_base_is_merged_into_its_checkpoint(tmp_path: Path) -> None:
    model, prompt, d = vlm()
    adapter.add(model, rank=2)
    made = Trainer(model, prompt, d, replace(CONFIG, steps=10, light=0.0), tmp_path)
    figures = made.run(quiet)
    loaded, again = load(tmp_path, "panda")
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]
    x = sft.Inputs.of(made.held_out.images, made.held_out.instruction, made.held_out.instructions, made.held_out.states, again)
    found = sft.evaluate(loaded, x, made.held_out)
    assert found == pytest.approx({name: figures[name] for name in found}, abs=1e-3)


def test_sets_keep_their_episodes_and_words_apart() -> None:
    a, b = data(), replace(data(), instructions=("reach the blue cylinder", "push the green ball away"))
    both = together([a, b])
    assert len(both.images) == 2 * len(a.images)
    assert len(set(both.episode.tolist())) == 2 * len(set(a.episode.tolist()))
    texts = [both.instructions[k] for k in both.instruction]
    assert texts == [d.instructions[k] for d in (a, b) for k in d.instruction]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage1.save_demonstrations(tmp_path / "demos.npz", data())
    words = ["train", "sft", "--data", str(tmp_path / "demos.npz"), "--policy", "small", "--out", str(tmp_path / "out")]
    options = ["--steps", "6", "--batch", "16", "--evaluate-every", "3", "--held-out", "0.25"]
    assert main([*words, *options]) == 0
    told = capsys.readouterr()
    assert "8 episodes, 48 frames" in told.err
    assert "GiB for weights, gradients and optimiser" in " ".join(told.err.split())
    assert "loss" in told.out
    assert [json.loads(line)["step"] for line in (tmp_path / "out/log.jsonl").read_text().splitlines()] == [3, 6]
    assert load(tmp_path / "out", "panda")[0].config.bins == 21
    for wrong, part in (
        (["--data", str(tmp_path), *words[4:]], "found no .*mcap"),
        ([*words[2:5], str(tmp_path), *words[6:]], "--policy .*.*expected small, a folder or a hub name"),
        ([*words[2:], "--ema", "1.5"], "ema: found 1.5, expected 0 <= ema < 1"),
    ):
        assert main(["train", "sft", *wrong]) == 2
        assert re.search(part, capsys.readouterr().err)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    stage1.save_demonstrations(tmp_path / "demos.npz", data())
    words = ["train", "sft", "--data", str(tmp_path / "demos.npz"), "--policy", "small", "--steps", "6", "--batch", "16"]
    words += ["--evaluate-every", "6", "--held-out", "0.25"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*launcher, "--module", "vla_ros.cli", *words, "--out", str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], abs=0.02)  # augmented in another order, otherwise the same


def test_recorded_episodes_become_demonstrations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the arm did is cloned; failures are left out; what cannot be read is refused, or listed and left out."""
    policy = VlaPolicy(checkpoints.model(), checkpoints.prompt())
    texts = ("push the red cube to the left", "reach the blue cylinder", "reach the blue cylinder")
    for k, text in enumerate(texts):
        record(tmp_path / f"e{k}.mcap", policy, 1, text, steps=4 + k, seed=k)
    with pytest.raises(VlaRosError, match="found no episode that ended in success"):
        read([tmp_path], Place.robot(CONTRACT), skip_bad=False)
    for k in (0, 2):
        label(tmp_path, f"e{k}", "success")
    d = read([tmp_path], Place.robot(CONTRACT), skip_bad=False)
    assert len(d.images) == 5 + 7
    assert d.instructions == (texts[0], texts[2])
    assert d.steps_to_go.tolist() == [4, 3, 2, 1, 0, 6, 5, 4, 3, 2, 1, 0]
    recorded = load_episode(tmp_path / "e0.mcap")
    np.testing.assert_array_equal(d.states[:5], recorded.states)
    np.testing.assert_allclose(d.actions[:4], recorded.actions, atol=1e-6)  # nothing has changed the commands

    (tmp_path / "e1.mcap").write_bytes((tmp_path / "e0.mcap").read_bytes()[:3000])
    with pytest.raises(VlaRosError, match=r"e1\.mcap: found torn or corrupt .*; --skip-bad leaves such episodes out"):
        read([tmp_path], Place.robot(CONTRACT), skip_bad=False)
    assert len(read([tmp_path], Place.robot(CONTRACT), skip_bad=True).images) == len(d.images)
    assert "skipped 1 episodes" in capsys.readouterr().err
    stage1.save_demonstrations(tmp_path / "nan.npz", replace(data(), states=np.full((48, 2), np.nan, np.float32)))
    with pytest.raises(VlaRosError, match=r"nan\.npz: states: episode 0, frame 0: found \[nan, nan\]"):
        read([tmp_path / "nan.npz"], Place.robot(CONTRACT), skip_bad=False)
    stage1.save_demonstrations(tmp_path / "small.npz", replace(data(), images=np.zeros((48, 32, 32, 3), np.uint8)))
    with pytest.raises(VlaRosError, match=r"small\.npz: images: found \(32, 32, 3\) a frame, expected \(64, 64, 3\)"):
        read([tmp_path / "small.npz"], Place.robot(CONTRACT), skip_bad=False)


def test_a_judge_alone_comes_with_its_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures whose brightness counts down the remaining steps: learned without a single action, and believed on evidence."""
    episodes, length = 10, 12
    true = np.tile(np.arange(length - 1, -1, -1), episodes).astype(np.int32)
    pictures = (20 * true[:, None, None, None] * np.ones((1, 64, 64, 3))).astype(np.uint8)
    d = Demonstrations(
        pictures, np.zeros((len(true), 2), np.float32), np.zeros((len(true), 1, 2), np.float32), true,
        np.zeros(len(true), np.int32), (checkpoints.TEXT,), np.repeat(np.arange(episodes), length).astype(np.int32),
    )  # fmt: skip
    stage1.save_demonstrations(tmp_path / "demos.npz", d)
    words = ["train", "sft", "--judge", "--data", str(tmp_path / "demos.npz"), "--policy", "small"]
    options = ["--steps", "120", "--batch", "32", "--evaluate-every", "40", "--held-out", "0.2", "--learning-rate", "2e-3"]
    assert main([*words, *options, "--ema", "0.9", "--out", str(tmp_path / "judge")]) == 0
    assert "judge: success at d <= " in capsys.readouterr().out
    c = Calibration.load(tmp_path / "judge")
    assert c.evidence is not None
    assert (c.recall, c.false_positive_rate) == (1.0, 0.0)
    assert c.rank_correlation > 0.95
    assert (tmp_path / "judge" / "calibration.png").stat().st_size > 10_000
    log = [json.loads(line) for line in (tmp_path / "judge/log.jsonl").read_text().splitlines()]
    assert {row["action"] for row in log} == {0.0}, "no action was asked for"
