"""Stage 1 on MetaWorld: one small policy for several tasks, from pixels and words, cloned from MetaWorld's scripted experts.

    tasks           config/benchmarks/metaworld.yaml: objects and goals drawn anew for every scene; the task is told in words
    demonstrations  the expert's episodes with noise on what is executed, labelled with what the expert would do; the same ones
                    for every training seed
    training        vla_ros.learning.supervised.Trainer: behaviour cloning and steps-to-go on one network, from random weights
    success         MetaWorld's own, at any decision within the horizon; scenes that nothing was trained, chosen or tuned on;
                    the same ones for policy, expert and random actions
    swapped words   the policy's success where it is told another task than the one that counts: does it listen?

    make bench-metaworld
    python benchmarks/metaworld.py [--quick] [--seeds 3] [--out runs/metaworld] [--docs docs] [--json]

Whatever is finished is kept under --out, and a second call goes on from there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metaworld_report import FRAMES, NAME, by_task, draw, markdown, told, told_of
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vla_ros.errors import VlaRosError
from vla_ros.learning import sft, stage1
from vla_ros.learning.data import Demonstrations, together
from vla_ros.learning.expert import demonstrate
from vla_ros.learning.supervised import SupervisedConfig, Trainer
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.model import VlaConfig, VlaModel, steps_to_go_moments
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt, WordPrompt
from vla_ros.progress.evidence import spearman
from vla_ros.sim.benchmark import Benchmark
from vla_ros.sim.worker import WorkerEnv

# First scene seeds of training, held-out figures, tuning and evaluation; every task counts on from them.
TRAINING, HELD_OUT, TUNING, FINAL = 100_000, 300_000, 500_000, 900_000


@dataclass(frozen=True)
class Setup:
    """Everything that the figures depend on besides the code and the benchmark's YAML."""

    demonstrations: int = 60  # per task
    noise: float = 0.15  # standard deviation on the expert's executed actions, of -1..1
    held_out: int = 10  # expert episodes per task without noise, for the steps-to-go figures
    scenes: int = 10  # per task and seed
    random: int = 4  # per task, of random actions
    swapped: int = 2  # per task and seed
    bins: int = 21
    training: SupervisedConfig = field(
        default_factory=lambda: SupervisedConfig(
            steps=1500,
            learning_rate=7e-4,
            ema=0.995,
            shift=0.016,
            held_out=0.05,
            evaluate_every=250,
            patience=0,
            precision="bf16",
        )
    )


QUICK = Setup(
    3, held_out=2, scenes=2, random=1, swapped=1, training=SupervisedConfig(steps=6, batch=16, held_out=0.1, evaluate_every=3)
)


@dataclass(frozen=True)
class Episode:
    """One that was watched to its success or to the horizon."""

    task: str
    seed: int
    success: bool
    steps: int
    d: tuple[float, ...]  # steps-to-go that the policy expected at each observation; empty of others


Observations = list[dict[str, Any]]
Decide = Callable[[Observations, list[Any]], tuple[NDArray[np.float32], list[float]]]  # actions [B, D], steps-to-go


# ------------------------------------------------------------------------------------------------- episodes


@contextmanager
def workers(benchmark: Benchmark) -> Iterator[dict[str, WorkerEnv]]:
    """One for each task."""
    envs: dict[str, WorkerEnv] = {}
    try:
        for task in benchmark.tasks:
            envs[task] = WorkerEnv(benchmark, task)
        yield envs
    finally:
        for env in envs.values():
            env.close()


@dataclass
class Running:
    seed: int
    observation: dict[str, Any]
    expert: Any
    d: list[float] = field(default_factory=list)


