"""Messages of an episode that no graph has sent, serialised without ROS."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.episodes.definitions import typestore
from vla_ros.episodes.writer import EpisodeWriter
from vla_ros.robots.contract import RobotContract
from vla_ros.types import JOINT_POSITION, Array, Image, SafeCommand


def write(writer: EpisodeWriter, topic: str, kind: str, stamp: float, fields: dict[str, Any]) -> None:
    """One message of a type `pkg/msg/Name`, recorded at its stamp [s]."""
    store = typestore()
    writer.write(topic, kind, bytes(store.serialize_cdr(store.types[kind](**fields), kind)), round(stamp * 1e9))


def observation(
    stamp: float,
    images: dict[str, Image],
    position: Array,
    contract: RobotContract,
    velocity: Array | None = None,
    skew: float = 0.0,
) -> dict[str, Any]:
    """Fields of an Observation; velocities [n] that are not known stay empty."""
    return {
        "header": header(stamp), "cameras": list(images),
        "images": [image(stamp, pixels, contract.cameras[name].frame) for name, pixels in images.items()],
        "joint_names": list(contract.joints), "position": position.astype(np.float64),
        "velocity": np.zeros(0) if velocity is None else velocity.astype(np.float64), "skew": skew,
    }  # fmt: skip


def chunk(
    stamp: float, period: float, row: Array, contract: RobotContract, episode_id: str, corrected: bool = False
) -> dict[str, Any]:
    """Fields of an ActionChunk of one row [n] rad, m, due one `period` [s] after the observation at `stamp`."""
    return {
        "header": header(stamp + period, contract.robot), "observation_stamp": time(stamp), "period": period,
        "joint_names": list(contract.joints), "semantics": JOINT_POSITION, "rows": 1, "data": row.astype(np.float64),
        "policy_version": 0, "episode_id": episode_id, "action_tokens": np.zeros(0, np.int16), "log_probability": 0.0,
        "latency_ms": np.zeros(0, np.float32), "corrected": corrected,
    }  # fmt: skip


def safety_state(stamp: float, value: SafeCommand, contract: RobotContract, ticks: int = 0) -> dict[str, Any]:
    """Fields of a SafetyState; without the counters of a running node."""
    return {
        "header": header(stamp), "state": int(value.mode), "reason": value.reason, "path_speed": value.path_speed,
        "active_constraints": list(value.active), "joint_names": list(contract.joints), "raw_command": value.raw.copy(),
        "command": value.command.copy(), "ticks": ticks, "missed_ticks": 0, "limited_ticks": 0, "rejected_chunks": 0,
        "policy_version": value.policy_version, "episode_id": value.episode_id, "off_path": value.off_path,
        "speed_cap": value.speed_cap, "tip_speed": value.tip_speed, "torque_share": value.torque_share,
        "clearance": value.clearance, "nearest": value.nearest,
    }  # fmt: skip


def image(stamp: float, pixels: Image, frame: str) -> Any:
    height, width = pixels.shape[:2]
    return typestore().types["sensor_msgs/msg/Image"](
        header=header(stamp, frame), height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width,
        data=np.ascontiguousarray(pixels).ravel(),
    )  # fmt: skip


def header(stamp: float, frame: str = "") -> Any:
    return typestore().types["std_msgs/msg/Header"](stamp=time(stamp), frame_id=frame)


def time(stamp: float) -> Any:
    seconds, nanoseconds = divmod(round(stamp * 1e9), 1_000_000_000)
    return typestore().types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
