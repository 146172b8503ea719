"""Random and adversarial policies, joint states, clocks and operators against the safety filter, in closed loop with a
simulated arm; the limits are judged from the sent commands alone, contacts are counted in MuJoCo.

    python benchmarks/safety_fuzz.py [--quick] [--json]
    python benchmarks/safety_fuzz.py --ticks 10_000_000 --processes 2 --out runs/safety_fuzz     # goes on where it was killed
    python benchmarks/safety_fuzz.py --replay runs/safety_fuzz/finding_panda_17_jerk.json

The work is cut into shards, each with a seed of its own that depends on --seed, the robot and the shard's number only.
Exit status 1 where anything was found. What is fuzzed stands in test/safety_adversary.py, the judge in
test/safety_judge.py: the tests run a small share of the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: the arrays are small, and shards are the parallel part

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from safety_adversary import Adversary, Outcome  # noqa: E402
from safety_judge import Histogram  # noqa: E402
from safety_rig import Arm, ExactArm  # noqa: E402

from vla_ros.robots.contract import RobotContract  # noqa: E402
from vla_ros.safety.filter import SafetyFilter  # noqa: E402

SHARD = 10_000  # ticks: a second or two, so that little is lost by a kill
INPUTS = 50  # kept of a finding
DISTRIBUTIONS = ("stop_time", "stop_distance", "tracking", "clearance")


@dataclass(frozen=True)
class Shard:
    """A piece of work: its results depend on these values and the code only."""

    robot: str
    number: int
    ticks: int
    seed: int
    arm: str

    @property
    def sequence(self) -> np.random.SeedSequence:
        """Seed of this shard alone."""
        return np.random.SeedSequence(self.seed, spawn_key=(sum(self.robot.encode()), self.number))

    @property
    def name(self) -> str:
        return f"{self.robot}_{self.number}"


@cache
def make_arm(robot: str, kind: str) -> Arm:
    """One arm per process: compiling its model takes longer than a shard."""
    contract = RobotContract.load(robot)
    if kind == "exact":
        return ExactArm(contract)
    from vla_ros.sim.arena import Arena

    arena: Arm = Arena(contract)
    return arena


def fuzz(shard: Shard, ticks: int, record: int = 0) -> Outcome:
    contract = RobotContract.load(shard.robot)
    arm = make_arm(shard.robot, shard.arm)
    return Adversary(contract, arm, lambda: SafetyFilter.for_robot(contract), shard.sequence, record).run(ticks)


def run_shard(task: tuple[Shard, str]) -> dict[str, Any]:
    """The shard's figures as one JSON object; with a folder they are written there too."""
    shard, out = task
    done = fuzz(shard, shard.ticks)
    histograms = {name: Histogram() for name in DISTRIBUTIONS}
    histograms["stop_time"].add(np.array(done.stop_times))
    histograms["stop_distance"].add(np.array(done.stop_distances))
    histograms["tracking"].add(done.tracking)
    histograms["clearance"].add(done.clearance)
    result = {
        "shard": vars(shard), "commit": commit(), "ticks": done.ticks, "answered": done.answered,
        "violations": done.violations, "overshoot": done.verdict.overshoot, "contacts": done.contacts,
        "contact_ticks": done.touching, "modes": done.modes, "reasons": done.reasons, "rejections": done.rejections,
        "accepted": done.accepted, "refusals": done.refusals,
        "rebuilt": done.rebuilt, "stops": len(done.stop_times),
        "seconds": {"filter": done.filter_seconds, "arm": done.arm_seconds, "all": done.seconds},
        "histograms": {name: histogram.state() for name, histogram in histograms.items()},
    }  # fmt: skip
    if found := findings(done):
        result["findings"] = found
        firsts = {text.split()[0].rstrip(":"): tick for tick, text in reversed(found)}
        for kind, tick in firsts.items() if out else ():
            inputs = fuzz(shard, min(tick + 1, shard.ticks), INPUTS).inputs
            about = {"shard": vars(shard), "commit": commit(), "kind": kind, "tick": tick}
            record = {**about, "findings": found, "inputs": inputs}
            write(Path(out) / f"finding_{shard.name}_{kind}.json", record)
    if out:
        write(Path(out) / f"shard_{shard.name}.json", result)
    return result


def findings(done: Outcome) -> list[tuple[int, str]]:
    """Tick and what was found, in order of time."""
    found = [(tick, f"{f.kind} joint {f.joint}: {f.excess:.3g} of the limit too much") for tick, f in done.findings]
    found += [(tick, f"exception: {text}") for tick, text in done.errors[:8]]
    found += [(tick, f"contact {pair}") for tick, pair in done.touched]
    found += [(tick, "emergency stop without a standstill") for tick in done.never_stopped[:8]]
    found += [(tick, "two commands for one joint state") for tick in done.twice[:8]]
    return sorted(found)