def run(
    envs: dict[str, WorkerEnv], seeds: Sequence[int], decide: Decide, watch: Callable[[str, int, Any], None] | None = None
) -> list[Episode]:
    """Every task's scenes `seeds`, the tasks side by side and one decision for all of them; `watch` sees (task, seed, image)."""
    queue = {task: list(seeds) for task in envs}
    now: dict[str, Running] = {}
    done: list[Episode] = []

    def look(task: str, seed: int, observation: dict[str, Any]) -> None:
        if watch:
            watch(task, seed, observation["image"])

    while now or any(queue.values()):
        for task in [task for task in envs if task not in now and queue[task]]:
            seed = queue[task].pop(0)
            observation, info = envs[task].reset(seed=seed)
            now[task] = Running(seed, observation, info["expert"])
            look(task, seed, observation)
        actions, expected = decide([e.observation for e in now.values()], [e.expert for e in now.values()])
        for task, action in zip(now, actions, strict=True):
            envs[task].send(action)
        for task, d in zip(list(now), expected, strict=True):
            e = now[task]
            e.d.append(d)
            e.observation, _, terminated, truncated, info = envs[task].receive()
            e.expert = info["expert"]
            look(task, e.seed, e.observation)
            if terminated or truncated:
                done.append(Episode(task, e.seed, info["success"], len(e.d), tuple(round(v, 2) for v in e.d if not np.isnan(v))))
                del now[task]
    return done


def expert(_: Observations, experts: list[Any]) -> tuple[NDArray[np.float32], list[float]]:
    return np.stack(experts), [np.nan] * len(experts)


def at_random(seed: int, dimensions: int) -> Decide:
    random = np.random.default_rng(seed)

    def decide(observations: Observations, _: list[Any]) -> tuple[NDArray[np.float32], list[float]]:
        count = len(observations)
        return random.uniform(-1, 1, (count, dimensions)).astype(np.float32), [np.nan] * count

    return decide


def greedy(model: Model, prompt: Prompt, said: dict[str, str] | None = None) -> Decide:
    """The policy's most probable actions; `said` replaces instructions."""

    @torch.inference_mode()
    def decide(observations: Observations, _: list[Any]) -> tuple[NDArray[np.float32], list[float]]:
        texts = [said[o["instruction"]] if said else o["instruction"] for o in observations]
        images, states = (torch.from_numpy(np.stack([o[key] for o in observations])) for key in ("image", "state"))
        out = model(images, *prompt(texts), states)
        drawn = checkpoint.draw(model.head, out["action"].numpy(), True, 1.0, np.random.default_rng())
        return model.units.to_contract(drawn.actions)[:, 0].clip(-1, 1), steps_to_go_moments(out["steps_to_go"])[0].tolist()

    return decide


# ------------------------------------------------------------------------------------------------- one seed


def fresh(benchmark: Benchmark, setup: Setup, data: Demonstrations, seed: int) -> tuple[VlaModel, WordPrompt]:
    """The small model with random weights, in the benchmark's shapes."""
    prompt = WordPrompt.of(sorted({word for task in benchmark.tasks.values() for word in task.instruction.split()}))
    torch.manual_seed(seed)
    config = VlaConfig(
        language={**VlaConfig().language, "vocab_size": len(prompt.tokenizer)}, robot=benchmark.name, bins=setup.bins,
        image_size=benchmark.image_size, cameras=benchmark.cameras, state_dim=data.states.shape[1],
        action_dim=data.actions.shape[2],
    )  # fmt: skip
    model = VlaModel(config)
    span = np.array([-1.0, 1.0], np.float32)[:, None, None].repeat(config.action_dim, 2)
    model.units.fit(data.states, span)  # the actions' bins are those of the environment's own bounds
    model.ground_head.requires_grad_(False)  # of pre-training, which there is none of
    return model, prompt


