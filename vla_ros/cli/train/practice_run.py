"""What all commands that practise share: a folder of versions, log, and in the end the best version's checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vla_ros.cli.train.log import LOG, tensorboard
from vla_ros.cli.train.place import Place
from vla_ros.errors import VlaRosError
from vla_ros.files import replace
from vla_ros.learning.practice import PracticeConfig, Scenes, rates
from vla_ros.learning.rollout import Environment, SimulatedEpisode
from vla_ros.learning.stopping import Stop, StopConfig, Stopping
from vla_ros.learning.watch import warnings
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.policy.store import WeightStore
from vla_ros.progress.calibration import Calibration
from vla_ros.sim.benchmark_env import SPLIT

POLICY, VERSIONS = "policy", "versions"
SIDE_BY_SIDE = 8  # cells of a benchmark, each a process for each task
console = Console(stderr=True)


class Practice(Protocol):
    """A method: what it does to the model, and what that is called (`stage`) in the store.

    `due`: the next iteration wants no episodes. `prompt` is what the version that the model holds reads instructions with.
    """

    stage: str
    due: bool

    @property
    def prompt(self) -> Prompt: ...

    def resume(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Goes on after these points of the log."""

    def forget(self) -> None:
        """The model's weights are others now."""

    def iterate(self) -> tuple[Mapping[str, Sequence[SimulatedEpisode]], dict[str, float]]:
        """Changes the weights once; the episodes that were practised for it by task, and the figures."""


@contextlib.contextmanager
def settings(args: argparse.Namespace, here: bool = True) -> Iterator[tuple[Place, PracticeConfig, Sequence[Environment]]]:
    """Place, episodes and cells as the arguments have them; no cells unless they are run `here`."""
    torch.set_num_threads(1)  # two threads on two busy cores are 3-100 times slower
    place = Place.of(args)
    if not args.env and not args.sim:
        raise VlaRosError("--sim is missing: on a robot, trainer_node practises: vla-ros action send_goal /improve")
    for option, given in (("--twin", args.twin), ("--split", args.split != SPLIT), ("--workers", getattr(args, "workers", 0))):
        if args.env and given:
            raise VlaRosError(f"{option} is about the tabletop's cells; --env {args.env} has none")
    if args.per_update < 1:
        raise VlaRosError(f"--per-update: found {args.per_update}, expected at least 1")
    config = PracticeConfig(per_update=args.per_update, tasks=place.chosen(args.tasks), seed=args.seed, split=args.split)
    with place.cells(side_by_side(args) if here else 0, args.twin) as cells:
        yield place, config, cells


def judge_of(args: argparse.Namespace, place: Place, prompt: Prompt) -> tuple[Model, Calibration]:
    """The frozen judge of `--judge`. In simulated cells it reads the policy's word ids.

    Raises:
        VlaRosError: it sees otherwise than this place shows, or its words have other ids than the policy's.
    """
    judge, own = checkpoint.load(args.judge, place.name)
    place.check_model(judge.config, args.judge, acts=False)
    if type(own) is not type(prompt) or own.tokenizer.get_vocab() != prompt.tokenizer.get_vocab():
        raise VlaRosError(
            f"--judge {args.judge}: its words are not those of --policy {args.policy}; train both from one checkpoint of "
            "`vla-ros train ground`, or on the same instructions"
        )
    return judge, Calibration.load(args.judge)


