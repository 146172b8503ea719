"""Weights that change under a moving arm: the whole graph in the simulated cell, in real time, the policy answering at 50 Hz, and
a version activated every half second, a hundred times. Counted: control ticks without a command, observations without an
answer, and how long the policy stood still for a swap.

The policy is VlaModel in its default shape with random weights; the two versions differ by noise in LoRA and action head.

    python benchmarks/swaps.py [--swaps 100] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import live  # before torch and the ROS names: it sets up what they read
import torch
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from vla_ros.msg import ActionChunk, Observation

from vla_ros.cli.demo.graph import Graph
from vla_ros.cli.demo.settings import RunFolder
from vla_ros.cli.demo.view import Figures
from vla_ros.nodes import qos
from vla_ros.policy import adapter, policy
from vla_ros.policy.store import WeightStore

os.environ.setdefault("ROS_DOMAIN_ID", "113")

RATE = 50  # Hz, of observations
EVERY = 0.5  # s between swaps
PAUSE = 10.0  # ms, p99: the bar
SETTLED = 3.0  # s of moving before the counting
LATE = 0.3  # s for the last answer


def write_contract(folder: Path) -> Path:
    """Panda's at 50 Hz; the step is shortened as the period is."""
    content = yaml.safe_load((live.ROOT / "config" / "robots" / "panda.yaml").read_text())
    content["action"]["max_step"] *= content["observation"]["rate"] / RATE
    content["observation"]["rate"] = RATE
    path = folder / "panda.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def write_versions(folder: RunFolder) -> None:
    """Version 1 as the checkpoint is, version 2 beside it."""
    store, model = WeightStore(folder.store), adapter.add(policy.load(folder.policy)[0])
    weights = adapter.state(model)
    store.write(weights, 0, "sft", {})
    store.write({name: t + 0.02 * torch.randn_like(t) for name, t in weights.items()}, 1, "self_improvement", {})


class Counts:
    """What the graph says of itself, from now on."""

    def __init__(self, graph: Graph) -> None:
        self._seen: list[float] = []
        self._answered: list[float] = []
        self.pause: float | None = None  # ms, p99
        node = graph.node
        node.create_subscription(Observation, "/observation", lambda m: self._seen.append(_seconds(m.header.stamp)), qos.SENSOR)
        node.create_subscription(
            ActionChunk, "/policy/chunk", lambda m: self._answered.append(_seconds(m.observation_stamp)), qos.COMMAND
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            found = {value.key: value.value for value in status.values}
            if "swap_p99_ms" in found:
                self.pause = float(found["swap_p99_ms"])

    def between(self, start: float, end: float) -> tuple[int, int]:
        """Observations in that time (of their stamps), and those of them that were answered."""
        seen = {stamp for stamp in self._seen if start <= stamp < end}
        return len(seen), len(seen & set(self._answered))

    @property
    def newest(self) -> float:
        return self._seen[-1] if self._seen else 0.0


def _seconds(stamp: Any) -> float:
    return float(stamp.sec) + float(stamp.nanosec) * 1e-9


def measure(folder: RunFolder, contract: Path, swaps: int) -> dict[str, Any]:
    """One episode that lasts as long as it takes, and the swaps under it."""
    figures = Figures()
    seconds = SETTLED + EVERY * (swaps + 4)
    with Graph(str(contract), folder, figures) as graph:
        counts = Counts(graph)
        graph.pace(1.0)
        runner = threading.Thread(target=graph.episode, args=(1, False, "train", seconds), daemon=True)
        runner.start()
        deadline = time.monotonic() + 60
        while not counts.between(0.0, 1e12)[1]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer to any observation within 60 s; see {folder.log}")
            time.sleep(0.1)
        time.sleep(SETTLED)
        start, ticks, missed = counts.newest, figures.ticks, figures.missed
        slowest = 0.0
        due = time.monotonic()
        for k in range(swaps):
            due += EVERY
            time.sleep(max(0.0, due - time.monotonic()))
            asked = time.monotonic()
            graph.activate(2 - k % 2)
            slowest = max(slowest, time.monotonic() - asked)
        end, ticks, missed = counts.newest, figures.ticks - ticks, figures.missed - missed
        time.sleep(1.0 + LATE)  # the next diagnostics
        seen, answered = counts.between(start, end)
        runner.join(30)
    return {
        "swaps": swaps, "seconds": round(end - start, 1), "ticks": ticks, "missed_ticks": missed, "observations": seen,
        "unanswered": seen - answered, "pause_p99_ms": counts.pause, "slowest_request_ms": round(slowest * 1e3, 1),
        "bar_ms": PAUSE, "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        folder.episodes.mkdir(parents=True)
        contract = write_contract(folder.root)
        live.write_checkpoints(folder, str(contract))
        write_versions(folder)
        found = measure(folder, contract, options.swaps)
    print(
        f"{found['swaps']} swaps in {found['seconds']} s at {RATE} Hz: {found['missed_ticks']} of {found['ticks']} control ticks "
        f"missed, {found['unanswered']} of {found['observations']} observations unanswered; pause p99 {found['pause_p99_ms']} "
        f"ms (bar {PAUSE:g}), slowest request {found['slowest_request_ms']} ms; load {found['load']:.1f}"
    )
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
