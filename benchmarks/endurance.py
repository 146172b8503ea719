"""Practice that nobody watches, for hours of simulated time: the whole graph in the simulated cell, in lock step.

Again and again a block is thrown off the table in the middle of practice, which no script can put right, and a node is killed
(SIGKILL). The benchmark plays the only person there is: he comes some simulated minutes after he was asked, puts the block back
(or resets a latched safety filter), says so, and goes. Every few simulated minutes memory, open files and threads of every
process are looked at, the disk, the DDS endpoints, and whether episodes and versions are whole.

`--sim` does the same with practice in one process (`vla-ros train improve --sim`), which is killed and goes on.

Everything is in the folder `--run`: a second call goes on where the first one ended, whatever ended it.

    python benchmarks/endurance.py [--hours 20] [--policy DIR --judge DIR] [--sim] [--report] [--docs docs]

Without `--policy` the networks are VlaModel in its default shape with random weights: nothing is learned, the rest is as in
practice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("ROS_DOMAIN_ID", "115")

import kills  # before numpy, torch and the ROS names: it sets up what they read
import live
import numpy as np
import tabletop
from endurance_report import NAME, Log, sample, write
from rich.console import Console
from rich.progress import Progress
from std_srvs.srv import Trigger
from vla_ros.action import Improve
from vla_ros.msg import Episode, TrainingState

from vla_ros.cli.demo.settings import RunFolder
from vla_ros.cli.train.log import LOG
from vla_ros.cli.train.practice_run import VERSIONS
from vla_ros.episodes.check import check_episode
from vla_ros.learning.stopping import task_of
from vla_ros.nodes import qos
from vla_ros.robots.contract import RobotContract

VICTIMS = ("camera", "policy", "progress", "trainer", "learner")
PER_UPDATE = 24  # episodes
STUCK = 600.0  # s of wall time without an episode, while nobody was asked for
CALL = 30.0  # s of wall time for a service to answer


@dataclass(frozen=True)
class Plan:
    """What happens in an hour of simulated time; the moments are drawn evenly."""

    drops: float = 2.0  # per hour
    deaths: float = 3.0  # per hour
    answer: float = 3.0  # min until the person comes who was asked for
    every: float = 5.0  # min between two looks at everything
    keep: int = 500  # newest recordings; 0: all
    seed: int = 0


class Moments:
    """When the next event of a kind comes [h]."""

    def __init__(self, random: np.random.Generator, rate: float, now: float) -> None:
        self._random, self._rate = random, rate
        self.next = now
        self.draw(now)

    def draw(self, now: float) -> None:
        self.next = now + float(self._random.exponential(1 / self._rate)) if self._rate else float("inf")


class Station:
    """The graph, what befalls it, and the person who is asked for. Times are simulated hours since the first call."""

    def __init__(self, cell: kills.Cell, folder: RunFolder, log: Log, plan: Plan) -> None:
        self._cell, self._folder, self._log, self._plan = cell, folder, log, plan
        self._before = log.hours  # h of earlier calls
        self._checked = max(cell.store.numbers(), default=0)
        self._wanted = self._was = ""  # of the person: phase that asks for him, and the last one heard
        self._due: float | None = None  # h, when he comes
        self._dead: tuple[str, float, float, int] | None = None  # who, h, s of wall time, newest version then
        self._heard = time.monotonic()  # s, an episode
        self._new: list[Episode] = []  # not looked at yet
        random = np.random.default_rng([plan.seed, len(log.events)])
        self._random = random
        self._drop, self._death = Moments(random, plan.drops, self.now), Moments(random, plan.deaths, self.now)
        self._sample = self.now
        node = cell.node
        node.create_subscription(TrainingState, "/training/state", self._on_state, qos.STATUS)
        services = ("/sim/drop", "/sim/put_back", "/trainer/ready", "/safety/reset")
        self._services = {name: node.create_client(Trigger, name) for name in services}

    @property
    def now(self) -> float:
        return self._before + float(self._cell.node.get_clock().now().nanoseconds) / 3.6e12

    def _on_state(self, message: TrainingState) -> None:
        """On the client's thread; the loop reads what it leaves."""
        latched = message.phase == "stopped" and "/safety/reset" in message.message
        self._wanted = "latched" if latched else message.phase if message.phase == "reset_wanted" else ""
        if self._wanted and self._wanted != self._was:
            self._log.add(self.now, "asked", what=self._wanted)
        self._was = self._wanted

    def look(self) -> None:
        """Whatever is due.

        Raises:
            KeyboardInterrupt: SIGTERM has ended the client.
        """
        if not self._cell.node.context.ok():
            raise KeyboardInterrupt
        now = self.now
        self._operate(now)
        self._count(now)
        if now >= self._drop.next and not (self._wanted or self._due) and self._call("/sim/drop"):
            self._log.add(now, "drop")
            self._drop.draw(now)
        if now >= self._death.next:
            victim = str(self._random.choice(VICTIMS))
            if self._cell.kill(victim):
                self._log.add(now, "death", victim=victim)
                self._dead = victim, now, time.monotonic(), max(self._cell.store.numbers(), default=0)
                self._death.draw(now)
        if now >= self._sample:
            self.sample()
            self._sample = now + self._plan.every / 60
        if self._wanted:
            self._heard = time.monotonic()
        if time.monotonic() - self._heard > STUCK:
            raise RuntimeError(f"no episode for {STUCK:g} s; see {self._folder.log}")

    def _operate(self, now: float) -> None:
        if self._due is None:
            self._due = now + self._plan.answer / 60 if self._wanted else None
        elif now >= self._due:
            if self._wanted == "latched":
                done = self._call("/safety/reset")
            else:  # also where the trainer that had asked has died since
                done = self._call("/sim/put_back") and (not self._wanted or self._call("/trainer/ready"))
            if done:
                self._log.add(now, "answered")
                self._due = None

    def _call(self, name: str) -> bool:
        client = self._services[name]
        if not client.service_is_ready():
            return False
        answer, deadline = client.call_async(Trigger.Request()), time.monotonic() + CALL
        while not answer.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        return answer.done() and bool(answer.result().success)

    def _count(self, now: float) -> None:
        """Episodes and ends of practice that are new."""
        new, self._cell.episodes[:] = self._cell.episodes[:], []
        for e in new:
            told = {"outcome": e.outcome, "reason": e.termination_reason, "steps": e.steps, "task": task_of(e.instruction)}
            self._log.add(now, "episode", **told, version=e.policy_version)
            self._heard = time.monotonic()
            if self._dead and e.outcome != "aborted":
                victim, at, wall, version = self._dead
                if victim == "learner" and max(self._cell.store.numbers()) == version:
                    continue
                self._log.add(now, "recovered", victim=victim, minutes=60 * (now - at), seconds=time.monotonic() - wall)
                self._dead = None
        self._new += new
        for result in self._cell.ended:
            self._log.add(now, "ended", reason=result.termination_reason, message=result.message)
        self._cell.ended.clear()

    def sample(self) -> None:
        learner = self._cell.pid("learner")
        pids = {name.rpartition("-")[0]: pid for name, pid in self._cell.pids().items()}
        pids |= {"learner": learner} if learner else {}
        node, disk = self._cell.node, {"episodes": self._folder.episodes, "versions": self._folder.store}
        topics = [name for name, _ in node.get_topic_names_and_types()]
        ends = sum(node.count_publishers(name) + node.count_subscribers(name) for name in topics)
        self._log.add(self.now, "sample", **sample(pids, disk), endpoints=ends, nodes=len(node.get_node_names()))
        for fault in [*self._cell.faults(self._checked), *self._damaged()]:
            self._log.add(self.now, "fault", what=fault)
        self._checked = max(self._cell.store.numbers(), default=0)

    def _damaged(self) -> list[str]:
        """Of the new episodes those that are gone too soon, and what is wrong with the last one."""
        new, self._new = self._new, []
        recent = new[-self._plan.keep // 2 :] if self._plan.keep else new
        gone = [f"{e.id}: its file is gone" for e in recent if not Path(e.file).is_file()]
        whole = [e for e in recent if e.outcome != "aborted"]
        return gone + [f"{e.id}: {finding}" for e in whole[-1:] for finding in check_episode(e.file)]


def practise_live(folder: RunFolder, log: Log, plan: Plan, hours: float, training: str, tell: Callable[[float], None]) -> None:
    goal = Improve.Goal(episodes=1_000_000, episodes_per_update=PER_UPDATE, seed=1_000_000 * (1 + len(log.starts)))
    with kills.Cell(folder, goal, training, keep_episodes=str(plan.keep)) as cell:
        cell.practise(lambda: bool(cell.episodes), "the first episode", STUCK)
        station = Station(cell, folder, log, plan)
        log.add(station.now, "start", wall=time.time())

        def over() -> bool:
            station.look()
            tell(station.now)
            return station.now >= hours

        try:
            cell.practise(over, "the end", float("inf"))
        finally:
            station.sample()
            log.add(station.now, "stop", wall=time.time())


def practise_alone(folder: RunFolder, log: Log, plan: Plan, hours: float, training: str, tell: Callable[[float], None]) -> None:
    """In one process. Its simulated time is that of its episodes."""
    config, out = folder.root / "training.yaml", folder.root / "alone"
    config.write_text(training)
    command = [
        sys.executable, "-m", "vla_ros.cli", "train", "improve", "--sim", "--policy", str(folder.policy), "--judge",
        str(folder.judge), "--out", str(out), "--config", str(config), "--episodes", "1000000", "--per-update", str(PER_UPDATE),
    ]  # fmt: skip
    step = 1 / RobotContract.load("panda").observation.rate / 3600  # h
    practised = Practised(out / LOG, step)
    death = Moments(np.random.default_rng([plan.seed, len(log.events)]), plan.deaths, practised.hours())
    due, killed = practised.hours(), 0.0
    log.add(due, "start", wall=time.time())
    with folder.log.open("a") as written:
        process = subprocess.Popen(command, stderr=written, cwd=live.ROOT)
        try:
            while (now := practised.hours()) < hours:
                tell(now)
                if process.poll() is not None:
                    raise RuntimeError(f"it ended with exit status {process.returncode}; see {folder.log}")
                if killed and practised.new:
                    log.add(now, "recovered", victim="improve", minutes=0.0, seconds=time.monotonic() - killed)
                    killed = 0.0
                if now >= death.next and not killed:
                    process.kill()
                    process.wait()
                    log.add(now, "death", victim="improve")
                    killed, practised.new = time.monotonic(), 0
                    death.draw(now)
                    process = subprocess.Popen(command, stderr=written, cwd=live.ROOT)
                if now >= due:
                    log.add(now, "sample", **sample({"improve": process.pid}, {"versions": out / VERSIONS}))
                    due = now + plan.every / 60
                time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            log.add(practised.hours(), "stop", wall=time.time())


class Practised:
    """Follows the log of `vla-ros train improve`."""

    def __init__(self, path: Path, step: float) -> None:
        self._path, self._step = path, step
        self._read, self._hours = 0, 0.0
        self.new = 0  # updates

    def hours(self) -> float:
        """Simulated, of all episodes so far."""
        if self._path.is_file():
            with self._path.open(encoding="utf-8") as lines:
                lines.seek(self._read)
                for line in iter(lines.readline, ""):
                    if not line.endswith("\n"):
                        break
                    self._read, self.new = lines.tell(), self.new + 1
                    point = json.loads(line)
                    self._hours += self._step * sum(point[f"{e['group']}_length"] for e in point["practised"])
        return self._hours


@contextmanager
def bar(hours: float, console: Console) -> Iterator[Callable[[float], None]]:
    with Progress(console=console) as progress:
        task = progress.add_task("simulated hours", total=hours)
        yield lambda now: progress.update(task, completed=now)


def main() -> int:
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=20.0, help="simulated, in all calls together (20)")
    parser.add_argument("--run", type=Path, help="folder that keeps everything (runs/endurance, with --sim runs/endurance_sim)")
    parser.add_argument("--policy", type=Path, help="stage-1 checkpoint, e.g. runs/latest/checkpoints/policy (random weights)")
    parser.add_argument("--judge", type=Path, help="its judge")
    parser.add_argument("--training", type=Path, help="how practice learns, and when it stops (by no rule, 4 updates)")
    for name, value in asdict(plan).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"({value:g})")
    parser.add_argument("--sim", action="store_true", help="practice in one process")
    parser.add_argument("--report", action="store_true", help="only the report of what is there")
    parser.add_argument("--docs", type=Path, help="folder whose results/ gets the report's .json, .md and .png as well")
    args = parser.parse_args()
    if (args.policy is None) != (args.judge is None):
        parser.error("--policy and --judge belong together")
    folder = RunFolder((args.run or Path("runs") / (f"{NAME}_sim" if args.sim else NAME)).resolve())
    folder.episodes.mkdir(parents=True, exist_ok=True)
    plan, console = Plan(**{name: getattr(args, name) for name in asdict(plan)}), Console(highlight=False)
    log = Log(folder.root / "events.jsonl")
    setup = {
        "mode": "one process" if args.sim else "graph",
        "policy": str(args.policy.resolve()) if args.policy else "random weights",
        "training": args.training.read_text() if args.training else "updates: 4\n" + kills.NO_RULE, **asdict(plan),
    }  # fmt: skip
    log.check(setup)
    if not args.report:
        if args.policy:
            folder.policy.parent.mkdir(exist_ok=True)
            for link, target in ((folder.policy, args.policy), (folder.judge, args.judge)):
                link.unlink(missing_ok=True)
                link.symlink_to(target.resolve())
        elif not folder.judge.is_dir():
            live.write_checkpoints(folder, "panda")
        with bar(args.hours, console) as tell:
            run = practise_alone if args.sim else practise_live
            run(folder, log, plan, args.hours, setup["training"], tell)
    found = write(folder.root, log, setup, tabletop.commit())
    tabletop.publish(folder.root, NAME, args.docs, console)
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
