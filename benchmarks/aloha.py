"""Bimanual ALOHA in MuJoCo, the whole loop from pixels: scripted episodes, stage 1, the running graph, practice, the graph again.

    python benchmarks/aloha.py [--run runs/aloha] [--docs docs] [--practice 144]

Every stage leaves its result in the run's folder and is not done again: a run that was killed goes on. The contract is ALOHA's
with one camera of 64 x 64 px and one row of all 14 joints at 5 Hz instead of four of 224 px and a hundred rows at 50 Hz: that
trains in minutes on a CPU, and practice learns from actions one by one. The judge sees, besides the demonstrations, as many in
which the first grip misses and the hands go through the motions: without them the joints alone would tell it all, and an empty
hand-over would look like success. Live episodes are on scenes that nothing else uses; success is the simulator's truth when the
episode ends, which the judge decides or the time limit of 8 s.
"""

from __future__ import annotations

import os

os.environ.setdefault("ROS_DOMAIN_ID", "114")

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import live
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tabletop
import torch
import yaml
from rclpy.node import Node
from rclpy.task import Future
from rich.console import Console
from std_srvs.srv import Trigger
from vla_ros.msg import TrainingState

from vla_ros.cli.demo.graph import Graph
from vla_ros.cli.demo.settings import RunFolder
from vla_ros.cli.demo.view import Figures
from vla_ros.cli.train import sft as sft_command
from vla_ros.cli.train.place import Place
from vla_ros.learning import sft
from vla_ros.learning.stage1 import ground_on
from vla_ros.learning.statistics import mcnemar, wilson
from vla_ros.nodes import qos
from vla_ros.paths import share
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.model import VlaModel
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.sim import render
from vla_ros.sim.bimanual_cell import BimanualCell
from vla_ros.sim.demonstrate import grounding_pictures

TASK = "transfer"
EVALUATION, PRACTICE, MISSES = 910_000, 310_000, 10_000  # first seeds; no other program uses these scenes
TRAINING = "config/training/demo.yaml"  # practice
PICTURES, GROUND, SECONDS = 3000, 90.0, {"policy": 360.0, "judge": 120.0}  # of stage 0, s of it, s of each training
Episodes = list[dict[str, Any]]


def contract(run: Path) -> Path:
    """ALOHA's, made small."""
    path = run / "aloha.yaml"
    text = yaml.safe_load((share() / "config" / "robots" / "aloha.yaml").read_text())
    text["observation"] |= {"rate": 5, "size": [64, 64], "cameras": ["cam_high"], "max_skew": 0.1}
    text["action"] |= {"rate": 5, "chunk": 1}
    path.write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
    return path


def vla_ros(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "vla_ros.cli", *map(str, words)], check=True)


def timed(run: Path, name: str, work: Callable[[], None]) -> None:
    """Does it once, and keeps how long it took [s] in times.json."""
    path = run / "times.json"
    times = json.loads(path.read_text()) if path.is_file() else {}
    if name not in times:
        began = time.monotonic()
        work()
        path.write_text(json.dumps({**times, name: round(time.monotonic() - began, 1)}))


def stage1(run: Path, robot: Path, count: int) -> None:
    demonstrate = ("episodes", "demonstrate", "--robot", robot, "--task", TASK, "--episodes", count)
    timed(run, "demonstrations", lambda: vla_ros(*demonstrate, "--out", run / "demonstrations"))
    timed(run, "misses", lambda: vla_ros(*demonstrate, "--seed", MISSES, "--miss", 1, "--out", run / "misses"))
    timed(run, "grounding", lambda: ground(run, robot))
    timed(run, "policy", lambda: train(run, robot, "policy", ["demonstrations"]))
    timed(run, "judge", lambda: train(run, robot, "judge", ["demonstrations", "misses"]))


def ground(run: Path, robot: Path) -> None:
    """Stage 0: where are the bar's ends? Without it fifty demonstrations teach the motion, not to look where the bar lies."""
    own = RobotContract.load(robot)
    data = sft_command.read([run / "demonstrations"], Place.robot(own), skip_bad=False)
    torch.manual_seed(0)
    model, prompt = sft_command.build(sft_command.SMALL, Place.robot(own), data)
    assert isinstance(model, VlaModel)  # SMALL
    seen = grounding_pictures(own, PICTURES, 1)
    config = sft.SftConfig(steps=10**6, seconds=GROUND, learning_rate=1e-3)
    ground_on(RunFolder(run).grounded, seen, model, prompt, config, lambda share, figures: None)


