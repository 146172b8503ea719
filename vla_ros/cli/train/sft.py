"""`vla-ros train sft`."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vla_ros.cli.train.log import LOG, tensorboard
from vla_ros.cli.train.place import Place
from vla_ros.episodes.check import DEMONSTRATION
from vla_ros.episodes.trajectory import Trajectory, load_trajectory
from vla_ros.errors import VlaRosError
from vla_ros.learning import data as demonstrations
from vla_ros.learning.data import Demonstrations
from vla_ros.learning.expert import STAYS, demonstrate
from vla_ros.learning.stage1 import load_demonstrations, save_demonstrations
from vla_ros.learning.supervised import SupervisedConfig, Trainer
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.model import VlaConfig, VlaModel
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt, WordPrompt
from vla_ros.policy.vlm import VlmModel, VlmPrompt, memory
from vla_ros.sim.worker import WorkerEnv

SMALL = "small"
DEMONSTRATED = "demonstrations.npz"  # in the run's folder
SCENES_APART = 100_000  # first scene seeds of demonstrations, seed by seed
STEPS_TO_GO_BINS = 61  # at least; one for each step of an episode
GIB = 1024.0**3
console = Console(stderr=True)
BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def run(args: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # two threads on two busy cores are 3-100 times slower
    place = Place.of(args)
    if not 0 <= args.miss <= 1 or (args.miss and not args.demonstrations):
        raise VlaRosError(f"--miss: found {args.miss}, expected 0..1, with --demonstrations")
    data = demonstrated(args, place) if args.demonstrations else read(args.data or [], place, args.skip_bad)
    given = {f.name: getattr(args, f.name) for f in fields(SupervisedConfig) if getattr(args, f.name, None) is not None}
    config = SupervisedConfig(**given, behaviour_weight=0.0 if args.judge else 1.0)
    torch.manual_seed(config.seed)
    model, prompt = build(args.policy, place, data, args.head, args.token_learner, args.prefix)
    _choose(model, args.lora, args.targets)
    if args.checkpointing:
        model.gradient_checkpointing_enable()
    trainer = Trainer(model, prompt, data, config, args.out)
    if trainer.accelerator.is_main_process:
        _tell(model, data, trainer)
    if trainer.resume():
        console.print(f"going on from step {trainer.step} of {args.out}")
    figures = _follow(trainer, args.out)
    if trainer.accelerator.is_main_process:
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{args.out}: {told}")
        try:
            c = trainer.calibrate(**place.calibration)
        except VlaRosError as error:
            console.print(f"no calibration, so it can act but not judge: {error}")
        else:
            print(f"{args.out}: judge: success at d <= {c.threshold:.2f} steps, recall {c.recall:.0%} of held-out ends")
            if not c.recall:
                console.print("as a judge it would never see success: train longer, or on more episodes")
    return 0


def demonstrated(args: argparse.Namespace, place: Place) -> Demonstrations:
    """`--demonstrations` of each task by a benchmark's scripted expert, in DEMONSTRATED of the run's folder; collected once.

    Raises:
        VlaRosError: of a robot, or beside --data; no expert; others lie there.
    """
    if args.data or not place.benchmark:
        found = "--data, too" if args.data else "no --env"
        raise VlaRosError(f"--demonstrations: found {found}, expected a benchmark's expert alone to demonstrate")
    path: Path = args.out / DEMONSTRATED
    first, tasks, about = (args.seed or 0) * SCENES_APART, place.chosen(args.tasks), path.with_suffix(".json")
    asked = {"env": place.name, "tasks": list(tasks), "demonstrations": args.demonstrations, "noise": args.noise, "first": first}
    asked["after_success"] = STAYS  # those of before it was shown are others
    if args.miss:  # files of before do not tell that there were none
        asked["miss"] = args.miss
    if path.exists():
        there = json.loads(about.read_text(encoding="utf-8")) if about.exists() else None
        if there != asked:
            raise VlaRosError(f"{path}: found demonstrations of {there}, expected {asked}: another --out, or --data {path}")
    else:
        with contextlib.ExitStack() as stack, Progress(*BAR, console=console) as progress:
            bar = progress.add_task("demonstrations", total=len(tasks) * args.demonstrations)
            sets = []
            for task in tasks:
                env = stack.enter_context(contextlib.closing(WorkerEnv(place.benchmark, task, ends_at_success=False)))
                seeds = range(first, first + args.demonstrations)
                data, failed = demonstrate(env, seeds, args.noise, lambda: progress.advance(bar), args.miss)
                sets.append(data)
                if failed:
                    progress.console.print(f"{task}: the expert failed {failed} of {args.demonstrations} scenes; left out")
        args.out.mkdir(parents=True, exist_ok=True)
        about.write_text(json.dumps(asked), encoding="utf-8")
        save_demonstrations(path, demonstrations.together(sets))
    data = load_demonstrations(path)
    _check(path, data, place)
    return data


def read(paths: list[Path], place: Place, skip_bad: bool) -> Demonstrations:
    """All demonstrations of the paths: .npz files, and folders of recorded episodes of which the successful ones are taken.

    Raises:
        VlaRosError: a path with nothing in it, an episode that cannot be used (listed and left out with `skip_bad`), or
            arrays that are not the place's or not finite.
    """
    if not paths:
        raise VlaRosError("--data: found none, expected folders of *.mcap or files *.npz (--demonstrations with --env)")
    sets, episodes, skipped = [], list[Trajectory](), list[str]()
    for path in paths:
        if path.suffix == ".npz":
            sets.append(load_demonstrations(path))
            _check(path, sets[-1], place)
            continue
        if not place.contract:
            raise VlaRosError(f"--data {path}: recorded episodes are of a robot; of --env {place.name} it takes files *.npz")
        files = sorted(path.rglob("*.mcap"))
        if not files:
            raise VlaRosError(f"--data {path}: found no *.mcap in it; expected a folder of recorded episodes or a .npz")
        for file in files:
            try:
                episode = load_trajectory(file, place.contract)
            except VlaRosError as error:
                if not skip_bad:
                    raise VlaRosError(f"{error}; --skip-bad leaves such episodes out") from error
                skipped.append(str(error))
                continue
            # Who demonstrates does it right unless it is said otherwise; practice has to have succeeded.
            presumed = "success" if episode.metadata.get("kind") == DEMONSTRATION else ""
            if (episode.outcome or presumed) == "success":
                episodes.append(episode)
    for text in skipped:
        console.print(f"skipped: {text}")
    if skipped:
        console.print(f"skipped {len(skipped)} episodes")
    if episodes or not sets:
        sets.append(demonstrations.of_episodes(episodes))
    return demonstrations.together(sets) if len(sets) > 1 else sets[0]  # without a copy


def _check(path: Path, data: Demonstrations, place: Place) -> None:
    shapes = place.shapes
    wanted = {
        "images": place.image_shape, "states": (shapes["state_dim"],), "actions": (shapes["chunk"], shapes["action_dim"])
    }  # fmt: skip
    for name, shape in wanted.items():
        if (found := getattr(data, name).shape[1:]) != shape:
            raise VlaRosError(f"--data {path}: {name}: found {found} a frame, expected {shape} ({place.path})")
    if data.images.dtype != np.uint8:
        raise VlaRosError(f"--data {path}: images: found {data.images.dtype}, expected uint8 (0 to 255)")
    for name in ("states", "actions"):
        values = getattr(data, name)
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            frame = int(bad.argmax())
            inside = frame - int((data.episode == data.episode[frame]).argmax())
            where = f"--data {path}: {name}: episode {data.episode[frame]}, frame {inside}"
            raise VlaRosError(f"{where}: found {values[frame].tolist()}, expected finite numbers")


def build(
    source: str, place: Place, data: Demonstrations, head: str = "bins", token_learner: int = 0, prefix: int = 0
) -> tuple[Model, Prompt]:
    """The model to train and how it reads instructions. A new one's units are those of the data, unless the place's
    are -1..1 already."""
    model, prompt = _build(source, place, data, shapes_of(place, head, token_learner, prefix))
    if not place.scaled and not source_is_ours(source):
        model.units.fit(data.states, data.actions)
    return model, prompt


def shapes_of(place: Place, head: str = "bins", token_learner: int = 0, prefix: int = 0) -> dict[str, Any]:
    """Of a new model's config."""
    return {
        **place.shapes, "bins": place.bins, "robot": place.name, "head": head, "token_learner": token_learner,
        "prefix": prefix, "steps_to_go_bins": max(STEPS_TO_GO_BINS, place.horizon + 1),
    }  # fmt: skip


