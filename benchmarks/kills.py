"""Death at any instant: the whole graph practises in the simulated cell, and again and again one of trainer, policy and learner
is killed (SIGKILL) at a random moment. Looked at after each: every episode that was announced as complete is whole on disk,
every version in the store loads with its hash and its parents, one of them is marked as the one that runs, and practice goes
on.

The networks are VlaModel in its default shape with random weights, so that what is learned is nothing; the rest is as in
practice.

    python benchmarks/kills.py [--kills 50] [--seed 0] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import live  # before numpy, torch and the ROS names: it sets up what they read
import numpy as np
import rclpy
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rich.progress import Progress
from vla_ros.action import Improve
from vla_ros.msg import Episode

from vla_ros.cli.demo.settings import RunFolder
from vla_ros.embedded.launch import Launcher, parse
from vla_ros.episodes.check import check_episode
from vla_ros.errors import VlaRosError
from vla_ros.nodes import qos
from vla_ros.nodes.main import spin_beside
from vla_ros.policy.store import WeightStore

os.environ.setdefault("ROS_DOMAIN_ID", "114")

VICTIMS = ("trainer", "policy", "learner")
PER_UPDATE = 2  # episodes: an update every few seconds
LONGEST = 8.0  # s until a kill, drawn evenly from 0
AGAIN = 120.0  # s until practice must have gone on
NO_RULE = "stopping: {gain: -1.0, probation: 0}\n"  # of random weights: no rule has a say


class Cell:
    """The launch file in processes of their own, and a client that wants practice to go on."""

    def __init__(self, folder: RunFolder, goal: Improve.Goal, training: str = "updates: 4\n" + NO_RULE, **arguments: str) -> None:
        """
        Args:
            goal: of practice; each one's seed is a thousand above the last one's.
            training: YAML of how practice learns.
            arguments: more of the launch file.
        """
        self.store = WeightStore(folder.store)
        self._log = folder.log.open("a", encoding="utf-8")
        file = folder.root / "training.yaml"
        file.write_text(training)
        arguments = {
            "robot": "panda", "policy": str(folder.policy), "judge": str(folder.judge), "store": str(folder.store),
            "episodes": str(folder.episodes), "training": str(file), "real_time_factor": "0.0", "respawn": "true", **arguments,
        }  # fmt: skip
        self._launcher = Launcher(parse(live.ROOT / "launch" / "cell.launch.yaml", arguments), on_line=self._keep)
        self.episodes: list[Episode] = []
        rclpy.init(args=[])
        self.node = rclpy.create_node("benchmark", parameter_overrides=[Parameter("use_sim_time", value=True)])
        self.node.create_subscription(Episode, "/training/episode", self.episodes.append, qos.RECORD)
        self._improve = ActionClient(self.node, Improve, "/improve")
        self._goal = goal
        self.ended: list[Improve.Result] = []  # goals that were not killed
        self._done: Any = None  # future of the running goal's result
        self._thread = threading.Thread(target=spin_beside, args=(self.node,), daemon=True)

    def _keep(self, line: Any) -> None:
        self._log.write(line.text + "\n")
        self._log.flush()

    def __enter__(self) -> Cell:
        self._launcher.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        rclpy.try_shutdown()
        self._thread.join(5.0)
        self._launcher.shutdown("the benchmark is over")
        self._log.close()

    def practise(self, until: Callable[[], bool], what: str, patience: float = AGAIN) -> float:
        """Asks for practice whenever none is under way, until the condition holds; returns the seconds that it took."""
        start = time.monotonic()
        while not until():
            if not self._launcher.running():
                raise RuntimeError(f"the launch has ended; see {self._log.name}")
            if time.monotonic() - start > patience:
                raise RuntimeError(f"waited {patience:g} s for {what}; see {self._log.name}")
            self._ask()
            time.sleep(0.02)
        return time.monotonic() - start

    def _ask(self) -> None:
        """A trainer that was killed answers no more; the new one is asked anew."""
        if self._done is not None and not self._done.done():
            return
        if self._done is not None:
            self.ended.append(self._done.result().result)
            self._done = None
        if not self._improve.server_is_ready():
            return
        self._goal.seed += 1000
        sent = self._improve.send_goal_async(self._goal)
        deadline = time.monotonic() + 5.0
        while not sent.done() and time.monotonic() < deadline:
            time.sleep(0.02)
        if sent.done() and sent.result() is not None and sent.result().accepted:
            self._done = sent.result().get_result_async()

    def pids(self) -> dict[str, int]:
        """Of all nodes that run, by the launcher's names for them."""
        return self._launcher.pids()

    def pid(self, victim: str) -> int | None:
        """None where it does not run just now."""
        found = self.pids()
        name = "trainer_node" if victim == "learner" else f"{victim}_node"
        parent = next((pid for label, pid in found.items() if label.startswith(name)), None)
        if victim != "learner" or parent is None:
            return parent
        try:
            children = " ".join(task.read_text() for task in Path(f"/proc/{parent}/task").glob("*/children"))
        except OSError:
            return None  # it has ended meanwhile
        return next((int(pid) for pid in children.split()), None)

    def kill(self, victim: str) -> bool:
        """False where it has just ended by itself."""
        pid = self.pid(victim)
        if pid is None:
            return False
        if victim == "trainer":
            self._done = None
        os.kill(pid, signal.SIGKILL)
        return True

    def faults(self, after: int = 0) -> list[str]:
        """What must not be, of the versions after this one."""
        found = []
        for number in (n for n in self.store.numbers() if n > after):
            try:
                self.store.load(number, self.store.record(number).sha256)
                self.store.lineage(number)
            except VlaRosError as error:
                found.append(f"version {number}: {error}")
        if self.store.numbers() and self.store.active() is None:
            found.append("no version is marked as the one that runs")
        return found


