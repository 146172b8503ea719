"""Raw camera images to RGB, checked: the buffer must be what its header says."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.types import Image

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
_CONVERSION = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
}


def decode(data: NDArray[np.uint8], encoding: str, height: int, width: int, step: int) -> Image:
    """[height, width, 3] uint8 RGB of a sensor_msgs/Image's fields; for rgb8 a view on `data` [step * height].

    Raises:
        VlaRosError: unknown encoding, no pixels, a step shorter than a row, or another size than step * height.
    """
    if encoding not in CHANNELS:
        raise VlaRosError(f"image: encoding: found '{encoding}', expected one of {', '.join(CHANNELS)}")
    channels = CHANNELS[encoding]
    if height < 1 or width < 1 or step < width * channels:
        found = f"{height} x {width}, step {step}"
        raise VlaRosError(f"image: found {found} ({encoding}), expected at least one pixel and step >= {width * channels}")
    if data.size != step * height:
        raise VlaRosError(f"image: found {data.size} bytes, expected step * height = {step} * {height} = {step * height}")
    pixels = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if encoding == "rgb8":
        return pixels
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), _CONVERSION[encoding]), np.uint8)
