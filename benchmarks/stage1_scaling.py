"""Stage 1 on the tabletop tasks: success against the number of demonstrations, with and without pretraining, and how far the
model's own success detector can be trusted.

    demonstrations  nested: of one seed, a smaller set is part of every larger one; collected once for all cells
    pretraining     stage 0 on generated pictures with phrases, which stands in for the VLM's; or random weights
    budget          equal optimiser steps of equal batches in every cell, all weights trained; stage 0 comes on top
    success         the simulator's truth at two successive observations within the cycle time; greedy actions; the same
                    scenes for every cell, half reaching, half pushing, whose seeds nothing else uses
    detector        the cell's own steps-to-go head (one network, two outputs, as in arXiv 2509.15155), its levels chosen on
                    held-out demonstrations, and once more with the policy's own failures on pilot scenes added; and, once a
                    seed, a judge of its own as `vla-ros demo` trains it, on noisier demonstrations

    python benchmarks/stage1_scaling.py [--quick] [--seeds 3] [--out runs/stage1] [--docs docs] [--report]

A finished cell is kept as one JSON file under --out, and a second call goes on from there. --report only writes the report
of what is finished. The full grid is chosen small: about an hour on one core.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import functools
import hashlib
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vla_ros.errors import VlaRosError
from vla_ros.learning import rollout, sft, stage1
from vla_ros.learning.data import Demonstrations, Inputs
from vla_ros.learning.statistics import wilson
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.progress import evidence, picture
from vla_ros.progress.calibration import Calibration, Detector, detected
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.collect import collect
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import Tasks

ROBOT = "panda"
COLLECT, HELD_OUT, FOR_JUDGE = 31, 32, 33  # seeds of the demonstrations: training, figures and calibration, the judge's
PILOT, FINAL = 620_000, 920_000  # first scene seeds: failures for calibration, and evaluation
ENVS = 12  # scenes that share one forward pass
LOOKS = 2  # successive observations at which the truth must say success
TASKS = ("reach", "push")
KINDS = {"demonstrations": "held-out demonstrations", "failures": "the same and failures on pilot scenes"}
ARMS = {True: "pretrained", False: "from scratch"}
COLOURS = {True: "tab:blue", False: "tab:orange"}
NAME = "stage1"


@dataclass(frozen=True)
class Setup:
    """Everything that a cell's figures depend on besides the code."""

    demonstrations: tuple[int, ...] = (75, 150, 300, 600)
    steps: int = 450
    batch: int = 64
    learning_rate: float = 5e-4  # for both arms; not tuned for either
    grounding_pictures: int = 12000
    grounding_steps: int = 600
    held_out: int = 100  # demonstrations
    scenes: int = 120
    pilot: int = 40
    patience: float = 2.0  # episodes are watched for so many cycle times; success also counts at that time, separately


@dataclass(frozen=True)
class JudgeSetup:
    """The separate judge, in proportion as stage1.Stage1Config has it; as many steps as fit a cell's time."""

    demonstrations: int = 600
    noise: tuple[float, ...] = stage1.Stage1Config.judge_noise
    held_out: float = 0.15
    steps: int = 900
    frozen: float = stage1.Stage1Config.frozen
    learning_rate: float = stage1.Stage1Config.learning_rate


QUICK_JUDGE = JudgeSetup(40, steps=20)
QUICK = Setup((10, 20), steps=20, grounding_pictures=256, grounding_steps=10, held_out=12, scenes=8, pilot=4)


@dataclass(frozen=True)
class Cell:
    seed: int  # of weights, batches, stage 0 and the choice of demonstrations
    demonstrations: int
    pretrained: bool

    @property
    def name(self) -> str:
        return f"seed{self.seed}-{self.demonstrations}-{ARMS[self.pretrained].replace(' ', '_')}"


# ------------------------------------------------------------------------------------------------- one cell


def prepare(shared: Path, name: str, count: int, seed: int, noise: tuple[float, ...] = (0.25,)) -> None:
    """Demonstrations, for all cells."""
    path, unfinished = shared / f"{name}-{count}.npz", shared / f"unfinished-{name}.npz"
    if not path.exists():
        data = collect(ROBOT, count, seed, noises=noise, workers=1)
        stage1.save_demonstrations(unfinished, stage1.demonstrations(data))
        unfinished.rename(path)


