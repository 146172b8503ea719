"""What the commands with a sparse reward share: a judge or the simulator's truth, and the expert's demonstrations by task."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from vla_ros.cli.train.practice_run import settings
from vla_ros.cli.train.sft import read
from vla_ros.errors import VlaRosError
from vla_ros.learning.cells import Cells
from vla_ros.learning.data import Demonstrations
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.progress.calibration import Calibration
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.tasks import Tasks


def cells(args: argparse.Namespace, seed: int, ready: Callable[[Model], Model] = adapter.add, words: bool = False) -> Cells:
    """The policy in simulated cells.

    Args:
        seed: of what is new in it.
        ready: chooses what is trained.
        words: it learns those of RECAP's indicator.
    """
    contract, config, envs = settings(args)
    model, prompt = checkpoint.load(args.policy, contract.robot)
    judge = (checkpoint.load(args.judge, contract.robot)[0], Calibration.load(args.judge)) if args.judge else None
    if words:
        from vla_ros.learning.indicator import learn_words

        prompt = learn_words(model, prompt, seed)
    torch.manual_seed(seed)
    return Cells(ready(model), prompt, envs, config, judge)


def expert(args: argparse.Namespace) -> dict[str, Demonstrations]:
    """The successful episodes of --expert-data by task, which the instruction's verb tells.

    Raises:
        VlaRosError: none is successful, or an instruction is of no task.
    """
    data = read(args.expert_data, RobotContract.load(args.robot), skip_bad=False)
    verbs = {verb: task for task, spec in Tasks.load().tasks.items() for verb in spec.verbs}
    tasks = [next((verbs[v] for v in verbs if text.startswith(f"{v} ")), "") for text in data.instructions]
    if "" in tasks:
        found = data.instructions[tasks.index("")]
        raise VlaRosError(f"--expert-data: instruction {found!r} is of no task, expected it to begin with one of {sorted(verbs)}")
    successful = np.isin(data.episode, data.episode[data.steps_to_go == 0])
    if not successful.any():
        raise VlaRosError("--expert-data: found no episode that ends in success (steps_to_go 0), expected demonstrations")
    of_frame = np.array(tasks)[data.instruction]
    return {task: data[successful & (of_frame == task)] for task in sorted(set(of_frame[successful]))}
