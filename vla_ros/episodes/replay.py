"""A recorded episode as the drivers of its cell would send it again: joint states at any time, pictures when they were taken, and
the commands of then to compare new ones with.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.episodes.reader import EpisodeReader
from vla_ros.episodes.tensors import OBSERVATION, SAFETY, commands
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.image import decode
from vla_ros.robots.observation import of_message, positions_of, seconds
from vla_ros.types import Array, Image, JointState

ROUNDING = 1e-6  # s, of stamps
LONGEST_GAP = 0.5  # s between observations; nobody knows where the arm was in a longer one


@dataclass(frozen=True)
class Picture:
    """One frame of one camera; `stamp` s."""

    stamp: float
    camera: str
    pixels: Image  # [H, W, 3]


@dataclass(frozen=True)
class Recording:
    """One episode; times are s on the clock that it was recorded on.

    Joint states were recorded with the observations only. In between, position and velocity are those of the cubic that has the
    recorded ones at both ends.
    """

    path: Path
    joints: tuple[str, ...]
    instruction: str
    episode_id: str
    stamps: Array  # [N] s, of the observations
    positions: Array  # [N, n] rad, m
    velocities: Array  # [N, n] rad/s, m/s
    pictures: tuple[Picture, ...]  # by stamp
    command_stamps: Array  # [M] s; M = 0 where no commands were recorded
    command_rows: Array  # [M, n] rad, m

    @property
    def start(self) -> float:
        return float(self.stamps[0])

    @property
    def end(self) -> float:
        return float(self.stamps[-1])

    @property
    def cameras(self) -> tuple[str, ...]:
        """Those of which there are pictures, in the order of their first ones."""
        return tuple(dict.fromkeys(picture.camera for picture in self.pictures))

    @classmethod
    def load(cls, path: str | Path, contract: RobotContract) -> Recording:
        """Reads an episode of the contract's robot.

        A camera's pictures are those of its topic where that was recorded, else those of the observations, which are as small as
        the policy wants them.

        Raises:
            VlaRosError: damaged file, another robot or other joints, fewer than two observations, a gap in them, no velocities,
                or no picture of a camera that the policy looks through.
        """
        path = Path(path)
        topics = {camera.topic: name for name, camera in contract.cameras.items()}
        reader = EpisodeReader(path, only=(OBSERVATION, SAFETY, *topics))
        if (robot := reader.metadata.get("robot", "")) != contract.robot:
            expected = f"'{contract.robot}'; launch with robot:={robot}"
            raise VlaRosError(f"{path}: metadata: robot: found '{robot}', expected {expected}")
        seen = [_observation(message, contract, path) for message in reader.of(OBSERVATION)]
        seen.sort(key=lambda entry: entry[0])
        stamps = np.array([stamp for stamp, _, _, _ in seen])
        _check_stamps(stamps, path)
        pictures = [
            Picture(seconds(message.header.stamp), name, _pixels(message, topic, path))
            for topic, name in topics.items()
            for message in reader.of(topic)
        ]
        known = {(picture.camera, round(picture.stamp / ROUNDING)) for picture in pictures}
        pictures += [
            Picture(stamp, name, pixels)
            for stamp, _, _, images in seen
            for name, pixels in images.items()
            if name in contract.cameras and (name, round(stamp / ROUNDING)) not in known
        ]
        kept = [p for p in pictures if stamps[0] - ROUNDING <= p.stamp <= stamps[-1] + ROUNDING]
        kept.sort(key=lambda p: p.stamp)
        if missing := [name for name in contract.observation.cameras if name not in {p.camera for p in kept}]:
            raise VlaRosError(f"{path}: no picture of camera '{missing[0]}', which the policy looks through ({contract.path})")
        sent_at, sent = commands(reader.of(SAFETY), contract, path)
        return cls(
            path, contract.joints, reader.metadata.get("instruction", ""), reader.metadata.get("episode_id", path.stem), stamps,
            np.array([position for _, position, _, _ in seen]), np.array([velocity for _, _, velocity, _ in seen]),
            tuple(kept), sent_at, sent,
        )  # fmt: skip

    def joint_state(self, time: float) -> JointState:
        """At `time` s; before the start and after the end the arm stands where it was then."""
        if not self.start < time < self.end:
            stands = self.positions[0 if time <= self.start else -1]
            return JointState(time, self.joints, stands.copy(), np.zeros(len(self.joints)))
        k = bisect_right(self.stamps.tolist(), time) - 1
        span = self.stamps[k + 1] - self.stamps[k]
        s = (time - self.stamps[k]) / span
        p0, p1 = self.positions[k], self.positions[k + 1]
        m0, m1 = self.velocities[k] * span, self.velocities[k + 1] * span
        position = (1 + 2 * s) * (1 - s) ** 2 * p0 + s * (1 - s) ** 2 * m0 + s * s * (3 - 2 * s) * p1 + s * s * (s - 1) * m1
        slope = 6 * s * (s - 1) * (p0 - p1) + (1 - s) * (1 - 3 * s) * m0 + s * (3 * s - 2) * m1
        return JointState(time, self.joints, position, slope / span)

    def command(self, time: float) -> Array | None:
        """[n] rad, m that was sent at `time` s; None where nobody knows."""
        after = int(np.searchsorted(self.command_stamps, time - ROUNDING))
        if after == 0 or after == len(self.command_stamps):
            return None
        before, next_ = self.command_stamps[after - 1], self.command_stamps[after]
        if next_ - before > LONGEST_GAP:
            return None
        share = (time - before) / (next_ - before)
        row = self.command_rows[after - 1] + share * (self.command_rows[after] - self.command_rows[after - 1])
        return np.asarray(row)


class Comparison:
    """How far new commands are from the recorded ones, joint by joint.

    Attributes:
        compared: commands that had a recorded one to compare with.
        mean, worst: [n] rad, m, of the absolute difference.
    """

    def __init__(self, joints: Sequence[str]) -> None:
        self.joints = tuple(joints)
        self.compared = 0
        self._sum = np.zeros(len(self.joints))
        self.worst: Array = np.zeros(len(self.joints))

    @property
    def mean(self) -> Array:
        return self._sum / max(1, self.compared)

    def add(self, sent: Array, recorded: Array) -> None:
        """One command [n] and the recorded one of the same time."""
        difference = np.abs(sent - recorded)
        self.compared += 1
        self._sum += difference
        self.worst = np.maximum(self.worst, difference)

    def summary(self) -> str:
        """In words, with the joint that differs most."""
        if not self.compared:
            return "no command could be compared with a recorded one"
        most = int(self.worst.argmax())
        return (
            f"{self.compared} commands compared with the recorded ones: mean difference {self.mean.max():.4f}, "
            f"largest {self.worst[most]:.4f} ({self.joints[most]})"
        )


def _observation(message: Any, contract: RobotContract, path: Path) -> tuple[float, Array, Array, dict[str, Image]]:
    """Stamp s, position and velocity [n] in the contract's order, pictures."""
    stamp = seconds(message.header.stamp)
    where = f"{path}: {OBSERVATION}: frame at {stamp:.3f} s"
    try:
        value = of_message(message)
        position = positions_of(contract, value.joints)
    except VlaRosError as error:
        raise VlaRosError(f"{where}: {error}") from error
    names, velocity = value.joints.names, value.joints.velocity
    if len(velocity) != len(names) or not np.isfinite(velocity).all():
        found = f"{len(velocity)} velocities, {int(np.isfinite(velocity).sum())} of them finite"
        raise VlaRosError(f"{where}: found {found} for {len(names)} joints, expected one each: they tell the way between frames")
    return stamp, position, velocity[[names.index(name) for name in contract.joints]], value.images


def _check_stamps(stamps: Array, path: Path) -> None:
    if len(stamps) < 2:
        raise VlaRosError(f"{path}: {OBSERVATION}: found {len(stamps)} messages, expected at least two to replay")
    gaps = np.diff(stamps)
    if not ((gaps > 0) & (gaps <= LONGEST_GAP)).all():
        k = int(np.argmin((gaps > 0) & (gaps <= LONGEST_GAP)))
        raise VlaRosError(
            f"{path}: {OBSERVATION}: found {gaps[k]:.3f} s between the frames at {stamps[k]:.3f} s and the next, expected more "
            f"than 0 and at most {LONGEST_GAP:g} s: where the arm was in between is unknown"
        )


def _pixels(message: Any, topic: str, path: Path) -> Image:
    try:
        return decode(np.frombuffer(message.data, np.uint8), message.encoding, message.height, message.width, message.step)
    except VlaRosError as error:
        raise VlaRosError(f"{path}: {topic}: frame at {seconds(message.header.stamp):.3f} s: {error}") from error