def train(run: Path, robot: Path, kind: str, sets: Sequence[str]) -> None:
    """Stage 1 from the grounded model, as the demo's (learning/stage1.py): first on its frozen features."""
    model, prompt = checkpoint.load(RunFolder(run).grounded)
    data = sft_command.read([run / name for name in sets], Place.robot(RobotContract.load(robot)), skip_bad=False)
    training, held_out = data.split(0.1, 0)
    weight = float(kind == "policy")
    config = sft.SftConfig(steps=10**6, seconds=SECONDS[kind], learning_rate=1e-3, behaviour_weight=weight, frozen=0.3)
    sft.clone(model, training.inputs(prompt), training, config, lambda share, figures: None)
    inputs, folder = held_out.inputs(prompt), run / "checkpoints" / kind
    figures = sft.evaluate(model, inputs, held_out)
    checkpoint.save(folder, model, prompt, {"stage": kind, "instructions": training.taught, **figures})
    sft.calibration_of(model, inputs, held_out).save(folder)


def lines_of(path: Path) -> Episodes:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def evaluate(graph: Graph, path: Path, count: int, say: Callable[[str], None]) -> Episodes:
    """The policy as it runs, on the evaluation's scenes; one line each, so that it may be broken off."""
    done = lines_of(path)
    with path.open("a", encoding="utf-8") as lines:
        for seed in range(EVALUATION + len(done), EVALUATION + count):
            began = time.monotonic()
            episode = asdict(graph.episode(seed, greedy=True, task=TASK))
            done.append({**episode, "seconds": round(time.monotonic() - began, 2)})
            lines.write(json.dumps(done[-1]) + "\n")
            lines.flush()
            say(f"{path.stem}: {sum(e['true_success'] for e in done)} of {len(done)}")
    return done


class Operator:
    """The person beside a simulated cell: releases a latched filter when the trainer asks for him, and counts it."""

    def __init__(self, node: Node) -> None:
        self.resets, self._answer = 0, Future()
        self._answer.set_result(Trigger.Response())
        self._reset = node.create_client(Trigger, "/safety/reset")
        node.create_subscription(TrainingState, "/training/state", self._on_state, qos.STATUS)

    def _on_state(self, message: TrainingState) -> None:
        if message.phase == "stopped" and "/safety/reset" in message.message and self._answer.done():
            self._answer = self._reset.call_async(Trigger.Request())
            self._answer.add_done_callback(self._count)

    def _count(self, answer: Future) -> None:
        self.resets += bool(answer.result().success)  # a refused one is asked for again


def loop(run: Path, robot: Path, count: int, episodes: int, per_update: int, say: Callable[[str], None]) -> None:
    """Live before, practice, live after: on one graph."""
    folder, practised = RunFolder(run), run / "practice.json"
    before, after = run / "before.jsonl", run / "after.jsonl"
    if len(lines_of(after)) >= count:
        return
    with Graph(str(robot), folder, Figures(), TRAINING) as graph:
        operator = Operator(graph.node)
        evaluate(graph, before, count, say)
        if not practised.is_file():
            learned: Episodes = []
            graph.on_episode = learned.append
            began = time.monotonic()
            result = graph.improve(episodes, per_update, PRACTICE, TASK, lambda share, told: say(f"practice {share:.0%}: {told}"))
            graph.on_episode = lambda episode: None
            names = ("episodes", "updates", "termination_reason", "message", "policy_version")
            told = {name: getattr(result, name) for name in names}
            told |= {"seconds": round(time.monotonic() - began, 1), "practised": learned, "resets": operator.resets}
            practised.write_text(json.dumps(told, indent=1))
        evaluate(graph, after, count, say)


