"""Records practice episodes as the live graph would, with a real policy's draws on random pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from std_msgs.msg import Header
from vla_ros.msg import SafetyState

from vla_ros.episodes import EpisodeWriter
from vla_ros.nodes import convert
from vla_ros.policy.policy import VlaPolicy
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import proprio_state
from vla_ros.types import ActionChunk, JointState, Observation, ProgressEstimate

CONTRACT = RobotContract.load("panda")
KINEMATICS = Kinematics(CONTRACT)


def record(path: Path, policy: VlaPolicy, version: int, text: str, steps: int = 6, seed: int = 0) -> Path:
    """One episode of `steps` policy steps, drawn with `version`; the judge counts down from 2 * steps."""
    rng = np.random.default_rng(seed)
    names, home = CONTRACT.joints, KINEMATICS.home()

    def write(topic: str, message: Any, stamp: float) -> None:
        kind = f"vla_ros/msg/{type(message).__name__}"
        writer.write(topic, kind, bytes(serialize_message(message)), int(stamp * 1e9))

    with EpisodeWriter(path, {"episode_id": path.stem, "instruction": text, "robot": "panda"}) as writer:
        for k in range(steps + 1):
            stamp = 100.0 + 0.1 * k
            q = home + rng.uniform(-0.02, 0.02, 7)
            image = rng.integers(0, 255, (64, 64, 3), np.uint8)
            joints = JointState(stamp, names, q, np.zeros(7))
            write("/observation", convert.observation_message(Observation(stamp, {"front": image}, joints), {}), stamp)
            decision = policy.infer(image, text, proprio_state(CONTRACT, KINEMATICS.tip_pose(q)[:3]), greedy=False)
            chunk = ActionChunk(
                stamp + 0.1, 0.1, names, home[None], observation_stamp=stamp, policy_version=version,
                episode_id=path.stem, tokens=decision.tokens, log_probability=decision.log_probability,
            )  # fmt: skip
            write("/policy/chunk", convert.chunk_message(chunk), stamp)
            d = 2.0 * (steps - k) + float(rng.uniform(0, 1))
            write("/progress", convert.progress_message(ProgressEstimate(stamp, d, 1, 0, False, 0, 1), text, path.stem), stamp)
            state = SafetyState(header=Header(stamp=convert.stamp(stamp + 0.05)))
            write("/safety/state", state, stamp)
    return path
