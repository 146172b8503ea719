"""Task success of one policy whose commands are sent unfiltered, clipped per step, projected by a QP, or slowed down along
its path: the same scenes, the same simulated cell at the control rate, the same limits.

Policies, both executed in open-loop chunks (predict ROWS rows, carry out EXECUTED, look again):
    expert    the scripted demonstrator on the true state, which pushes nearly every block when nothing interferes
    vla       the small VLA trained here by stage 1 on demonstrations, from pictures and words (a few minutes, cached)

Regimes:
    slow      40 % of the policy's speed with config/safety's limits: what it asks for is within them
    normal    the policy's speed with the same limits: single ticks are beyond the acceleration
    reduced   the policy's speed with a quarter of the velocity (0.43 rad/s: 250 mm/s at 0.6 m) and a fifth of the acceleration
    fast      the same chunks in half of the time, with the limits of `reduced`

    python benchmarks/safety_comparison.py [--episodes 240] [--out runs/safety_comparison] [--docs docs] [--json] [--quick]

A finished cell (policy, regime, arm) is kept as one JSON file under --out, and a second call goes on from there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import copy
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safety_arms import AGAIN, ARMS, OFFSET, QP, Arm, Clip, Direct, Projection, SlowDown, Violations, off_polyline
from safety_report import OTHERS, PATIENCE, PICTURE, draw, markdown, show, summary, verdict

from vla_ros.learning import stage1
from vla_ros.learning.statistics import mcnemar
from vla_ros.paths import share
from vla_ros.policy import policy as checkpoint
from vla_ros.robots.actions import ActionDecoder
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.filter import SafetyFilter
from vla_ros.sim.collect import collect
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import ROD, Expert, Manner
from vla_ros.sim.model import REACH
from vla_ros.sim.tasks import Scene, sample_scene
from vla_ros.types import ActionChunk, Array

ROBOT = "panda"
ROWS, EXECUTED = 8, 6  # of a chunk: predicted, and carried out before the next look
SPEED = (0.5, 0.9)  # of the expert's episodes, in shares of the contract's max_step
LOOKS = 2  # successive checks, one policy step apart, at which the truth must say success
PILOT, FINAL = 610_000, 910_000  # first scene seeds: regimes and gains were chosen on the pilot's
DEMONSTRATIONS = stage1.Stage1Config(
    seed=7, demonstrations=1200, grounding_pictures=16000, ground_seconds=100, policy_seconds=220
)
QUICK = stage1.Stage1Config(seed=7, demonstrations=80, grounding_pictures=2000, ground_seconds=10, policy_seconds=15)


@dataclass(frozen=True)
class Regime:
    """How fast rows are due, and what is laid over config/safety/panda.yaml."""

    period: float  # s
    overlay: dict[str, Any]
    text: str


def _shares(factor: float, values: Sequence[float]) -> list[float]:
    return [round(factor * v, 4) for v in values]


DATA_SHEET = (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0)  # rad/s², as config/safety/panda.yaml
REDUCED = {"robot": ROBOT, "velocity_scale": 0.25, "acceleration": _shares(0.2, DATA_SHEET)}
REGIMES = {
    "slow": Regime(0.25, {}, "40 % of the policy's speed, config/safety/panda.yaml"),
    "normal": Regime(0.1, {}, "the policy's speed, config/safety/panda.yaml"),
    "reduced": Regime(0.1, REDUCED, "the policy's speed, 25 % of its velocity and 20 % of its acceleration limits"),
    "fast": Regime(0.05, REDUCED, "twice the policy's speed, 25 % of its velocity and 20 % of its acceleration limits"),
}  # fmt: skip


class Policy(Protocol):
    def start(self, scene: Scene, seed: int) -> None: ...

    def plan(self, env: TabletopEnv) -> Array:
        """Displacements of the tip [ROWS, 2] m."""


class ExpertChunks:
    """The demonstrator, rolled out over a chunk on its own idea of how blocks move: pushed along the line of centres."""

    def __init__(self, contract: RobotContract) -> None:
        self._contract = contract

    def start(self, scene: Scene, seed: int) -> None:
        self._scene = scene
        self._expert = Expert(self._contract, scene, np.random.default_rng(seed), Manner(SPEED, noise=0.0, pause=0.0))

    def plan(self, env: TabletopEnv) -> Array:
        tip = env.cell.kinematics.tip_xy(env.cell.joint_state().position)
        blocks = env.cell.blocks()
        ahead = copy.copy(self._expert)
        touch = REACH[self._scene.blocks[self._scene.target].shape] + ROD
        moves = []
        for k in range(ROWS):
            if k == EXECUTED:
                self._expert = copy.copy(ahead)
            done = ahead.done(tip, blocks)
            move = np.zeros(2) if done else ahead.step(tip, blocks)[0]
            moves.append(move)
            tip = tip + move
            block = blocks[self._scene.target, :2]
            gap = block - tip
            distance = float(np.hypot(*gap))
            if 1e-6 < distance < touch:
                blocks[self._scene.target, :2] = tip + gap * (touch / distance)
        return np.array(moves)


class VlaChunks:
    """The trained checkpoint, greedy."""

    def __init__(self, folder: Path, contract: RobotContract, decoder: ActionDecoder) -> None:
        self._policy = checkpoint.VlaPolicy(*checkpoint.load(folder, contract.robot))
        self._decoder = decoder

    def start(self, scene: Scene, seed: int) -> None:
        self._text = scene.instruction
        self._policy.seed(seed)

    def plan(self, env: TabletopEnv) -> Array:
        seen = env.observe()
        return self._decoder.delta(self._policy.infer(env.image(seen), self._text, env.state(seen), greedy=True).tokens)


@dataclass(frozen=True)
class Episode:
    """One episode. Times in s of simulation, distances in mm, the rest ticks unless said otherwise."""

    seed: int
    task: str
    seconds: float | None  # until success; None: none within the generous limit
    cycle_time: float  # the task's limit
    ticks: int
    limited: int  # the arm changed the command
    beyond: int  # a limit was exceeded by the command
    exceeded: dict[str, int]  # per limit
    worst: dict[str, float]  # per limit, share of it (position: rad beyond)
    deviation: float  # mean distance of the commanded tip from the chunk's path
    deviation_max: float
    table: int  # the arm touched the table
    lowest: float  # of the commanded tip above the table
    bumped: bool  # a block that was not named moved by more than 10 mm
    events: dict[str, int]


class Trial:
    """One cell of the comparison in this process: scenes come in, episodes go out."""

    def __init__(self, out: Path, policy: str, regime: str, arm: str, linear: bool) -> None:
        torch.set_num_threads(1)
        self.contract = RobotContract.load(ROBOT)
        self.env = TabletopEnv(self.contract)
        self.regime, self.arm, self.linear = REGIMES[regime], arm, linear
        self.files: list[str | Path] = [ROBOT]
        if self.regime.overlay:
            self.files.append(out / f"{regime}.yaml")
        self.limits = SafetyFilter.for_robot(self.contract, *self.files).limits
        self.policy: Policy = (
            ExpertChunks(self.contract)
            if policy == "expert"
            else VlaChunks(out / "vla" / "policy", self.contract, self.env.decoder)
        )
        model = self.env.cell.model
        self.table = model.geom("table").id
        blocks = {model.body(f"block{k}").id for k in range(4)}
        self.arm_geoms = np.array([body not in blocks and body != 0 for body in model.geom_bodyid])

    def make_arm(self, start: Array, dt: float) -> Arm:
        if self.arm in ("direct", AGAIN):
            return Direct(start, dt, self.linear)
        if self.arm == "clip":
            return Clip(start, dt, self.limits, self.linear)
        if self.arm in QP:
            return Projection(start, dt, self.limits, self.contract, self.limits.workspace, *QP[self.arm], linear=self.linear)
        return SlowDown(start, SafetyFilter.for_robot(self.contract, *self.files))

    def run(self, seed: int, task: str) -> Episode:
        env, cell, contract = self.env, self.env.cell, self.contract
        scene = sample_scene(env.tasks, seed, "train", task, contract.home_tip)
        env.reset(scene=scene)
        self.policy.start(scene, seed)
        dt, start = 1 / contract.control.rate, cell.kinematics.home()
        arm, seen = self.make_arm(start, dt), Violations(start, dt, self.limits)
        per_row, per_check = round(self.regime.period / dt), contract.ticks_per_step
        cycle = env.tasks.tasks[task].time_limit
        command, first = start, cell.blocks()
        line = np.zeros((2, 3))
        away: list[float] = []
        offset = OFFSET if self.arm == AGAIN else 0.0
        table, lowest, hits, reached, ticks = 0, math.inf, 0, None, 0
        for tick in range(round(PATIENCE * cycle / dt)):
            state = cell.joint_state()
            if tick % per_check == 0 and tick:
                hits = hits + 1 if cell.truth()[0] else 0
                if hits == LOOKS:
                    reached = tick * dt
                    break
            if tick % (EXECUTED * per_row) == 0:
                limit = contract.action.max_step
                move = np.clip(self.policy.plan(env), -limit, limit)
                targets = env.decoder.targets(move, cell.kinematics.tip_xy(state.position))
                rows = env.decoder.joints(targets, state.position)
                due = state.stamp + self.regime.period
                chunk = ActionChunk(due, self.regime.period, contract.joints, rows, observation_stamp=state.stamp)
                arm.submit(chunk, state.stamp)
                height = np.full((len(targets), 1), contract.action.height)
                line = np.vstack([cell.kinematics.tip_pose(command)[:3], np.hstack([targets, height])])
            command = arm.tick(state.stamp, state) + offset
            seen.add(command)
            tip = cell.kinematics.tip_pose(command)[:3]
            away.append(off_polyline(tip, line))
            lowest = min(lowest, float(tip[2]))
            cell.set_command(command)
            cell.step(dt)
            pairs = cell.data.contact.geom
            with_table = (pairs == self.table).any(1)
            table += bool(with_table.any() and self.arm_geoms[pairs[with_table]].any())
            ticks = tick + 1
        moved = np.hypot(*(cell.blocks() - first)[:, :2].T)
        moved[scene.target] = 0.0
        return Episode(
            seed, task, reached, cycle, ticks, arm.limited, seen.any, seen.ticks, seen.worst,
            1e3 * float(np.mean(away)), 1e3 * max(away), table, 1e3 * lowest, bool(moved.max() > 0.01), dict(arm.events),
        )  # fmt: skip


def train(out: Path, config: stage1.Stage1Config, tell: Callable[[float, str], None]) -> None:
    """Stage 1 of the demo with chunks of ROWS rows; its checkpoint lies under out/vla."""
    folder = out / "vla"
    if (folder / "policy" / "training.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    contract = yaml.safe_load((share() / "config" / "robots" / f"{ROBOT}.yaml").read_text(encoding="utf-8"))
    contract["action"]["chunk"] = ROWS
    robot = folder / f"{ROBOT}.yaml"
    robot.write_text(yaml.safe_dump(contract, sort_keys=False), encoding="utf-8")
    episodes = collect(
        str(robot), config.demonstrations, config.seed, workers=1,
        progress=lambda k, n: tell(0.1 * k / n, "demonstrations"),
    )  # fmt: skip
    stage1.ground(folder / "ground", str(robot), config, lambda share, _: tell(0.1 + 0.3 * share, "grounding"))
    data = stage1.demonstrations(episodes)
    stage1.train_policy(
        folder / "ground", folder / "policy", data, config, lambda share, _: tell(0.4 + 0.6 * share, "stage 1")
    )


def arms_of(regime: str) -> tuple[str, ...]:
    """The repetition of the unfiltered arm matters where equality with it is claimed."""
    return (*ARMS, AGAIN) if regime == "slow" else ARMS


def scenes(first: int, episodes: int) -> list[tuple[int, str]]:
    """Seed and task: reaching and pushing by turns."""
    return [(first + k, ("reach", "push")[k % 2]) for k in range(episodes)]


def run_cell(cell: tuple[str, str, str], out: str, todo: list[tuple[int, str]], linear: bool) -> list[dict[str, Any]]:
    """A share of a cell's scenes, in a process of its own."""
    trial = Trial(Path(out), *cell, linear)
    return [asdict(trial.run(*scene)) for scene in todo]


