"""`vla-ros train recap --sim`."""

from __future__ import annotations

import argparse

from vla_ros.cli.train.practice_run import Run
from vla_ros.cli.train.sparse import cells, expert
from vla_ros.learning.learner import load_parts
from vla_ros.learning.recap import Recap, RecapConfig
from vla_ros.learning.stopping import StopConfig

PRACTISED = "practised"  # folder of all episodes


def run(args: argparse.Namespace) -> int:
    config, parts = load_parts(args.config, RecapConfig, stopping=StopConfig)
    with cells(args, config.seed, words=True) as practising:
        method = Recap(practising, expert(args), config, args.out / PRACTISED)
        return Run(args, practising.model, practising, method, parts["stopping"]).follow(args.episodes)
