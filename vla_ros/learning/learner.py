"""The learner as a child process: reads recorded episodes, updates, writes a version; JSON lines in and out.

    > {"episodes": ["/…/a.mcap", …]}
    < {"version": 2, "loss": -0.1, …}      or      {"error": "…"}

A process of its own, so that learning never holds the interpreter that serves the robot; it runs at low priority.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from vla_ros.episodes import EpisodeData, load_episode
from vla_ros.errors import VlaRosError
from vla_ros.learning.data import Inputs
from vla_ros.learning.self_improvement import BASELINES, ImproveConfig, PracticeEpisode, SelfImprovement
from vla_ros.paths import resolve
from vla_ros.policy import adapter
from vla_ros.policy.policy import load
from vla_ros.policy.prompt import Prompt
from vla_ros.policy.store import WeightStore


def load_config(path: str) -> ImproveConfig:
    """config/training/*.yaml → ImproveConfig; an unknown key is an error."""
    file = resolve(path)
    if not file.is_file():
        raise VlaRosError(f"learning configuration {path!r} not found (looked at {file})")
    try:
        found: dict[str, Any] = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise VlaRosError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise VlaRosError(f"{file}: found {type(found).__name__}, expected a mapping")
    known = {f.name: f.type for f in fields(ImproveConfig)}
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "str": str, "float": (int, float)}
    for key, value in found.items():
        if key not in known:
            raise VlaRosError(f"{file}: unknown key {key!r}; known are {sorted(known)}")
        if isinstance(value, bool) or not isinstance(value, kinds[str(known[key])]):
            raise VlaRosError(f"{file}: {key} is {value!r}, expected {known[key]}")
    if found.get("baseline", BASELINES[0]) not in BASELINES:
        raise VlaRosError(f"{file}: baseline is {found['baseline']!r}, expected one of {', '.join(BASELINES)}")
    return ImproveConfig(**found)


def practice(data: EpisodeData, version: int) -> PracticeEpisode | None:
    """A recorded episode as stage 2 uses it; None when no step of it was drawn from the running version."""
    usable = (np.asarray(data.policy_versions) == version) & ~data.latched
    if not usable.any():
        return None
    return PracticeEpisode(
        data.instruction, data.images[:-1], data.states[:-1].astype(np.float32), data.tokens,
        data.log_probabilities.astype(np.float32), data.steps_to_go.astype(np.float32), usable,
    )  # fmt: skip


class Learner:
    """Stage 2 on a weight store: one update per call, one version per update."""

    def __init__(self, policy: Path, store: Path, robot: str, config: ImproveConfig) -> None:
        model, self.prompt = load(policy, robot)
        self.store = WeightStore(store)
        torch.manual_seed(config.seed)
        self.model = adapter.add(model)
        self.robot = robot
        latest = self.store.latest()
        if latest is None:
            latest = self.store.write(adapter.state(self.model), parent=0, stage="sft", metrics={})
        else:
            weights = self.store.load(latest.number)
            adapter.check(self.model, weights, latest.path)
            adapter.swap(self.model, weights)
        self.version = latest
        self.method = SelfImprovement(self.model, config)

    def update(self, paths: list[str]) -> dict[str, float]:
        """Read episodes, update, write the next version; returns its number and the figures."""
        loaded = [practice(load_episode(Path(p), robot=self.robot), self.version.number) for p in paths]
        episodes = [e for e in loaded if e is not None]
        if not episodes:
            raise VlaRosError(f"none of {len(paths)} episodes was practised with version {self.version.number}")
        figures = self.method.update(episodes, stack(episodes, self.prompt))
        self.version = self.store.write(
            adapter.state(self.model), self.version.number, "self_improvement", {**figures, "episodes": len(episodes)}
        )
        return {"version": self.version.number, "used": len(episodes), **figures}


def stack(episodes: list[PracticeEpisode], prompt: Prompt) -> Inputs:
    """The steps of all episodes one after another."""
    instruction = np.repeat(np.arange(len(episodes)), [len(e.tokens) for e in episodes]).astype(np.int32)
    return Inputs.of(
        np.concatenate([e.images for e in episodes]),
        instruction,
        tuple(e.instruction for e in episodes),
        np.concatenate([e.states for e in episodes]),
        prompt,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="stage-1 checkpoint folder")
    parser.add_argument("--store", type=Path, required=True, help="weight store folder")
    parser.add_argument("--config", default="config/training/self_improvement.yaml")
    parser.add_argument("--robot", default="panda")
    args = parser.parse_args()
    os.nice(10)
    torch.set_num_threads(1)
    try:
        learner = Learner(args.policy, args.store, args.robot, load_config(args.config))
        print(json.dumps({"version": learner.version.number}), flush=True)
    except VlaRosError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = learner.update(json.loads(line)["episodes"])
        except VlaRosError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
