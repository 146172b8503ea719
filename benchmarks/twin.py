"""A digital twin of a hidden cell: is what is hidden found, and does success in the twin tell success in the hidden cell?

The hidden cell is the simulated one with other friction, damping, gains, delay, payload and a camera that was moved and turned.
Episodes of it are recorded with noise, as the graph records them:

    practice    the scripted expert reaching, behind the safety filter; joint states at 10 Hz, commands at 25 Hz, as by default
    every tick  the same with joint states and commands at the control rate
    excitation  the excitation motion, at the control rate

A twin is fitted to each of them, and checked on other episodes. The twin of `every tick` then predicts: policies run on the same
scenes in the unfitted, the fitted and the hidden cell, success by the simulator's truth at two successive observations within the
cycle time. They are the scripted expert in several manners, and versions of a run of `vla-ros demo` (--run).

With --cells, the same fits on cells whose physics is drawn from a seed each, and no prediction: do the stated intervals hold the
truth as often as they say? A cell's recordings and fits are kept in --out, so that a call that was interrupted goes on.

    python benchmarks/twin.py --run runs/latest [--scenes 48] [--out runs/twin] [--docs docs]
    python benchmarks/twin.py --cells 970003 [--out runs/twin-cells] [--docs docs]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tabletop
import torch
from rich.console import Console

from vla_ros.learning import rollout
from vla_ros.learning.statistics import wilson
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.filter import SafetyFilter
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert, Manner
from vla_ros.sim.physics import Physics
from vla_ros.twin import fit as fitting
from vla_ros.twin.parameters import FITTED, OF_JOINT, Twin
from vla_ros.twin.rehearsal import Recorder, Senses

CONTRACT = RobotContract.load("panda")
HIDDEN = Physics(
    friction=np.array([2.0, 3.0, 1.5, 2.0, 0.8, 0.7, 0.5]),  # N m; the model has 0.1
    damping=np.array([5.0, 8.0, 4.0, 6.0, 2.0, 2.0, 1.5]),  # N m s/rad; the model has 1
    gain=np.array([0.7, 0.8, 0.75, 0.7, 0.9, 0.8, 0.7]),
    delay=0.04, payload=0.5,
    cameras={"front": np.array([0.015, -0.01, 0.01, 0.01, -0.008, 0.01])},  # m and rad in its own frame
)  # fmt: skip
SETS = {"practice": 20, "every tick": 20, "excitation": 4}  # episodes
FIRST, HELD_OUT, SCENES = 960_000, 961_000, 962_000  # seeds; no other program uses them
MANNERS = {
    "expert, slow": Manner(speed=(0.3, 0.3)), "expert, as a person": Manner(), "expert, brisk": Manner(speed=(0.6, 0.6)),
    "expert, fast": Manner(speed=(0.9, 0.9), noise=0.1), "expert, fast and shaky": Manner(speed=(0.9, 0.9), noise=0.5),
}  # fmt: skip
VERSIONS = (1, 5, 9)  # of the run
CELLS = ("unfitted", "fitted", "hidden")
Success = dict[str, list[bool]]  # by task


def drawn(seed: int) -> Physics:
    """A hidden cell, anywhere between a stiff new arm with an empty hand and a worn one that carries something."""
    rng, n = np.random.default_rng(seed), len(CONTRACT.joints)
    return Physics(
        friction=rng.uniform(0.2, 3.0, n), damping=rng.uniform(0.5, 8.0, n), gain=rng.uniform(0.6, 1.2, n),
        delay=rng.uniform(0.0, 0.06), payload=rng.uniform(0.0, 1.0),
        cameras={"front": np.concatenate([rng.uniform(-0.015, 0.015, 3), rng.uniform(-0.012, 0.012, 3)])},
    )  # fmt: skip


def record(folder: Path, kind: str, first: int, count: int, hidden: Physics) -> list[Path]:
    """Recorded once; a second call finds them."""
    found = sorted(folder.glob("*.mcap"))
    if len(found) == count:
        return found
    for part in found:  # of a call that was interrupted: the noise is one stream from the first episode on
        part.unlink()
    env = TabletopEnv(CONTRACT, physics=hidden, command_filter=lambda: SafetyFilter.for_robot(CONTRACT))
    recorder = Recorder(env, Senses(every_tick=kind != "practice"), first)
    act = recorder.excitation if kind == "excitation" else recorder.practice
    return [act(folder / f"{k}.mcap", k) for k in range(first, first + count)]


def truth(hidden: Physics) -> dict[str, float]:
    """The hidden arm's parameters by name. Of the camera there is no such list: a twin turns what was moved."""
    of = {f"{kind}.{j}": float(getattr(hidden, kind)[k]) for kind in OF_JOINT for k, j in enumerate(CONTRACT.joints)}
    return {**of, "delay": hidden.delay, "payload": hidden.payload}


