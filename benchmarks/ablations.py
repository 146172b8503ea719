"""What practice of reaching owes to its parts (arXiv 2509.15155, sections 3.2 and 3.4), from the stage 1 of headline.py.

    full      stage 0, a judge of its own that stays frozen, the version kept that this judge liked best
    scratch   policy and judge from random weights: no pretraining on words and objects
    own       rewards and ends by the steps-to-go head of the stage-1 policy itself, a frozen copy
    live      by the head that is being trained, which moves with the policy

All arms of a seed practise the same scenes, and go on long past the point where success stands still. Evaluated on scenes that
nothing was trained, tuned or chosen on are the policy before practice, the version kept, and the last one: what no
stopping rule leaves on the arm.

    python benchmarks/ablations.py [--seeds 3] [--processes 2] [--out runs/ablations] [--shared runs/headline/full] [--docs docs]
                                    [--report]

What is finished is kept as JSON under --out, and a second call goes on from there. Stage 1 is taken from --shared where
headline.py left it there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import functools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import headline
import numpy as np
import tabletop
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from tabletop import ROBOT, rate, share

from vla_ros.errors import VlaRosError
from vla_ros.learning import rollout, sft, stage1
from vla_ros.learning.data import Demonstrations
from vla_ros.learning.practice import PracticeConfig, SimulatedPractice
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.progress.calibration import Calibration

ARMS = {
    "full": "pretrained, frozen judge of its own",
    "scratch": "no pretraining",
    "own": "rewards by the policy's own head, frozen",
    "live": "rewards by the policy's own head, live",
}
COLUMNS = ("before", "kept", "gain", "last", "without")  # without a rule
TASK = "reach"
FINAL, PRACTICE = 960_000, 2_400_000  # first scene seeds of evaluation and practice; no other program uses them
SCENES, EPISODES, PER_UPDATE = 160, 1440, 48
SPARE = 90  # of the demonstrations that the policy has not seen, for the calibration of its own head
SETUP = headline.SETUP
REFUSED = "refused.txt"  # beside a judge


def train(shared: Path, seed: int) -> tuple[Path, Path]:
    """Policy and judge of an arm without pretraining, on the demonstrations of the others; the judge's of reaching only."""
    setup, policy, judge = SETUP, shared / f"scratch-policy-seed{seed}", shared / f"scratch-judge-seed{seed}"
    if not (policy / "training.json").exists():
        model, prompt = stage1.fresh(ROBOT, seed)
        data = _demonstrations(shared, seed)[0]
        config = sft.SftConfig(steps=setup.steps, learning_rate=setup.learning_rate, seed=seed)
        sft.clone(model, data.inputs(prompt), data, config, lambda part, figures: None)
        checkpoint.save(policy, model, prompt, {"stage": "sft", "seed": seed})
    if not any((judge / name).exists() for name in ("calibration.json", REFUSED)):
        training, held_out = tabletop.load(shared / f"judge-reach-{setup.judge_reach}.npz").split(setup.held_out, seed)
        model, prompt = stage1.fresh(ROBOT, seed)
        steps = setup.judge_steps // 2  # no pushing is to be learned
        config = sft.SftConfig(steps=steps, learning_rate=setup.learning_rate, seed=seed, behaviour_weight=0.0)
        sft.clone(model, training.inputs(prompt), training, config, lambda part, figures: None)
        checkpoint.save(judge, model, prompt, {"stage": "judge", "seed": seed})
        try:
            sft.calibration_of(model, held_out.inputs(prompt), held_out).save(judge)
        except VlaRosError as error:  # it cannot tell success from failure, which is a result
            (judge / REFUSED).write_text(str(error), encoding="utf-8")
    return policy, judge


def _refused(folders: tuple[Path, Path]) -> str:
    """Why the judge must not be practised with; empty if it may be."""
    path = folders[1] / REFUSED
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _demonstrations(shared: Path, seed: int) -> tuple[Demonstrations, Demonstrations]:
    """The policy's, as headline.py draws them, and some that it has not seen."""
    most = SETUP.times * SETUP.demonstrations
    everything = tabletop.load(shared / f"demonstrations-{most}.npz")
    order = np.random.default_rng(seed).permutation(most)
    chosen, spare = order[: SETUP.demonstrations], order[SETUP.demonstrations :][:SPARE]
    return everything[np.isin(everything.episode, chosen)], everything[np.isin(everything.episode, spare)]


