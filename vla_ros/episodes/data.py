"""A recorded episode as learning uses it: tensors per policy step, aligned by the stamps of observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.episodes.labels import read_label
from vla_ros.episodes.reader import EpisodeReader
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import proprio_state
from vla_ros.types import SafetyMode

OBSERVATION, CHUNK, PROGRESS, SAFETY = "/observation", "/policy/chunk", "/progress", "/safety/state"


@dataclass(frozen=True)
class EpisodeData:
    """T policy steps between T + 1 observations; step t goes from observation t to t + 1."""

    path: Path
    instruction: str
    stamps: NDArray[np.float64]  # [T + 1] s
    images: NDArray[np.uint8]  # [T + 1, H, W, 3] of the contract's first policy camera
    states: NDArray[np.float32]  # [T + 1, S] proprioception as the policy gets it
    tokens: NDArray[np.int16]  # [T, rows, D] raw action
    log_probabilities: NDArray[np.float32]  # [T]
    policy_versions: NDArray[np.int64]  # [T]
    steps_to_go: NDArray[np.float32]  # [T + 1] as the judge estimated it
    rewards: NDArray[np.float32]  # [T] d(o_t) - d(o_t+1)
    success: bool  # the judge's, at the last observation
    latched: NDArray[np.bool_]  # [T] the safety filter was latched in this step
    limited: NDArray[np.bool_]  # [T] a limit changed a command in this step, or the filter did not follow the policy
    unanswered: int  # observations inside the episode without a chunk or an estimate, left out
    metadata: dict[str, str]
    label: dict[str, str]  # operator's verdict; empty if none
    damage: str = ""  # what is wrong with the file (strict=False)

    def __len__(self) -> int:
        return len(self.tokens)


def load_episode(path: str | Path, robot: str | RobotContract = "", strict: bool = True) -> EpisodeData:
    """Reads one episode.

    Args:
        path: *.mcap as EpisodeWriter writes it.
        robot: name or contract; empty: as the episode's metadata says.
        strict: False takes what a damaged file still holds.

    Raises:
        VlaRosError: damaged file (strict), a topic is missing, another robot's episode, or no complete step in it.
    """
    path = Path(path)
    reader = EpisodeReader(path, strict, (OBSERVATION, CHUNK, PROGRESS, SAFETY))
    contract = _contract(reader, robot)
    found = reader.topics()
    for topic in (OBSERVATION, CHUNK, PROGRESS, SAFETY):
        if topic not in found:
            raise VlaRosError(f"{path}: {topic} was not recorded; found {', '.join(sorted(found)) or 'no messages'}")
    observations = {_seconds(m.header.stamp): m for m in reader.of(OBSERVATION)}
    chunks = {_seconds(m.observation_stamp): m for m in reader.of(CHUNK)}
    estimates = {_seconds(m.header.stamp): m for m in reader.of(PROGRESS)}
    judged = sorted(observations.keys() & estimates.keys())
    answered = [stamp for stamp in judged if stamp in chunks]
    last = next((stamp for stamp in reversed(judged) if answered and stamp > answered[0]), None)
    if last is None:
        raise VlaRosError(
            f"{path}: no complete step: {len(observations)} observations, of which {len(judged)} were judged and "
            f"{len(answered)} were also answered by a chunk; expected at least two judged ones, the first with a chunk"
        )
    starts = [stamp for stamp in answered if stamp < last]
    kept = [*starts, last]
    inside = sum(starts[0] <= stamp <= last for stamp in observations)
    estimate = np.array([estimates[s].steps_to_go for s in kept], np.float32)
    images, states = _tensors([observations[s] for s in kept], contract, path)
    latched, limited = _safety(reader.of(SAFETY), kept)
    return EpisodeData(
        path=path,
        instruction=reader.metadata.get("instruction") or str(estimates[last].instruction),
        stamps=np.array(kept),
        images=images,
        states=states,
        tokens=_tokens([chunks[s] for s in starts], path),
        log_probabilities=np.array([chunks[s].log_probability for s in starts], np.float32),
        policy_versions=np.array([chunks[s].policy_version for s in starts], np.int64),
        steps_to_go=estimate,
        rewards=_rewards([estimates[s] for s in kept], inside == len(kept), estimate),
        success=bool(estimates[last].success),
        latched=latched,
        limited=limited,
        unanswered=inside - len(kept),
        metadata=reader.metadata,
        label=read_label(path),
        damage=reader.damage,
    )


def _seconds(stamp: Any) -> float:
    return float(stamp.sec) + float(stamp.nanosec) * 1e-9


def _contract(reader: EpisodeReader, robot: str | RobotContract) -> RobotContract:
    recorded = reader.metadata.get("robot", "")
    contract = robot if isinstance(robot, RobotContract) else RobotContract.load(robot or recorded or "panda")
    if recorded and recorded != contract.robot:
        raise VlaRosError(f"{reader.path}: metadata: robot: found '{recorded}', expected '{contract.robot}'")
    return contract


def _tensors(observations: Sequence[Any], contract: RobotContract, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    camera, (height, width) = contract.observation.cameras[0], contract.observation.size
    kinematics = Kinematics(contract)
    images, states = [], []
    for message in observations:
        if camera not in message.cameras:
            raise VlaRosError(f"{path}: {OBSERVATION}: cameras: found {list(message.cameras)}, expected '{camera}'")
        image = message.images[list(message.cameras).index(camera)]
        if (image.height, image.width, image.encoding) != (height, width, "rgb8") or len(image.data) != height * width * 3:
            found = f"{image.encoding} {image.height}x{image.width}, {len(image.data)} bytes"
            expected = f"rgb8 {height}x{width}, {height * width * 3} bytes"
            raise VlaRosError(f"{path}: {OBSERVATION}: image of '{camera}': found {found}, expected {expected}")
        images.append(np.frombuffer(image.data, np.uint8).reshape(height, width, 3))
        names = list(message.joint_names)
        if missing := [name for name in contract.joints if name not in names]:
            raise VlaRosError(f"{path}: {OBSERVATION}: joint_names: '{missing[0]}' is missing; found {names}")
        q = np.array([message.position[names.index(name)] for name in contract.joints])
        states.append(proprio_state(contract, kinematics.tip_pose(q)[:3]))
    return np.stack(images), np.stack(states).astype(np.float32)


def _tokens(chunks: Sequence[Any], path: Path) -> NDArray[np.int16]:
    rows = [np.asarray(m.action_tokens, np.int16).reshape(m.rows, -1) for m in chunks if m.rows]
    shapes = {row.shape for row in rows}
    if len(rows) != len(chunks) or len(shapes) != 1 or 0 in next(iter(shapes)):
        raise VlaRosError(f"{path}: {CHUNK}: action_tokens: found shapes {sorted(shapes)}, expected one, [rows, D]")
    return np.stack(rows)


def _rewards(estimates: Sequence[Any], gapless: bool, steps_to_go: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the judge published them; where observations were left out the same difference over the longer step."""
    if gapless:
        return np.array([m.reward for m in estimates[1:]], np.float32)
    return np.asarray(steps_to_go[:-1] - steps_to_go[1:], np.float32)


def _safety(states: Sequence[Any], stamps: Sequence[float]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    steps = len(stamps) - 1
    latched, limited = np.zeros(steps, np.bool_), np.zeros(steps, np.bool_)
    times = np.array([_seconds(m.header.stamp) for m in states])
    for step, message in zip(np.searchsorted(stamps, times, side="right") - 1, states, strict=True):
        if 0 <= step < steps:
            latched[step] |= message.state == SafetyMode.LATCHED
            limited[step] |= len(message.active_constraints) > 0 or message.state != SafetyMode.RUN
    return latched, limited