def told(twin: Twin, hidden: Physics) -> list[dict[str, Any]]:
    """One row a parameter."""
    return [
        {
            "name": name, "true": true, "twin": e.value, "status": e.status, "interval": e.interval, "error": e.error,
            "unit": e.parameter.unit, "nominal": e.parameter.nominal, "why": e.why,
        }
        for name, true in truth(hidden).items() for e in [twin.estimates[name]]
    ]  # fmt: skip


def experts(env: TabletopEnv, manner: Manner, scenes: Sequence[int]) -> Success:
    found: Success = {task: [] for task in tabletop.TASKS}
    for seed in scenes:
        task = tabletop.TASKS[seed % 2]
        env.reset(seed, task=task)
        assert env.scene
        expert, said = Expert(CONTRACT, env.scene, np.random.default_rng(seed), manner), "0"
        for _ in range(tabletop.limit(task, 1.0)):
            tip = env.cell.kinematics.tip_xy(env.cell.joint_state().position)
            env.advance(expert.step(tip, env.cell.blocks())[1])
            said += "01"[int(env.cell.truth()[0])]
        found[task].append(tabletop.reached(said, tabletop.limit(task, 1.0)))
    return found


def versions(run: Path, envs: list[TabletopEnv], number: int, scenes: Sequence[int]) -> Success:
    model, prompt = checkpoint.load(run / "checkpoints" / "policy", CONTRACT.robot)
    adapter.swap(adapter.add(model), WeightStore(run / "versions").load(number))
    found: Success = {}
    for which, task in enumerate(tabletop.TASKS):
        seeds = [seed for seed in scenes if seed % 2 == which]
        ran = rollout.run(envs, seeds, model, model, None, prompt, "train", task, greedy=True)
        found[task] = [tabletop.reached(tabletop.truth(e), tabletop.limit(task, 1.0)) for e in ran]
    return found


def predict(physics: dict[str, Physics | None], run: Path | None, scenes: Sequence[int], say: Callable[[str], None]) -> Any:
    """Success by policy and cell."""
    found: dict[str, dict[str, Success]] = {}
    for cell, own in physics.items():
        envs = [TabletopEnv(CONTRACT, physics=own) for _ in range(tabletop.ENVS)]
        for name, manner in MANNERS.items():
            found.setdefault(name, {})[cell] = experts(envs[0], manner, scenes)
            say(f"{cell}: {name}")
        if run:
            for number in VERSIONS:
                found.setdefault(f"network, version {number}", {})[cell] = versions(run, envs, number, scenes)
                say(f"{cell}: version {number}")
    return found


def rate(success: Success, task: str = "") -> float:
    return float(np.mean([s for t, said in success.items() if not task or t == task for s in said]))


def off(found: dict[str, dict[str, Success]], cell: str, policies: Sequence[str]) -> list[float]:
    """|difference| of success from the hidden cell's, by policy and task."""
    return [abs(rate(found[p][cell], t) - rate(found[p]["hidden"], t)) for p in policies for t in tabletop.TASKS]


