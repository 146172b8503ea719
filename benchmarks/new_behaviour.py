"""A motion that was never demonstrated (what arXiv 2509.15155 shows with BananaTable): the other half of the table.

The policy's demonstrations reach for blocks on one half only: in none does the tip cross the middle, so that it has never been
shown how to move to the other side. The judge has seen both halves, as steps-to-go needs pictures and words, but no commands.
Stage 0, which knows words, blocks and where they are, is headline.py's.

    stage 1     behaviour cloning on DEMONSTRATIONS of the shown half
    improve     practice on scenes of the other half, rewards and ends by the frozen judge, which no truth corrects
    sparse      the same episodes by PPO on the whole network, with the simulator's truth for reward: what exploration alone finds

Evaluated on scenes that nothing was trained, tuned or chosen on, of the other half (the new motion) and of the shown one (what
practice may cost), sampled and greedy.

    python benchmarks/new_behaviour.py [--seeds 5] [--processes 2] [--out runs/new_behaviour] [--shared runs/headline/full]
                                       [--docs docs] [--report]

What is finished is kept as JSON under --out, and a second call goes on from there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import functools
import itertools
import json
import time
from collections.abc import Mapping, Sequence
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

from vla_ros.learning import rollout, sft
from vla_ros.learning.cells import Cells
from vla_ros.learning.data import Demonstrations
from vla_ros.learning.learner import load_config, load_parts
from vla_ros.learning.ppo import PpoConfig, PpoPractice, prepare
from vla_ros.learning.practice import PracticeConfig, SimulatedPractice, rates
from vla_ros.learning.stopping import StopConfig
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.progress.calibration import Calibration
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import Scene, sample_scene
from vla_ros.types import Observation

ARMS = {"improve": "self-improvement, judged", "sparse": "PPO on everything, sparse reward"}
SIDES = {"other": 1, "shown": -1}  # sign of y of the named block; the tip's home is at y = 0
BEYOND = 0.14  # m from the middle: what went straight ahead, or to the other side, is 6 cm short of the tolerance (0.08 m)
CROSSED = 0.02  # m; in a demonstration the tip never is so far on the other half
DEMONSTRATIONS, COLLECTED = 200, 560  # kept, made
HALF = "half-reach", COLLECTED, 71, (), ("reach",)  # as tabletop.prepare takes it
FINAL, PRACTICE = 980_000, 5_400_000  # first scene seed of evaluation and practice; no other program uses them
SCENES, EPISODES, PER_UPDATE = 160, 480, 48
SETTINGS = "config/training/demo.yaml"  # of self-improvement: a critic with a say from the first hundred episodes
SETUP = headline.SETUP


class HalfTable(TabletopEnv):
    """Reaching for blocks of one half."""

    side = 1  # of SIDES

    def reset(
        self, seed: int | None = None, split: str = "train", task: str | None = None, scene: Scene | None = None
    ) -> Observation:
        random = np.random.default_rng(seed)
        drawn = (sample_scene(self.tasks, random, split, task, self.contract.home_tip) for _ in itertools.count())
        wanted = (s for s in drawn if s.blocks[s.target].y * self.side >= BEYOND)
        return super().reset(seed, split, task, scene or next(wanted))


@functools.cache
def envs(side: str) -> list[HalfTable]:
    cells = [HalfTable(RobotContract.load(ROBOT)) for _ in range(24)]
    for cell in cells:
        cell.side = SIDES[side]
    return cells


def demonstrations(shared: Path, seed: int) -> Demonstrations:
    """Of the shown half."""
    data = tabletop.load(tabletop.prepare(shared, *HALF))
    contract = RobotContract.load(ROBOT)
    low, high = contract.action.low[1], contract.action.high[1]
    y = low + (high - low) * (data.states[:, contract.observation.state.index("tip_y")] + 1) / 2
    episodes = [k for k in np.unique(data.episode) if y[data.episode == k].max() < CROSSED]
    if len(episodes) < DEMONSTRATIONS:
        raise SystemExit(f"{shared}: {len(episodes)} of {COLLECTED} demonstrations stay on one half, expected {DEMONSTRATIONS}")
    return data[np.isin(data.episode, np.random.default_rng(seed).permutation(episodes)[:DEMONSTRATIONS])]


def stage1(shared: Path, seed: int) -> tuple[Path, Path]:
    """The policy's folder, and the judge's: headline.py's, of both halves."""
    out, judge = shared / f"half-policy-seed{seed}", headline.judge_of(shared, SETUP, seed)
    if not (out / "training.json").exists():
        data = demonstrations(shared, seed)
        model, prompt = _untaught(shared, seed)
        config = sft.SftConfig(steps=SETUP.steps, learning_rate=SETUP.learning_rate, frozen=SETUP.frozen, seed=seed)
        sft.clone(model, data.inputs(prompt), data, config, lambda part, figures: None)
        checkpoint.save(out, model, prompt, {"stage": "sft", "seed": seed})
    return out, judge


