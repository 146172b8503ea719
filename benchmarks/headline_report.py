"""Figures and report of headline.py: success by arm with intervals, what it cost, and how practice went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabletop import TASKS, interval, share, successes

from vla_ros.sim.expert import STEADY

ARMS = {"sft": "stage 1", "sft_8x": "stage 1, 8 x demonstrations", "improve": "stage 1 + self-improvement"}
COLOURS = {"sft": "tab:gray", "sft_8x": "tab:orange", "improve": "tab:blue"}
MODES = ("greedy", "sampled")
Parts = Mapping[tuple[int, str], dict[str, Any]]


def name_of(method: str) -> str:
    """Of the report on practice by a method."""
    return "headline" if method == "reinforce" else f"headline_{method}"


def figures(parts: Parts, demonstrations: int) -> dict[str, Any]:
    """Per arm and mode: success by seed, mean and interval, of all and of each task; paired differences; what was spent.

    `arms[arm]` has for greedy actions, which a robot runs: `success` as a list over seeds, `episodes`, `interval`.
    """
    arms: dict[str, Any] = {}
    for arm in ARMS:
        seeds = sorted(s for s, a in parts if a == arm)
        if not seeds:
            continue
        mine = [parts[s, arm] for s in seeds]
        told = {mode: _rates([part[mode] for part in mine]) for mode in MODES}
        spent = {"demonstrations": mine[0]["demonstrations"]} if "demonstrations" in mine[0] else {
            "demonstrations": demonstrations, "practice_episodes": [p["episodes_practised"] for p in mine],
            "kept_after": [p["kept_after"] for p in mine],
        }  # fmt: skip
        arms[arm] = {
            "seeds": seeds, "success": told["greedy"]["all"]["by_seed"], "interval": told["greedy"]["all"]["interval"],
            "episodes": told["greedy"]["all"]["episodes"], **told, **spent,
            "minutes": float(np.mean([p["seconds"] for p in mine]) / 60),
        }  # fmt: skip
    judges = [part for (_, arm), part in parts.items() if arm == "judge"]
    calibrations = [
        {k: j["calibration"][k] for k in ("threshold", "recall", "false_positive_rate", "rank_correlation")} for j in judges
    ]
    return {"arms": arms, "differences": _differences(parts), "judges": calibrations}


def _rates(evaluations: list[list[dict[str, Any]]]) -> dict[str, Any]:
    values = {t: np.array([successes(e, t) for e in evaluations], float) for t in TASKS}
    values["all"] = np.concatenate([values[t] for t in TASKS], 1)
    return {
        name: {"success": float(v.mean()), "interval": interval(v), "by_seed": v.mean(1).tolist(), "episodes": v.size}
        for name, v in values.items()
    }


def _differences(parts: Parts) -> list[dict[str, Any]]:
    """Paired by seed and scene."""

    def values(part: dict[str, Any], mode: str, tasks: tuple[str, ...]) -> NDArray[np.float64]:
        return np.concatenate([successes(part[mode], t) for t in tasks]).astype(float)

    out = []
    for after, before in (("improve", "sft"), ("improve", "sft_8x"), ("sft_8x", "sft")):
        seeds = sorted(s for s, a in parts if a == after and (s, before) in parts)
        for mode in MODES if seeds else ():
            for tasks in (TASKS, *((t,) for t in TASKS)):
                d = np.array([values(parts[s, after], mode, tasks) - values(parts[s, before], mode, tasks) for s in seeds])
                out.append({
                    "after": after, "before": before, "mode": mode, "task": tasks[0] if len(tasks) == 1 else "all",
                    "seeds": len(seeds), "difference": float(d.mean()), "interval": interval(d),
                })  # fmt: skip
    return out


INTRODUCTION = """# The headline: stage 1, eight times the demonstrations, self-improvement

`{command}`; commit {commits}, code {codes}.

{docstring}
Stage 1: {demonstrations} demonstrations from where up to {astray} stray steps ended, {steps} steps (8 x: twice as many).
Judge: {judge_reach} reaches and {judge_push} pushes of the same kind at one pace, without their actions; {judge_steps} steps.
Both from one stage 0 ({grounding_steps} steps on {grounding_pictures} pictures).
Practice (`method: {improve[method]}`): {practice_episodes} episodes at most, an update every {per_update}; the version is
kept whose judged success, both tasks alike, is best over five successive updates.
Success: the simulator's truth at two successive observations within the cycle time (reaching 1.0 s, pushing 3.6 s),
on {scenes} scenes (seeds {first}..{last}), the same for all arms. Intervals: 95 %, bootstrap over seeds and scenes.

