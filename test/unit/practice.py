"""Records practice episodes as the live graph would, with a real policy's draws on random pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from vla_ros.msg import SafetyState

from vla_ros.episodes import EpisodeWriter
from vla_ros.nodes import convert
from vla_ros.policy.policy import VlaPolicy
from vla_ros.robots.actions import action_space
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import images_of, state_of
from vla_ros.types import ActionChunk, JointState, Observation, ProgressEstimate

CONTRACT = RobotContract.load("panda")
KINEMATICS = Kinematics(CONTRACT)


def record(
    path: Path, policy: VlaPolicy, version: int, text: str, steps: int = 6, seed: int = 0, contract: RobotContract = CONTRACT,
    by_hand: Collection[int] = (), action: Sequence[float] = (), **metadata: str,
) -> Path:  # fmt: skip
    """One episode of `steps` policy steps, drawn with `version`; the judge counts down from 2 * steps.

    The command is at a chunk's first row when that is due; joints and cameras come in another order than the contract's.

    Args:
        by_hand: steps in which a person acts: `action` in each, in the contract's units.
    """
    rng = np.random.default_rng(seed)
    kinematics = Kinematics(contract)
    space, home, period = action_space(contract, kinematics), kinematics.home(), 1 / contract.observation.rate
    mixed = rng.permutation(len(contract.joints))
    command = home

    def write(topic: str, message: Any, stamp: float) -> None:
        kind = f"vla_ros/msg/{type(message).__name__}"
        writer.write(topic, kind, bytes(serialize_message(message)), int(stamp * 1e9))

    def send(stamp: float, command: np.ndarray) -> None:
        state = SafetyState(joint_names=list(contract.joints), command=convert.floats(command))
        state.header.stamp = convert.stamp(stamp)
        write("/safety/state", state, stamp)

    known = {"episode_id": path.stem, "instruction": text, "robot": contract.robot, **metadata}
    with EpisodeWriter(path, known) as writer:
        for k in range(steps + 1):
            stamp = 100.0 + period * k
            q = home + rng.uniform(-0.02, 0.02, len(home))
            shape = (*contract.observation.size, 3)
            images = {name: rng.integers(0, 255, shape, np.uint8) for name in reversed(contract.cameras)}
            joints = JointState(stamp, tuple(contract.joints[i] for i in mixed), q[mixed], np.zeros(len(q)))
            observation = Observation(stamp, images, joints)
            write("/observation", convert.observation_message(observation, {}), stamp)
            state = state_of(contract, kinematics, joints)
            decision = policy.infer(images_of(contract, observation), text, state, greedy=False)
            rows = space.rows([action] if k in by_hand else decision.action, q)
            chunk = ActionChunk(
                stamp + period, period, contract.joints, rows, observation_stamp=stamp, policy_version=version,
                episode_id=path.stem, tokens=decision.tokens, log_probability=decision.log_probability, corrected=k in by_hand,
            )  # fmt: skip
            write("/policy/chunk", convert.chunk_message(chunk), stamp)
            d = 2.0 * (steps - k) + float(rng.uniform(0, 1))
            write("/progress", convert.progress_message(ProgressEstimate(stamp, d, 1, 0, False, 0, 1), text, path.stem), stamp)
            send(stamp, command)
            send(stamp + period / 2, 0.5 * (command + chunk.rows[0]))
            command = chunk.rows[0]
    return path
