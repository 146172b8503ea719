"""The headline of arXiv 2509.15155, from pixels and language on the tabletop tasks: stage 1, stage 1 with eight times the
demonstrations, and stage 1 with self-improvement, which needs no further demonstration.

    sft         behaviour cloning and steps-to-go on `demonstrations` episodes, after stage 0 (pretraining)
                they begin where somebody went astray, anywhere, as in LanguageTable, where no arm goes home in between
    sft_8x      the same on eight times as many, with twice the optimiser steps
    improve     sft, then practice in simulation: rewards and ends by a frozen judge, updates by REINFORCE, or (--method critic)
                from a critic that learns from all of practice
    judge       steps-to-go alone, on demonstrations of the same kind, but at one steady pace: with the policy's, no more than
                sft_8x has

All arms of a seed have the same stage 0 and network, and are evaluated on the same scenes, which nothing was trained, tuned
or chosen on: half reaching, half pushing, once with greedy and once with sampled actions, success by the simulator's truth.
Practice sees no truth: the judge rewards, ends episodes, feeds the curriculum and chooses the version that is kept.

    python benchmarks/headline.py [--quick] [--method critic] [--seeds 5] [--processes 2] [--out runs/headline]
                                   [--docs docs] [--report]

What is finished is kept as JSON under --out, and a second call goes on from there. --report only writes the report of it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import argparse
import functools
import itertools
import json
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tabletop
import torch
from headline_report import ARMS, draw, figures, markdown, name_of
from rich.console import Console
from tabletop import ROBOT, TASKS

from vla_ros.learning import sft
from vla_ros.learning.critic import METHODS
from vla_ros.learning.data import together
from vla_ros.learning.practice import PracticeConfig, SimulatedPractice, rates
from vla_ros.learning.self_improvement import ImproveConfig
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.progress.calibration import Calibration
from vla_ros.sim.expert import STEADY, Manner

COLLECT, FOR_JUDGE = 51, 53  # seeds of the demonstrations
ANYWHERE = Manner(astray=STEADY.astray)
FINAL = 940_000  # first scene seed of the evaluation; no other program uses them
PRACTICE = 400_000  # first scene seed of practice, 100 000 apart per seed
MODES = {"greedy": True, "sampled": False}
PRACTICE_CODE = ("self_improvement", "critic", "practice")  # what `improve` depends on besides the others'
PRACTICE_SETUP = ("practice_episodes", "per_update", "improve")


@dataclass(frozen=True)
class Setup:
    """Everything that the figures depend on besides the code."""

    demonstrations: int = 200
    times: int = 8
    judge_reach: int = 500  # demonstrations
    judge_push: int = 900
    held_out: float = 0.1  # of the judge's demonstrations, for its calibration
    grounding_pictures: int = 20000
    grounding_steps: int = 900
    steps: int = 1200  # optimiser steps of sft; sft_8x takes twice as many
    judge_steps: int = 3000
    frozen: float = 0.6  # share of the policy's steps in which the grounded trunk is frozen and cached
    judge_frozen: float = 0.8  # of the judge's
    learning_rate: float = 1e-3
    scenes: int = 120
    practice_episodes: int = 2400
    per_update: int = 96
    # an optimiser step takes all samples: small ones learn a batch's noise by heart
    improve: ImproveConfig = field(default_factory=lambda: ImproveConfig(batch=4096, passes=2, learning_rate=1e-3))


CRITIC: dict[str, Any] = {
    "per_update": 192, "practice_episodes": 3456,
    "improve": ImproveConfig(method="critic", updates=100, batch=256, learning_rate=5e-4),
}  # fmt: skip
SETUP = Setup()
QUICK = replace(Setup(), grounding_pictures=12000, grounding_steps=600, steps=800, judge_steps=1200, practice_episodes=1200)


def train_judge(shared: Path, setup: Setup, seed: int) -> dict[str, Any]:
    """Steps-to-go alone, and its calibration on held-out episodes."""
    torch.set_num_threads(1)
    began, folder = time.monotonic(), _judge(shared, seed)
    parts = [f"judge-reach-{setup.judge_reach}", f"judge-push-{setup.judge_push}"]
    data = together([tabletop.load(shared / f"{name}.npz") for name in parts])
    training, held_out = data.split(setup.held_out, seed)
    judge, prompt = checkpoint.load(tabletop.ground(shared, setup.grounding_pictures, setup.grounding_steps, seed), ROBOT)
    config = replace(_sft(setup, setup.judge_steps, seed), behaviour_weight=0.0, frozen=setup.judge_frozen)
    sft.clone(judge, training.inputs(prompt), training, config, lambda share, figures: None)
    inputs = held_out.inputs(prompt)
    calibration, told = sft.calibration_of(judge, inputs, held_out), sft.evaluate(judge, inputs, held_out)
    checkpoint.save(folder, judge, prompt, {"stage": "judge", "seed": seed})
    calibration.save(folder)
    return {"held_out": told, "calibration": asdict(calibration), "frames": len(data.images), "seconds": time.monotonic() - began}


def shared_in(out: Path) -> Path:
    """Where this code's stage 1 lies."""
    return out.resolve() / f"shared-{code('sft')}"


