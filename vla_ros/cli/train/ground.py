"""vla-ros train ground: stage 0 of the small model, on pictures in which it is known where the named things are."""

from __future__ import annotations

import argparse
import contextlib
import math

import torch
from rich.console import Console
from rich.progress import Progress

from vla_ros.cli.train.place import Place
from vla_ros.cli.train.sft import BAR, shapes_of, small
from vla_ros.learning import expert, stage1
from vla_ros.learning.sft import SftConfig
from vla_ros.sim.worker import WorkerEnv

console = Console(stderr=True)


def run(args: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # two threads on two busy cores are 3-100 times slower
    place = Place.of(args)
    with Progress(*BAR, console=console) as progress:
        if not place.benchmark:
            config = stage1.Stage1Config(
                grounding_pictures=args.pictures, ground_steps=args.steps, ground_seconds=math.inf, seed=args.seed
            )
            bar = progress.add_task("stage 0", total=100)
            stage1.ground(args.out, args.robot, config, lambda share, _: progress.update(bar, completed=round(100 * share)))
            return 0
        tasks = place.chosen(args.tasks)
        each = math.ceil(args.pictures / len(tasks))
        bar = progress.add_task("pictures", total=each * len(tasks))
        with contextlib.ExitStack() as stack:
            envs = [stack.enter_context(contextlib.closing(WorkerEnv(place.benchmark, task))) for task in tasks]
            first = args.seed * 1_000_000
            data = expert.ground(envs, range(first, first + each), lambda: progress.advance(bar))
        torch.manual_seed(args.seed)
        model, prompt = small(data.instructions, shapes_of(place) | {"ground_dim": data.positions.shape[1]})
        bar = progress.add_task("stage 0", total=100)
        settings = SftConfig(steps=args.steps, seed=args.seed)
        stage1.ground_on(
            args.out, data, model, prompt, settings, lambda share, _: progress.update(bar, completed=round(100 * share))
        )
    return 0