| arm | actions | seeds | success | by seed | reach | push | demonstrations | practice episodes (kept after) | minutes |
|---|---|---|---|---|---|---|---|---|---|
"""
DOC = """Every arm of a seed has the same stage 0 and network. Practice sees no truth of the simulator: the frozen judge rewards
and ends episodes, and its word feeds the curriculum and chooses the version.
"""


def markdown(result: dict[str, Any]) -> str:
    first, last = result["scene_seeds"]
    lines = [
        INTRODUCTION.format(
            **result["setup"], command=result["command"], commits=", ".join(result["commits"]),
            codes=", ".join(result["code"]), first=first, last=last, docstring=DOC, astray=STEADY.astray,
        ).rstrip()
    ]  # fmt: skip
    for arm, told in result["arms"].items():
        practised = "–"
        if "practice_episodes" in told:
            practised = f"{max(told['practice_episodes'])} ({', '.join(str(n) for n in told['kept_after'])})"
        for mode in MODES:
            found = told[mode]
            cells = [share(found[t]["success"], found[t]["interval"]) for t in ("all", *TASKS)]
            seeds = ", ".join(f"{100 * v:.0f}" for v in found["all"]["by_seed"])
            lines.append(
                f"| {ARMS[arm]} | {mode} | {len(told['seeds'])} | **{cells[0]}** | {seeds} | {cells[1]} | {cells[2]} "
                f"| {told['demonstrations']} | {practised} | {told['minutes']:.0f} |"
            )
    lines += ["", "Differences in points, paired by seed and scene:", ""]
    for d in result["differences"]:
        low, high = (100 * v for v in d["interval"])
        what = f"{ARMS[d['after']]} against {ARMS[d['before']]}, {d['mode']}, {d['task']}"
        word = "" if low > 0 or high < 0 else "; not separable from none"
        lines.append(f"- {what}: {100 * d['difference']:+.1f} [{low:+.1f}, {high:+.1f}], {d['seeds']} seeds{word}")
    name = name_of(result["setup"]["improve"]["method"])
    return "\n".join([*lines, "", exchange(result), "", f"![success by arm, practice]({name}.png)", ""])


def exchange(result: dict[str, Any]) -> str:
    """How many more demonstrations would have bought the gain of practice, as far as the arms tell."""
    arms = result["arms"]
    if not {"sft", "sft_8x", "improve"} <= arms.keys():
        return ""
    low, high, practised = (arms[a]["greedy"]["all"]["success"] for a in ("sft", "sft_8x", "improve"))
    few, many = arms["sft"]["demonstrations"], arms["sft_8x"]["demonstrations"]
    episodes = float(np.mean(arms["improve"]["kept_after"]))
    spent = f"{episodes:.0f} practice episodes ({episodes / few:.1f} times the {few} demonstrations)"
    gained = f"Exchange rate: {spent} bought {100 * (practised - low):+.0f} points"
    if practised >= high:
        return f"{gained}, more than {many - few} further demonstrations did ({100 * (high - low):+.0f})."
    if practised <= low:
        return f"{gained}."
    # success between the two numbers taken as linear in their logarithm
    worth = few * (many / few) ** ((practised - low) / (high - low)) - few
    return f"{gained}, as about {worth:.0f} further demonstrations would have."


def draw(result: dict[str, Any], parts: Parts, path: Path) -> None:
    """Success by arm and task; success while practising, as the judge saw it and as it was."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    figure, panels = plt.subplots(1, 3, figsize=(13.5, 4.4), layout="constrained")
    bars = panels[0]
    groups = [(mode, task) for mode in MODES for task in ("all", *TASKS)]
    arms = [arm for arm in ARMS if arm in result["arms"]]
    for k, arm in enumerate(arms):
        found = [result["arms"][arm][mode][task] for mode, task in groups]
        y = np.array([f["success"] for f in found])
        errors = np.abs(np.array([f["interval"] for f in found]).T - y)
        x = np.arange(len(groups)) + 0.27 * (k - 1)
        bars.bar(x, y, 0.25, yerr=errors, capsize=2, color=COLOURS[arm], label=ARMS[arm])
        for at, f in zip(x, found, strict=True):
            bars.scatter([at] * len(f["by_seed"]), f["by_seed"], 8, color="black", alpha=0.5, zorder=3)
    bars.set_xticks(range(len(groups)), [f"{task}\n{mode}" for mode, task in groups], fontsize=8)
    bars.set(ylim=(0, 1.02), ylabel="success", title="held-out scenes (dots: seeds)")
    bars.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=3)
    curves = {s: part["curve"] for (s, arm), part in sorted(parts.items()) if arm == "improve"}
    for panel, task in zip(panels[1:], TASKS, strict=True):
        for seed, curve in curves.items():
            practised = [p["episodes"] for p in curve if f"{task}_true" in p]
            for key, style in (("true", "-"), ("detected", ":")):
                moving = _smooth([p[f"{task}_{key}"] for p in curve if f"{task}_{key}" in p])
                panel.plot(practised, moving, style, color=f"C{seed}", label=f"seed {seed}" if key == "true" else None)
        panel.set(ylim=(0, 1.02), xlabel="practice episodes", title=f"{task} while practising: true (line), judged (dots)")
        if curves:
            panel.legend(fontsize=7)
    for panel in panels:
        panel.title.set_fontsize(10)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _smooth(values: list[float], width: int = 5) -> NDArray[np.float64]:
    """Mean of each value and those before it, `width` at most."""
    return np.array([np.mean(values[max(0, k - width + 1) : k + 1]) for k in range(len(values))])
