"""What a fit takes from recorded episodes: what the joints were told, what they did, and what the cameras saw at first.

Commands are those that the safety filter sent (/safety/state). Joint states are read from the robot's own topic where it was
recorded (`record_topics` of trainer_node), else from /observation, at the policy's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.episodes.check import check, fail
from vla_ros.episodes.folder import find_episodes
from vla_ros.episodes.reader import EpisodeReader
from vla_ros.episodes.tensors import OBSERVATION, SAFETY
from vla_ros.episodes.tensors import commands as safe_commands
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import of_message, positions_of, seconds
from vla_ros.types import Array, Image


@dataclass(frozen=True)
class Picture:
    image: Image  # [H, W, 3]
    q: Array  # [n] rad, where the arm was


@dataclass(frozen=True)
class Motion:
    """One episode's joints."""

    path: Path
    times: Array  # [N] s
    positions: Array  # [N, n] rad
    velocities: Array  # [N, n] rad/s; nan where they were not recorded
    due: Array  # [M] s, when a command is to be reached
    commands: Array  # [M, n] rad
    pictures: dict[str, Picture]  # of the first observation, by camera

    @property
    def rate(self) -> float:
        """Hz, of joint states."""
        return float(1.0 / np.median(np.diff(self.times)))

    @property
    def command_rate(self) -> float:
        """Hz."""
        return float(1.0 / np.median(np.diff(self.due)))

    def commanded(self, times: Array, straight: bool = False) -> Array:
        """[..., n] rad at `times` [...]: a cubic (or straight lines) through what was recorded, its ends beyond it."""
        return _between(times, self.due, self.commands, straight)


def find(paths: Sequence[Path]) -> list[Path]:
    """Recordings among files and folders.

    Raises:
        VlaRosError: none, or a folder without any.
    """
    found = [file for path in paths for file in (find_episodes(path) if path.is_dir() else [path])]
    if not found:
        raise VlaRosError("EPISODES: found none, expected recorded episodes (*.mcap) or folders of them")
    return list(dict.fromkeys(found))


def load(path: Path, contract: RobotContract) -> Motion:
    """
    Raises:
        VlaRosError: the file is damaged, another robot's, or holds no commands, no joint states or too few of them.
    """
    topic = contract.control.state_topic
    reader = EpisodeReader(path, strict=False, only=(OBSERVATION, SAFETY, topic))
    if not reader.damage and SAFETY not in reader.topics() and reader.metadata.get("robot", contract.robot) == contract.robot:
        there = ", ".join(sorted(reader.topics())) or "no messages"
        expected = "the safety filter's commands, which a twin is made to follow: no demonstrations"
        raise VlaRosError(f"{path}: {SAFETY}: found nothing ({there} instead), expected {expected}")
    fail(check(reader, contract, (OBSERVATION, SAFETY)))
    observed = [of_message(message) for message in reader.of(OBSERVATION)]
    stamps, sent = safe_commands(reader.of(SAFETY), contract, path)
    stamps, first = np.unique(stamps, return_index=True)
    if len(stamps) < 4:
        raise VlaRosError(f"{path}: {SAFETY}: found commands of {len(stamps)} instants, expected at least 4")
    states = reader.of(topic)
    if states:
        names = [list(m.name) for m in states]
        rows = [(seconds(m.header.stamp), n, m.position, m.velocity) for m, n in zip(states, names, strict=True)]
    else:
        rows = [(o.stamp, list(o.joints.names), o.joints.position, o.joints.velocity) for o in observed]
    times, positions, velocities = _in_order(rows, contract, path, topic if states else OBSERVATION)
    q = positions_of(contract, observed[0].joints)
    return Motion(
        path, times, positions, velocities, stamps + 1.0 / contract.control.rate, sent[first],
        {camera: Picture(image, q) for camera, image in observed[0].images.items()},
    )  # fmt: skip


def _in_order(
    rows: Sequence[tuple[float, list[str], Array, Array]], contract: RobotContract, path: Path, topic: str
) -> tuple[Array, Array, Array]:
    """Times [N], positions [N, n], velocities [N, n], each stamp once."""
    times = np.array([row[0] for row in rows])
    positions, velocities = np.full((2, len(rows), len(contract.joints)), np.nan)
    for k, (stamp, names, position, velocity) in enumerate(rows):
        if missing := set(contract.joints) - set(names):
            found = f"at {stamp:.3f} s: found {', '.join(names)}"
            raise VlaRosError(f"{path}: {topic}: {found}, expected '{min(missing)}' among them")
        order = [names.index(name) for name in contract.joints]
        positions[k] = np.asarray(position, np.float64)[order]
        if len(velocity) == len(names):
            velocities[k] = np.asarray(velocity, np.float64)[order]
    if not np.isfinite(positions).all():
        k = int(np.isfinite(positions).all(1).argmin())
        raise VlaRosError(f"{path}: {topic}: at {times[k]:.3f} s: found {positions[k].tolist()}, expected finite positions")
    times, first = np.unique(times, return_index=True)
    return times, positions[first], velocities[first]


def _between(t: Array, times: Array, values: Array, straight: bool) -> Array:
    """Values [M, n] at `times` [M], at t [...]: straight lines, or cubic Hermite with the slopes of parabolas through three
    neighbours."""
    h, inside = np.diff(times), np.clip(t, times[0], times[-1])
    k = np.clip(np.searchsorted(times, inside, side="right") - 1, 0, len(h) - 1)
    s = ((inside - times[k]) / h[k])[..., None]
    if straight:
        return np.asarray((1 - s) * values[k] + s * values[k + 1])
    slope = np.diff(values, axis=0) / h[:, None]
    tangents = np.concatenate([slope[:1], slope, slope[-1:]])
    before, after = np.append(h[:1], h), np.append(h, h[-1:])  # [M], gaps on either side
    tangents = (after[:, None] * tangents[:-1] + before[:, None] * tangents[1:]) / (before + after)[:, None]
    step = h[k][..., None]
    return np.asarray(
        (2 * s**3 - 3 * s**2 + 1) * values[k] + (s**3 - 2 * s**2 + s) * step * tangents[k]
        + (3 * s**2 - 2 * s**3) * values[k + 1] + (s**3 - s**2) * step * tangents[k + 1]
    )  # fmt: skip