def train(
    folder: Path, benchmark: Benchmark, setup: Setup, data: Demonstrations, seed: int, report: Callable[[int, Any], None]
) -> tuple[Model, Prompt]:
    """The weights at the end of the schedule, from where an earlier call was.

    The trainer's own checkpoint is the one with the least loss on a few held-out demonstrations; among so few, one slow
    demonstration would decide.
    """
    model, prompt = fresh(benchmark, setup, data, seed)
    trainer = Trainer(model, prompt, data, SupervisedConfig(**{**asdict(setup.training), "seed": seed}), folder)
    began, clock = time.monotonic(), folder / "seconds.json"
    before = json.loads(clock.read_text()) if trainer.resume() else 0.0

    def timed(step: int, figures: dict[str, float]) -> None:
        if "held_out_loss" in figures:  # then the trainer has just written its state
            clock.write_text(json.dumps(before + time.monotonic() - began))
        report(step, figures)

    trainer.run(timed)
    return model.eval(), prompt


def steps_to_go(model: Model, prompt: Prompt, data: Demonstrations) -> dict[str, Any]:
    """Figures on held-out expert episodes, all tasks together and one by one, and d of every frame."""
    figures = sft.evaluate(model, data.inputs(prompt), data)
    d = distances(model, prompt, data)
    true = data.steps_to_go
    by_task = {
        text: {
            "steps_to_go_error": float(np.abs(d[mine] - true[mine]).mean()),
            "steps_to_go_rank_correlation": spearman(d[mine], true[mine]),
        }
        for k, text in enumerate(data.instructions)
        for mine in [data.instruction == k]
    }
    return {**figures, "by_instruction": by_task, "d": d.round(2).tolist(), "true": true.tolist()}


@torch.inference_mode()
def distances(model: Model, prompt: Prompt, data: Demonstrations) -> NDArray[np.float64]:
    """[N] expected steps-to-go."""
    inputs, parts = data.inputs(prompt), torch.arange(len(data.images)).split(256)
    return torch.cat([steps_to_go_moments(model(*inputs[k])["steps_to_go"])[0] for k in parts]).double().numpy()


# ------------------------------------------------------------------------------------------------- the whole


