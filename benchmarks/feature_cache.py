"""What keeping the frozen VLM's features saves in stage 1 of iRe-VLA: one PPO update of head and critic on the same episodes,
with the features that were kept when the policy acted, and with the VLM run for every minibatch.

    python benchmarks/feature_cache.py [--policy CHECKPOINT] [--episodes 48] [--repeat 5] [--out FILE.json]

Both are measured in turn in one process, one thread; each update begins from the same weights. Without --policy the network is
the small one with random weights: what it costs does not depend on what it has learned.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.learning.cells import Cells, flat
from vla_ros.learning.ppo import Ppo, PpoConfig, prepare
from vla_ros.learning.practice import PracticeConfig
from vla_ros.learning.stage1 import fresh
from vla_ros.policy import adapter
from vla_ros.policy.policy import load
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="checkpoint (the small network with random weights)")
    parser.add_argument("--episodes", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    contract, config = RobotContract.load("panda"), replace(PpoConfig(), warmup=0, kl=1e9)
    model, prompt = load(args.policy, contract.robot) if args.policy else fresh(contract.robot, 0)
    torch.manual_seed(0)
    model = prepare(model, config)
    envs = [TabletopEnv(contract) for _ in range(min(args.episodes, 12))]
    batch = flat(Cells(model, prompt, envs, PracticeConfig(per_update=args.episodes)).batch())
    if not any(e.episode.detected for e in batch):  # an update without a reward teaches the critic only
        batch = [replace(e, episode=replace(e.episode, detected=k % 2 == 0)) for k, e in enumerate(batch)]
    start = {name: tensor.detach().clone() for name, tensor in adapter.state(model).items()}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(args.repeat):
        for cached, taken in seconds.items():
            adapter.swap(model, start)
            ppo = Ppo(model, prompt, config, cached)
            began = time.perf_counter()
            ppo.update(batch)
            taken.append(time.perf_counter() - began)
    frames = sum(len(e.actions) for e in batch)
    out: dict[str, Any] = {
        "frames": frames, "epochs": config.epochs, "minibatch": config.batch, "policy": str(args.policy or "small, random"),
        "cached_s": float(np.median(seconds[True])), "vlm_each_time_s": float(np.median(seconds[False])),
        "times_faster": float(np.median(seconds[False]) / np.median(seconds[True])),
        "all_cached_s": seconds[True], "all_vlm_each_time_s": seconds[False],
    }  # fmt: skip
    print(json.dumps(out, indent=1))
    if args.out:
        args.out.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