def grounded(shared: Path, setup: Setup, seed: int) -> Path:
    return shared / f"grounded-{setup.grounding_pictures}-{setup.grounding_steps}-seed{seed}"


def ground(shared: Path, setup: Setup, seed: int) -> None:
    """Stage 0 of a seed, for its pretrained cells."""
    torch.set_num_threads(1)
    folder = grounded(shared, setup, seed)
    if not (folder / "training.json").exists():  # it is written last
        config = stage1.Stage1Config(
            grounding_pictures=setup.grounding_pictures, ground_steps=setup.grounding_steps, ground_seconds=math.inf, seed=seed
        )  # fmt: skip
        stage1.ground(folder, ROBOT, config, lambda share, figures: None)


def run_cell(shared: Path, setup: Setup, cell: Cell) -> dict[str, Any]:
    """Train, calibrate and evaluate; returns figures and every evaluation episode."""
    torch.set_num_threads(1)
    began = time.monotonic()
    most = max(setup.demonstrations)
    everything, held_out = _load(shared / f"demonstrations-{most}.npz"), _load(shared / f"held_out-{setup.held_out}.npz")
    chosen = np.random.default_rng(cell.seed).permutation(most)[: cell.demonstrations]
    data = everything[np.isin(everything.episode, chosen)]
    start = checkpoint.load(grounded(shared, setup, cell.seed), ROBOT) if cell.pretrained else stage1.fresh(ROBOT, cell.seed)
    model, prompt = start
    settings = sft.SftConfig(steps=setup.steps, batch=setup.batch, learning_rate=setup.learning_rate, seed=cell.seed)
    sft.clone(model, data.inputs(prompt), data, settings, lambda share, figures: None)
    trained = time.monotonic()
    if cell == _practised(setup, cell.seed):
        checkpoint.save(shared / cell.name, model, prompt, {"stage": "sft", **asdict(cell)})
    found = _assess(model, model, prompt, held_out, setup)
    seconds = {"training_seconds": round(trained - began, 1), "seconds": round(time.monotonic() - began, 1)}
    return {"frames": len(data.steps_to_go), **seconds, **found}


def run_judge(shared: Path, setup: Setup, config: JudgeSetup, seed: int) -> dict[str, Any]:
    """A judge of its own from the same stage 0, asked about the episodes of the seed's largest pretrained policy."""
    torch.set_num_threads(1)
    began = time.monotonic()
    data = _load(shared / f"judge-{config.demonstrations}.npz")
    training, held_out = data.split(config.held_out, seed)
    judge, prompt = checkpoint.load(grounded(shared, setup, seed), ROBOT)
    settings = sft.SftConfig(
        steps=config.steps, batch=setup.batch, learning_rate=config.learning_rate, behaviour_weight=0.0, frozen=config.frozen,
        seed=seed,
    )  # fmt: skip
    sft.clone(judge, training.inputs(prompt), training, settings, lambda share, figures: None)
    policy, _ = checkpoint.load(shared / _practised(setup, seed).name, ROBOT)
    return {**_assess(policy, judge, prompt, held_out, setup), "seconds": round(time.monotonic() - began, 1)}


def _practised(setup: Setup, seed: int) -> Cell:
    return Cell(seed, max(setup.demonstrations), True)


def _assess(policy: Model, judge: Model, prompt: Prompt, held_out: Demonstrations, setup: Setup) -> dict[str, Any]:
    """Calibrations of the judge, and every evaluation episode of the policy as the judge saw it."""
    p = _distributions(judge, held_out.inputs(prompt))
    pilot = _episodes(policy, judge, prompt, PILOT, setup.pilot, setup.patience)
    failed = [e.distribution for e in pilot if not e.truth.any()]
    calibrations = {"demonstrations": _calibrate(p, held_out, ()), "failures": _calibrate(p, held_out, failed)}
    threshold = (calibrations["demonstrations"] or {"threshold": 2.0})["threshold"]
    episodes = [
        {
            "seed": FINAL + k, "task": TASKS[k % 2], "truth": "".join("01"[int(t)] for t in e.truth),
            "d": [round(float(d), 3) for d in e.practice.steps_to_go],
            "at_goal": [round(float(v), 4) for v in evidence.at_goal(e.distribution, threshold)],
        }
        for k, e in enumerate(_episodes(policy, judge, prompt, FINAL, setup.scenes, setup.patience))
    ]  # fmt: skip
    figures = sft.evaluate(judge, held_out.inputs(prompt), held_out)
    return {"held_out": figures, "failed_pilots": len(failed), "calibrations": calibrations, "episodes": episodes}


