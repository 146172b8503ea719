"""`vla-ros train improve --sim`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vla_ros.cli.train.practice_run import Run, settings
from vla_ros.learning.learner import load_config
from vla_ros.learning.practice import SimulatedPractice
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.progress.calibration import Calibration


class _Improvement(SimulatedPractice):
    stage, due = "self_improvement", False

    def resume(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Nothing outlives a process but the weights."""


def run(args: argparse.Namespace) -> int:
    contract, config, envs = settings(args)
    model, prompt = checkpoint.load(args.policy, contract.robot)
    judge, _ = checkpoint.load(args.judge, contract.robot)
    improve, stopping = load_config(args.config)
    torch.manual_seed(improve.seed)
    adapter.add(model)
    practice = _Improvement(model, judge, Calibration.load(args.judge), prompt, envs, config, improve)
    return Run(args, model, practice, practice, stopping).follow(args.episodes)
