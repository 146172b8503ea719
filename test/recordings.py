"""Recorded episodes of a made-up arm, as the graph records them, and ways to spoil them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_ros.episodes import EpisodeWriter
from vla_ros.episodes.definitions import typestore
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract
from vla_ros.types import Image

START = 1_700_000_000.2  # s, a stamp with a rounded double
STEPS = 5
Fields = dict[str, Any]
Spoil = Callable[[str, int, Fields], "Fields | None"]  # topic, step, fields -> fields to record, or None to drop the message


def small_aloha(folder: Path, size: tuple[int, int] = (32, 48)) -> RobotContract:
    """ALOHA's contract with two cameras and small images."""
    contract = yaml.safe_load((share() / "config" / "robots" / "aloha.yaml").read_text())
    contract["observation"] |= {"size": list(size), "cameras": ["cam_high", "cam_left_wrist"]}
    path = folder / "small_aloha.yaml"
    path.write_text(yaml.safe_dump(contract))
    return RobotContract.load(path)


def picture(step: int, size: tuple[int, int], camera: int = 0) -> Image:
    """[H, W, 3]: a smooth background and a bar that moves with the step, so that frames cannot be mixed up."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([60 + 100 * rows // height, 60 + 100 * columns // width, np.full(size, 90 + 40 * camera)], axis=-1)
    left = (4 * step) % (width - 4)
    image[:, left : left + 4] = 220
    return image.astype(np.uint8)


def command(contract: RobotContract, time: float) -> np.ndarray:
    """[n] rad, what was sent `time` s after the start; linear, so that it can be told between recorded states."""
    return np.array(contract.posture) + 0.05 * time * np.arange(1, len(contract.joints) + 1)


def position(contract: RobotContract, step: int) -> np.ndarray:
    """[n] rad, measured at an observation."""
    return np.array(contract.posture) + 0.001 * step


def record(
    path: Path, contract: RobotContract, steps: int = STEPS, spoil: Spoil = lambda topic, step, fields: fields, **metadata: str
) -> Path:
    """`steps` + 1 observations with a chunk, an estimate and several safety states each."""
    known = {"episode_id": path.stem, "instruction": "reach the red disc", "robot": contract.robot, "outcome": "success"}
    known |= {"policy_version": "3", **metadata}
    period = 1.0 / contract.observation.rate
    with EpisodeWriter(path, {key: value for key, value in known.items() if value}) as writer:

        def write(topic: str, name: str, stamp: float, step: int, fields: Fields) -> None:
            kept = spoil(topic, step, {"header": header(stamp), **fields})
            if kept is not None:
                full = f"vla_ros/msg/{name}"
                writer.write(topic, full, bytes(typestore().serialize_cdr(message(full, **kept), full)), round(stamp * 1e9))

        for k in range(steps + 1):
            stamp = START + k * period
            write("/observation", "Observation", stamp, k, observation(contract, stamp, k))
            write("/progress", "Progress", stamp, k, progress(k, steps))
            write("/policy/chunk", "ActionChunk", stamp, k, chunk(contract, stamp, k))
            for part in range(4):
                write(
                    "/safety/state", "SafetyState", stamp + part * period / 4, k, safety(contract, k * period + part * period / 4)
                )
    return path


def message(name: str, **fields: Any) -> Any:
    return typestore().types[name](**fields)


def header(stamp: float) -> Any:
    return message("std_msgs/msg/Header", stamp=time(stamp), frame_id="")


def time(stamp: float) -> Any:
    seconds, nanoseconds = divmod(round(stamp * 1e9), 1_000_000_000)
    return message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)


def image(pixels: Image, stamp: float) -> Any:
    height, width = pixels.shape[:2]
    return message(
        "sensor_msgs/msg/Image", header=header(stamp), height=height, width=width, encoding="rgb8", is_bigendian=0,
        step=3 * width, data=pixels.ravel(),
    )  # fmt: skip


def observation(contract: RobotContract, stamp: float, k: int) -> Fields:
    """Joints come in reverse order, cameras in the contract's."""
    size = contract.observation.size
    return {
        "cameras": list(contract.observation.cameras),
        "images": [image(picture(k, size, camera), stamp) for camera in range(len(contract.observation.cameras))],
        "joint_names": list(contract.joints)[::-1], "position": position(contract, k)[::-1].copy(),
        "velocity": np.zeros(len(contract.joints)), "skew": 0.0,
    }  # fmt: skip


def chunk(contract: RobotContract, stamp: float, k: int) -> Fields:
    period = 1.0 / contract.observation.rate
    return {
        "observation_stamp": time(stamp), "period": period, "joint_names": list(contract.joints),
        "semantics": "joint_position", "rows": 1, "data": command(contract, (k + 1) * period) + 0.5, "policy_version": 3,
        "episode_id": "e", "action_tokens": np.array([k, 20 - k], np.int16), "log_probability": -0.5,
        "latency_ms": np.zeros(0, np.float32), "corrected": False,
    }  # fmt: skip


def progress(k: int, steps: int) -> Fields:
    return {
        "episode_id": "e", "instruction": "reach the red disc", "steps_to_go": 2.0 * (steps - k), "spread": 1.0,
        "low": 2.0 * (steps - k) - 1.3, "high": 2.0 * (steps - k) + 1.3,
        "success_probability": 0.1, "success": k == steps, "reward": 2.0 if k else 0.0, "policy_version": 1,
    }  # fmt: skip


def safety(contract: RobotContract, since: float) -> Fields:
    return {
        "state": 0, "reason": "", "path_speed": 1.0, "active_constraints": [], "joint_names": list(contract.joints),
        "raw_command": command(contract, since), "command": command(contract, since), "ticks": 0, "missed_ticks": 0,
        "limited_ticks": 0, "rejected_chunks": 0, "policy_version": 3, "episode_id": "e", "off_path": 0.0, "speed_cap": 1.0,
        "tip_speed": 0.0, "torque_share": 0.0, "clearance": 0.1, "nearest": "",
    }  # fmt: skip
