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
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tabletop
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stage1_report import ARMS, KINDS, NAME, Cell, detector_figures, differences, draw, markdown, summarise
from tabletop import ROBOT, TASKS

from vla_ros.errors import VlaRosError
from vla_ros.learning import sft, stage1
from vla_ros.learning.data import Demonstrations, Inputs
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.progress import evidence

COLLECT, HELD_OUT, FOR_JUDGE = 31, 32, 33  # seeds of the demonstrations: training, figures and calibration, the judge's
PILOT, FINAL = 620_000, 920_000  # first scene seeds: failures for calibration, and evaluation


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


# ------------------------------------------------------------------------------------------------- one cell


def ground(shared: Path, setup: Setup, seed: int) -> Path:
    """Stage 0 of a seed on disk, for its pretrained cells."""
    return tabletop.ground(shared, setup.grounding_pictures, setup.grounding_steps, seed)


def run_cell(shared: Path, setup: Setup, cell: Cell) -> dict[str, Any]:
    """Train, calibrate and evaluate; returns figures and every evaluation episode."""
    torch.set_num_threads(1)
    began = time.monotonic()
    most = max(setup.demonstrations)
    everything = tabletop.load(shared / f"demonstrations-{most}.npz")
    held_out = tabletop.load(shared / f"held_out-{setup.held_out}.npz")
    chosen = np.random.default_rng(cell.seed).permutation(most)[: cell.demonstrations]
    data = everything[np.isin(everything.episode, chosen)]
    start = checkpoint.load(ground(shared, setup, cell.seed), ROBOT) if cell.pretrained else stage1.fresh(ROBOT, cell.seed)
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
    data = tabletop.load(shared / f"judge-{config.demonstrations}.npz")
    training, held_out = data.split(config.held_out, seed)
    judge, prompt = checkpoint.load(ground(shared, setup, seed), ROBOT)
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
    pilot = tabletop.episodes(policy, judge, prompt, PILOT, setup.pilot, setup.patience)
    failed = [e.distribution for e in pilot if not e.truth.any()]
    calibrations = {"demonstrations": _calibrate(p, held_out, ()), "failures": _calibrate(p, held_out, failed)}
    threshold = (calibrations["demonstrations"] or {"threshold": 2.0})["threshold"]
    episodes = [
        {
            "seed": FINAL + k, "task": TASKS[k % 2], "truth": tabletop.truth(e),
            "d": [round(float(d), 3) for d in e.practice.steps_to_go],
            "at_goal": [round(float(v), 4) for v in evidence.at_goal(e.distribution, threshold)],
        }
        for k, e in enumerate(tabletop.episodes(policy, judge, prompt, FINAL, setup.scenes, setup.patience))
    ]  # fmt: skip
    figures = sft.evaluate(judge, held_out.inputs(prompt), held_out)
    return {"held_out": figures, "failed_pilots": len(failed), "calibrations": calibrations, "episodes": episodes}


@torch.inference_mode()
def _distributions(model: Model, inputs: Inputs) -> NDArray[np.float32]:
    """[N, K] p(steps-to-go)."""
    parts = torch.arange(len(inputs.images)).split(256)
    return torch.cat([model(*inputs[index])["steps_to_go"].softmax(-1) for index in parts]).numpy()


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
    code, commit = tabletop.code(), tabletop.commit()
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
        for job in [pool.submit(tabletop.prepare, shared, *which) for which in sets]:
            job.result()
        pool.submit(tabletop.prepare, shared, "judge", judge.demonstrations, FOR_JUDGE, judge.noise).result()
        began = time.monotonic()

        def keep(path: Path, found: dict[str, Any]) -> None:
            kept = {"setup": asdict(setup), "code": code, "commit": commit, **found}
            path.write_text(json.dumps(kept), encoding="utf-8")
            bar.advance(task)
            done = int(bar.tasks[task].completed)
            left = (time.monotonic() - began) / done * (total - done) / 60
            rates = ", ".join(f"{t} {tabletop.successes(found['episodes'], t, 1.0).mean():.2f}" for t in TASKS)
            console.print(f"{path.stem}: {rates} in {found['seconds']:.0f} s; {done}/{total}, about {left:.0f} min left")
            report()

        for seed in sorted({*judges, *(c.seed for c in todo)}):
            bar.update(task, description=f"grounding, seed {seed}")
            pool.submit(ground, shared, setup, seed).result()
            bar.update(task, description=f"seed {seed}")
            jobs = {pool.submit(run_cell, shared, setup, cell): cell for cell in todo if cell.seed == seed}
            for ran in as_completed(jobs):
                keep(_path(out, jobs[ran].name), {"cell": asdict(jobs[ran]), **ran.result()})
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
        "judge": {kind: detector_figures(list(judges.values()), kind) for kind in KINDS},
        "cells": {n: {k: c[k] for k in ("held_out", "failed_pilots", "calibrations", "seconds")} for n, c in names.items()},
    }  # fmt: skip
    (out / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(markdown(result), encoding="utf-8")
    draw(result, cells, list(judges.values()), out / f"{NAME}.png")
    return result


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
    tabletop.publish(out, NAME, args.docs, console)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
