"""Cost of one tick of the safety filter and of admitting a chunk, in this process, with the Panda's limits and
workspace.

Random four-row chunks at 10 Hz keep the filter at its limits, which is its most expensive path.

    python benchmarks/safety_tick.py [--ticks 20000]
"""

from __future__ import annotations

import argparse
import gc
import time

import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.filter import SafetyFilter
from vla_ros.types import ActionChunk, JointState


def measure(robot: str, ticks: int) -> dict[str, list[float]]:
    """Durations [s]: wall and processor time of tick(), wall time of submit()."""
    contract = RobotContract.load(robot)
    safety = SafetyFilter.for_robot(contract)
    limits, names, period = safety.limits, contract.joints, safety.period
    position, velocity, now = Kinematics(contract).home(), np.zeros(len(names)), 1.0
    safety.tick(now, JointState(now, names, position, velocity))
    rng = np.random.default_rng(0)
    took: dict[str, list[float]] = {"tick": [], "tick_cpu": [], "submit": []}
    gc.collect()
    gc.freeze()
    for k in range(ticks):
        if k % 20 == 0:
            rows = np.clip(position + rng.uniform(-0.05, 0.05, (4, len(names))), limits.lower, limits.upper)
            chunk = ActionChunk(now + 0.1, 0.1, names, rows, observation_stamp=now)
            start = time.perf_counter()
            safety.submit(chunk, now)
            took["submit"].append(time.perf_counter() - start)
        now += period
        state = JointState(now, names, position, velocity)
        start, start_cpu = time.perf_counter(), time.thread_time()
        sent = safety.tick(now, state)
        took["tick_cpu"].append(time.thread_time() - start_cpu)
        took["tick"].append(time.perf_counter() - start)
        if sent is not None:
            position, velocity = sent.command, sent.velocity
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="panda")
    parser.add_argument("--ticks", type=int, default=20_000)
    args = parser.parse_args()
    print(f"{'us':>10} {'p50':>8} {'p99':>8} {'max':>8}")
    for name, seconds in measure(args.robot, args.ticks).items():
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
        print(f"{name:>10} {p50:8.1f} {p99:8.1f} {max(seconds) * 1e6:8.1f}")


if __name__ == "__main__":
    main()