def practise(shared: Path, arm: str, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    began = time.monotonic()
    folders = train(shared, seed) if arm == "scratch" else (shared / f"policy-seed{seed}", shared / f"judge-seed{seed}")
    policy, prompt = checkpoint.load(folders[0], ROBOT)
    out: dict[str, Any] = {"before": evaluated(policy, prompt)}
    if refused := _refused(folders):
        stays = {"kept": out["before"], "last": out["before"], "kept_after": 0, "curve": []}
        return {**out, **stays, "refused": refused, "seconds": time.monotonic() - began}
    judge, calibration = _judge(arm, policy, prompt, folders, shared, seed)
    torch.manual_seed(seed)
    practice = SimulatedPractice(
        adapter.add(policy), judge, calibration, prompt, tabletop.envs(24),
        PracticeConfig(PER_UPDATE, (TASK,), seed=PRACTICE + 100_000 * seed), replace(SETUP.improve, seed=seed),
    )  # fmt: skip
    curve, kept = headline.practised(practice, EPISODES, began)
    out["last"] = evaluated(policy, prompt)
    adapter.swap(policy, kept.weights)
    out |= {"kept": evaluated(policy, prompt), "kept_after": kept.episodes, "curve": curve}
    return {**out, "threshold": calibration.threshold, "recall": calibration.recall, "seconds": time.monotonic() - began}


def _judge(
    arm: str, policy: Model, prompt: Prompt, folders: tuple[Path, Path], shared: Path, seed: int
) -> tuple[Model, Calibration]:
    if arm in ("full", "scratch"):
        return checkpoint.load(folders[1], ROBOT)[0], Calibration.load(folders[1])
    spare = _demonstrations(shared, seed)[1]
    calibration = sft.calibration_of(policy, spare.inputs(prompt), spare)
    return policy if arm == "live" else checkpoint.load(folders[0], ROBOT)[0], calibration


def evaluated(policy: Model, prompt: Prompt) -> dict[str, list[bool]]:
    """Success at every scene by the simulator's truth, greedy and sampled."""
    seeds, limit = list(range(FINAL, FINAL + SCENES)), tabletop.limit(TASK, 1.0)
    out = {}
    for mode, greedy in headline.MODES.items():
        ran = rollout.run(tabletop.envs(24), seeds, policy, policy, None, prompt, task=TASK, greedy=greedy)
        out[mode] = [tabletop.reached(tabletop.truth(e), limit) for e in ran]
    return out


# ------------------------------------------------------------------------------------------------- all of it


@functools.cache
def code() -> str:
    return headline.code("improve")


def run(out: Path, shared: Path, seeds: int, processes: int, console: Console) -> None:
    """What is not on disk yet."""
    commit = tabletop.commit()
    todo = [(seed, arm) for seed in range(1, seeds + 1) for arm in ARMS if read(out, seed, arm, code()) is None]
    console.print(f"{seeds * len(ARMS) - len(todo)} parts are there, {len(todo)} to do in {processes} processes; code {code()}")
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(practise, shared, arm, seed): (seed, arm) for seed, arm in todo}
        for job in as_completed(jobs):
            seed, arm = jobs[job]
            found = {"code": code(), "commit": commit, "seed": seed, "arm": arm, "setup": _setup(), **job.result()}
            _path(out, seed, arm).write_text(json.dumps(found), encoding="utf-8")
            told = {name: f"{np.mean(found[name]['sampled']):.2f}" for name in ("before", "kept", "last")}
            console.print(f"seed {seed} {arm}: {told} in {found['seconds']:.0f} s")
            write(out, seeds)


def _setup() -> dict[str, Any]:
    return {"scenes": SCENES, "episodes": EPISODES, "per_update": PER_UPDATE, "spare": SPARE}


def _path(out: Path, seed: int, arm: str) -> Path:
    return out / f"seed{seed}-{arm}.json"


def read(out: Path, seed: int, arm: str, code: str | None = None) -> dict[str, Any] | None:
    """A finished part of this setup (and code)."""
    return tabletop.part(_path(out, seed, arm), _setup(), code)


# ------------------------------------------------------------------------------------------------- report