@functools.cache
def _load(path: Path) -> Demonstrations:
    return stage1.load_demonstrations(path)


@functools.cache
def _envs() -> list[TabletopEnv]:
    return [TabletopEnv(RobotContract.load(ROBOT)) for _ in range(ENVS)]


@torch.inference_mode()
def _distributions(model: Model, inputs: Inputs) -> NDArray[np.float32]:
    """[N, K] p(steps-to-go)."""
    parts = torch.arange(len(inputs.images)).split(256)
    return torch.cat([model(*inputs[index])["steps_to_go"].softmax(-1) for index in parts]).numpy()


def _episodes(
    policy: Model, judge: Model, prompt: Prompt, first: int, count: int, patience: float
) -> list[rollout.SimulatedEpisode]:
    """Scene first + k is TASKS[k % 2]; greedy; nobody ends an episode early."""
    found: dict[int, rollout.SimulatedEpisode] = {}
    for which, task in enumerate(TASKS):
        seeds = list(range(first + which, first + count, len(TASKS)))
        ran = rollout.run(_envs(), seeds, policy, judge, None, prompt, task=task, greedy=True, patience=patience)
        found |= dict(zip(seeds, ran, strict=True))
    return [found[seed] for seed in sorted(found)]


def _calibrate(p: NDArray[np.float32], data: Demonstrations, failed: Sequence[NDArray[np.float32]]) -> dict[str, Any] | None:
    """None where no threshold keeps the wanted false-positive rate: then there is no detector."""
    try:
        return asdict(evidence.calibrate(p, data.steps_to_go, data.episode, failed))
    except VlaRosError:
        return None


# ------------------------------------------------------------------------------------------------- the grid


