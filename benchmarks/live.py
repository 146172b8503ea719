"""What the benchmarks of the running graph share. Importing it makes the embedded runtime importable under ROS's names, where
there is no ROS 2, and keeps to one thread a process and to this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vla_ros import embedded  # noqa: E402

embedded.activate()

from vla_ros.cli.demo.settings import RunFolder  # noqa: E402
from vla_ros.learning.stage1 import fresh  # noqa: E402
from vla_ros.policy import policy  # noqa: E402
from vla_ros.progress.calibration import Calibration, Evidence  # noqa: E402


def write_checkpoints(folder: RunFolder, contract: str) -> None:
    """A policy and a judge with random weights; the judge never sees success."""
    for target, seed in ((folder.policy, 0), (folder.judge, 1)):
        model, prompt = fresh(contract, seed)
        policy.save(target, model, prompt, {"stage": "benchmark"})
    evidence = Evidence(((0.5, 0.5, 1),), 1.0, 0.8, ((0.0, 0.0, 0.0, 0.0),), 1, 0.0, 1.0, 0.0)
    Calibration(0.01, 3, 0.0, 1.0, 1, 1.0, evidence=evidence).save(folder.judge)
