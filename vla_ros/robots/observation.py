"""What the policy sees: image size and proprioception. The live graph and the simulator call the same two functions."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.robots.contract import RobotContract
from vla_ros.types import Array, Image


def resize(image: Image, size: tuple[int, int]) -> Image:
    """[H, W, 3] uint8 to `size` (height, width).

    Area average when it shrinks, so that no pixel is skipped; bilinear when it grows.
    """
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method), np.uint8)


def normalise(contract: RobotContract, xy: Array) -> NDArray[np.float32]:
    """Points [..., 2] m of the table's plane in workspace coordinates: -1..1 from edge to edge."""
    low, high = np.array(contract.action.low), np.array(contract.action.high)
    return np.asarray(2 * (xy - low) / (high - low) - 1, np.float32)


def proprio_state(contract: RobotContract, tip: Array) -> NDArray[np.float32]:
    """The contract's `observation.state` [len(state)] float32, -1..1, of a tip [2+] m."""
    scaled = normalise(contract, tip[:2])
    return np.array([scaled[0 if name == "tip_x" else 1] for name in contract.observation.state], np.float32)