def grid(
    out: Path, setup: Setup, judge: JudgeSetup, seeds: int, processes: int, console: Console, report: Callable[[], object]
) -> None:
    """Every cell and judge that is not on disk yet; seed by seed, so that what is finished early is a grid, too."""
    code, commit = _code(), _commit()
    shared = out / f"shared-{code}"  # what cells have in common is made anew, too, where the code has changed
    shared.mkdir(exist_ok=True)
    (out / "cells").mkdir(exist_ok=True)
    todo = [c for c in cells_of(setup, seeds) if (kept := read(out, setup, c)) is None or kept["code"] != code]
    judges = [s for s in range(1, seeds + 1) if (kept := read_judge(out, setup, judge, s)) is None or kept["code"] != code]
    columns = (
        TextColumn("{task.description:>28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar, ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        total = len(todo) + len(judges)
        task = bar.add_task("demonstrations", total=total)
        sets = [("demonstrations", max(setup.demonstrations), COLLECT), ("held_out", setup.held_out, HELD_OUT)]
        for job in [pool.submit(prepare, shared, *which) for which in sets]:
            job.result()
        pool.submit(prepare, shared, "judge", judge.demonstrations, FOR_JUDGE, judge.noise).result()
        began = time.monotonic()

        def keep(path: Path, found: dict[str, Any]) -> None:
            kept = {"setup": asdict(setup), "code": code, "commit": commit, **found}
            path.write_text(json.dumps(kept), encoding="utf-8")
            bar.advance(task)
            done = int(bar.tasks[task].completed)
            left = (time.monotonic() - began) / done * (total - done) / 60
            rates = ", ".join(f"{t} {_successes(found['episodes'], t, 1.0).mean():.2f}" for t in TASKS)
            console.print(f"{path.stem}: {rates} in {found['seconds']:.0f} s; {done}/{total}, about {left:.0f} min left")
            report()

        for seed in sorted({*judges, *(c.seed for c in todo)}):
            bar.update(task, description=f"grounding, seed {seed}")
            pool.submit(ground, shared, setup, seed).result()
            bar.update(task, description=f"seed {seed}")
            jobs = {pool.submit(run_cell, shared, setup, cell): cell for cell in todo if cell.seed == seed}
            for job in as_completed(jobs):
                keep(_path(out, jobs[job].name), {"cell": asdict(jobs[job]), **job.result()})
            if seed in judges:
                found = pool.submit(run_judge, shared, setup, judge, seed).result()
                keep(_path(out, f"seed{seed}-judge"), {"judge": asdict(judge), **found})


def cells_of(setup: Setup, seeds: int) -> list[Cell]:
    return [Cell(s, n, p) for s in range(1, seeds + 1) for n in setup.demonstrations for p in ARMS]


def _path(out: Path, name: str) -> Path:
    return out / "cells" / f"{name}.json"


def read(out: Path, setup: Setup, cell: Cell) -> dict[str, Any] | None:
    """A finished cell of this setup, whichever state of the code made it."""
    return _read(_path(out, cell.name), {"setup": asdict(setup)})


def read_judge(out: Path, setup: Setup, judge: JudgeSetup, seed: int) -> dict[str, Any] | None:
    return _read(_path(out, f"seed{seed}-judge"), {"setup": asdict(setup), "judge": asdict(judge)})


def _read(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept if all(kept[k] == v for k, v in json.loads(json.dumps(key)).items()) else None


def _code() -> str:
    """Of what a cell's figures depend on: simulator, model, learning, calibration, robot and tasks."""
    package = Path(stage1.__file__).parent.parent
    parts = [*sorted((package / "sim").glob("*.py")), package / "policy" / "model.py", package / "policy" / "prompt.py"]
    parts += [package / "learning" / f"{name}.py" for name in ("sft", "stage1", "data", "rollout")]
    parts += [package / "progress" / f"{name}.py" for name in ("calibration", "evidence")]
    parts += [package.parent / "config" / kind for kind in (f"robots/{ROBOT}.yaml", "tasks/tabletop.yaml")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()[:12]


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


# ------------------------------------------------------------------------------------------------- figures


@functools.cache
def _limit(task: str, patience: float) -> int:
    return round(patience * Tasks.load().tasks[task].time_limit * RobotContract.load(ROBOT).observation.rate)


def _reached(truth: str, limit: int) -> bool:
    """Success at LOOKS successive observations, the last one at or before `limit`."""
    return "1" * LOOKS in truth[: limit + 1]


def _successes(episodes: Sequence[dict[str, Any]], task: str, patience: float) -> NDArray[np.bool_]:
    return np.array([_reached(e["truth"], _limit(task, patience)) for e in episodes if e["task"] == task])


def interval(values: NDArray[np.floating[Any]]) -> list[float]:
    """95 % bootstrap interval of the mean of values [seeds, scenes], drawing seeds first and scenes within each."""
    random = np.random.default_rng(0)
    seeds, scenes = values.shape
    s = random.integers(seeds, size=(2000, seeds, 1))
    means = values[s, random.integers(scenes, size=(2000, seeds, scenes))].mean((1, 2))
    return [float(q) for q in np.quantile(means, (0.025, 0.975))]


def calibration_of(cell: dict[str, Any], kind: str) -> Calibration | None:
    found = cell["calibrations"][kind]
    return None if found is None else Calibration(**{**found, "evidence": None})


def verdicts(cell: dict[str, Any], c: Calibration) -> dict[str, int]:
    """Episodes ended as on the live graph, at the detector's word or the cycle time: its verdict against the truth then.

    `withdrawn` counts detections that a later frame of the watched time took back while the truth held; `flickered` the
    same without hysteresis.
    """
    count = dict.fromkeys(("tp", "fp", "fn", "tn", "withdrawn", "flickered"), 0)
    bare = Calibration(**{**asdict(c), "release": None})
    for e in cell["episodes"]:
        limit = _limit(e["task"], 1.0)
        at = detected(e["d"][: limit + 1], c)
        truth = e["truth"][at] == "1" if at is not None else _reached(e["truth"], limit)
        count[("t" if (at is not None) == truth else "f") + ("n" if at is None else "p")] += 1
        for name, detector in (("withdrawn", Detector(c)), ("flickered", Detector(bare))):
            said = [detector.step(d) for d in e["d"]]
            count[name] += any(a and not b and t == "1" for a, b, t in zip(said, said[1:], e["truth"][1:], strict=False))
    return count


def summarise(cells: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per number of demonstrations and arm, over the seeds that are finished."""
    rows = []
    for n, pretrained in sorted({(c.demonstrations, c.pretrained) for c in cells}):
        mine = [cells[c] for c in sorted(cells, key=lambda c: c.seed) if (c.demonstrations, c.pretrained) == (n, pretrained)]
        row: dict[str, Any] = {"demonstrations": n, "pretrained": pretrained, "seeds": len(mine)}
        for name, patience in (("cycle_time", 1.0), ("twice", mine[0]["setup"]["patience"])):
            values = {t: np.array([_successes(f["episodes"], t, patience) for f in mine], float) for t in TASKS}
            values["all"] = np.concatenate([values[t] for t in TASKS], 1)
            row[name] = {
                t: {"success": float(v.mean()), "interval": interval(v), "by_seed": v.mean(1).tolist(), "episodes": v.size}
                for t, v in values.items()
            }
        row["held_out"] = {k: float(np.mean([f["held_out"][k] for f in mine])) for k in mine[0]["held_out"]}
        row["detector"] = {kind: _detector(mine, kind) for kind in KINDS}
        row |= {k: float(np.mean([f[k] for f in mine])) for k in ("frames", "training_seconds", "seconds")}
        rows.append(row)
    return rows


def _truths(episodes: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Of all frames."""
    return np.array([t == "1" for e in episodes for t in e["truth"]])


def _detector(cells: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Verdicts summed over the seeds that have a detector."""
    found = [(f, c) for f in cells if (c := calibration_of(f, kind)) is not None]
    if not found:
        return {"seeds": 0}
    counts = [verdicts(f, c) for f, c in found]
    count = {k: sum(v[k] for v in counts) for k in counts[0]}
    bad, good = count["fp"] + count["tn"], count["tp"] + count["fn"]
    told = [f["calibrations"][kind] for f, _ in found]
    by_truth = [(np.concatenate([e["d"] for e in f["episodes"]]), _truths(f["episodes"])) for f, _ in found]
    areas = [evidence.auc(-d[t], -d[~t]) for d, t in by_truth if 0 < t.sum() < len(t)]
    return {
        "seeds": len(found), **count, "thresholds": [c.threshold for _, c in found], "releases": [c.release for _, c in found],
        "false_positive_rate": count["fp"] / bad if bad else None, "false_negative_rate": count["fn"] / good if good else None,
        "auc_by_truth": float(np.mean(areas)) if areas else None,
        **{k: float(np.mean([t[k] for t in told])) for k in ("rank_correlation", "recall")},
        **{k: float(np.mean([t["evidence"][k] for t in told])) for k in ("auc", "coverage")},
    }  # fmt: skip


def differences(cells: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired by seed and scene, at the cycle time: pretraining at each number, and the most against the fewest per arm."""

    def values(found: dict[str, Any]) -> NDArray[np.float64]:
        return np.concatenate([_successes(found["episodes"], t, 1.0) for t in TASKS]).astype(float)

    numbers = sorted({c.demonstrations for c in cells})
    pairs = [(f"pretraining, {n} demonstrations", (n, True), (n, False)) for n in numbers]
    pairs += [(f"{numbers[-1]} against {numbers[0]} demonstrations, {ARMS[p]}", (numbers[-1], p), (numbers[0], p)) for p in ARMS]
    out = []
    for name, after, before in pairs:
        seeds = [s for s in sorted({c.seed for c in cells}) if Cell(s, *after) in cells and Cell(s, *before) in cells]
        if seeds and after != before:
            d = np.array([values(cells[Cell(s, *after)]) - values(cells[Cell(s, *before)]) for s in seeds])
            out.append({"name": name, "seeds": len(seeds), "difference": float(d.mean()), "interval": interval(d)})
    return out


# ------------------------------------------------------------------------------------------------- report

INTRODUCTION = """# Stage 1: demonstrations, pretraining, and the detector's word

`{command}`; commit {commits}, code {codes}.
{partial}
**Small on purpose**: {steps} optimiser steps of {batch} frames in every cell, all weights trained at {learning_rate:g} (tuned for
neither arm), {minutes:.1f} minutes a cell on one shared core. Stage 0 ({grounding_steps} steps on {grounding_pictures} pictures)
comes on top of the pretrained arm's budget, as a VLM's pretraining does; unlike a VLM's it is of the domain itself: the same
simulator and words.

Success: the simulator's truth at {looks} successive observations within the cycle time (reaching 1.0 s, pushing 3.6 s); greedy
actions; the same {scenes} scenes in every cell (seeds {first}..{last}, half reaching, half pushing; nothing was trained, chosen
or tuned on them). Intervals: 95 %, bootstrap over seeds and scenes. A seed changes weights, batches, stage 0 and which
demonstrations are drawn; of one seed, a smaller set is part of every larger one.

| demonstrations (frames) | weights | seeds | success | by seed | reach | push | in {patience:g} × the time | rank corr. of d |
|---|---|---|---|---|---|---|---|---|
"""
DETECTOR = """
## The success detector

The policy's own steps-to-go head. Episodes end at its word or at the cycle time, as on the live graph. *False positives*: share
of the episodes without success at that moment that it calls done. *False negatives*: share of the successful ones that it
misses. Threshold: the largest that at most 0.5 % of the held-out frames that are no success pass; 5 % pass the release level.
*Withdrawn*: episodes in which success is taken back while the truth holds, with / without this hysteresis. *AUC*: by d, held-out
final frames against those that are no success / frames of the policy's own episodes by the simulator's truth; whatever the
threshold. *Interval*: share of held-out frames whose true steps-to-go lies in the predicted central 80 %. Brackets: Wilson's
95 %, episodes of all seeds pooled. No entry: no threshold keeps that rate, there is no detector. *Judge*: a network of its own
from the same stage 0, steps-to-go alone, {judge[steps]} steps on {judge[demonstrations]} noisier demonstrations, asked about the
episodes of the largest pretrained policy.

| demonstrations | weights | calibrated on | detectors | thresholds | false pos. | false neg. | withdrawn | AUC | interval |
|---|---|---|---|---|---|---|---|---|---|
"""


def write(out: Path, setup: Setup, judge: JudgeSetup, seeds: int, command: str) -> dict[str, Any] | None:
    """stage1.json, .md and .png of the finished cells; None where there is none."""
    wanted = cells_of(setup, seeds)
    cells = {c: kept for c in wanted if (kept := read(out, setup, c)) is not None}
    judges = {s: kept for s in range(1, seeds + 1) if (kept := read_judge(out, setup, judge, s)) is not None}
    if not cells:
        return None
    names = {**{c.name: kept for c, kept in cells.items()}, **{f"seed{s}-judge": kept for s, kept in judges.items()}}
    result = {
        "command": command, "setup": asdict(setup), "seeds": seeds, "scene_seeds": [FINAL, FINAL + setup.scenes - 1],
        "pilot_seeds": [PILOT, PILOT + setup.pilot - 1], "collect_seeds": [COLLECT, HELD_OUT, FOR_JUDGE],
        "commits": sorted({c["commit"] for c in names.values()}), "code": sorted({c["code"] for c in names.values()}),
        "missing": [n for n in (*(c.name for c in wanted), *(f"seed{s}-judge" for s in range(1, seeds + 1))) if n not in names],
        "rows": summarise(cells), "differences": differences(cells), "judge_setup": asdict(judge),
        "judge": {kind: _detector(list(judges.values()), kind) for kind in KINDS},
        "cells": {n: {k: c[k] for k in ("held_out", "failed_pilots", "calibrations", "seconds")} for n, c in names.items()},
    }  # fmt: skip
    (out / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(markdown(result), encoding="utf-8")
    draw(result, cells, list(judges.values()), out / f"{NAME}.png")
    return result


def markdown(result: dict[str, Any]) -> str:
    rows, missing = result["rows"], result["missing"]
    (first, last), minutes = result["scene_seeds"], float(np.mean([r["seconds"] for r in rows])) / 60
    head = INTRODUCTION.format(
        **result["setup"], command=result["command"], commits=", ".join(result["commits"]), codes=", ".join(result["code"]),
        partial=f"\n**Partial**: {len(missing)} cells are missing ({', '.join(missing)}).\n" if missing else "", looks=LOOKS,
        minutes=minutes, first=first, last=last,
    )  # fmt: skip
    lines = [head.rstrip()]
    for r in rows:
        at, seeds = r["cycle_time"], ", ".join(f"{100 * v:.0f}" for v in r["cycle_time"]["all"]["by_seed"])
        everything, reach, push = (_share(at[t]["success"], at[t]["interval"]) for t in ("all", *TASKS))
        lines.append(
            f"| {r['demonstrations']} ({r['frames']:.0f}) | {ARMS[r['pretrained']]} | {r['seeds']} | **{everything}** | {seeds} "
            f"| {reach} | {push} | {_share(r['twice']['all']['success'])} | {r['held_out']['steps_to_go_rank_correlation']:.2f} |"
        )
    lines += ["", "Differences in points, paired by seed and scene:", ""]
    for d in result["differences"]:
        low, high = (100 * v for v in d["interval"])
        word = "seed" + "s" * (d["seeds"] > 1) + ("" if low > 0 or high < 0 else "; not separable from none")
        lines.append(f"- {d['name']}: {100 * d['difference']:+.1f} [{low:+.1f}, {high:+.1f}], {d['seeds']} {word}")
    lines += ["", f"![success, detector, reliability]({NAME}.png)", DETECTOR.format(judge=result["judge_setup"]).rstrip()]
    for r, (kind, text) in itertools.product(rows, KINDS.items()):
        d = r["detector"][kind]
        head = f"| {r['demonstrations']} | {ARMS[r['pretrained']]} | {text} | {d['seeds']} of {r['seeds']} |"
        lines.append(head + (_detector_cells(d) if d["seeds"] else " – |" * 6))
    for kind, text in KINDS.items():
        d = result["judge"][kind]
        lines.append(f"| judge | pretrained | {text} | {d['seeds']} |" + (_detector_cells(d) if d["seeds"] else " – |" * 6))
    return "\n".join([*lines, ""])


def _share(value: float | None, bounds: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.0f} %" + (f" [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]" if bounds else "")


def _detector_cells(d: dict[str, Any]) -> str:
    positives = _share(d["false_positive_rate"], wilson(d["fp"], d["fp"] + d["tn"]))
    negatives = _share(d["false_negative_rate"], wilson(d["fn"], d["fn"] + d["tp"]))
    return (
        f" {', '.join(f'{t:.2f}' for t in d['thresholds'])} | {positives} ({d['fp']} of {d['fp'] + d['tn']}) "
        f"| {negatives} ({d['fn']} of {d['fn'] + d['tp']}) | {d['withdrawn']} / {d['flickered']} "
        f"| {d['auc']:.2f} / {'–' if d['auc_by_truth'] is None else format(d['auc_by_truth'], '.2f')} "
        f"| {_share(d['coverage'])} |"
    )


def draw(result: dict[str, Any], cells: dict[Cell, dict[str, Any]], judges: Sequence[dict[str, Any]], path: Path) -> None:
    """Success, its tasks, the detector's errors, and reliability at the largest number of demonstrations."""
    import matplotlib.pyplot as plt  # vla_ros.progress.picture has chosen the backend

    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
    (success, tasks), (errors, reliable) = axes
    numbers = result["setup"]["demonstrations"]
    for pretrained, name in ARMS.items():
        rows = [r for r in result["rows"] if r["pretrained"] == pretrained]
        x, colour = np.array([r["demonstrations"] for r in rows]) * (1.02 if pretrained else 0.98), COLOURS[pretrained]
        for panel, task, style in ((success, "all", "o-"), (tasks, "reach", "o-"), (tasks, "push", "s--")):
            parts = [r["cycle_time"][task] for r in rows]
            y = np.array([p["success"] for p in parts])
            bars = np.abs(np.array([p["interval"] for p in parts]).reshape(-1, 2).T - y)
            panel.errorbar(x, y, bars, fmt=style, color=colour, capsize=3, label=name if task == "all" else f"{task}, {name}")
        for at, row in zip(x, rows, strict=True):
            seeds = row["cycle_time"]["all"]["by_seed"]
            success.scatter([at] * len(seeds), seeds, 14, color=colour, alpha=0.4)
        for key, style in (("false_positive_rate", "o-"), ("false_negative_rate", "s:")):
            told = [r["detector"]["demonstrations"].get(key) for r in rows]
            y = np.array([np.nan if v is None else v for v in told])
            errors.plot(x, y, style, color=colour, label=f"{key.replace('_rate', 's').replace('_', ' ')}, {name}")
        mine = [f for c, f in cells.items() if (c.demonstrations, c.pretrained) == (max(numbers), pretrained)]
        _reliability(reliable, mine, f"own head, {name}", colour)
    _reliability(reliable, judges, "separate judge", "tab:green")
    for panel in (success, tasks, errors):
        panel.set(xscale="log", xlabel="demonstrations", ylim=(-0.02, 1.02))
        panel.set_xticks(numbers, [str(n) for n in numbers])
        panel.minorticks_off()
    success.set(ylabel="success", title="success at the cycle time (reaching and pushing, half each; dots: seeds)")
    tasks.set(ylabel="success", title="by task")
    errors.set(ylabel="share of episodes", title="detector against the truth, calibrated on demonstrations")
    reliable.set_title(f"the policy's own episodes by the truth, {max(numbers)} demonstrations")
    for panel in axes.flat:
        panel.title.set_fontsize(10)
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
    if result["missing"]:
        figure.suptitle(f"partial: {len(result['missing'])} cells are missing", color="tab:red", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _reliability(axes: Any, cells: Sequence[dict[str, Any]], name: str, colour: str) -> None:
    """The policy's own episodes by the simulator's truth, all seeds together."""
    told = [e for f in cells if f["calibrations"]["demonstrations"] for e in f["episodes"]]
    if told:
        predicted = np.concatenate([e["at_goal"] for e in told])
        picture.reliability(axes, evidence.reliability(predicted, _truths(told)), name, colour)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="default: 3, quick: 1")
    parser.add_argument("--out", type=Path, default=Path("runs/stage1"), help="cells and report (default: runs/stage1)")
    parser.add_argument("--docs", type=Path, help="folder whose results/ gets stage1.json, .md and .png as well")
    parser.add_argument("--processes", type=int, default=1, help="one core each (default: 1)")
    parser.add_argument(
        "--quick", action="store_true", help="a grid of four cells in a minute or two; it shows nothing but that it runs"
    )
    parser.add_argument("--report", action="store_true", help="only the report of what is finished")
    args = parser.parse_args()
    setup, judge = (QUICK, QUICK_JUDGE) if args.quick else (Setup(), JudgeSetup())
    seeds = args.seeds or (1 if args.quick else 3)
    out: Path = args.out.resolve() / ("quick" if args.quick else "full")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    command = "python benchmarks/stage1_scaling.py" + (" --quick" if args.quick else "") + f" --seeds {seeds}"
    if not args.report:
        grid(out, setup, judge, seeds, args.processes, console, lambda: write(out, setup, judge, seeds, command))
    result = write(out, setup, judge, seeds, command)
    if result is None:
        console.print(f"{out}: no finished cell of this setup")
        return 1
    if args.docs:
        (args.docs / "results").mkdir(parents=True, exist_ok=True)
        for kind in ("json", "md", "png"):
            (args.docs / "results" / f"{NAME}.{kind}").write_bytes((out / f"{NAME}.{kind}").read_bytes())
    console.print((out / f"{NAME}.md").read_text(encoding="utf-8"), markup=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
