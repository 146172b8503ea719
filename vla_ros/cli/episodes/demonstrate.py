"""`vla-ros episodes demonstrate`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract

console = Console(stderr=True)


def run(robot: str, task: str, split: str, episodes: int, seed: int, miss: float, out: Path) -> int:
    """Records until so many have succeeded; what is there already counts, so that a killed run goes on."""
    os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco's first import
    from vla_ros.episodes.reader import EpisodeReader
    from vla_ros.sim.bimanual_expert import Manner
    from vla_ros.sim.demonstrate import Demonstrator

    if episodes < 1:
        raise VlaRosError(f"--episodes: found {episodes}, expected at least 1")
    if not 0.0 <= miss <= 1.0:
        raise VlaRosError(f"--miss: found {miss:g}, expected a probability, 0..1")
    demonstrator = Demonstrator(RobotContract.load(robot), replace(Manner(), miss=miss))
    good = 0
    for found in sorted(out.glob("*.mcap")):
        metadata = EpisodeReader(found).metadata
        good += metadata.get("outcome") == "success"
        seed = max(seed, int(metadata.get("seed", seed)) + 1)
    tried = first = good
    for _ in track(range(first, episodes), "demonstrations", console=console):
        success = False
        while not success:
            if tried - first > 2 * (episodes - first) + 10:
                raise VlaRosError(f"{out}: {good} of {tried} demonstrations succeeded; expected more than half")
            _, success = demonstrator.record(out, seed, task, split)
            tried, seed, good = tried + 1, seed + 1, good + success
    print(f"{out}: {good} successful demonstrations, {tried - first} recorded now, of which {tried - good} failed")
    return 0