def compare(
    out: Path, policies: Sequence[str], regimes: Sequence[str], todo: list[tuple[int, str]], workers: int, linear: bool,
    tell: Callable[[int], None],
) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Every cell's episodes, in the order of the scenes; cells done before are read back."""
    for name in regimes:
        if REGIMES[name].overlay:
            (out / f"{name}.yaml").write_text(yaml.safe_dump(REGIMES[name].overlay, sort_keys=False), encoding="utf-8")
    cells = [(p, r, a) for p in policies for r in regimes for a in arms_of(r)]
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for cell in cells:
            path = out / "cells" / f"{'-'.join(cell)}{'-linear' if linear else ''}.json"
            key = {"scenes": todo, "regime": asdict(REGIMES[cell[1]]), "code": _code(cell[0], cell[2], out)}
            if path.exists():
                kept = json.loads(path.read_text(encoding="utf-8"))
                if kept["key"] == json.loads(json.dumps(key)):
                    found[cell] = kept["episodes"]
                    tell(len(todo))
                    continue
            size = max(1, min(20, math.ceil(len(todo) / workers)))
            jobs = {
                pool.submit(run_cell, cell, str(out), todo[k : k + size], linear): k for k in range(0, len(todo), size)
            }
            parts: dict[int, list[dict[str, Any]]] = {}
            for job in as_completed(jobs):
                parts[jobs[job]] = job.result()
                tell(len(parts[jobs[job]]))
            found[cell] = [episode for k in sorted(parts) for episode in parts[k]]
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"key": key, "episodes": found[cell]}), encoding="utf-8")
    return found