def rates(episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    truth = [bool(e["true_success"]) for e in episodes]
    false = [e["detected"] and not e["true_success"] for e in episodes]
    low, high = wilson(sum(truth), len(truth))
    return {
        "episodes": len(truth), "success": float(np.mean(truth)), "low": low, "high": high,
        "false_success": int(sum(false)), "missed_success": int(sum(e["true_success"] and not e["detected"] for e in episodes)),
        "seconds": float(np.mean([e["seconds"] for e in episodes])), "steps": float(np.mean([e["steps"] for e in episodes])),
    }  # fmt: skip


def pictures(run: Path, robot: Path, file: Path) -> None:
    """The cell as its four cameras see it, above; a live episode as the policy saw it, below."""
    from vla_ros.episodes.data import load_episode

    cell = BimanualCell(RobotContract.load("aloha"))
    cell.reset(cell.sample(EVALUATION, task=TASK))
    own = RobotContract.load(robot)
    seen = load_episode(file, own)
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.6), constrained_layout=True)
    for axis, camera in zip(axes[0], RobotContract.load("aloha").cameras, strict=True):
        axis.imshow(cell.render(camera, (360, 480)))
        axis.set_title(camera, fontsize=9)
    for axis, k in zip(axes[1], np.linspace(0.25, 1.0, 4) * (len(seen.images) - 1), strict=True):
        axis.imshow(seen.images[round(k)])
        axis.set_title(f"{round(k) / own.observation.rate:.1f} s, d = {seen.steps_to_go[round(k)]:.1f} steps", fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(run / "aloha.png", dpi=90)
    plt.close(figure)
    render.release()


def markdown(r: dict[str, Any]) -> str:
    b, a, p = r["before"], r["after"], r["practice"]
    lines = [
        "# Bimanual ALOHA in MuJoCo: the whole loop from pixels", "",
        f"`python benchmarks/aloha.py`; commit {r['commit']}.", "",
        "The right arm takes a bar from the table and hands it to the left one. Success is the simulator's truth at the",
        "episode's end: the bar between both left fingers, off the table, let go by the right ones. The bar lies anywhere in",
        "10 x 10 cm, turned by up to 0.2 rad, but for a patch of 3 x 3 cm in the middle that is held out; ACT's cube lies in",
        "20 x 20 cm. The network sees one camera of 64 x 64 px and the joints, and says where all 14 shall be 0.2 s later.", "",
        "| | episodes | success | 95 % | judge: false success | success not seen | steps |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, f in (("after stage 1", b), ("after practice", a)):
        verdicts = f"{f['false_success']} | {f['missed_success']}"
        told = f"{f['success']:.0%} | {f['low']:.0%} to {f['high']:.0%} | {verdicts} | {f['steps']:.0f}"
        lines.append(f"| {name} | {f['episodes']} | {told} |")
    times = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in r["times"].items())
    ended = f"{p['episodes']} episodes, {p['updates']} updates, the filter latched and released {p['resets']} times"
    lines += [
        "", f"The same scenes before and after: p = {r['p']:.2g} (McNemar, exact).", "", f"Practice: {ended}.", "",
        f"Minutes on two shared cores: {times}, practice {p['seconds'] / 60:.1f};",
        f"{b['seconds']:.1f} s for a live episode.", "",
    ]  # fmt: skip
    return "\n".join([*lines, "![cell and an episode](aloha.png)", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/aloha"))
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--demonstrations", type=int, default=50)
    parser.add_argument("--evaluation", type=int, default=40, help="live episodes before, and the same ones after")
    parser.add_argument("--practice", type=int, default=144, help="episodes")
    parser.add_argument("--per-update", type=int, default=24)
    args, console = parser.parse_args(), Console()
    torch.set_num_threads(1)
    args.run.mkdir(parents=True, exist_ok=True)
    robot = contract(args.run)
    stage1(args.run, robot, args.demonstrations)
    RunFolder(args.run).episodes.mkdir(exist_ok=True)
    loop(args.run, robot, args.evaluation, args.practice, args.per_update, console.print)
    before, after = (lines_of(args.run / f"{name}.jsonl") for name in ("before", "after"))
    practice = json.loads((args.run / "practice.json").read_text())
    store = WeightStore(RunFolder(args.run).store)
    result = {
        "commit": tabletop.commit(), "before": rates(before), "after": rates(after), "practice": practice,
        "p": mcnemar([e["true_success"] for e in before], [e["true_success"] for e in after]),
        "versions": [store.record(number).metrics for number in store.numbers()],
        "times": json.loads((args.run / "times.json").read_text()),
    }  # fmt: skip
    shown = next((e for e in after + before if e["true_success"]), after[0])
    pictures(args.run, robot, Path(shown["file"]))
    (args.run / "aloha.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (args.run / "aloha.md").write_text(markdown(result), encoding="utf-8")
    tabletop.publish(args.run, "aloha", args.docs, console)


if __name__ == "__main__":
    live.ROOT  # noqa: B018  (imported for what it prepares)
    main()