def small(instructions: Sequence[str], shapes: dict[str, Any]) -> tuple[VlaModel, WordPrompt]:
    """The project's own model, untrained, which knows the words of these instructions."""
    prompt = WordPrompt.reading(instructions)
    language = {**VlaConfig().language, "vocab_size": len(prompt.tokenizer)}
    return VlaModel(VlaConfig(language=language, **shapes)), prompt


def source_is_ours(source: str) -> bool:
    """A checkpoint of this package, to be trained further as it is."""
    about = Path(source) / "config.json"
    return about.is_file() and json.loads(about.read_text()).get("model_type") in checkpoint.MODELS


def _build(source: str, place: Place, data: Demonstrations, shapes: dict[str, Any]) -> tuple[Model, Prompt]:
    if source == SMALL:
        return small(data.instructions, shapes)
    if source_is_ours(source):
        model, prompt = checkpoint.load(Path(source), place.name)
        place.check_model(model.config, Path(source))
        return model, prompt
    from transformers import AutoTokenizer

    try:
        model = VlmModel.on(source, shapes)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise VlaRosError(f"--policy {source}: {str(error).splitlines()[0]}; expected {SMALL}, a folder or a hub name") from error
    return model, VlmPrompt(tokenizer, model.config.base_config(), shapes["cameras"])


