"""The report of methods.py: tables and curves of what is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tabletop import rate, share

TOLD = {
    "ppo": "PPO on everything", "ire": "iRe-VLA", "freeze": "iRe-VLA-freeze", "ire-d": "iRe-VLA, judged success",
    "recap": "RECAP", "improve": "self-improvement, judged",
}  # fmt: skip
COLUMNS = ("before", "last", "gain", "kept", "kept_gain")
Parts = Mapping[str, Sequence[Mapping[str, Any]]]


def write(out: Path, name: str, parts: Parts, command: str) -> bool:
    """methods_<place>.json, .md and .png; False where nothing is finished."""
    if not parts:
        return False
    one = {key: value for found in parts.values() for key, value in found[0]["setup"].items()}  # judged arms have more
    result = {
        "command": command, "setup": one, "arms": {arm: figures(found, one) for arm, found in parts.items()},
        "scene_seeds": [one["final"], one["final"] + one["scenes"] - 1],
        "commits": sorted({p["commit"] for found in parts.values() for p in found}),
    }  # fmt: skip
    stem = out / f"methods_{name}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(result, name), encoding="utf-8")
    draw(parts, one, stem.with_suffix(".png"))
    return True


def figures(parts: Sequence[Mapping[str, Any]], setup: Mapping[str, Any]) -> dict[str, Any]:
    """Of an arm, over its seeds."""
    out: dict[str, Any] = {"seeds": [p["seed"] for p in parts], "kept_after": [p["kept_after"] for p in parts]}
    for mode in parts[0]["last"]:
        out[mode] = {}
        for task in setup["evaluated"]:
            v = {k: np.array([p[k][mode][task] for p in parts], float) for k in ("before", "kept", "last")}
            v |= {"gain": v["last"] - v["before"], "kept_gain": v["kept"] - v["before"]}
            out[mode][task] = {k: rate(x) for k, x in v.items()}
    out["practised"] = {task: [quarters(p, task) for p in parts] for task in setup["practised"]}
    curves = [smooth(p, setup)[1] for p in parts]
    out["spread"] = float(np.mean([c.std() for c in curves]))  # over the run
    out["drop"] = float(np.mean([c.max() - c[-1] for c in curves]))  # from the peak to the end
    out["minutes"] = float(np.mean([p["seconds"] for p in parts]) / 60)
    out["memory"] = float(np.max([p["memory"] for p in parts]))
    return out


def quarters(part: Mapping[str, Any], task: str) -> list[float]:
    """True success in the first and in the last quarter of practice, whose scenes are new ones, too."""
    seen = [point[f"{task}_true"] for point in part["curve"] if f"{task}_true" in point]
    count = max(1, len(seen) // 4)
    return [float(np.mean(seen[:count])), float(np.mean(seen[-count:]))]


def smooth(part: Mapping[str, Any], setup: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Episodes, and practised success by the truth, of all tasks alike, as a moving mean over a quarter of practice."""
    x = np.array([p["episodes"] for p in part["curve"]], float)
    y = np.array([np.mean([p[f"{t}_true"] for t in setup["practised"] if f"{t}_true" in p]) for p in part["curve"]])
    width = min(len(x), max(1, round(setup["episodes"] / 4 / float(np.diff(x, prepend=0).mean()))))
    return x[width - 1 :], np.convolve(y, np.ones(width) / width, "valid")


def markdown(result: Mapping[str, Any], name: str) -> str:
    s = result["setup"]
    lines = [
        f"# One stage 1, six methods: {name}", "",
        f"`{result['command']}`, commits {', '.join(result['commits'])}. Practised: {', '.join(s['practised'])};",
        f"{s['episodes']} episodes each arm. {s['scenes']} held-out scenes a task (seeds from {s['final']}), success by the",
        "simulator's truth; 95 % intervals by bootstrap over seeds and scenes. *Kept*: the version with the best practised",
        "success over four updates, by the arm's own word.",
    ]  # fmt: skip
    if s["shown"]:
        shown = ", ".join(f"{count} of {task}" for task, count in s["shown"].items())
        lines += [f"Stage 1 is shown {shown}; stage 0, one for all seeds, {s['ground']['pictures']} pictures of their scenes."]
    if "judge" in s:
        told = f"The judge of judged arms has seen {s['judge']['demonstrations']} demonstrations of each practised task, of which"
        lines += [f"{told} {share(s['judge']['miss'])} begin with a miss."]
    lines += [""]
    for mode in [m for m in ("sampled", "greedy") if all(m in found for found in result["arms"].values())]:
        for task in s["evaluated"]:
            seen = "" if task in s["practised"] else " (not practised)"
            lines += [f"| {task}{seen}, {mode} | seeds | stage 1 | last | gain | kept | gain |", "|---|---|---|---|---|---|---|"]
            for arm, found in result["arms"].items():
                cells = [share(found[mode][task][k]["mean"], found[mode][task][k]["interval"]) for k in COLUMNS]
                lines += [f"| {TOLD[arm]} | {len(found['seeds'])} | {' | '.join(cells)} |"]
            lines += [""]
    lines += ["Practised success by the truth: first and last quarter of the episodes (the same scenes in all arms); spread"]
    lines += ["and fall of its mean over a quarter of them; time and memory of one seed on a shared core.", ""]
    tasks = " | ".join(s["practised"])
    lines += [f"| arm | {tasks} | standard deviation in a run | drop from peak to end | minutes | GiB at most |"]
    lines += ["|---|" + "---|" * (4 + len(s["practised"]))]
    for arm, f in result["arms"].items():
        ends = [" → ".join(share(float(v)) for v in np.mean(f["practised"][task], 0)) for task in s["practised"]]
        ends += [share(f["spread"]), share(f["drop"]), f"{f['minutes']:.1f}", f"{f['memory']:.1f}"]
        lines += [f"| {TOLD[arm]} | {' | '.join(ends)} |"]
    return "\n".join([*lines, "", f"![practised success](methods_{name}.png)", ""])


def draw(parts: Parts, setup: Mapping[str, Any], path: Path) -> None:
    """Practised success of every arm: each seed, and their mean where all have it."""
    figure = Figure(figsize=(2.6 * len(parts) + 0.5, 3), layout="constrained")
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axis, (arm, found) in zip(axes, parts.items(), strict=True):
        curves = [smooth(p, setup) for p in found]
        for x, y in curves:
            axis.plot(x, y, color="tab:blue", alpha=0.3)
        least = min(len(y) for _, y in curves)
        axis.plot(curves[0][0][:least], np.mean([y[:least] for _, y in curves], 0), color="tab:blue", linewidth=2)
        axis.set(title=TOLD[arm], xlabel="practised episodes", ylim=(0, 1), xlim=(0, setup["episodes"]))
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("true success while practising")
    figure.savefig(path, dpi=120)