def everything(out: Path, setup: Setup, benchmark: Benchmark, seeds: int, tuning: bool, console: Console) -> dict[str, Any]:
    """What is not on disk yet, then all of it."""
    columns = (
        TextColumn("{task.description:>34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    key = {"setup": asdict(setup), "code": code(benchmark, True)}
    commit, first = describe(), TUNING if tuning else FINAL
    scenes = range(first, first + setup.scenes)
    with workers(benchmark) as envs, Progress(*columns, console=console) as bar:
        about = {"versions": next(iter(envs.values())).about["versions"], "commit": commit}
        sets = {}
        for name, start, count, noise in (
            ("demonstrations", TRAINING, setup.demonstrations, setup.noise), ("held_out", HELD_OUT, setup.held_out, 0.0),
        ):  # fmt: skip
            sets[name] = demonstrations(out / f"{name}.npz", envs, range(start, start + count), noise, about, bar)
        dimensions = sets["demonstrations"].actions.shape[2]
        for arm, decide, count in (
            ("expert", expert, 2 if tuning else setup.scenes),
            ("random", at_random(0, dimensions), 1 if tuning else setup.random),
        ):
            path = out / f"{arm}{'-tuning' if tuning else ''}.json"
            keep(path, key, about, partial(of_arm, envs, scenes[:count], decide), bar, arm)
        for seed in range(1, seeds + 1):
            name = f"seed{seed}"
            path = out / f"{name}{'-tuning' if tuning else ''}.json"
            keep(path, key, about, partial(one_seed, out, setup, benchmark, envs, sets, seed, scenes, bar), bar, name)
            console.print(f"{path.stem}: {told(json.loads(path.read_text())['episodes'])}")
    return gathered(out, setup, benchmark, seeds, tuning)


def of_arm(envs: dict[str, WorkerEnv], scenes: Sequence[int], decide: Decide) -> dict[str, Any]:
    return {"episodes": [asdict(e) for e in run(envs, scenes, decide)]}


def one_seed(
    out: Path, setup: Setup, benchmark: Benchmark, envs: dict[str, WorkerEnv], sets: dict[str, Demonstrations], seed: int,
    scenes: Sequence[int], bar: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Train, then held-out figures, evaluation and swapped words; the first scene's pictures go to disk."""
    task, folder = bar.add_task(f"training, seed {seed}", total=setup.training.steps), checkpoint_of(out, benchmark, seed)

    def report(step: int, figures: dict[str, float]) -> None:
        bar.update(task, completed=step)
        if "held_out_loss" in figures:
            bar.console.print(f"seed {seed}, step {step}: {' '.join(f'{k} {v:.3g}' for k, v in figures.items())}")

    model, prompt = train(folder, benchmark, setup, sets["demonstrations"], seed, report)
    began = time.monotonic()
    pictures: dict[str, list[Any]] = {name: [] for name in envs}

    def watch(name: str, scene: int, image: Any) -> None:
        if scene == scenes[0]:
            pictures[name].append(image)

    episodes = run(envs, scenes, greedy(model, prompt), watch)
    if seed == 1:
        chosen = {n: np.stack(p)[np.linspace(0, len(p) - 1, FRAMES).round().astype(int)] for n, p in pictures.items()}
        np.savez_compressed(out / "strip.npz", **chosen)
    texts = [t.instruction for t in benchmark.tasks.values()]
    swap = dict(zip(texts, texts[1:] + texts[:1], strict=True))
    swapped = run(envs, scenes[: setup.swapped], greedy(model, prompt, swap)) if setup.swapped else []
    return {
        "held_out": steps_to_go(model, prompt, sets["held_out"]), "episodes": [asdict(e) for e in episodes],
        "swapped": [asdict(e) for e in swapped], "evaluation_seconds": time.monotonic() - began,
        "training_seconds": json.loads((folder / "seconds.json").read_text()),
    }  # fmt: skip


def demonstrations(
    path: Path, envs: dict[str, WorkerEnv], seeds: Sequence[int], noise: float, about: dict[str, Any], bar: Progress
) -> Demonstrations:
    """Of all tasks; collected once."""
    task = bar.add_task(path.stem, total=len(envs) * len(seeds))

    def made() -> dict[str, Any]:
        found = {name: demonstrate(env, seeds, noise, lambda: bar.advance(task)) for name, env in envs.items()}
        data = together([d for d, _ in found.values()])
        stage1.save_demonstrations(path, data)
        return {"frames": len(data.images), "failed": {name: failed for name, (_, failed) in found.items()}}

    key = {"seeds": [seeds[0], len(seeds)], "noise": noise, "code": code(next(iter(envs.values())).benchmark, False)}
    keep(path.with_suffix(".json"), key, about, made, bar, path.stem)
    return stage1.load_demonstrations(path)


def keep(
    path: Path, key: dict[str, Any], about: dict[str, Any], make: Callable[[], dict[str, Any]], bar: Progress, name: str
) -> None:
    """Makes what is not on disk with this key."""
    if path.exists() and json.loads(path.read_text())["key"] == json.loads(json.dumps(key)):
        return
    began, task = time.monotonic(), bar.add_task(name, total=1)
    found = make()
    seconds = round(time.monotonic() - began, 1)
    path.write_text(json.dumps({"key": key, **about, "seconds": seconds, **found}), encoding="utf-8")
    bar.advance(task)


def code(benchmark: Benchmark, learning: bool) -> str:
    """Of what the demonstrations depend on, and with `learning` the figures."""
    package = Path(stage1.__file__).parent.parent
    parts = [package / "sim" / f"{name}.py" for name in ("worker", "worker_server", "benchmark")]
    parts += [package / "learning" / "expert.py", benchmark.path]
    parts += [*(Path(file) for name, file in benchmark.environment.items() if name == "file")]
    if learning:
        parts += [package / "policy" / f"{name}.py" for name in ("model", "heads", "prompt")]
        parts += [package / "learning" / f"{name}.py" for name in ("supervised", "data", "sft")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()[:12]


def checkpoint_of(out: Path, benchmark: Benchmark, seed: int) -> Path:
    """What other code has trained is not gone on from."""
    return out / f"seed{seed}-{code(benchmark, True)}"


def describe() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def gathered(out: Path, setup: Setup, benchmark: Benchmark, seeds: int, tuning: bool) -> dict[str, Any]:
    """Everything on disk as one result."""
    suffix = "-tuning" if tuning else ""
    read = {name: json.loads((out / f"{name}{suffix}.json").read_text()) for name in ("expert", "random")}
    runs = [json.loads((out / f"seed{seed}{suffix}.json").read_text()) for seed in range(1, seeds + 1)]
    sets = {name: json.loads((out / f"{name}.json").read_text()) for name in ("demonstrations", "held_out")}
    first = TUNING if tuning else FINAL
    figures = ("action_error", "action_within_one_bin", "steps_to_go_error", "steps_to_go_rank_correlation")
    return {
        "seeds": seeds, "setup": asdict(setup), "instructions": {n: t.instruction for n, t in benchmark.tasks.items()},
        "scene_seeds": [first, first + setup.scenes - 1], "commits": sorted({r["commit"] for r in runs}),
        "code": runs[0]["key"]["code"], "versions": {**runs[0]["versions"], "torch": torch.__version__},
        "frames": {name: found["frames"] for name, found in sets.items()},
        "expert_failed": {name: found["failed"] for name, found in sets.items()},
        "success": {
            "policy": by_task([e for r in runs for e in r["episodes"]]),
            **{arm: by_task(found["episodes"]) for arm, found in read.items()},
            "swapped": by_task([e for r in runs for e in r["swapped"]]),
        },
        "by_seed": [by_task(r["episodes"]) for r in runs],
        "held_out": {k: [r["held_out"][k] for r in runs] for k in figures},
        "held_out_by_instruction": {
            text: {k: float(np.mean([r["held_out"]["by_instruction"][text][k] for r in runs])) for k in found}
            for text, found in runs[0]["held_out"]["by_instruction"].items()
        },
        "seconds": {
            **{name: found["seconds"] for name, found in {**sets, **read}.items()},
            **{name: [r[f"{name}_seconds"] for r in runs] for name in ("training", "evaluation")},
        },
        "d": {"expected": [r["held_out"]["d"] for r in runs], "true": runs[0]["held_out"]["true"]},
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="training seeds (default: 3, quick: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/metaworld"), help="default: runs/metaworld")
    parser.add_argument("--docs", type=Path, help="folder whose results/ gets metaworld.json, .md and .png as well")
    parser.add_argument("--quick", action="store_true", help="a minute; it shows nothing but that it runs")
    parser.add_argument("--tuning", action="store_true", help="on the tuning scenes, for choosing settings")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout, progress on stderr")
    args = parser.parse_args()
    setup, benchmark = QUICK if args.quick else Setup(), Benchmark.load(NAME)
    seeds = args.seeds or (1 if args.quick else 3)
    out: Path = args.out.resolve() / ("quick" if args.quick else "full")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    console = Console(stderr=args.json, width=None if sys.stdout.isatty() else 130, highlight=False)
    command = f"python benchmarks/{NAME}.py" + (" --quick" if args.quick else "") + f" --seeds {seeds}"
    result = {"command": command, **everything(out, setup, benchmark, seeds, args.tuning, console)}
    model, _ = checkpoint.load(checkpoint_of(out, benchmark, 1))
    parameters = sum(p.numel() for p in model.parameters())
    for folder in (out, *([args.docs / "results"] if args.docs else [])):
        (folder / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (folder / f"{NAME}.md").write_text(markdown(result, benchmark, parameters), encoding="utf-8")
        draw(result, out / "strip.npz", folder / f"{NAME}.png")
    if args.json:
        print(json.dumps(result["success"]))
    console.print(f"{told_of(result)}\n{out / NAME}.md")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VlaRosError as error:
        sys.exit(f"error: {error}")
