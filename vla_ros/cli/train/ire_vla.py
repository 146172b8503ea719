"""`vla-ros train ire-vla --sim`."""

from __future__ import annotations

import argparse

from vla_ros.cli.train.ppo import check_shaping
from vla_ros.cli.train.practice_run import Run
from vla_ros.cli.train.sparse import cells, expert
from vla_ros.errors import VlaRosError
from vla_ros.learning.ire_vla import IreConfig, IreVla
from vla_ros.learning.learner import load_parts
from vla_ros.learning.ppo import PpoConfig
from vla_ros.learning.stopping import StopConfig

SUCCESSES = "successes"  # folder of D_RL


def run(args: argparse.Namespace) -> int:
    config, parts = load_parts(args.config, IreConfig, ppo=PpoConfig, stopping=StopConfig)
    ppo: PpoConfig = parts["ppo"]
    if ppo.trained != "head":
        raise VlaRosError(f"{args.config}: ppo: trained is {ppo.trained!r}, expected head: stage 1 leaves the VLM as it is")
    check_shaping(args, ppo)
    with cells(args, config.seed) as practising:
        method = IreVla(practising, expert(args), config, ppo, args.out / SUCCESSES)
        return Run(args, practising.model, practising, method, parts["stopping"]).follow(args.episodes)
