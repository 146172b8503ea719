"""The learner as a child process: reads recorded episodes, updates, writes a version; JSON lines in and out.

    > {"episodes": ["/…/a.mcap", …], "version": 1, "corrected": ["/…/b.mcap", …]}
          practised with version 1, from which learning goes on; and recordings, new to this process, in which a person took over
    < {"version": 2, "loss": -0.1, …}      or      {"error": "…"}

A process of its own, so that learning never holds the interpreter that serves the robot; it runs at low priority.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import yaml

from vla_ros.episodes import EpisodeData, load_episode
from vla_ros.errors import VlaRosError
from vla_ros.learning.corrections import CorrectionConfig, Corrections
from vla_ros.learning.critic import METHODS, method
from vla_ros.learning.self_improvement import BASELINES, ImproveConfig, PracticeEpisode, stack
from vla_ros.learning.stopping import StopConfig
from vla_ros.paths import resolve
from vla_ros.policy import adapter
from vla_ros.policy.policy import load, taught
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract

Config = TypeVar("Config")

SECTIONS = {"stopping": StopConfig, "corrections": CorrectionConfig}  # of the file


def load_config(path: str) -> tuple[ImproveConfig, StopConfig]:
    """config/training/*.yaml → how practice learns, and of its section `stopping:` when it ends; an unknown key is an error."""
    improve, parts = load_parts(path, ImproveConfig, **SECTIONS)
    for name, known in (("baseline", BASELINES), ("method", METHODS)):
        if (found := getattr(improve, name)) not in known:
            raise VlaRosError(f"{resolve(path)}: {name} is {found!r}, expected one of {', '.join(known)}")
    return improve, parts["stopping"]


def load_corrections(path: str) -> CorrectionConfig:
    """Section `corrections:` of config/training/*.yaml: how practice learns from people who take over."""
    found: CorrectionConfig = load_parts(path, ImproveConfig, **SECTIONS)[1]["corrections"]
    return found


def load_parts(path: str, top: type[Config], **sections: type[Any]) -> tuple[Config, dict[str, Any]]:
    """config/training/*.yaml → what its own keys say, and its sections by name; an unknown key is an error."""
    file = resolve(path)
    found = _read(path, file)
    parts = {name: _section(kind, found.pop(name, {}), f"{file}: {name}") for name, kind in sections.items()}
    return _checked(top, found, str(file)), parts


def _read(path: str, file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise VlaRosError(f"learning configuration {path!r} not found (looked at {file})")
    try:
        found: dict[str, Any] = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise VlaRosError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise VlaRosError(f"{file}: found {type(found).__name__}, expected a mapping")
    return found


def _section(kind: type[Config], found: Any, where: str) -> Config:
    if not isinstance(found, dict):
        raise VlaRosError(f"{where} is {found!r}, expected a mapping")
    return _checked(kind, found, where)


def _checked(kind: type[Config], found: dict[str, Any], where: str) -> Config:
    known: dict[str, Any] = {f.name: f.type for f in fields(cast(Any, kind))}
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "str": str, "float": (int, float), "bool": bool}
    for key, value in found.items():
        if key not in known:
            raise VlaRosError(f"{where}: unknown key {key!r}; known are {sorted(known)}")
        if isinstance(value, bool) != (known[key] == "bool") or not isinstance(value, kinds[str(known[key])]):
            raise VlaRosError(f"{where}: {key} is {value!r}, expected {known[key]}")
    try:
        return kind(**found)
    except VlaRosError as error:
        raise VlaRosError(f"{where}: {error}") from error


def practice(data: EpisodeData, version: int) -> list[PracticeEpisode]:
    """A recorded episode as stage 2 uses it: whole, or, where a person took over, the parts before, between and after, so that no
    step answers for what the person made of it. Without those of which no step was drawn from the running version."""
    usable = (np.asarray(data.policy_versions) == version) & ~data.latched & ~data.corrected
    edges = [0, *(np.flatnonzero(np.diff(data.corrected)) + 1).tolist(), len(data)]
    return [
        PracticeEpisode(
            data.instruction, data.images[a : b + 1], data.states[a : b + 1].astype(np.float32), data.tokens[a:b],
            data.log_probabilities[a:b].astype(np.float32), data.steps_to_go[a : b + 1].astype(np.float32), usable[a:b],
        )
        for a, b in pairwise(edges) if usable[a:b].any()
    ]  # fmt: skip


class Learner:
    """Stage 2 on a weight store: one update per call, one version per update.

    Args:
        robot: name or path of the contract that the episodes were recorded under.
        version: to start from; None: the running one, else the newest, else the checkpoint itself, which becomes version 1.
        corrections: how it learns from what people did; None: the defaults.

    Raises:
        VlaRosError: that version, or one that it descends from, is not in the store.
    """

    def __init__(
        self, policy: Path, store: Path, robot: str, config: ImproveConfig, version: int | None = None,
        corrections: CorrectionConfig | None = None,
    ) -> None:  # fmt: skip
        self.contract = RobotContract.load(robot)
        model, self.prompt = load(policy, self.contract.robot)
        self.store = WeightStore(store)
        torch.manual_seed(config.seed)
        self.model = adapter.add(model)
        self.method = method(self.model, config, self.prompt, taught(policy))
        self.corrections = Corrections(self.model, self.prompt, corrections or CorrectionConfig())
        start = self.store.record(version) if version is not None else self.store.active() or self.store.latest()
        if start is None:
            start = self.store.write(adapter.state(self.model), parent=0, stage="sft", metrics={})
        self._go_on_from(start.number)

    def _go_on_from(self, number: int) -> None:
        """Its weights, and an optimiser without a memory of others'."""
        self.store.lineage(number)
        self.version = self.store.record(number)
        weights = self.store.load(number)
        adapter.check(self.model, weights, self.version.path)
        adapter.swap(self.model, weights)
        self.method.forget()
        self.corrections.forget()

    def update(self, paths: list[str], version: int | None = None, corrected: Sequence[str] = ()) -> dict[str, float]:
        """Read episodes, update, write the next version; returns its number and the figures.

        Args:
            version: that practised, and becomes the parent; None: the last one written. After a rollback it is an earlier one.
            corrected: recordings in which a person took over, each given once; of this practice, of before, aborted or not.
        """
        if version is not None and version != self.version.number:
            self._go_on_from(version)
        read = {path: load_episode(Path(path), robot=self.contract) for path in dict.fromkeys([*paths, *corrected])}
        used = [(read[path], parts) for path in paths if (parts := practice(read[path], self.version.number))]
        taught = sum([self.corrections.add(read[path]) for path in corrected])
        if not used and not taught:
            raise VlaRosError(f"none of {len(paths)} episodes was practised with version {self.version.number}")
        episodes = [part for _, parts in used for part in parts]
        figures = self.method.update(episodes, stack(episodes, self.prompt)) if episodes else {}
        figures |= self.corrections.learn([data for data, _ in used])
        evidence = [data for data, _ in used if not data.corrected.any()]
        metrics = {**figures, "episodes": len(used), "corrected_episodes": len(used) - len(evidence)}
        if evidence:
            metrics["parent_success"] = sum(data.metadata.get("outcome") == "success" for data in evidence) / len(evidence)
        self.version = self.store.write(adapter.state(self.model), self.version.number, "self_improvement", metrics)
        return {"version": self.version.number, "used": len(used), **figures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="stage-1 checkpoint folder")
    parser.add_argument("--store", type=Path, required=True, help="weight store folder")
    parser.add_argument("--config", default="config/training/self_improvement.yaml")
    parser.add_argument("--robot", default="panda")
    parser.add_argument("--version", type=int, help="to start from (the running one, else the newest)")
    args = parser.parse_args()
    os.nice(10)
    torch.set_num_threads(1)
    try:
        config, corrections = load_config(args.config)[0], load_corrections(args.config)
        learner = Learner(args.policy, args.store, args.robot, config, args.version, corrections)
        print(json.dumps({"version": learner.version.number}), flush=True)
    except VlaRosError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            answer: dict[str, Any] = learner.update(asked["episodes"], asked.get("version"), asked.get("corrected", ()))
        except VlaRosError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
