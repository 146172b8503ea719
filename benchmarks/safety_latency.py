"""Cost of the safety filter in this process: one tick with all layers, admission and planning of one chunk, and both; next
to ruckig (a new target every cycle) and to a plain clip of velocity and acceleration, in the same run.

The arm moves under the fuzz's mix of smooth, fast and hostile policies (test/safety_adversary.py) and follows its commands
exactly, so that nothing but the filter is timed. Garbage is collected between ticks, as in safety_node. Wall and processor
time; on a shared machine the largest wall times are the machine's.

    python benchmarks/safety_latency.py [--quick] [--json] [--ticks 1_000_000]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import numpy as np
import ruckig

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from safety_adversary import Adversary  # noqa: E402
from safety_rig import ExactArm, Timed  # noqa: E402

from vla_ros.memory import Collector  # noqa: E402
from vla_ros.robots.contract import RobotContract  # noqa: E402
from vla_ros.safety.filter import SafetyFilter  # noqa: E402

Figures = dict[str, float]
WARM = 2_000  # ticks before the clock runs
PIECE = 10_000  # ticks of one adversary, then the next seed: other starts, other policies
RATE = 200.0  # Hz, of ruckig and clip
FREEDOMS = (7, 14)


def percentiles(seconds: list[float], prefix: str = "") -> Figures:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
    return {f"{prefix}p50_us": float(p50), f"{prefix}p99_us": float(p99), f"{prefix}max_us": 1e6 * max(seconds)}


def measure_filter(robot: str, ticks: int) -> Figures:
    """Of tick() while the arm moves, as p50_us..; `cpu_` processor time of the same; `both_` with the chunks that came
    before the tick; `all_` of every tick, at rest too, where the filter has less to do; `submit_` of a chunk, accepted or
    rejected; `accepted_` of the accepted ones; `moving_share` of the ticks."""
    contract = RobotContract.load(robot)
    took: dict[str, list[float]] = {"": [], "cpu_": [], "both_": [], "all_": [], "submit_": [], "accepted_": []}
    for piece in range(max(1, ticks // PIECE)):
        adversary = build(contract, piece, processor=True)
        timed: Timed = adversary.filter
        adversary.run(WARM)
        for kept in (timed.tick_wall, timed.tick_cpu, timed.submit_wall, timed.accepted_wall, timed.both_wall, timed.moving):
            kept.clear()
        timed.collector = Collector()
        adversary.run(min(ticks, PIECE))
        timed.collector.close()
        timed.collector = None
        for prefix, seconds in (("", timed.tick_wall), ("cpu_", timed.tick_cpu), ("both_", timed.both_wall)):
            took[prefix] += [value for value, moving in zip(seconds, timed.moving, strict=True) if moving]
        took["all_"] += timed.tick_wall
        took["submit_"] += timed.submit_wall
        took["accepted_"] += timed.accepted_wall
    figures = {key: value for prefix, seconds in took.items() if seconds for key, value in percentiles(seconds, prefix).items()}
    return {**figures, "moving_share": len(took[""]) / len(took["all_"])}


def build(contract: RobotContract, seed: int, processor: bool = False) -> Adversary:
    arm, sequence = ExactArm(contract), np.random.SeedSequence(seed)
    return Adversary(contract, arm, lambda: SafetyFilter.for_robot(contract), sequence, processor=processor)


def measure(step: Callable[[], object], ticks: int) -> Figures:
    """Of any call; wall and processor time."""
    for _ in range(min(ticks, WARM)):
        step()
    wall, cpu = [], []
    for _ in range(ticks):
        start_cpu, start = thread_time(), perf_counter()
        step()
        wall.append(perf_counter() - start)
        cpu.append(thread_time() - start_cpu)
    return {**percentiles(wall), **percentiles(cpu, "cpu_")}


def ruckig_step(n: int) -> Callable[[], object]:
    """Position interface, a new target every cycle."""
    otg, given, out = ruckig.Ruckig(n, 1.0 / RATE), ruckig.InputParameter(n), ruckig.OutputParameter(n)
    given.current_position, given.current_velocity, given.current_acceleration = [0.0] * n, [0.0] * n, [0.0] * n
    given.max_velocity, given.max_acceleration, given.max_jerk = [2.0] * n, [10.0] * n, [500.0] * n
    targets = np.random.default_rng(0).uniform(-1, 1, (1000, n)).tolist()
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        given.target_position = targets[count % 1000]
        if otg.update(given, out) not in (ruckig.Result.Working, ruckig.Result.Finished):
            raise RuntimeError("ruckig: no trajectory")
        out.pass_to_input(given)

    return step


def clip_step(n: int) -> Callable[[], object]:
    """What many stacks do instead: clip of velocity and acceleration, step by step, which does not stop at a limit."""
    dt, q, v = 1.0 / RATE, np.zeros(n), np.zeros(n)
    velocity, acceleration, lower, upper = np.full(n, 2.0), np.full(n, 10.0), np.full(n, -2.5), np.full(n, 2.5)
    targets = np.random.default_rng(0).uniform(-1, 1, (1000, n))
    count = 0

    def step() -> None:
        nonlocal count, q, v
        count += 1
        wanted = np.clip((targets[count % 1000] - q) / dt, -velocity, velocity)
        v = np.clip(wanted, v - acceleration * dt, v + acceleration * dt)
        q = np.clip(q + v * dt, lower, upper)

    return step


def resident() -> float:
    """Memory of this process now [KiB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def measure_growth(robot: str, ticks: int) -> Figures:
    """What stays allocated over `ticks` of one filter, from the end of the first tenth to the end; then the bytes that
    Python holds after 10,000 more ticks (tracemalloc; apart, as it slows down)."""
    adversary = build(RobotContract.load(robot), 0)
    piece = min(PIECE, max(100, ticks // 10))
    marks = []
    for k in range(max(2, ticks // piece)):
        adversary.run(piece)
        if k in (max(1, ticks // piece) // 10, max(2, ticks // piece) - 1):
            gc.collect()
            marks.append((resident(), len(gc.get_objects())))
    (kib, objects), (kib_end, objects_end) = marks[0], marks[-1]
    tracemalloc.start()
    adversary.run(piece)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(2):
        adversary.run(piece)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {
        "ticks": float(ticks), "rss_kib_begin": kib, "rss_kib_end": kib_end, "rss_kib": kib_end - kib,
        "objects_begin": float(objects), "objects_end": float(objects_end), "objects": float(objects_end - objects),
        "traced_bytes": float(after - before), "traced_ticks": 2.0 * piece,
    }  # fmt: skip


def tell(figures: dict[str, Any], robots: list[str]) -> None:
    """The table for people."""
    print(f"{'us':<30} {'p50':>9} {'p99':>9} {'max':>9}   p50 against ruckig, clip of as many joints")

    def line(name: str, values: Figures, prefix: str = "", more: str = "") -> None:
        if f"{prefix}p50_us" in values:
            p50, p99, most = (values[f"{prefix}{key}_us"] for key in ("p50", "p99", "max"))
            print(f"{name:<30} {p50:9.1f} {p99:9.1f} {most:9.1f}   {more}")

    for robot in robots:
        values = figures[robot]
        ratios = f"{values['to_ruckig']:.2f}, {values['to_clip']:.2f}; moving {values['moving_share']:.0%} of the time"
        line(f"{robot} tick", values, "", ratios)
        line(f"{robot} tick, processor", values, "cpu_")
        line(f"{robot} tick, at rest too", values, "all_")
        line(f"{robot} submit", values, "submit_")
        line(f"{robot} submit, accepted", values, "accepted_")
        line(f"{robot} tick with submit", values, "both_")
    for name in ("ruckig", "clip"):
        for n in FREEDOMS:
            line(f"{name} {n}", figures[name][str(n)])
            line(f"{name} {n}, processor", figures[name][str(n)], "cpu_")
    for robot, grown in figures["growth"].items():
        print(
            f"growth {robot}: {grown['ticks']:,.0f} ticks: {grown['rss_kib']:+,.0f} KiB of {grown['rss_kib_begin']:,.0f}, "
            f"{grown['objects']:+,.0f} objects of {grown['objects_begin']:,.0f}; "
            f"{grown['traced_bytes']:+,.0f} bytes over {grown['traced_ticks']:,.0f} ticks (tracemalloc)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, help="of the growth, per robot (1,000,000; --quick: 100,000)")
    parser.add_argument("--robot", choices=RobotContract.known(), help="default: each in turn")
    parser.add_argument("--quick", action="store_true", help="10,000 timed ticks per robot, not 100,000")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    options = parser.parse_args()
    robots = [options.robot] if options.robot else list(RobotContract.known())
    timed, grown = (10_000, 100_000) if options.quick else (100_000, 1_000_000)
    figures: dict[str, Any] = {
        "ruckig": {str(n): measure(ruckig_step(n), timed) for n in FREEDOMS},
        "clip": {str(n): measure(clip_step(n), timed) for n in FREEDOMS},
    }
    for robot in robots:
        figures[robot] = measure_filter(robot, timed)
        for name in ("ruckig", "clip"):
            n = str(min(FREEDOMS, key=lambda k: abs(k - len(RobotContract.load(robot).joints))))
            figures[robot][f"to_{name}"] = figures[robot]["p50_us"] / figures[name][n]["p50_us"]
    figures["growth"] = {robot: measure_growth(robot, options.ticks or grown) for robot in robots}
    tell(figures, robots)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
