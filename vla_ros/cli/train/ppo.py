"""`vla-ros train ppo --sim`."""

from __future__ import annotations

import argparse
from functools import partial

from vla_ros.cli.train.practice_run import Run
from vla_ros.cli.train.sparse import cells
from vla_ros.errors import VlaRosError
from vla_ros.learning.learner import load_parts
from vla_ros.learning.ppo import PpoConfig, PpoPractice, prepare
from vla_ros.learning.stopping import StopConfig


def run(args: argparse.Namespace) -> int:
    config, parts = load_parts(args.config, PpoConfig, stopping=StopConfig)
    check_shaping(args, config)
    with cells(args, config.seed, partial(prepare, config=config)) as practising:
        method = PpoPractice(practising, config)
        return Run(args, practising.model, practising, method, parts["stopping"]).follow(args.episodes)


def check_shaping(args: argparse.Namespace, config: PpoConfig) -> None:
    """
    Raises:
        VlaRosError: shaping without a judge.
    """
    if config.shaping and not args.judge:
        raise VlaRosError(f"{args.config}: shaping is {config.shaping:g}: of the steps-to-go of a frozen --judge; found none")
