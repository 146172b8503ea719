"""Figures and report of metaworld.py: success by task and arm with intervals, steps-to-go, and what the policy sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.cli.figure import save as save_figure
from vla_ros.learning.statistics import wilson
from vla_ros.sim.benchmark import Benchmark

NAME = "metaworld"
ARMS = ("policy", "expert", "random")
COLOURS = dict(zip(ARMS, ("tab:blue", "tab:green", "0.6"), strict=True))
FRAMES = 6  # of the picture strip, per task


def rate(episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Success with Wilson's 95 % interval, and the decisions that successes took."""
    won = [e["steps"] for e in episodes if e["success"]]
    return {
        "successes": len(won), "episodes": len(episodes), "interval": list(wilson(len(won), len(episodes))),
        "mean_steps": float(np.mean(won)) if won else None,
    }  # fmt: skip


def by_task(episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tasks = dict.fromkeys(e["task"] for e in episodes)
    return {**{task: rate([e for e in episodes if e["task"] == task]) for task in tasks}, "all": rate(episodes)}


def told(episodes: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{task} {r['successes']}/{r['episodes']}" for task, r in by_task(episodes).items())


INTRODUCTION = """# Stage 1 on MetaWorld, from pixels and words

`{command}`; commit {commits}, code {code}. {versions}.

One policy of {parameters} k parameters from random weights for {tasks} tasks: two {height}×{width} pictures, hand position
and gripper opening (never where objects or goals are), the instruction; {bins} bins for each of 4 action dimensions, one
decision per {repeat} simulator steps ({hertz:.0f} Hz). {demonstrations} demonstrations per task by MetaWorld's scripted experts
({frames} frames; noise {noise:g} on what is executed, labelled with what the expert would do), {steps} optimiser steps of
{batch} frames.

Success: MetaWorld's own criterion within {horizon} decisions ({limit} simulator steps; its own limit is 500), greedy actions,
{scenes} scenes per task with objects and goals drawn anew (seeds {first}..{last}; nothing was trained, chosen or tuned on
them), the same ones for all; {seeds} training seeds, which change weights and batches. Brackets: Wilson's 95 %, seeds pooled.
*Other words*: success at the scene's task where the policy is told the next row's ({swapped} scenes per task and seed).

| task | instruction | policy | by seed | decisions | expert | decisions | random | other words |
|---|---|---|---|---|---|---|---|---|
"""


REST = """
## Steps-to-go, on held-out expert episodes

{held_out} episodes per task without noise ({frames} frames), by seed: rank correlation of the expected steps-to-go with the
true ones {steps_to_go_rank_correlation}, mean error {steps_to_go_error} decisions; share of actions within 0.1 of the expert's
{action_within_one_bin}.

| instruction | rank correlation | mean error, decisions |
|---|---|---|
{rows}

## Time

One shared core. Demonstrations {demonstrations:.0f} s ({failed} of the expert's episodes failed under the noise and were left
out), training {training} s, evaluation {evaluation} s. The weights are those at
the end of the schedule.

## What the policy sees

Its two cameras in the first evaluation scene of each task, seed 1, from start to end:

![success, steps-to-go, pictures]({name}.png)
"""


def markdown(result: dict[str, Any], benchmark: Benchmark, parameters: int) -> str:
    setup, success = result["setup"], result["success"]
    (first, last), (height, width) = result["scene_seeds"], benchmark.image_size
    lines = [
        INTRODUCTION.format(
            **{k: setup[k] for k in ("bins", "demonstrations", "noise", "scenes", "swapped")}, command=result["command"],
            commits=", ".join(result["commits"]), code=result["code"], first=first, last=last, seeds=result["seeds"],
            versions=", ".join(f"{k} {v}" for k, v in result["versions"].items()), parameters=round(parameters / 1000),
            tasks=len(benchmark.tasks), height=height, width=width, repeat=benchmark.repeat, hertz=80 / benchmark.repeat,
            frames=result["frames"]["demonstrations"], steps=setup["training"]["steps"], batch=setup["training"]["batch"],
            horizon=benchmark.horizon, limit=benchmark.horizon * benchmark.repeat,
        ).rstrip()
    ]  # fmt: skip
    for task in (*benchmark.tasks, "all"):
        policy, seeds = success["policy"][task], ", ".join(f"{_percent(s[task])}" for s in result["by_seed"])
        lines.append(
            f"| {task} | {result['instructions'].get(task, '')} | **{_percent(policy)} %** {_interval(policy)} | {seeds} "
            f"| {_steps(policy)} | {_percent(success['expert'][task])} % | {_steps(success['expert'][task])} "
            f"| {_percent(success['random'][task])} % "
            f"| {_percent(success['swapped'][task]) + ' %' if task in success['swapped'] else '–'} |"
        )
    held, seconds = result["held_out"], result["seconds"]
    rows = [
        f"| {text} | {f['steps_to_go_rank_correlation']:.2f} | {f['steps_to_go_error']:.2f} |"
        for text, f in result["held_out_by_instruction"].items()
    ]
    rest = REST.format(
        **{k: _list(values) for k, values in held.items()}, held_out=setup["held_out"], frames=result["frames"]["held_out"],
        rows="\n".join(rows), failed=sum(result["expert_failed"]["demonstrations"].values()),
        demonstrations=seconds["demonstrations"], training=_list(seconds["training"], 0),
        evaluation=_list(seconds["evaluation"], 0), name=NAME,
    )  # fmt: skip
    return "\n".join([*lines, rest])


def _percent(r: dict[str, Any]) -> str:
    return f"{100 * r['successes'] / r['episodes']:.0f}"


def _interval(r: dict[str, Any]) -> str:
    return f"[{100 * r['interval'][0]:.0f}, {100 * r['interval'][1]:.0f}]"


def _steps(r: dict[str, Any]) -> str:
    return "–" if r["mean_steps"] is None else f"{r['mean_steps']:.0f}"


def _list(values: Sequence[float], digits: int = 2) -> str:
    return ", ".join(f"{v:.{digits}f}" for v in values)


def draw(result: dict[str, Any], strip: Path, path: Path) -> None:
    """Success, steps-to-go, and the picture strip."""
    import matplotlib.pyplot as plt  # vla_ros.progress.picture has chosen the backend

    with np.load(strip, allow_pickle=False) as file:
        pictures = {task: file[task] for task in result["instructions"]}
    rows = len(pictures)
    figure = plt.figure(figsize=(12, 4 + 1.2 * rows), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(4, 1.2 * rows))[:, 0]
    success, course = upper.subplots(1, 2)
    names = [*pictures, "all"]
    for k, arm in enumerate(ARMS):
        found = [result["success"][arm][name] for name in names]
        y = np.array([r["successes"] / r["episodes"] for r in found])
        bars = np.abs(np.array([r["interval"] for r in found]).T - y)
        x = np.arange(len(names)) + 0.27 * (k - 1)
        success.bar(x, y, 0.25, yerr=bars, color=COLOURS[arm], capsize=2, error_kw={"lw": 1}, label=arm)
    success.set_xticks(range(len(names)), [n.replace("-v3", "").replace("button-press-", "button-\n") for n in names], fontsize=8)
    success.set(ylim=(0, 1.05), ylabel="success", title=f"{result['seeds']} seeds, Wilson's 95 %")
    true = np.array(result["d"]["true"])
    for seed, d in enumerate(result["d"]["expected"], 1):
        middle = [np.median(np.array(d)[true == k]) for k in np.unique(true)]
        course.plot(np.unique(true), middle, ".-", label=f"median, seed {seed}")
    course.plot([0, true.max()], [0, true.max()], color="0.7", lw=1, zorder=0)
    course.set(xlabel="true steps-to-go of held-out expert episodes", ylabel="d, expected steps-to-go", title="steps-to-go")
    for panel in (success, course):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    for panels, (task, frames) in zip(lower.subplots(rows, FRAMES), pictures.items(), strict=True):
        for k, (panel, frame) in enumerate(zip(panels, frames, strict=True)):
            panel.imshow(np.concatenate(frame, 1) if frame.ndim == 4 else frame)
            panel.set_axis_off()
            if k == 0:
                panel.set_title(f"“{result['instructions'][task]}”", fontsize=8, loc="left")
    save_figure(figure, path)


def told_of(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{arm}: " + ", ".join(f"{task} {_percent(r)} %" for task, r in result["success"][arm].items()) for arm in ARMS
    )
