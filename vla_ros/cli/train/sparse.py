"""What the commands with a sparse reward share: a judge or the simulator's truth."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from vla_ros.cli.train.practice_run import settings
from vla_ros.learning.cells import Cells
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.progress.calibration import Calibration


def cells(args: argparse.Namespace, seed: int, ready: Callable[[Model], Model] = adapter.add) -> Cells:
    """The policy in simulated cells.

    Args:
        seed: of what is new in it.
        ready: chooses what is trained.
    """
    contract, config, envs = settings(args)
    model, prompt = checkpoint.load(args.policy, contract.robot)
    judge = (checkpoint.load(args.judge, contract.robot)[0], Calibration.load(args.judge)) if args.judge else None
    torch.manual_seed(seed)
    return Cells(ready(model), prompt, envs, config, judge)
