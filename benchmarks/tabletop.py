"""What the benchmarks on the tabletop tasks share: data and stage 0 on disk, evaluation episodes, and honest intervals."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from vla_ros.learning import rollout, stage1
from vla_ros.learning.data import Demonstrations, together
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.collect import collect
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Manner
from vla_ros.sim.tasks import Tasks

ROBOT = "panda"
TASKS = ("reach", "push")
ENVS = 12  # scenes that share one forward pass
LOOKS = 2  # successive observations at which the truth must say success
PACKAGE = Path(stage1.__file__).parent.parent
# What figures depend on besides the benchmark itself: simulator, model, learning, calibration, robot and tasks.
LEARNING = ("sft", "stage1", "data", "rollout")


def prepare(
    shared: Path, name: str, count: int, seed: int, noises: tuple[float, ...] = (), tasks: Sequence[str] = ("",),
    manner: Manner | None = None,
) -> Path:  # fmt: skip
    """Demonstrations on disk, for all cells: of the tasks' own mixture, or equally many of each of `tasks`."""
    path = shared / f"{name}-{count}.npz"
    if not path.exists():
        sets = [
            collect(ROBOT, count // len(tasks), seed, task=task or None, noises=noises, manner=manner, workers=1)
            for task in tasks
        ]
        stage1.save_demonstrations(path, together([stage1.demonstrations(data) for data in sets]))
    return path


@functools.cache
def load(path: Path) -> Demonstrations:
    return stage1.load_demonstrations(path)


def ground(shared: Path, pictures: int, steps: int, seed: int) -> Path:
    """Stage 0 of a seed on disk, for its pretrained cells."""
    torch.set_num_threads(1)
    folder = shared / f"grounded-{pictures}-{steps}-seed{seed}"
    if not (folder / "training.json").exists():  # it is written last
        config = stage1.Stage1Config(grounding_pictures=pictures, ground_steps=steps, ground_seconds=math.inf, seed=seed)
        stage1.ground(folder, ROBOT, config, lambda share, figures: None)
    return folder


@functools.cache
def envs(count: int = ENVS) -> list[TabletopEnv]:
    return [TabletopEnv(RobotContract.load(ROBOT)) for _ in range(count)]


def episodes(
    policy: Model, judge: Model, prompt: Prompt, first: int, count: int, patience: float = 1.0, greedy: bool = True,
    split: str = "train",
) -> list[rollout.SimulatedEpisode]:  # fmt: skip
    """Scene first + k is TASKS[k % 2]; nobody ends an episode early."""
    found: dict[int, rollout.SimulatedEpisode] = {}
    for which, task in enumerate(TASKS):
        seeds = list(range(first + which, first + count, len(TASKS)))
        ran = rollout.run(envs(), seeds, policy, judge, None, prompt, split, task, greedy, patience=patience)
        found |= dict(zip(seeds, ran, strict=True))
    return [found[seed] for seed in sorted(found)]


def truth(episode: rollout.SimulatedEpisode) -> str:
    """The simulator's, "0" or "1" at every observation."""
    return "".join("01"[int(t)] for t in episode.truth)


@functools.cache
def limit(task: str, patience: float) -> int:
    """Policy steps of so many cycle times."""
    return round(patience * Tasks.load().tasks[task].time_limit * RobotContract.load(ROBOT).observation.rate)


def reached(truth: str, limit: int) -> bool:
    """Success at LOOKS successive observations, the last one at or before `limit`."""
    return "1" * LOOKS in truth[: limit + 1]


def successes(episodes: Sequence[dict[str, Any]], task: str, patience: float = 1.0) -> NDArray[np.bool_]:
    """Of evaluated episodes with `task` and `truth`."""
    return np.array([reached(e["truth"], limit(task, patience)) for e in episodes if e["task"] == task])


def interval(values: NDArray[np.floating[Any]]) -> list[float]:
    """95 % bootstrap interval of the mean of values [seeds, scenes], drawing seeds first and scenes within each."""
    random = np.random.default_rng(0)
    seeds, scenes = values.shape
    s = random.integers(seeds, size=(2000, seeds, 1))
    means = values[s, random.integers(scenes, size=(2000, seeds, scenes))].mean((1, 2))
    return [float(q) for q in np.quantile(means, (0.025, 0.975))]


def rate(values: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Of values [seeds, scenes]."""
    return {"mean": float(values.mean()), "interval": interval(values), "by_seed": values.mean(1).tolist()}


def share(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """For people."""
    if value is None:
        return "–"
    return f"{100 * value:.0f} %" + (f" [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]" if bounds else "")


def part(path: Path, setup: Mapping[str, Any], code: str | None = None) -> dict[str, Any] | None:
    """What was finished with this setup (and code)."""
    if not path.exists():
        return None
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept if kept["setup"] == setup and code in (None, kept["code"]) else None


def options(doc: str | None, out: str, seeds: int) -> argparse.ArgumentParser:
    """Of a benchmark that goes on from what is finished."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds, help=f"default: {seeds}")
    parser.add_argument("--processes", type=int, default=2, help="one core each (default: 2)")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"parts and report (default: {out})")
    shared = "runs/headline/full"
    parser.add_argument(
        "--shared", type=Path, default=Path(shared), help=f"where headline.py keeps its stage 1 (default: {shared})"
    )
    parser.add_argument("--docs", type=Path, help="folder whose results/ gets the report's .json, .md and .png as well")
    parser.add_argument("--report", action="store_true", help="only the report of what is finished")
    return parser


def benchmark(
    args: argparse.Namespace, name: str, shared: Path, run: Callable[[Path, Path, int, int, Console], None],
    write: Callable[[Path, int], bool],
) -> int:  # fmt: skip
    """run(out, shared, seeds, processes, console), unless only the report is wanted; publishes what write(out, seeds) makes. The
    exit status."""
    out: Path = args.out.resolve()
    for folder in (out, shared):
        folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    if not args.report:
        run(out, shared, args.seeds, args.processes, console)
    if not write(out, args.seeds):
        console.print(f"{out}: nothing is finished of this setup")
        return 1
    publish(out, name, args.docs, console)
    return 0


def publish(
    out: Path, name: str, docs: Path | None, console: Console, kinds: Sequence[str] = ("json", "md", "png")
) -> None:  # fmt: skip
    """Shows a report; with `docs`, its files of these kinds go to the results there."""
    if docs:
        (docs / "results").mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            (docs / "results" / f"{name}.{kind}").write_bytes((out / f"{name}.{kind}").read_bytes())
    console.print((out / f"{name}.md").read_text(encoding="utf-8"), markup=False)


def code(learning: Iterable[str] = LEARNING) -> str:
    """Hash of what figures depend on in the package."""
    parts = [*sorted((PACKAGE / "sim").glob("*.py")), PACKAGE / "policy" / "model.py", PACKAGE / "policy" / "prompt.py"]
    parts += [PACKAGE / "learning" / f"{name}.py" for name in learning]
    parts += [PACKAGE / "progress" / f"{name}.py" for name in ("calibration", "evidence")]
    parts += [PACKAGE.parent / "config" / kind for kind in (f"robots/{ROBOT}.yaml", "tasks/tabletop.yaml")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()[:12]


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