def _choose(model: Model, rank: int, targets: str) -> None:
    """What is trained: all, or LoRA and what is not the base's."""
    if rank:
        adapter.add(model, rank, 2 * rank, targets or adapter.TARGETS)
        inner = ("base.", "vision_tower.", "language_model.")
        for name, p in model.named_parameters():
            p.requires_grad_("lora_" in name or not name.startswith(inner))
    for name, p in model.named_parameters():
        if name.startswith("ground_head."):  # of pre-training
            p.requires_grad_(False)


def _tell(model: Model, data: Demonstrations, trainer: Trainer) -> None:
    """What is about to be done, and the memory that it needs at least."""
    everything = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = f"{memory(model) / GIB:.2f} GiB for weights, gradients and optimiser"
    frames = f"{data.images.nbytes / GIB:.2f} GiB for frames, activations besides"
    episodes = len(set(data.episode.tolist()))
    console.print(
        f"{episodes} episodes, {len(data.images)} frames; {everything / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained; "
        f"at least {weights}, {frames}; {trainer.accelerator.num_processes} x {trainer.accelerator.device}"
    )


def _follow(trainer: Trainer, out: Path) -> dict[str, float]:
    """Trains with a progress bar, a log, and TensorBoard where it is installed."""
    if not trainer.accelerator.is_main_process:
        return trainer.run(lambda step, figures: None)
    out.mkdir(parents=True, exist_ok=True)
    write = tensorboard(out)
    with (
        (out / LOG).open("a", encoding="utf-8") as log,
        Progress(*BAR, TextColumn("{task.fields[told]}"), console=console) as progress,
    ):
        task = progress.add_task("stage 1", total=trainer.config.steps, completed=trainer.step, told="")

        def report(step: int, f: dict[str, float]) -> None:
            losses = f"action {f['action']:.3f}  steps-to-go {f['steps_to_go']:.3f}"
            progress.update(task, completed=step, told=f"{f['samples_per_second']:.0f} frames/s  {losses}")
            evaluated = "held_out_loss" in f
            if step % 10 == 0 or evaluated:
                log.write(json.dumps({"step": step, **f}) + "\n")
                log.flush()
                write(step, f)
            if evaluated:
                near, off = f["held_out_action_within_one_bin"], f["held_out_steps_to_go_error"]
                told = f"held-out loss {f['held_out_loss']:.4f}, action within one bin {near:.1%}, steps-to-go off by {off:.2f}"
                progress.console.print(f"step {step}: {told}")

        return trainer.run(report)
