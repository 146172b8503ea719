"""Raw camera images to RGB, checked: the buffer must be what its header says; and smaller ones."""

from __future__ import annotations

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.safety.compiled import compiled
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


def shrink(image: Image, size: tuple[int, int]) -> Image:
    """[H, W, 3] uint8 to `size` (height, width), not larger than it is: every pixel is the average of the area it covers.

    cv2.INTER_AREA's result, to the rounding of halves, in a fifth of its time where the shrinkage is no whole number.
    """
    small = np.empty((*size, 3), np.uint8)
    _average(np.ascontiguousarray(image).reshape(len(image), -1), small)
    return small


@compiled(numba.void(numba.types.Array(numba.uint8, 2, "C", readonly=True), numba.uint8[:, :, ::1]), nogil=True)
def _average(image, small):  # type: ignore[no-untyped-def]
    """image [H, W * 3] to small [h, w, 3]: rows first, over all columns and colours, which the compiler does eight at a time."""
    height, width = image.shape[0], image.shape[1] // 3
    rows, columns, _ = small.shape
    tall, wide = height / rows, width / columns  # pixels that become one
    line = np.empty(3 * width, np.float32)
    for i in range(rows):
        line[:] = 0.0
        for y in range(int(i * tall), min(height, int(np.ceil((i + 1) * tall - 1e-9)))):
            share = np.float32((min(y + 1.0, (i + 1) * tall) - max(float(y), i * tall)) / tall)
            for k in range(3 * width):
                line[k] += share * np.float32(image[y, k])
        for j in range(columns):
            red = green = blue = np.float32(0.0)
            for x in range(int(j * wide), min(width, int(np.ceil((j + 1) * wide - 1e-9)))):
                share = np.float32((min(x + 1.0, (j + 1) * wide) - max(float(x), j * wide)) / wide)
                red += share * line[3 * x]
                green += share * line[3 * x + 1]
                blue += share * line[3 * x + 2]
            small[i, j, 0], small[i, j, 1], small[i, j, 2] = round(red), round(green), round(blue)
