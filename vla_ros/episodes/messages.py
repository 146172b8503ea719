"""Messages of an episode that no graph has sent, serialised without ROS."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.episodes.definitions import typestore
from vla_ros.episodes.writer import EpisodeWriter
from vla_ros.robots.contract import RobotContract
from vla_ros.types import Array, Image


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
