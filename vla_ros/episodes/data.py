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
from vla_ros.episodes.tensors import CHUNK, OBSERVATION, PROGRESS, SAFETY, Seen, commands, is_corrected, joint_rows, tokens_of
from vla_ros.errors import VlaRosError
from vla_ros.robots.actions import action_space
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import seconds
from vla_ros.types import Array, SafetyMode

ROUNDING = 1e-6  # s, of stamps


@dataclass(frozen=True)
class EpisodeData:
    """T policy steps between T + 1 observations; step t goes from observation t to t + 1."""

    path: Path
    instruction: str
    stamps: NDArray[np.float64]  # [T + 1] s
    images: NDArray[np.uint8]  # [T + 1, (cameras,) H, W, 3] as the policy gets them
    states: NDArray[np.float32]  # [T + 1, S] as the policy gets them
    actions: NDArray[np.float32]  # [T, rows, D] raw action in the contract's units, as the published rows say it
    executed: NDArray[np.float32]  # [T, rows, D] that lead to the filter's commands, NaN where /safety/state does not tell them
    due: NDArray[np.float64]  # [T, rows] s, when
    corrected: NDArray[np.bool_]  # [T] a person took over: `actions` are the person's, tokens what the policy drew meanwhile
    tokens: NDArray[np.int16]  # [T, rows, D] raw action in bins; [T, rows, 0] of a policy without them
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
    observations = _observations(reader)
    chunks = {seconds(m.observation_stamp): m for m in reader.of(CHUNK)}
    estimates = {seconds(m.header.stamp): m for m in reader.of(PROGRESS)}
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
    kinematics = Kinematics(contract)
    seen = Seen.of([observations[s] for s in kept], contract, kinematics, path)
    rows, tokens = [joint_rows(chunks[s], contract, path) for s in starts], [tokens_of(chunks[s], path) for s in starts]
    if len(shapes := {(row.shape, drawn.shape) for row, drawn in zip(rows, tokens, strict=True)}) != 1:
        raise VlaRosError(f"{path}: {CHUNK}: found shapes {sorted(shapes)} of data and action_tokens, expected one of each")
    space = action_space(contract, kinematics)
    states = reader.of(SAFETY)
    latched, limited = _safety(states, kept)
    due = np.array(starts)[:, None] + (1 + np.arange(rows[0].shape[0])) / contract.action.rate
    executed = _at(due, *commands(states, contract, path), 1 / contract.observation.rate)
    return EpisodeData(
        path=path,
        instruction=reader.metadata.get("instruction") or str(estimates[last].instruction),
        stamps=np.array(kept),
        images=seen.images,
        states=seen.states,
        actions=np.stack([space.action(row, q) for row, q in zip(rows, seen.positions, strict=False)]),
        executed=np.stack([space.action(row, q) for row, q in zip(executed, seen.positions, strict=False)]),
        due=due,
        corrected=np.array([is_corrected(chunks[s]) for s in starts]),
        tokens=np.stack(tokens),
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


def _contract(reader: EpisodeReader, robot: str | RobotContract) -> RobotContract:
    recorded = reader.metadata.get("robot", "")
    contract = robot if isinstance(robot, RobotContract) else RobotContract.load(robot or recorded or "panda")
    if recorded and recorded != contract.robot:
        raise VlaRosError(f"{reader.path}: metadata: robot: found '{recorded}', expected '{contract.robot}'")
    return contract


def _observations(reader: EpisodeReader) -> dict[float, Any]:
    """By stamp."""
    found: dict[float, Any] = {}
    for message in reader.of(OBSERVATION):
        if (stamp := seconds(message.header.stamp)) in found:
            raise VlaRosError(f"{reader.path}: {OBSERVATION}: frame at {stamp:.3f} s: found a second one, expected a later stamp")
        found[stamp] = message
    return found


def _rewards(estimates: Sequence[Any], gapless: bool, steps_to_go: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the judge published them; where observations were left out the same difference over the longer step."""
    if gapless:
        return np.array([m.reward for m in estimates[1:]], np.float32)
    return np.asarray(steps_to_go[:-1] - steps_to_go[1:], np.float32)


def _at(due: Array, times: Array, recorded: Array, longest: float) -> Array:
    """[T, rows, n] of commands [N, n] recorded at `times` [N] s, when they were `due` [T, rows] s; NaN before the first, after
    the last, and in gaps that are longer than `longest` s."""
    if len(times) < 2:
        return np.full((*due.shape, recorded.shape[1]), np.nan)
    due = due - ROUNDING
    out = np.stack([np.interp(due, times, column, left=np.nan, right=np.nan) for column in recorded.T], axis=-1)
    after = np.searchsorted(times, due).clip(1, len(times) - 1)
    out[times[after] - times[after - 1] > longest + ROUNDING] = np.nan
    return out


def _safety(states: Sequence[Any], stamps: Sequence[float]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    steps = len(stamps) - 1
    latched, limited = np.zeros(steps, np.bool_), np.zeros(steps, np.bool_)
    times = np.array([seconds(m.header.stamp) for m in states])
    for step, message in zip(np.searchsorted(stamps, times, side="right") - 1, states, strict=True):
        if 0 <= step < steps:
            latched[step] |= message.state == SafetyMode.LATCHED
            limited[step] |= len(message.active_constraints) > 0 or message.state != SafetyMode.RUN
    return latched, limited
