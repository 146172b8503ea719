"""Figures and report of stage1_scaling.py's grid: success with intervals, the detector's word against the truth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabletop import LOOKS, TASKS, interval, limit, reached, share, successes

from vla_ros.learning.statistics import wilson
from vla_ros.progress import evidence, picture
from vla_ros.progress.calibration import Calibration, Detector, detected

KINDS = {"demonstrations": "held-out demonstrations", "failures": "the same and failures on pilot scenes"}
ARMS = {True: "pretrained", False: "from scratch"}
COLOURS = {True: "tab:blue", False: "tab:orange"}
NAME = "stage1"


@dataclass(frozen=True)
class Cell:
    seed: int  # of weights, batches, stage 0 and the choice of demonstrations
    demonstrations: int
    pretrained: bool

    @property
    def name(self) -> str:
        return f"seed{self.seed}-{self.demonstrations}-{ARMS[self.pretrained].replace(' ', '_')}"


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
        end = limit(e["task"], 1.0)
        at = detected(e["d"][: end + 1], c)
        truth = e["truth"][at] == "1" if at is not None else reached(e["truth"], end)
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
            values = {t: np.array([successes(f["episodes"], t, patience) for f in mine], float) for t in TASKS}
            values["all"] = np.concatenate([values[t] for t in TASKS], 1)
            row[name] = {
                t: {"success": float(v.mean()), "interval": interval(v), "by_seed": v.mean(1).tolist(), "episodes": v.size}
                for t, v in values.items()
            }
        row["held_out"] = {k: float(np.mean([f["held_out"][k] for f in mine])) for k in mine[0]["held_out"]}
        row["detector"] = {kind: detector_figures(mine, kind) for kind in KINDS}
        row |= {k: float(np.mean([f[k] for f in mine])) for k in ("frames", "training_seconds", "seconds")}
        rows.append(row)
    return rows


def _truths(episodes: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Of all frames."""
    return np.array([t == "1" for e in episodes for t in e["truth"]])


def detector_figures(cells: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
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
        return np.concatenate([successes(found["episodes"], t, 1.0) for t in TASKS]).astype(float)

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
        everything, reach, push = (share(at[t]["success"], at[t]["interval"]) for t in ("all", *TASKS))
        lines.append(
            f"| {r['demonstrations']} ({r['frames']:.0f}) | {ARMS[r['pretrained']]} | {r['seeds']} | **{everything}** | {seeds} "
            f"| {reach} | {push} | {share(r['twice']['all']['success'])} | {r['held_out']['steps_to_go_rank_correlation']:.2f} |"
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


def _detector_cells(d: dict[str, Any]) -> str:
    positives = share(d["false_positive_rate"], wilson(d["fp"], d["fp"] + d["tn"]))
    negatives = share(d["false_negative_rate"], wilson(d["fn"], d["fn"] + d["tp"]))
    return (
        f" {', '.join(f'{t:.2f}' for t in d['thresholds'])} | {positives} ({d['fp']} of {d['fp'] + d['tn']}) "
        f"| {negatives} ({d['fn']} of {d['fn'] + d['tp']}) | {d['withdrawn']} / {d['flickered']} "
        f"| {d['auc']:.2f} / {'–' if d['auc_by_truth'] is None else format(d['auc_by_truth'], '.2f')} "
        f"| {share(d['coverage'])} |"
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