def _code(policy: str, arm: str, out: Path) -> str:
    """Of what a cell's figures depend on: this benchmark, limits, simulator and robot; the filter; the checkpoint."""
    package = Path(sys.modules[SafetyFilter.__module__].__file__ or "").parent.parent
    here = Path(__file__)
    files = [here, here.with_name("safety_arms.py"), *sorted((package / "sim").glob("*.py"))]
    for place in ("config/safety", "config/robots", "config/tasks", "urdf"):
        files += sorted((share() / place).glob(f"{ROBOT}.*") if place != "config/tasks" else (share() / place).glob("*"))
    if arm == "path":
        files += sorted((package / "safety").glob("*.py"))
    if policy == "vla":
        files.append(out / "vla" / "policy" / "model.safetensors")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=240, help="per cell (default: 240)")
    parser.add_argument("--policies", nargs="+", choices=("expert", "vla"), default=["expert", "vla"])
    parser.add_argument("--regimes", nargs="+", choices=tuple(REGIMES), default=list(REGIMES))
    parser.add_argument("--pilot", action="store_true", help="scenes that are not the final run's")
    parser.add_argument("--linear", action="store_true", help="straight lines between the rows, except in the filter")
    parser.add_argument("--quick", action="store_true", help="8 pilot episodes; the expert only, unless --policies")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/safety_comparison"))
    parser.add_argument("--docs", type=Path, help="folder that gets safety_comparison.md and .png as well")
    parser.add_argument("--commit", default="(not given)", help="for the text")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    args = parser.parse_args()
    if args.quick:
        args.pilot, args.episodes = True, min(args.episodes, 8)
        args.policies = args.policies if "--policies" in sys.argv else ["expert"]
    out: Path = args.out.resolve() / ("quick" if args.quick else "pilot" if args.pilot else "final")
    out.mkdir(parents=True, exist_ok=True)
    wide = (sys.stderr if args.json else sys.stdout).isatty()
    console = Console(stderr=args.json, width=None if wide else 130)
    torch.set_num_threads(1)
    began = time.monotonic()
    columns = (
        TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        if "vla" in args.policies:
            _checkpoint(args.out.resolve(), out, QUICK if args.quick else DEMONSTRATIONS, bar)
        first = PILOT if args.pilot else FINAL
        todo = scenes(first, args.episodes)
        total = len(todo) * len(args.policies) * sum(len(arms_of(r)) for r in args.regimes)
        task = bar.add_task("episodes", total=total)
        cells = compare(
            out, args.policies, args.regimes, todo, args.workers, args.linear, lambda count: bar.advance(task, count)
        )
    results = {
        (p, r): {a: summary(cells[p, r, a], cells[p, r, "direct"]) for a in arms_of(r)}
        for p in args.policies
        for r in args.regimes
    }
    texts = {name: REGIMES[name].text for name in args.regimes}
    for (p, r), rows in results.items():
        good = {a: [e["seconds"] is not None for e in cells[p, r, a]] for a in ARMS}
        rows["path"]["against"] = {a: mcnemar(good[a], good["path"]) for a in OTHERS}
    show(console, results, texts)
    for text in verdict(results):
        console.print(f"- {text}")
    draw(results, out / PICTURE)
    setting = {
        "episodes": args.episodes, "commit": args.commit, "first": first, "last": first + args.episodes - 1, "rows": ROWS,
        "executed": EXECUTED, "regimes": texts,
        "use": "PILOT scenes, on which regimes and gains were chosen" if args.pilot else "which nothing else uses",
    }  # fmt: skip
    (out / "safety_comparison.md").write_text(markdown(results, setting), encoding="utf-8")
    if args.docs:
        for name in ("safety_comparison.md", PICTURE):
            shutil.copy(out / name, args.docs / name)
    report = {
        "episodes": args.episodes, "first_seed": first, "seconds": round(time.monotonic() - began, 1),
        "verdict": verdict(results), "results": {f"{p}/{r}": rows for (p, r), rows in results.items()},
    }  # fmt: skip
    (out / "results.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    if args.json:
        print(json.dumps(report))


def _checkpoint(root: Path, out: Path, config: stage1.Stage1Config, bar: Progress) -> None:
    """Trains once under `root` (a quick one under `out`), and lets `out` find it."""
    place = out if config is QUICK else root
    task = bar.add_task("training the VLA", total=100)
    train(place, config, lambda share, text: bar.update(task, completed=round(100 * share), description=text))
    bar.update(task, completed=100)
    if place != out and not (out / "vla").exists():
        (out / "vla").symlink_to(place / "vla", target_is_directory=True)


if __name__ == "__main__":
    main()