def draw(out: Path, found: dict[str, dict[str, Success]]) -> None:
    """Success in the unfitted and the fitted cell against the hidden one's."""
    figure, axes = plt.subplots(figsize=(5.2, 5.0), constrained_layout=True)
    for cell, colour in (("unfitted", "tab:orange"), ("fitted", "tab:blue")):
        points = [(rate(f["hidden"], t), rate(f[cell], t)) for f in found.values() for t in tabletop.TASKS]
        axes.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.8, label=f"{cell} cell")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.set(xlabel="success in the hidden cell", ylabel="success in the simulated cell", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_title("a point is a policy at a task", fontsize=10)
    axes.legend(loc="lower right")
    figure.savefig(out / "twin.png", dpi=110)
    plt.close(figure)


def markdown(r: dict[str, Any]) -> str:
    lines = [
        "# Digital twin of a hidden cell", "",
        f"`python benchmarks/twin.py --run {r['run']} --scenes {r['scenes']}`; commit {r['commit']}.", "",
        "The hidden cell is the simulated one with other drives, 40 ms delay, a payload of 0.5 kg, and a camera that was moved",
        "by (15, -10, 10) mm and turned by (10, -8, 10) mrad. Measured with noise: 0.1 mrad, 2 mrad/s, 2 levels of 255.", "",
        "## What was found", "",
        "Intervals: 95 %, as the twin states them. `in`: how many of the fitted parameters' intervals hold the truth.", "",
        "| episodes | joint states | fitted | in | largest miss | minutes |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, f in r["fits"].items():
        rows = [p for p in f["parameters"] if p["status"] == FITTED]
        inside = [p["interval"][0] <= p["true"] <= p["interval"][1] for p in rows]
        miss = max(rows, key=lambda p: abs(p["twin"] - p["true"]) / (abs(p["nominal"] - p["true"]) or 1.0))
        far = f"{miss['name']}: {miss['twin']:.3g} for {miss['true']:.3g} {miss['unit']}"
        told = f"{len(rows)} of {len(f['parameters'])} | {sum(inside)} of {len(rows)}"
        lines.append(f"| {SETS[name]} {name} | {f['rate']} | {told} | {far} | {f['seconds'] / 60:.1f} |")
    names, dashes = " | ".join(r["fits"]), "---|" * len(r["fits"])
    lines += ["", f"| parameter | unit | model | true | {names} |", f"|---|---|---|---|{dashes}"]
    for k, p in enumerate(r["fits"]["practice"]["parameters"]):
        cells = []
        for f in r["fits"].values():
            q = f["parameters"][k]
            low, high = q["interval"]
            cells.append(f"{q['twin']:.3g} [{low:.3g}, {high:.3g}]" if q["status"] == FITTED else q["status"])
        lines.append(f"| {p['name']} | {p['unit']} | {p['nominal']:.3g} | {p['true']:.3g} | " + " | ".join(cells) + " |")
    lines += ["", "On held-out episodes of the hidden cell (`vla-ros twin check`), root mean square:", ""]
    of_each = " | ".join(f"{name}: model, twin" for name in r["fits"])
    lines += [f"| part | unit | {of_each} |", f"|---|---|{dashes}"]
    for k, v in enumerate(r["fits"]["practice"]["check"]):
        figures = [f["check"][k] for f in r["fits"].values()]
        cells = [f"{c['nominal']:.2g}, {c['twin']:.2g} {'good' if c['good'] else 'poor'}" for c in figures]
        lines.append(f"| {v['name']} | {v['unit']} | " + " | ".join(cells) + " |")
    for name, f in r["fits"].items():
        lines += [f"\nNot known after {name}:\n"] if any(p["why"] for p in f["parameters"]) else []
        lines += [f"- {p['name']}: {p['why']}" for p in f["parameters"] if p["why"]]
    lines += ["", "## What the twin tells of policies", ""]
    lines += [f"Success on {r['scenes']} scenes (seeds {SCENES}..), reach and push:", ""]
    lines += ["| policy | " + " | ".join(f"{c}: reach, push" for c in CELLS) + " |", "|---|" + "---|" * len(CELLS)]
    for name, f in r["success"].items():
        cells = [", ".join(f"{rate(f[c], t):.0%}" for t in tabletop.TASKS) for c in CELLS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Mean difference from the hidden cell without its sign, by policy and task, in points:", ""]
    lines += ["| policies | unfitted | fitted |", "|---|---|---|"]
    lines += [f"| {name} | {100 * o['unfitted']:.1f} | {100 * o['fitted']:.1f} |" for name, o in r["off"].items()]
    return "\n".join([*lines, "", "![success](twin.png)", ""])


def fitted(out: Path, kind: str, hidden: Physics) -> tuple[Twin, dict[str, Any]]:
    """The twin of a hidden cell from one set of episodes, and what is told of it."""
    count = SETS[kind]
    paths = record(out / kind.replace(" ", "-"), kind, FIRST, count, hidden)
    held = record(out / f"{kind.replace(' ', '-')}-held-out", kind, HELD_OUT, count if kind != "excitation" else 2, hidden)
    began = time.monotonic()
    twin = fitting.fit(CONTRACT, paths)
    verdicts = fitting.check(twin, CONTRACT, held)
    return twin, {
        "parameters": told(twin, hidden), "rate": twin.made["joint_states"], "seconds": time.monotonic() - began,
        "check": [{**vars(v.part), "good": v.good, "why": v.why} for v in verdicts],
        "camera": {n: e.value for n, e in twin.estimates.items() if n.startswith("camera")},
    }  # fmt: skip


def coverage(parameters: Sequence[dict[str, Any]]) -> tuple[int, int, float]:
    """How many intervals hold the truth, of how many that were fitted, and the farthest truth from an estimate in errors."""
    rows = [p for p in parameters if p["status"] == FITTED]
    inside = sum(p["interval"][0] <= p["true"] <= p["interval"][1] for p in rows)
    return inside, len(rows), max(abs(p["twin"] - p["true"]) / p["error"] for p in rows)


def drawn_cells(args: argparse.Namespace, console: Console) -> None:
    """Recovery on cells drawn from a seed each; one file per cell and set, so that a second call goes on."""
    found: dict[str, dict[str, Any]] = {}
    for seed in args.cells:
        for kind in SETS:
            folder = args.out / str(seed)
            kept = folder / f"{kind.replace(' ', '-')}.json"
            if not kept.exists():
                _, figures = fitted(folder, kind, drawn(seed))
                kept.write_text(json.dumps(figures, indent=1), encoding="utf-8")
            found.setdefault(str(seed), {})[kind] = json.loads(kept.read_text(encoding="utf-8"))
            inside, count, farthest = coverage(found[str(seed)][kind]["parameters"])
            console.print(f"cell {seed}, {kind}: {inside} of {count} hold the truth, the farthest is {farthest:.1f} errors away")
    result = {"commit": tabletop.commit(), "cells": found}
    (args.out / "twin_cells.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (args.out / "twin_cells.md").write_text(cells_markdown(result), encoding="utf-8")
    tabletop.publish(args.out, "twin_cells", args.docs, console, ("json", "md"))


def cells_markdown(r: dict[str, Any]) -> str:
    seeds = list(r["cells"])
    lines = [
        "# Digital twins of drawn hidden cells", "",
        f"`python benchmarks/twin.py --cells {' '.join(seeds)}`; commit {r['commit']}.", "",
        "Each cell's friction, damping, gains, delay, payload and camera are drawn from its seed (`drawn` in the program).", "",
        "`in`: how many of the 95 % intervals of fitted parameters hold the truth; `farthest`: of a truth from its estimate, in",
        "stated standard errors; `good`: joints that `vla-ros twin check` calls good on held-out episodes.", "",
        "| cell | episodes | fitted | in | farthest | good |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    totals: dict[str, list[int]] = {}
    for seed, sets in r["cells"].items():
        for kind, f in sets.items():
            inside, count, farthest = coverage(f["parameters"])
            totals.setdefault(kind, [0, 0])[0] += inside
            totals[kind][1] += count
            good = [v["good"] for v in f["check"] if not v["name"].startswith("camera")]
            row = f"{count} of {len(f['parameters'])} | {inside} of {count} | {farthest:.1f} | {sum(good)} of {len(good)}"
            lines.append(f"| {seed} | {SETS[kind]} {kind} | {row} |")
    inside, count = (sum(t[k] for t in totals.values()) for k in (0, 1))
    each = ", ".join(f"{kind} {a} of {b}" for kind, (a, b) in totals.items())
    low, high = wilson(inside, count)
    lines += ["", f"Together {inside} of {count} intervals hold the truth ({inside / count:.0%}, Wilson's 95 %: {low:.0%} to"]
    lines += [f"{high:.0%}, if they were independent, which those of one fit are not): {each}."]
    for seed, sets in r["cells"].items():
        dashes = "---|" * len(sets)
        lines += ["", f"## Cell {seed}", "", f"| parameter | unit | true | {' | '.join(sets)} |", f"|---|---|---|{dashes}"]
        for k, p in enumerate(next(iter(sets.values()))["parameters"]):
            cells = " | ".join(_cell(f["parameters"][k]) for f in sets.values())
            lines.append(f"| {p['name']} | {p['unit']} | {p['true']:.3g} | {cells} |")
    return "\n".join([*lines, ""])


def _cell(p: dict[str, Any]) -> str:
    """One estimate; in bold where its interval does not hold the truth."""
    if p["status"] != FITTED:
        return str(p["status"])
    low, high = p["interval"]
    text = f"{p['twin']:.3g} [{low:.3g}, {high:.3g}]"
    return text if low <= p["true"] <= high else f"**{text}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a demo's run, for its policy's versions")
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--cells", type=int, nargs="+", metavar="SEED", help="recovery on drawn cells, and nothing else")
    parser.add_argument("--out", type=Path, default=Path("runs/twin"))
    parser.add_argument("--docs", type=Path)
    args, console = parser.parse_args(), Console()
    torch.set_num_threads(1)
    if args.cells:
        drawn_cells(args, console)
        return
    result: dict[str, Any] = {"commit": tabletop.commit(), "run": str(args.run), "scenes": args.scenes, "fits": {}}
    twins = {}
    for kind in SETS:
        twins[kind], figures = fitted(args.out, kind, HIDDEN)
        result["fits"][kind] = figures
        console.print(f"{kind}: {figures['seconds']:.0f} s")
    physics = dict(zip(CELLS, (None, twins["every tick"].physics(CONTRACT), HIDDEN), strict=True))
    scenes = range(SCENES, SCENES + args.scenes)
    result["success"] = found = predict(physics, args.run, scenes, console.print)
    groups = {"all": list(found), "expert": list(MANNERS), "network": [name for name in found if name not in MANNERS]}
    result["off"] = {
        name: {c: float(np.mean(off(found, c, p))) for c in CELLS[:2]} for name, p in groups.items() if p
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "twin.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (args.out / "twin.md").write_text(markdown(result), encoding="utf-8")
    draw(args.out, found)
    tabletop.publish(args.out, "twin", args.docs, console)


if __name__ == "__main__":
    main()
