"""What the policy sees: pictures and proprioception of an observation. The live graph, recordings, training and the simulator
call the same functions, so that a network meets the same tensors everywhere.

    message ──of_message──► Observation ──┬──images_of──► [(cameras,) H, W, 3]
    (live, or of a recording)             └──state_of───► [S]
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.image import decode, shrink
from vla_ros.robots.kinematics import Kinematics
from vla_ros.types import Array, Image, JointState, Observation

ENCODING = "rgb8"  # of an Observation's images; camera_node converts what cameras send


def of_message(message: Any) -> Observation:
    """Value of an Observation message, rclpy's or a recording's; its arrays are views on the message.

    Raises:
        VlaRosError: cameras and images differ in number, or an image is not rgb8 or not what it says it is.
    """
    if len(message.cameras) != len(message.images):
        raise VlaRosError(f"observation: found {len(message.images)} images for {len(message.cameras)} cameras")
    images = {}
    for name, entry in zip(message.cameras, message.images, strict=True):
        if entry.encoding != ENCODING:
            raise VlaRosError(f"observation: image of '{name}': encoding: found '{entry.encoding}', expected '{ENCODING}'")
        try:
            pixels = decode(np.frombuffer(entry.data, np.uint8), entry.encoding, entry.height, entry.width, entry.step)
        except VlaRosError as error:
            raise VlaRosError(f"observation: image of '{name}': {error}") from error
        images[str(name)] = pixels
    joints = JointState(
        seconds(message.header.stamp), tuple(message.joint_names),
        np.asarray(message.position, np.float64), np.asarray(message.velocity, np.float64),
    )  # fmt: skip
    return Observation(joints.stamp, images, joints, float(message.skew))


def seconds(stamp: Any) -> float:
    """s, of a builtin_interfaces/Time; seconds(convert.stamp(x)) == x for every double x >= 0, so stamps compare equal after a
    round trip."""
    return float(stamp.sec) + float(stamp.nanosec) * 1e-9


def images_of(contract: RobotContract, observation: Observation) -> Image:
    """[(cameras,) H, W, 3] uint8 RGB of the contract's `observation.cameras` in their order; one camera has no axis.

    Raises:
        VlaRosError: a camera is missing, or its image has another size or type than the contract's.
    """
    spec = contract.observation
    if missing := [name for name in spec.cameras if name not in observation.images]:
        raise VlaRosError(f"observation: found images of {', '.join(observation.images) or 'no camera'}, expected '{missing[0]}'")
    images = [observation.images[name] for name in spec.cameras]
    for name, image in zip(spec.cameras, images, strict=True):
        if image.shape != (*spec.size, 3) or image.dtype != np.uint8:
            found = f"{image.dtype} {list(image.shape)}"
            raise VlaRosError(f"observation: image of '{name}': found {found}, expected uint8 {[*spec.size, 3]}")
    return images[0] if len(images) == 1 else np.stack(images)


def state_of(contract: RobotContract, kinematics: Kinematics, joints: JointState) -> NDArray[np.float32]:
    """The contract's `observation.state` [S]: of `position` every joint in the contract's order [rad, m], of `tip_x` and
    `tip_y` the measured tip in workspace coordinates.

    Raises:
        VlaRosError: a joint is missing, or its position is not finite.
    """
    q = positions_of(contract, joints)
    if contract.action.tip_plane is None:
        return q.astype(np.float32)
    return proprio_state(contract, kinematics.tip_xy(q))


def positions_of(contract: RobotContract, joints: JointState) -> Array:
    """[n] rad, m in the contract's order.

    Raises:
        VlaRosError: a joint is missing, or its position is not finite.
    """
    if len(joints.position) != len(joints.names):
        raise VlaRosError(f"joint state: found {len(joints.position)} positions for {len(joints.names)} names, expected one each")
    if missing := [name for name in contract.joints if name not in joints.names]:
        raise VlaRosError(f"joint state: '{missing[0]}' is missing; found {', '.join(joints.names) or 'no joints'}")
    q = joints.position
    if joints.names != contract.joints:
        q = q[[joints.names.index(name) for name in contract.joints]]
    if not np.isfinite(q).all():
        bad = int(np.isfinite(q).argmin())
        raise VlaRosError(f"joint state: position of '{contract.joints[bad]}': found {q[bad]}, expected a finite number")
    return q


def resize(image: Image, size: tuple[int, int]) -> Image:
    """[H, W, 3] uint8 to `size` (height, width).

    Area average when it shrinks, so that no pixel is skipped; bilinear when it grows.
    """
    if image.shape[:2] == size:
        return image
    if size[0] <= image.shape[0] and size[1] <= image.shape[1]:
        return shrink(image, size)
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def normalise(contract: RobotContract, xy: Array) -> NDArray[np.float32]:
    """Points [..., 2] m of the table's plane in workspace coordinates: -1..1 from edge to edge."""
    low, high = np.array(contract.action.low), np.array(contract.action.high)
    return np.asarray(2 * (xy - low) / (high - low) - 1, np.float32)


def proprio_state(contract: RobotContract, tip: Array) -> NDArray[np.float32]:
    """`tip_x` and `tip_y` as the contract lists them [S] float32, -1..1, of a tip [2+] m."""
    scaled = normalise(contract, tip[:2])
    return np.array([scaled[0 if name == "tip_x" else 1] for name in contract.observation.state], np.float32)