def measure(folder: RunFolder, kills: int, seed: int) -> dict[str, Any]:
    random, counts, waits = np.random.default_rng(seed), Counter[str](), list[float]()
    faults, checked = list[str](), 0
    goal = Improve.Goal(episodes=10_000, episodes_per_update=PER_UPDATE, task="reach")
    with Cell(folder, goal) as cell, Progress() as progress:
        cell.practise(lambda: len(cell.episodes) >= 2 * PER_UPDATE, "the first episodes")
        task = progress.add_task("kills", total=kills)
        while sum(counts.values()) < kills:
            victim = VICTIMS[int(random.integers(3))]
            due = time.monotonic() + random.uniform(0, LONGEST)
            cell.practise(lambda due=due: time.monotonic() > due, "the moment")  # type: ignore[misc]
            if not cell.kill(victim):
                continue
            counts[victim] += 1
            heard, version = len(cell.episodes), max(cell.store.numbers())
            faults += cell.faults()
            waits.append(
                cell.practise(
                    lambda heard=heard, version=version: len(cell.episodes) > heard and max(cell.store.numbers()) > version,  # type: ignore[misc]
                    f"an episode and a version after the {victim}'s death",
                )
            )
            for episode in cell.episodes[checked:]:
                if not Path(episode.file).is_file():
                    faults.append(f"{episode.id}: its file is gone")
                elif episode.outcome != "aborted":  # else it may have ended before its first chunk
                    faults += [f"{episode.id}: {finding}" for finding in check_episode(episode.file)]
            checked = len(cell.episodes)
            progress.advance(task)
        versions = len(cell.store.numbers())
    complete = sum(e.outcome != "aborted" for e in cell.episodes)
    return {
        "kills": sum(counts.values()), "victims": dict(counts), "seed": seed, "episodes": len(cell.episodes),
        "complete": complete, "versions": versions, "faults": faults, "resumed_median_s": round(float(np.median(waits)), 1),
        "resumed_most_s": round(max(waits), 1), "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        folder.episodes.mkdir(parents=True)
        live.write_checkpoints(folder, "panda")
        found = measure(folder, options.kills, options.seed)
    victims = ", ".join(f"{n} {victim}" for victim, n in sorted(found["victims"].items()))
    print(
        f"{found['kills']} kills ({victims}): {len(found['faults'])} faults in {found['complete']} complete episodes and "
        f"{found['versions']} versions; practice went on after {found['resumed_median_s']} s (median), "
        f"{found['resumed_most_s']} s (longest)"
    )
    for fault in found["faults"]:
        print(f"  {fault}")
    if options.json:
        print(json.dumps(found))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