def side_by_side(args: argparse.Namespace) -> int:
    """Episodes of a group. It decides about their draws, so neither cores nor workers must decide about it."""
    if args.side_by_side is not None and args.side_by_side < 1:
        raise VlaRosError(f"--side-by-side: found {args.side_by_side}, expected at least 1")
    half = max(1, args.per_update // 2)
    return int(args.side_by_side or (min(half, SIDE_BY_SIDE) if args.env else half))


class Run:
    """One folder. Goes on where its log ends."""

    def __init__(self, args: argparse.Namespace, model: Model, cells: Scenes, practice: Practice, stopping: StopConfig) -> None:
        if stopping.canary < 1:
            found = f"{args.config}: stopping: canary is {stopping.canary}, expected 1 with --sim"
            raise VlaRosError(f"{found}: simulated cells practise side by side, and nothing is at stake in them")
        self.out: Path = args.out
        self.model, self.cells, self.practice = model, cells, practice
        self.store = WeightStore(self.out / VERSIONS)
        self.stopping = Stopping(stopping)
        self.taught = checkpoint.taught(args.policy)
        self.audit: float = args.audit if args.judge else 0.0  # without a judge, the truth itself decides
        self.best: int | None = None  # of the rule that ended practice
        self.points: list[dict[str, Any]] = []
        self.version = self._resume()
        self._write = tensorboard(self.out)

    def _resume(self) -> int:
        """The running version; episodes that were practised already, and what they said, come from the log."""
        running = self.store.active() or self.store.latest()
        if running is None:
            return self.store.write(adapter.state(self.model), 0, "sft", {}).number
        log = self.out / LOG
        if log.is_file():
            self.points = _points(log)
        stop: Stop | None = None
        for point in self.points:
            stop = self._rung(point["practised"])
            for episode in point["practised"]:
                self.cells.curriculum.record(episode["group"], episode["success"])
        self.cells.skip(sum(len(point["practised"]) for point in self.points))
        self._take(running.number)
        if stop and stop.ends:
            self.best = stop.best
            console.print(f"{stop.rule} had ended it: {stop.sentence}; another --out, with --policy {self.out / POLICY}, goes on")
        self.practice.resume(self.points)
        console.print(f"going on from version {running.number} of {self.out}, after {self.cells.episodes} episodes")
        return running.number

    def _take(self, number: int) -> None:
        weights = self.store.load(number)
        adapter.check(self.model, weights, self.store.record(number).path)
        adapter.swap(self.model, weights)
        self.practice.forget()

    def follow(self, episodes: int) -> int:
        """Practises so many at most, with a progress bar; the exit status."""
        bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*bar, TextColumn("{task.fields[told]}"), console=console) as progress:
            task = progress.add_task("practice", total=episodes, completed=self.cells.episodes, told="")
            ended = self.best is not None
            while (self.cells.episodes < episodes or self.practice.due) and not ended:
                told, lines, ended = self.iterate()
                progress.update(task, completed=self.cells.episodes, told=told)
                for line in lines:
                    progress.console.print(line)
        number = self.finish()
        print(f"{self.out}: version {number} after {self.cells.episodes} episodes; launch it with policy:={self.out / POLICY}")
        return 0

    def iterate(self) -> tuple[str, list[str], bool]:
        """One batch, one version; what to tell beside the bar and above it, and whether the rules end practice."""
        found, figures = self.practice.iterate()
        practised = list[dict[str, Any]]()
        audits = np.random.default_rng(self.cells.episodes)
        for task, episodes in found.items():
            for e in episodes:
                audited = e.true_success if audits.random() < self.audit else None
                practised.append({"version": self.version, "success": e.detected, "group": task, "audited": audited})
        stop, seen = self._rung(practised), rates(found)
        metrics = {**seen, **figures, "episodes": float(len(practised))}
        if practised:
            metrics["parent_success"] = float(np.mean([e["success"] for e in practised]))
        written = self.store.write(adapter.state(self.model), self.version, self.practice.stage, metrics)
        point: dict[str, Any] = {"version": written.number, "parent": self.version, "stage": self.practice.stage, **metrics}
        self.points.append({**point, "practised": practised})
        told = warnings(self.points)
        self.points[-1]["warnings"] = told
        with (self.out / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(self.points[-1]) + "\n")
        self._write(self.cells.episodes, {k: v for k, v in metrics.items() if isinstance(v, float)})
        self.version, lines = written.number, [f"warning: {line}" for line in told]
        if stop is not None:
            self.version = stop.best
            self.best = stop.best if stop.ends else None
            self._take(stop.best)
            lines.append(f"{stop.rule}: {stop.sentence}; back to version {stop.best}")
        self.store.activate(self.version)
        rate = "  ".join(f"{task} {seen[f'{task}_detected']:.0%}" for task in found if found[task])
        return rate, lines, stop is not None and stop.ends

    def _rung(self, practised: Sequence[Mapping[str, Any]]) -> Stop | None:
        """What the rules say of a batch: the one that ends practice, else the last one."""
        stop: Stop | None = None
        for episode in practised:
            rung = self.stopping.episode(**episode)
            stop = stop if stop and stop.ends else rung or stop
        return stop

    def finish(self) -> int:
        """Writes the best version as a checkpoint of its own and returns its number."""
        best = self.stopping.best
        number = self.best or (best.version if best else self.version)
        self._take(number)
        self.store.activate(number)
        record = {"stage": self.store.record(number).stage, "version": number, "episodes": self.cells.episodes}
        record["instructions"] = self.taught
        checkpoint.save(self.out / POLICY, self.model, self.practice.prompt, record, adapter.merged(self.model))
        return number


def _points(log: Path) -> list[dict[str, Any]]:
    """Of a run's log. A last line that is torn, as a full disk leaves it, is left out: its batch is practised anew.

    Raises:
        VlaRosError: another line is no point.
    """
    whole, _, torn = log.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        console.print(f"{log}: the last line is torn and left out")
        replace(log, f"{whole}\n" if whole else "")
    points = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            points.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise VlaRosError(f"{log}: line {number}: found {line[:40]!r}, expected JSON: {error}") from error
    return points