def write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, so that a kill leaves no half a shard."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)


@cache
def commit() -> str:
    """Of the code; '+' and a digest of what is fuzzed where files are changed: shards of other code are not gone on from."""
    git = ["git", "-C", str(ROOT)]
    parts = ["vla_ros", "config", "urdf", "test"]
    try:
        name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True, stderr=subprocess.DEVNULL).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", *parts], text=True)
    except (OSError, subprocess.CalledProcessError):
        name, changed = "unknown", "unknown"
    if not changed.strip():
        return name
    digest = hashlib.sha256()
    patterns = ("vla_ros/safety/*.py", "vla_ros/sim/*.py", "vla_ros/robots/*.py", "config/*/*.yaml", "urdf/*", "test/*.py")
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        digest.update(path.read_bytes())
    return f"{name}+{digest.hexdigest()[:8]}"


def plan(robots: Iterable[str], ticks: int, seed: int, arm: str) -> list[Shard]:
    robots = list(robots)
    share = math.ceil(ticks / len(robots))
    sizes = [SHARD] * (share // SHARD) + ([share % SHARD] if share % SHARD else [])
    return [Shard(robot, number, size, seed, arm) for number, size in enumerate(sizes) for robot in robots]


def finished(shard: Shard, out: str) -> dict[str, Any] | None:
    """Result of an earlier run of the same shard by the same code."""
    path = Path(out) / f"shard_{shard.name}.json"
    if not out or not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    return result if result["shard"] == vars(shard) and result["commit"] == commit() else None


def work(shards: list[Shard], out: str, processes: int) -> Iterator[dict[str, Any]]:
    """Results of the shards as they come; finished ones first."""
    todo = []
    for shard in shards:
        result = finished(shard, out)
        if result is None:
            todo.append((shard, out))
        else:
            yield {**result, "resumed": True}
    if processes == 1:
        yield from map(run_shard, todo)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(run_shard, todo)


def follow(shards: list[Shard], out: str, processes: int) -> tuple[list[dict[str, Any]], float]:
    """All results, with a progress bar on stderr; and the ticks per second of this run."""
    text = "{task.completed:,.0f} of {task.total:,.0f} ticks, {task.fields[rate]:,.0f}/s, found {task.fields[found]}, left"
    columns = (TextColumn("fuzz"), BarColumn(), TextColumn(text), TimeRemainingColumn(elapsed_when_finished=True))
    started, fresh, found, results = time.perf_counter(), 0, 0, []
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as progress:
        bar = progress.add_task("", total=sum(shard.ticks for shard in shards), rate=0.0, found=0)
        for result in work(shards, out, processes):
            results.append(result)
            fresh += 0 if result.get("resumed") else result["ticks"]
            found += sum(result["violations"].values()) + sum(result["contacts"].values())
            rate = fresh / (time.perf_counter() - started)
            progress.update(bar, advance=result["ticks"], rate=rate, found=found)
    return results, rate


def merge(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of all shards together."""
    totals: dict[str, Counter[str]] = {
        key: sum((Counter(result[key]) for result in results), Counter())
        for key in ("violations", "contacts", "modes", "reasons", "rejections", "refusals")
    }
    overshoot: dict[str, float] = {}
    histograms = {name: Histogram() for name in DISTRIBUTIONS}
    for result in results:
        for kind, excess in result["overshoot"].items():
            overshoot[kind] = max(overshoot.get(kind, -1.0), excess)
        for name, histogram in histograms.items():
            histogram.merge(Histogram(**result["histograms"][name]))
    ticks, answered = sum(r["ticks"] for r in results), sum(r["answered"] for r in results)
    seconds = {key: sum(r["seconds"][key] for r in results) for key in ("filter", "arm", "all")}
    figures: dict[str, Any] = {
        "ticks": ticks, "answered": answered,
        "violations": totals["violations"].total(),
        "violations_by_kind": {kind: totals["violations"][kind] for kind in results[0]["violations"]},
        "contacts": totals["contacts"].total(), "contacts_by_pair": dict(totals["contacts"].most_common()),
        "contact_ticks": sum(r["contact_ticks"] for r in results),
        "max_overshoot": max(overshoot.values()), "overshoot_by_kind": overshoot,
        "mode_share": {mode: count / answered for mode, count in totals["modes"].most_common()},
        "chunks_accepted": sum(r["accepted"] for r in results), "chunks_rejected": totals["rejections"].total(),
        "rejections": dict(totals["rejections"].most_common()), "reasons": dict(totals["reasons"].most_common()),
        "resets_refused": dict(totals["refusals"].most_common()),
        "stops": sum(r["stops"] for r in results), "never_unlatched": sum(r["rebuilt"] for r in results),
        "filter_us": 1e6 * seconds["filter"] / ticks, "arm_us": 1e6 * seconds["arm"] / ticks,
        "harness_us": 1e6 * (seconds["all"] - seconds["filter"] - seconds["arm"]) / ticks,
    }  # fmt: skip
    for name in ("stop_time", "stop_distance", "tracking"):
        figures |= {f"{name}_{key}": histograms[name].percentile(at) for key, at in (("p50", 50), ("p99", 99), ("max", 100))}
    figures |= {f"clearance_{key}": histograms["clearance"].percentile(at) for key, at in (("p50", 50), ("p1", 1), ("min", 0))}
    return figures


def tell(figures: dict[str, Any], robots: list[str]) -> None:
    """The table for people."""

    def line(name: str, value: Any, more: str = "") -> None:
        print(f"  {name:<20} {f'{value:,}' if isinstance(value, int) else f'{value:.4g}':>12}   {more}")

    print(f"safety fuzz: {', '.join(robots)}, seed {figures['seed']}, commit {figures['commit']}, arm {figures['arm']}")
    line("ticks", figures["ticks"], f"of them answered {figures['answered']:,}; {figures['ticks_per_second']:,.0f} per second")
    line("violations", figures["violations"], _listed(figures["violations_by_kind"]))
    line("contacts", figures["contacts"], _listed(figures["contacts_by_pair"]))
    line("ticks in contact", figures["contact_ticks"])
    over = ", ".join(f"{kind} {share:.2e}" for kind, share in figures["overshoot_by_kind"].items())
    line("max overshoot", figures["max_overshoot"], over)
    line("emergency stops", figures["stops"], f"in motion; never out of the latch: {figures['never_unlatched']}")
    for name, unit in (("stop_time", "s"), ("stop_distance", "m"), ("tracking", "rad")):
        p50, p99, most = (figures[f"{name}_{key}"] for key in ("p50", "p99", "max"))
        line(f"{name.replace('_', ' ')} {unit}", p50, f"p99 {p99:.4g}, max {most:.4g}")
    p1, least = figures["clearance_p1"], figures["clearance_min"]
    line("clearance m", figures["clearance_p50"], f"p1 {p1:.4g}, least {least:.4g}, as the filter tells it")
    line("modes", figures["answered"], ", ".join(f"{mode} {share:.1%}" for mode, share in figures["mode_share"].items()))
    line("chunks accepted", figures["chunks_accepted"])
    line("chunks rejected", figures["chunks_rejected"], _listed(figures["rejections"]))
    line("resets refused", sum(figures["resets_refused"].values()), _listed(figures["resets_refused"]))
    rest = f"arm {figures['arm_us']:.1f}, harness {figures['harness_us']:.1f}; processor time"
    line("filter us per tick", figures["filter_us"], rest)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def clean(value: Any) -> Any:
    """Strict JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replay(path: str) -> int:
    """Runs the shard of a finding up to its tick, and tells what came in last and what was found."""
    record = json.loads(Path(path).read_text())
    shard = Shard(**record["shard"])
    if record["commit"] != commit():
        print(f"recorded at commit {record['commit']}, this is {commit()}: the inputs may differ")
    done = fuzz(shard, min(record["tick"] + 1, shard.ticks), INPUTS)
    print("\n".join(done.inputs))
    found = findings(done)
    print(f"{shard.name}, {done.ticks} ticks:", "\n  ".join(f"tick {tick}: {text}" for tick, text in found) or "nothing found")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, help="of all robots together (200,000; --quick: 20,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--robot", choices=RobotContract.known(), help="default: each in turn")
    parser.add_argument("--arm", choices=("arena", "exact"), default="arena", help="MuJoCo, or no physics")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", default="", help="folder for finished shards, to go on from, and for findings")
    parser.add_argument("--replay", metavar="FILE", help="a finding_*.json: run its shard up to its tick")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    options = parser.parse_args()
    if options.replay:
        return replay(options.replay)
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)
    robots = [options.robot] if options.robot else list(RobotContract.known())
    ticks = options.ticks or (20_000 if options.quick else 200_000)
    results, rate = follow(plan(robots, ticks, options.seed, options.arm), options.out, options.processes)
    about = {"ticks_per_second": rate, "seed": options.seed, "commit": commit(), "arm": options.arm}
    figures = {**merge(results), **about}
    tell(figures, robots)
    for result in results:
        for tick, text in result.get("findings", [])[:3]:
            print(f"  found: {result['shard']['robot']} shard {result['shard']['number']} tick {tick}: {text}")
    if options.json:
        each = {robot: clean(merge(own)) for robot in robots if (own := [r for r in results if r["shard"]["robot"] == robot])}
        print(json.dumps({**clean(figures), "robots": each}))
    return 1 if figures["violations"] or figures["contacts"] else 0


if __name__ == "__main__":
    sys.exit(main())