def method(arm: str, policy: Model, prompt: Prompt, judge: Path, seed: int) -> SimulatedPractice | PpoPractice:
    practice = PracticeConfig(PER_UPDATE, ("reach",), seed=PRACTICE + 100_000 * seed)
    torch.manual_seed(seed)
    if arm == "sparse":
        ppo, _ = load_parts("config/training/ppo.yaml", PpoConfig, stopping=StopConfig)
        ppo = replace(ppo, trained="all", learning_rate=1e-4, seed=seed)  # the best rate of methods.py
        return PpoPractice(Cells(prepare(policy, ppo), prompt, envs("other"), practice), ppo)
    config, _ = load_config(SETTINGS)
    judged = checkpoint.load(judge, ROBOT)[0], Calibration.load(judge)
    return SimulatedPractice(adapter.add(policy), *judged, prompt, envs("other"), practice, replace(config, seed=seed))


def practise(out: Path, shared: Path, arm: str, seed: int, of: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    stage, judge = stage1(shared, seed)
    policy, prompt = checkpoint.load(stage, ROBOT)
    # All arms begin with the same policy: what the first has found holds for the others.
    if first := read(out, seed, next(iter(ARMS)), of):
        found = {k: first[k] for k in ("before", "chance")}
    else:
        found = {"before": evaluated(policy, prompt), "chance": evaluated(*_untaught(shared, seed))}
    began, curve, episodes = time.monotonic(), list[dict[str, float]](), 0
    practice = method(arm, policy, prompt, judge, seed)
    while episodes < EPISODES:
        ran, told = practice.iterate()
        episodes += PER_UPDATE
        curve.append({"episodes": episodes, **rates(ran), **told})
    return found | {"seconds": time.monotonic() - began, "last": evaluated(policy, prompt), "curve": curve}


def _untaught(shared: Path, seed: int) -> tuple[Model, Prompt]:
    """Stage 0, whose action head nobody has trained: sampled, it moves at random."""
    return checkpoint.load(tabletop.ground(shared, SETUP.grounding_pictures, SETUP.grounding_steps, seed), ROBOT)


def evaluated(policy: Model, prompt: Prompt) -> dict[str, dict[str, list[bool]]]:
    """Success at every scene by the simulator's truth: mode, half, scenes."""
    seeds, out = list(range(FINAL, FINAL + SCENES)), dict[str, dict[str, list[bool]]]()
    for mode, greedy in headline.MODES.items():
        out[mode] = {}
        for side in SIDES:
            ran = rollout.run(envs(side), seeds, policy, policy, None, prompt, task="reach", greedy=greedy, until_true=True)
            out[mode][side] = [e.detected for e in ran]
    return out


# ------------------------------------------------------------------------------------------------- all of it


@functools.cache
def code() -> str:
    return tabletop.code((*tabletop.LEARNING, *headline.PRACTICE_CODE, "acting", "cells", "ppo"))


def run(out: Path, shared: Path, seeds: int, processes: int, console: Console) -> None:
    """What is not on disk yet. The first arm makes a seed's stage 1 where it is missing: the other waits for it."""
    commit = tabletop.commit()
    tabletop.prepare(shared, *HALF)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for arm in ARMS:
            todo = [seed for seed in range(1, seeds + 1) if read(out, seed, arm, code()) is None]
            console.print(f"{arm}: {seeds - len(todo)} seeds are there, {len(todo)} to do; code {code()}")
            jobs = {pool.submit(practise, out, shared, arm, seed, code()): seed for seed in todo}
            for job in as_completed(jobs):
                seed, found = jobs[job], job.result()
                kept = {"code": code(), "commit": commit, "setup": setup(), "seed": seed, "arm": arm, **found}
                _path(out, seed, arm).write_text(json.dumps(kept), encoding="utf-8")
                told = {k: round(float(np.mean(found[k]["sampled"]["other"])), 2) for k in ("chance", "before", "last")}
                console.print(f"seed {seed} {arm}: {told} in {found['seconds']:.0f} s")
                write(out, seeds)


def setup() -> dict[str, Any]:
    return {
        "demonstrations": DEMONSTRATIONS, "beyond": BEYOND, "crossed": CROSSED, "scenes": SCENES, "episodes": EPISODES,
        "per_update": PER_UPDATE, "settings": SETTINGS, "scene_seeds": [FINAL, FINAL + SCENES - 1],
    }  # fmt: skip


def _path(out: Path, seed: int, arm: str) -> Path:
    return out / f"seed{seed}-{arm}.json"


def read(out: Path, seed: int, arm: str, code: str | None = None) -> Mapping[str, Any] | None:
    """A finished part of this setup (and code)."""
    return tabletop.part(_path(out, seed, arm), setup(), code)


def write(out: Path, seeds: int) -> bool:
    """new_behaviour.json, .md and .png of what is finished; False where nothing is."""
    parts = {arm: [p for s in range(1, seeds + 1) if (p := read(out, s, arm)) is not None] for arm in ARMS}
    if not any(parts.values()):
        return False
    result = {
        "command": f"python benchmarks/new_behaviour.py --seeds {seeds}", "setup": setup(),
        "commits": sorted({p["commit"] for found in parts.values() for p in found}),
        "arms": {arm: _figures(found) for arm, found in parts.items() if found},
    }  # fmt: skip
    (out / "new_behaviour.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "new_behaviour.md").write_text(_markdown(result), encoding="utf-8")
    _draw(parts, out / "new_behaviour.png")
    return True


def _figures(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"seeds": [p["seed"] for p in parts], "minutes": float(np.mean([p["seconds"] for p in parts]) / 60)}
    for mode in headline.MODES:
        out[mode] = {}
        for side in SIDES:
            found = {k: np.array([p[k][mode][side] for p in parts], float) for k in ("chance", "before", "last")}
            out[mode][side] = {k: rate(v) for k, v in found.items()}
    return out


def _markdown(result: Mapping[str, Any]) -> str:
    s = result["setup"]
    lines = [
        "# A motion that was never demonstrated: the other half of the table", "",
        f"`{result['command']}`, commits {', '.join(result['commits'])}.",
        f"Stage 1: {s['demonstrations']} demonstrations of reaching on one half. Evaluated where the named block is",
        f"{s['beyond']:g} m or more from the middle: {s['scenes']} scenes a half (seeds from {s['scene_seeds'][0]}), success",
        f"by the simulator's truth. {s['episodes']} practised episodes on the other half, the last version (no rule stopped",
        "practice); 95 % intervals by bootstrap over seeds and scenes. *At random*: stage 0's action head, which nobody",
        "trained, sampled.", "",
    ]  # fmt: skip
    for mode in headline.MODES:
        lines += [f"| {mode} | seeds | other half: at random | stage 1 | practised | shown half: stage 1 | practised |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for arm, found in result["arms"].items():
            told = [found["sampled"]["other"]["chance"], *(found[mode][side][k] for side in SIDES for k in ("before", "last"))]
            cells = [share(r["mean"], r["interval"]) for r in told]
            lines += [f"| {ARMS[arm]} | {len(found['seeds'])} | {' | '.join(cells)} |"]
        lines += [""]
    return "\n".join([*lines, "![practised success](new_behaviour.png)", ""])


def _draw(parts: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """True success of practised episodes: every seed, and their mean."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    for (arm, found), colour in zip(parts.items(), ("tab:blue", "tab:orange"), strict=True):
        curves: NDArray[np.float64] = np.array([[point["reach_true"] for point in p["curve"]] for p in found])
        if not len(curves):
            continue
        x = [point["episodes"] for point in found[0]["curve"]]
        axis.plot(x, curves.T, color=colour, alpha=0.25, linewidth=1)
        axis.plot(x, curves.mean(0), color=colour, linewidth=2, label=ARMS[arm])
    axis.set(xlabel="practised episodes", ylabel="success on the other half", ylim=(0, 1), xlim=(0, EPISODES))
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> int:
    args = tabletop.options(__doc__, "runs/new_behaviour", 5).parse_args()
    return tabletop.benchmark(args, "new_behaviour", headline.shared_in(args.shared), run, write)


if __name__ == "__main__":
    raise SystemExit(main())