def write(out: Path, seeds: int) -> bool:
    """ablations.json, .md and .png of what is finished; False where nothing is."""
    parts = {arm: [p for s in range(1, seeds + 1) if (p := read(out, s, arm)) is not None] for arm in ARMS}
    parts = {arm: found for arm, found in parts.items() if found}
    if not parts:
        return False
    result = {
        "command": f"python benchmarks/ablations.py --seeds {seeds}", "setup": _setup(),
        "scene_seeds": [FINAL, FINAL + SCENES - 1],
        "commits": sorted({p["commit"] for found in parts.values() for p in found}),
        "arms": {arm: figures(found) for arm, found in parts.items()},
    }  # fmt: skip
    (out / "ablations.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "ablations.md").write_text(markdown(result), encoding="utf-8")
    draw(parts, out / "ablations.png")
    return True


def figures(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of an arm: success before, kept and last; paired differences; how far practised success fell from its peak."""
    out: dict[str, Any] = {"seeds": [p["seed"] for p in parts], "kept_after": [p["kept_after"] for p in parts]}
    for mode in headline.MODES:
        values = {name: np.array([p[name][mode] for p in parts], float) for name in ("before", "kept", "last")}
        told: dict[str, Any] = {name: rate(v) for name, v in values.items()}
        for name, (after, before) in {"gain": ("kept", "before"), "without": ("last", "kept")}.items():
            told[name] = rate(values[after] - values[before])
        out[mode] = told
    ran = [p for p in parts if p["curve"]]
    out["peak"], out["end"] = ([float(pick(_smooth(p, "true"))) for p in ran] for pick in (np.max, lambda curve: curve[-1]))
    out["judged_minus_true"] = [float(_smooth(p, "detected")[-1] - _smooth(p, "true")[-1]) for p in ran]
    out["refused"] = {p["seed"]: p["refused"] for p in parts if "refused" in p}
    out["minutes"] = float(np.mean([p["seconds"] for p in parts]) / 60)
    return out


def _smooth(part: dict[str, Any], what: str) -> NDArray[np.float64]:
    """Practised success, mean of five updates."""
    return np.convolve([x[f"{TASK}_{what}"] for x in part["curve"]], np.ones(5) / 5, "valid")


def markdown(result: dict[str, Any]) -> str:
    setup = result["setup"]
    lines = [
        "# What practice owes to its parts", "",
        f"`{result['command']}`, commits {', '.join(result['commits'])}. Reaching, {setup['episodes']} practised episodes,",
        f"an update each {setup['per_update']}; {setup['scenes']} held-out scenes,"
        " 95 % intervals by bootstrap over seeds and scenes.", "",
    ]  # fmt: skip
    for mode in ("sampled", "greedy"):
        lines += [f"| {mode} | seeds | stage 1 | kept | gain | last | last less kept |", "|---|---|---|---|---|---|---|"]
        for arm, found in result["arms"].items():
            cells = [share(found[mode][k]["mean"], found[mode][k]["interval"]) for k in COLUMNS]
            lines += [f"| {arm}: {ARMS[arm]} | {len(found['seeds'])} | {' | '.join(cells)} |"]
        lines += [""]
    lines += ["While practising (mean of five updates, by the simulator's truth):", ""]
    lines += ["| arm | peak | at the end | judged minus true success at the end | kept after |", "|---|---|---|---|---|"]
    for arm, found in result["arms"].items():
        told = [", ".join(share(v) for v in found[k]) for k in ("peak", "end", "judged_minus_true")]
        lines += [f"| {arm} | {' | '.join(told)} | {', '.join(map(str, found['kept_after']))} |"]
    for arm, found in result["arms"].items():
        lines += [f"\n{arm}, seed {seed}: not practised, its judge is refused ({why})." for seed, why in found["refused"].items()]
    return "\n".join([*lines, "", "![practised success](ablations.png)", ""])


def draw(parts: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Practised success of every arm: true, and what the judge says."""
    figure = Figure(figsize=(3.2 * len(parts), 3), layout="constrained")
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axis, (arm, found) in zip(axes, parts.items(), strict=True):
        for colour, part in zip(("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple"), found, strict=False):
            if not part["curve"]:
                continue
            episodes = [x["episodes"] for x in part["curve"]][4:]
            axis.plot(episodes, _smooth(part, "true"), color=colour, label=f"seed {part['seed']}")
            axis.plot(episodes, _smooth(part, "detected"), color=colour, linestyle=":")
        axis.set(title=ARMS[arm].replace(", ", ",\n", 1), xlabel="practised episodes", ylim=(0, 1))
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("success (dotted: as judged)")
    axes[0].legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> int:
    args = tabletop.options(__doc__, "runs/ablations", 3).parse_args()
    return tabletop.benchmark(args, "ablations", headline.shared_in(args.shared), run, write)


if __name__ == "__main__":
    raise SystemExit(main())
