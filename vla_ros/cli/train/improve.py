"""`vla-ros train improve --sim`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vla_ros.cli.train.log import LOG, tensorboard
from vla_ros.errors import VlaRosError
from vla_ros.learning.learner import load_config
from vla_ros.learning.practice import PracticeConfig, SimulatedPractice, rates
from vla_ros.learning.stopping import Stop, Stopping
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.store import WeightStore
from vla_ros.progress.calibration import Calibration
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import TASKS

POLICY, VERSIONS = "policy", "versions"
console = Console(stderr=True)


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)  # two threads on two busy cores are 3-100 times slower
    if not args.sim:
        raise VlaRosError("--sim is missing: on a robot, trainer_node practises: vla-ros action send_goal /improve")
    contract = RobotContract.load(args.robot)
    tasks = tuple(args.tasks)
    if unknown := set(tasks) - set(TASKS):
        raise VlaRosError(f"--tasks: found '{min(unknown)}', expected some of {', '.join(TASKS)}")
    run = _Run(args, contract, tasks)
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bar, TextColumn("{task.fields[told]}"), console=console) as progress:
        task = progress.add_task("practice", total=args.episodes, completed=run.practice.episodes, told="")
        stop = None
        while run.practice.episodes < args.episodes and (stop is None or not stop.ends):
            told, stop = run.iterate()
            progress.update(task, completed=run.practice.episodes, told=told)
            if stop is not None:
                progress.console.print(f"{stop.rule}: {stop.sentence}; back to version {stop.best}")
    number = run.finish()
    print(f"{args.out}: version {number} after {run.practice.episodes} episodes; launch it with policy:={args.out / POLICY}")
    return 0


class _Run:
    """One folder: versions, log, and at the end the checkpoint of the best version. Goes on where its log ends."""

    def __init__(self, args: argparse.Namespace, contract: RobotContract, tasks: tuple[str, ...]) -> None:
        self.out: Path = args.out
        model, self.prompt = checkpoint.load(args.policy, contract.robot)
        judge, _ = checkpoint.load(args.judge, contract.robot)
        improve, stopping = load_config(args.config)
        if stopping.canary < 1:
            found = f"{args.config}: stopping: canary is {stopping.canary}, expected 1 with --sim"
            raise VlaRosError(f"{found}: simulated cells practise side by side, and nothing is at stake in them")
        torch.manual_seed(improve.seed)
        self.model = adapter.add(model)
        self.store = WeightStore(self.out / VERSIONS)
        config = PracticeConfig(per_update=args.per_update, tasks=tasks, seed=args.seed, split=args.split)
        envs = [TabletopEnv(contract) for _ in range(max(1, args.per_update // 2))]
        calibration = Calibration.load(args.judge)
        self.practice = SimulatedPractice(self.model, judge, calibration, self.prompt, envs, config, improve)
        self.stopping = Stopping(stopping)
        self.audit: float = args.audit
        self.best: int | None = None  # of the rule that ended practice
        self.version = self._resume()
        self._write = tensorboard(self.out)

    def _resume(self) -> int:
        """The running version; episodes that were practised already, and what they said, come from the log."""
        running = self.store.active() or self.store.latest()
        if running is None:
            return self.store.write(adapter.state(self.model), 0, "sft", {}).number
        log = self.out / LOG
        done = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        for point in done:
            for episode in point["practised"]:
                self.stopping.episode(**episode)
                self.practice.curriculum.record(episode["group"], episode["success"])
        self.practice.skip(sum(len(point["practised"]) for point in done))
        self._take(running.number)
        console.print(f"going on from version {running.number} of {self.out}, after {self.practice.episodes} episodes")
        return running.number

    def _take(self, number: int) -> None:
        weights = self.store.load(number)
        adapter.check(self.model, weights, self.store.record(number).path)
        adapter.swap(self.model, weights)
        self.practice.forget()

    def iterate(self) -> tuple[str, Stop | None]:
        """One batch, one version; what to tell, and whether the rules object."""
        found, figures = self.practice.iterate()
        practised, stop = list[dict[str, Any]](), None
        audits = np.random.default_rng(self.practice.episodes)
        for task, episodes in found.items():
            for e in episodes:
                audited = e.true_success if audits.random() < self.audit else None
                practised.append({"version": self.version, "success": e.detected, "group": task, "audited": audited})
                told = self.stopping.episode(**practised[-1])
                stop = stop if stop and stop.ends else told or stop
        seen = rates(found)
        success = float(np.mean([e["success"] for e in practised]))
        metrics = {**seen, **figures, "episodes": float(len(practised)), "parent_success": success}
        written = self.store.write(adapter.state(self.model), self.version, "self_improvement", metrics)
        point = {"version": written.number, "parent": self.version, **metrics, "practised": practised}
        with (self.out / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(point) + "\n")
        self._write(self.practice.episodes, {k: v for k, v in metrics.items() if isinstance(v, float)})
        self.version = written.number
        if stop is not None:
            self.version = stop.best
            self.best = stop.best if stop.ends else None
            self._take(stop.best)
        self.store.activate(self.version)
        return "  ".join(f"{task} {seen[f'{task}_detected']:.0%}" for task in found if found[task]), stop

    def finish(self) -> int:
        """Writes the best version as a checkpoint of its own and returns its number."""
        best = self.stopping.best
        number = self.best or (best.version if best else self.version)
        self._take(number)
        self.store.activate(number)
        record = {"stage": "self_improvement", "version": number, "episodes": self.practice.episodes}
        checkpoint.save(self.out / POLICY, self.model, self.prompt, record, adapter.merged(self.model))
        return number
