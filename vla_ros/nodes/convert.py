"""Messages to value objects and back. Arrays are views on the message's buffer where its layout allows.

Numbers are made Python's own, because rclpy refuses numpy scalars.
"""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image as ImageMsg
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray, Header

from vla_ros.errors import VlaRosError
from vla_ros.msg import ActionChunk as ActionChunkMsg
from vla_ros.msg import Observation as ObservationMsg
from vla_ros.msg import Progress as ProgressMsg
from vla_ros.msg import SafetyState as SafetyStateMsg
from vla_ros.robots.image import decode
from vla_ros.robots.observation import of_message
from vla_ros.robots.observation import seconds as seconds  # noqa: PLC0414 (callers find it here)
from vla_ros.safety.filter import Counters
from vla_ros.types import ActionChunk, Array, Image, JointState, Observation, ProgressEstimate, SafeCommand


def stamp(time: float) -> Time:
    """Message of a time in s >= 0.

    Raises:
        VlaRosError: negative, not finite, or beyond what the message holds.
    """
    if not 0.0 <= time < 2**31:
        raise VlaRosError(f"stamp: found {time} s, expected a number in [0, 2^31)")
    nanoseconds = round((time - int(time)) * 1e9)
    carry, nanoseconds = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=int(time) + carry, nanosec=nanoseconds)


def floats(values: Sequence[float] | Array) -> array.array[float]:
    """float64[] field of a message; array.array is what rclpy takes over without a check per element."""
    return array.array("d", np.ascontiguousarray(values, np.float64).tobytes())


def joint_state(message: JointStateMsg) -> JointState:
    """Without velocities (allowed by sensor_msgs) they are NaN, which the safety filter refuses by name."""
    position = np.asarray(message.position, np.float64)
    velocity = np.asarray(message.velocity, np.float64)
    if velocity.size == 0 and position.size:
        velocity = np.full(position.shape, np.nan)
    return JointState(seconds(message.header.stamp), tuple(message.name), position, velocity)


def joint_state_message(joints: JointState) -> JointStateMsg:
    return JointStateMsg(
        header=Header(stamp=stamp(joints.stamp)),
        name=list(joints.names),
        position=floats(joints.position),
        velocity=floats(joints.velocity),
    )


def ordered(joints: JointState, names: tuple[str, ...]) -> JointState:
    """The state of the named joints in their order.

    Raises:
        VlaRosError: a joint is missing, or position or velocity do not match the names.
    """
    if joints.names == names:
        return joints
    if missing := [name for name in names if name not in joints.names]:
        raise VlaRosError(f"joint state: '{missing[0]}' is missing; found {', '.join(joints.names) or 'no joints'}")
    if not len(joints.names) == len(joints.position) == len(joints.velocity):
        found = f"{len(joints.position)} positions, {len(joints.velocity)} velocities"
        raise VlaRosError(f"joint state: found {found} for {len(joints.names)} names, expected one each")
    order = [joints.names.index(name) for name in names]
    return JointState(joints.stamp, names, joints.position[order], joints.velocity[order])


def image(message: ImageMsg) -> Image:
    """[H, W, 3] uint8 RGB; see vla_ros.robots.image.decode for what is accepted."""
    data = np.frombuffer(message.data, np.uint8)
    return decode(data, message.encoding, message.height, message.width, message.step)


def image_message(rgb: Image, time: float, frame: str = "") -> ImageMsg:
    height, width = rgb.shape[:2]
    return ImageMsg(
        header=Header(stamp=stamp(time), frame_id=frame),
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=array.array("B", np.ascontiguousarray(rgb, np.uint8).tobytes()),
    )


def observation(message: ObservationMsg) -> Observation:
    """See vla_ros.robots.observation.of_message, which reads recordings as well."""
    return of_message(message)


def observation_message(value: Observation, frames: dict[str, str]) -> ObservationMsg:
    """`frames`: frame_id by camera."""
    return ObservationMsg(
        header=Header(stamp=stamp(value.stamp)),
        cameras=list(value.images),
        images=[image_message(rgb, value.stamp, frames.get(name, "")) for name, rgb in value.images.items()],
        joint_names=list(value.joints.names),
        position=floats(value.joints.position),
        velocity=floats(value.joints.velocity),
        skew=float(value.skew),
    )


def chunk(message: ActionChunkMsg) -> ActionChunk:
    """Where `data` does not fit `rows` it stays one-dimensional, which admission rejects as `shape`."""
    data = np.asarray(message.data, np.float64)
    fits = message.rows > 0 and data.size > 0 and data.size % message.rows == 0
    tokens = np.asarray(message.action_tokens, np.int16)
    paired = message.rows > 0 and tokens.size % message.rows == 0
    return ActionChunk(
        stamp=seconds(message.header.stamp),
        period=float(message.period),
        joint_names=tuple(message.joint_names),
        rows=data.reshape(message.rows, -1) if fits else data,
        semantics=message.semantics,
        observation_stamp=seconds(message.observation_stamp),
        policy_version=int(message.policy_version),
        episode_id=message.episode_id,
        tokens=tokens.reshape(message.rows, -1) if paired else tokens.reshape(1, -1),
        log_probability=float(message.log_probability),
        corrected=bool(getattr(message, "corrected", False)),  # recordings of before have no such field
    )


def chunk_message(value: ActionChunk, latency_ms: Sequence[float] = (), robot: str = "") -> ActionChunkMsg:
    return ActionChunkMsg(
        header=Header(stamp=stamp(value.stamp), frame_id=robot),
        observation_stamp=stamp(value.observation_stamp),
        period=float(value.period),
        joint_names=list(value.joint_names),
        semantics=value.semantics,
        rows=value.rows.shape[0],
        data=floats(value.rows.ravel()),
        policy_version=int(value.policy_version),
        episode_id=value.episode_id,
        action_tokens=array.array("h", np.ascontiguousarray(value.tokens, np.int16).tobytes()),
        log_probability=float(value.log_probability),
        latency_ms=array.array("f", [float(entry) for entry in latency_ms]),
        corrected=bool(value.corrected),
    )


def command_message(value: SafeCommand) -> Float64MultiArray:
    return Float64MultiArray(data=floats(value.command))


def safety_message(value: SafeCommand, joints: tuple[str, ...], counters: Counters) -> SafetyStateMsg:
    return SafetyStateMsg(
        header=Header(stamp=stamp(value.stamp)),
        state=int(value.mode),
        reason=value.reason,
        path_speed=float(value.path_speed),
        active_constraints=list(value.active),
        joint_names=list(joints),
        raw_command=floats(value.raw),
        command=floats(value.command),
        ticks=counters.ticks,
        missed_ticks=counters.missed_ticks,
        limited_ticks=counters.limited_ticks,
        rejected_chunks=counters.rejected_chunks,
        policy_version=int(value.policy_version),
        episode_id=value.episode_id,
        off_path=float(value.off_path),
        speed_cap=float(value.speed_cap),
        tip_speed=float(value.tip_speed),
        torque_share=float(value.torque_share),
        clearance=float(value.clearance),
        nearest=value.nearest,
    )


def progress_message(value: ProgressEstimate, instruction: str, episode_id: str) -> ProgressMsg:
    return ProgressMsg(
        header=Header(stamp=stamp(value.stamp)),
        episode_id=episode_id,
        instruction=instruction,
        steps_to_go=float(value.steps_to_go),
        spread=float(value.spread),
        low=float(value.low),
        high=float(value.high),
        success_probability=float(value.success_probability),
        success=bool(value.success),
        reward=float(value.reward),
        policy_version=int(value.policy_version),
    )