def judge_of(shared: Path, setup: Setup, seed: int) -> Path:
    """The seed's judge; trained where it is missing, and its demonstrations made."""
    if not (_judge(shared, seed) / "calibration.json").exists():
        for name, count, first in (("reach", setup.judge_reach, 0), ("push", setup.judge_push, 1)):
            tabletop.prepare(shared, f"judge-{name}", count, FOR_JUDGE + first, (), (name,), STEADY)
        train_judge(shared, setup, seed)
    return _judge(shared, seed)


def train_policy(shared: Path, setup: Setup, seed: int, times: int) -> dict[str, Any]:
    """Stage 1 on `times` the demonstrations; of one seed the smaller set is part of the larger."""
    torch.set_num_threads(1)
    began, most = time.monotonic(), setup.times * setup.demonstrations
    everything = tabletop.load(shared / f"demonstrations-{most}.npz")
    chosen = np.random.default_rng(seed).permutation(most)[: times * setup.demonstrations]
    data = everything[np.isin(everything.episode, chosen)]
    model, prompt = checkpoint.load(tabletop.ground(shared, setup.grounding_pictures, setup.grounding_steps, seed), ROBOT)
    config = _sft(setup, setup.steps * (2 if times > 1 else 1), seed)
    sft.clone(model, data.inputs(prompt), data, config, lambda share, figures: None)
    if times == 1:
        checkpoint.save(shared / f"policy-seed{seed}", model, prompt, {"stage": "sft", "seed": seed})
    return {
        "demonstrations": len(chosen), "frames": len(data.images), **evaluated(model, prompt, setup),
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def _sft(setup: Setup, steps: int, seed: int) -> sft.SftConfig:
    return sft.SftConfig(steps=steps, learning_rate=setup.learning_rate, frozen=setup.frozen, seed=seed)


def _judge(shared: Path, seed: int) -> Path:
    return shared / f"judge-seed{seed}"


def practise(shared: Path, setup: Setup, seed: int) -> dict[str, Any]:
    """Stage 2 from the seed's sft; the version with the best judged success over the last iterations is evaluated."""
    torch.set_num_threads(1)
    began = time.monotonic()
    policy, prompt = checkpoint.load(shared / f"policy-seed{seed}", ROBOT)
    judge, _ = checkpoint.load(_judge(shared, seed), ROBOT)
    torch.manual_seed(seed)
    practice = SimulatedPractice(
        adapter.add(policy), judge, Calibration.load(_judge(shared, seed)), prompt, tabletop.envs(24),
        PracticeConfig(setup.per_update, TASKS, seed=PRACTICE + 100_000 * seed),
        replace(setup.improve, seed=seed),
    )  # fmt: skip
    curve, kept = practised(practice, setup.practice_episodes, began)
    adapter.swap(policy, kept.weights)
    return {
        "episodes_practised": practice.episodes, "kept_after": kept.episodes, "curve": curve,
        **evaluated(policy, prompt, setup), "seconds": time.monotonic() - began,
    }  # fmt: skip


def practised(practice: SimulatedPractice, episodes: int, began: float) -> tuple[list[dict[str, float]], Kept]:
    """Practises so many episodes. Figures of each update, `seconds` since `began`; and the version that the judge liked best."""
    curve, kept = list[dict[str, float]](), Kept()
    while practice.episodes < episodes:
        weights = {name: t.detach().clone() for name, t in adapter.state(practice.policy).items()}
        found, told = practice.iterate()
        point = {"episodes": practice.episodes, **rates(found), **told, "seconds": round(time.monotonic() - began, 1)}
        curve.append(point)
        success = float(np.mean([point[f"{task}_detected"] for task in practice.config.tasks]))
        kept.add(success, practice.episodes - practice.config.per_update, weights)
    return curve, kept


class Kept:
    """The version with the best judged success over WINDOW iterations, both tasks alike; the newest of the window."""

    WINDOW = 5

    def __init__(self) -> None:
        self.episodes, self.weights, self._best = 0, dict[str, torch.Tensor](), -1.0
        self._recent: list[float] = []

    def add(self, success: float, episodes: int, weights: dict[str, torch.Tensor]) -> None:
        """`success` of an iteration with these weights, which had `episodes` of practice behind them."""
        self._recent = [*self._recent, success][-self.WINDOW :]
        mean = sum(self._recent) / self.WINDOW
        if mean > self._best or not self.weights:
            self._best, self.episodes, self.weights = mean, episodes, weights


def evaluated(policy: Model, prompt: Prompt, setup: Setup) -> dict[str, Any]:
    """Every evaluation episode, greedy and sampled."""
    out = {}
    for mode, greedy in MODES.items():
        ran = tabletop.episodes(policy, policy, prompt, FINAL, setup.scenes, greedy=greedy)
        out[mode] = [{"task": TASKS[k % 2], "truth": tabletop.truth(e)} for k, e in enumerate(ran)]
    return out


# ------------------------------------------------------------------------------------------------- all of it


def run(out: Path, setup: Setup, seeds: int, processes: int, console: Console, command: str) -> None:
    """What is not on disk yet, as soon as what it needs is there."""
    commit = tabletop.commit()
    shared = shared_in(out)
    shared.mkdir(parents=True, exist_ok=True)
    # sft makes the seed's stage 0, too
    needs = {"sft": "", "judge": "sft", "improve": "judge", "sft_8x": "sft"}
    work: dict[str, tuple[Any, ...]] = {
        "sft": (train_policy, 1), "judge": (train_judge,), "improve": (practise,), "sft_8x": (train_policy, setup.times),
    }  # fmt: skip
    every = [(s, arm) for s in range(1, seeds + 1) for arm in work]
    done = {part for part in every if read(out, setup, *part, code(part[1])) is not None}
    todo = [part for part in every if part not in done]
    console.print(f"{len(done)} parts are there, {len(todo)} to do in {processes} processes; code {code('improve')}")
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        if todo:
            most = setup.times * setup.demonstrations
            sets = [
                ("demonstrations", most, COLLECT, (), TASKS, ANYWHERE),
                ("judge-reach", setup.judge_reach, FOR_JUDGE, (), ("reach",), STEADY),
                ("judge-push", setup.judge_push, FOR_JUDGE + 1, (), ("push",), STEADY),
            ]
            for job in [pool.submit(tabletop.prepare, shared, *which) for which in sets]:
                job.result()
        running: dict[Future[Any], tuple[int, str]] = {}
        while todo or running:
            for seed, arm in list(todo):
                if len(running) < processes and (not needs[arm] or (seed, needs[arm]) in done):
                    function, *more = work[arm]
                    running[pool.submit(function, shared, setup, seed, *more)] = (seed, arm)
                    todo.remove((seed, arm))
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                seed, arm = part = running.pop(ended)
                kept = {"setup": asdict(setup), "code": code(arm), "commit": commit, "seed": seed, "arm": arm, **ended.result()}
                _path(out, setup, *part).write_text(json.dumps(kept), encoding="utf-8")
                done.add(part)
                console.print(f"seed {seed} {arm}: {_told(kept)} in {kept['seconds']:.0f} s")
                write(out, setup, seeds, command)


@functools.cache
def code(arm: str) -> str:
    """Hash of what an arm's figures depend on in the package; read before anything runs, because files may change meanwhile."""
    return tabletop.code((*tabletop.LEARNING, *PRACTICE_CODE) if arm == "improve" else tabletop.LEARNING)


def _told(found: dict[str, Any]) -> str:
    if "greedy" not in found:
        return f"threshold {found['calibration']['threshold']:.2f}, recall {found['calibration']['recall']:.2f}"
    parts = itertools.product(MODES, TASKS)
    return ", ".join(f"{mode} {task} {tabletop.successes(found[mode], task).mean():.2f}" for mode, task in parts)


def _path(out: Path, setup: Setup, seed: int, arm: str) -> Path:
    other = arm == "improve" and setup.improve.method != "reinforce"
    return out / f"seed{seed}-{arm}{'-' + setup.improve.method if other else ''}.json"


def read(out: Path, setup: Setup, seed: int, arm: str, code: str | None = None) -> dict[str, Any] | None:
    """A finished part of this setup (and code)."""
    path = _path(out, setup, seed, arm)
    if not path.exists():
        return None
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    wanted = {k: v for k, v in json.loads(json.dumps(asdict(setup))).items() if arm == "improve" or k not in PRACTICE_SETUP}
    same = all(kept["setup"].get(k) == v for k, v in wanted.items())
    return kept if same and code in (None, kept["code"]) else None


def write(out: Path, setup: Setup, seeds: int, command: str) -> dict[str, Any] | None:
    """headline.json, .md and .png of what is finished; None where nothing is."""
    parts = {(s, a): kept for s in range(1, seeds + 1) for a in (*ARMS, "judge") if (kept := read(out, setup, s, a)) is not None}
    if not any(arm == "sft" for _, arm in parts):
        return None
    result = {
        "command": command, "setup": asdict(setup), "scene_seeds": [FINAL, FINAL + setup.scenes - 1],
        "commits": sorted({p["commit"] for p in parts.values()}), "code": sorted({p["code"] for p in parts.values()}),
        **figures(parts, setup.demonstrations),
    }  # fmt: skip
    name = name_of(setup.improve.method)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(markdown(result), encoding="utf-8")
    draw(result, parts, out / f"{name}.png")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="default: 5, quick: 1")
    parser.add_argument("--out", type=Path, default=Path("runs/headline"), help="parts and report (default: runs/headline)")
    parser.add_argument("--docs", type=Path, help="folder whose results/ gets the report's .json, .md and .png as well")
    parser.add_argument(
        "--method", choices=METHODS, default="reinforce", help="of practice; `critic` is reported apart (default: reinforce)"
    )
    parser.add_argument("--processes", type=int, default=2, help="one core each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="less of everything, within half an hour on two cores")
    parser.add_argument("--report", action="store_true", help="only the report of what is finished")
    args = parser.parse_args()
    setup, seeds = (QUICK, args.seeds or 1) if args.quick else (Setup(), args.seeds or 5)
    if args.method == "critic":
        setup = replace(setup, **CRITIC)
    out: Path = args.out.resolve() / ("quick" if args.quick else "full")
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    command = "python benchmarks/headline.py" + (" --quick" if args.quick else "") + f" --method {args.method} --seeds {seeds}"
    if not args.report:
        run(out, setup, seeds, args.processes, console, command)
    if write(out, setup, seeds, command) is None:
        console.print(f"{out}: nothing is finished of this setup")
        return 1
    tabletop.publish(out, name_of(args.method), args.docs, console)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
