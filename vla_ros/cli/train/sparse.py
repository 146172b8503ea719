"""What the commands with a sparse reward share: a judge or the simulator's truth, and the expert's demonstrations by task."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator

import torch

from vla_ros.cli.train.place import Place, by_task
from vla_ros.cli.train.practice_run import judge_of, settings
from vla_ros.cli.train.sft import read
from vla_ros.learning.cells import Cells
from vla_ros.learning.data import Demonstrations
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model


@contextlib.contextmanager
def cells(
    args: argparse.Namespace, seed: int, ready: Callable[[Model], Model] = adapter.add, words: bool = False
) -> Iterator[Cells]:
    """The policy in simulated cells.

    Args:
        seed: of what is new in it.
        ready: chooses what is trained.
        words: it learns those of RECAP's indicator.
    """
    with settings(args) as (place, config, envs):
        model, prompt = checkpoint.load(args.policy, place.name)
        place.check_model(model.config, args.policy)
        judge = judge_of(args, place, prompt) if args.judge else None
        if words:
            from vla_ros.learning.indicator import learn_words

            prompt = learn_words(model, prompt, seed)
        torch.manual_seed(seed)
        yield Cells(ready(model), prompt, envs, config, judge)


def expert(args: argparse.Namespace) -> dict[str, Demonstrations]:
    """The successful episodes of --expert-data by task. Raises VlaRosError as place.by_task."""
    place = Place.of(args)
    return by_task(place, read(args.expert_data, place, skip_bad=False), args.tasks or ())
