"""Is a recorded episode fit for learning? Every fault with file, topic, frame, what was found and what is expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vla_ros.episodes.reader import DAMAGE, EpisodeReader
from vla_ros.episodes.tensors import CHUNK, OBSERVATION, PROGRESS, SAFETY
from vla_ros.episodes.writer import PART
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import ENCODING, seconds
from vla_ros.types import JOINT_DELTA, JOINT_POSITION

DEMONSTRATION = "demonstration"  # metadata `kind` of an episode without policy, judge and safety filter
EXCITATION = "excitation"  # of one that `vla-ros twin excite` has played: its frames are no steps to learn from
TELEOPERATION = "teleoperation"  # of one in which only a person acted, through the safety filter, and nobody judged
JITTER = 0.5  # of a frame's period: an interval further off is a missing or doubled frame
RATE_TOLERANCE = 0.02  # of the contract's rate, for the median interval


@dataclass(frozen=True)
class Finding:
    """One fault; of several of a kind on a topic, the first one."""

    file: Path
    topic: str  # of an MCAP file, or the feature of a LeRobot set; empty: the file itself
    at: str  # which frame, with its stamp; empty: all of it
    found: str
    expected: str
    times: int = 1

    def __str__(self) -> str:
        where = ": ".join(part for part in (str(self.file), self.topic, self.at) if part)
        again = f" ({self.times} times, this is the first)" if self.times > 1 else ""
        return f"{where}: found {self.found}, expected {self.expected}{again}"


class Findings:
    """Collects the faults of one file; those of one kind on one topic become one finding that counts them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._by_kind: dict[tuple[str, str], Finding] = {}

    def add(self, kind: str, topic: str, at: str, found: str, expected: str) -> None:
        known = self._by_kind.get((kind, topic))
        more = replace(known, times=known.times + 1) if known else Finding(self.file, topic, at, found, expected)
        self._by_kind[kind, topic] = more

    def result(self) -> list[Finding]:
        return list(self._by_kind.values())


def needed_topics(metadata: dict[str, str]) -> tuple[str, ...]:
    """What an episode must hold."""
    of_kind = {
        EXCITATION: (OBSERVATION, SAFETY), DEMONSTRATION: (OBSERVATION, CHUNK), TELEOPERATION: (OBSERVATION, CHUNK, SAFETY)
    }  # fmt: skip
    return of_kind.get(metadata.get("kind", ""), (OBSERVATION, CHUNK, PROGRESS, SAFETY))


def check_episode(path: str | Path, robot: str | RobotContract = "") -> list[Finding]:
    """All faults of one *.mcap, or of the *.mcap.part that a crash has left.

    Args:
        robot: contract to check against; empty: as the metadata says.

    Raises:
        VlaRosError: the file cannot be opened, or the robot is unknown.
    """
    reader = EpisodeReader(Path(path), strict=False, only=(OBSERVATION, CHUNK, PROGRESS, SAFETY))
    name = robot or reader.metadata.get("robot", "")
    if not name:
        findings = Findings(reader.path)
        _check_file(reader, findings)
        findings.add("robot", "", "metadata", "no robot", "its name; give --robot")
        return findings.result()
    contract = name if isinstance(name, RobotContract) else RobotContract.load(name)
    return check(reader, contract, needed_topics(reader.metadata))


def check(reader: EpisodeReader, contract: RobotContract, needed: Sequence[str]) -> list[Finding]:
    """All faults of an episode that has been read (strict=False), on the topics `needed` and on those that are there."""
    findings, found = Findings(reader.path), reader.topics()
    _check_file(reader, findings)
    recorded = reader.metadata.get("robot", contract.robot)
    if recorded != contract.robot:
        findings.add("robot", "", "metadata: robot", f"'{recorded}'", f"'{contract.robot}'")
        return findings.result()
    for topic in needed:
        if topic not in found:
            there = ", ".join(sorted(found)) or "no messages"
            findings.add("missing", topic, "", f"nothing ({there} instead)", "at least one message")
    observations = list(_decoded(reader, OBSERVATION, findings))
    for frame, message in observations:
        _check_observation(message, _at(frame, message.header.stamp), contract, findings)
    stamps = [seconds(message.header.stamp) for _, message in observations]
    _check_stamps(stamps, OBSERVATION, findings)
    if reader.metadata.get("kind") != EXCITATION:
        if OBSERVATION in found and len(stamps) < 2:
            findings.add("short", OBSERVATION, "", f"{len(stamps)} frame(s)", "at least 2, which make one step")
        _check_rate(stamps, contract, findings)
    _check_chunks(reader, contract, set(stamps), findings)
    _check_others(reader, contract, findings)
    return findings.result()


def _check_file(reader: EpisodeReader, findings: Findings) -> None:
    readable = f"{sum(reader.topics().values())} messages are readable"
    if reader.path.name.endswith(PART):
        findings.add("part", "", "", f"a recording that was not completed ({readable})", "a closed *.mcap")
    elif reader.damage:
        findings.add("damage", "", "", f"{reader.damage.split('; expected')[0]}; {readable}", "a complete MCAP file")


def _decoded(reader: EpisodeReader, topic: str, findings: Findings) -> Iterator[tuple[int, Any]]:
    """(frame, message) of those that fit their definition."""
    frame = 0
    for recorded in reader:
        if recorded.topic == topic:
            try:
                yield frame, recorded.message()
            except (*DAMAGE, IndexError) as error:
                at = f"frame {frame} at {recorded.stamp_ns * 1e-9:.3f} s"
                findings.add("undecodable", topic, at, f"no valid message ({error})", recorded.type_name)
            frame += 1


def _check_observation(message: Any, at: str, contract: RobotContract, findings: Findings) -> None:
    add = partial(findings.add, topic=OBSERVATION, at=at)
    height, width = contract.observation.size
    cameras = list(message.cameras)
    if missing := [name for name in contract.observation.cameras if name not in cameras]:
        add("camera", found=f"cameras {', '.join(cameras) or 'none'}", expected=f"'{missing[0]}' among them")
    if len(message.images) != len(cameras):
        add("camera", found=f"{len(message.images)} images", expected=f"{len(cameras)}, one per camera")
    for name, image in zip(cameras, message.images, strict=False):
        shape = (image.height, image.width, image.encoding, len(image.data))
        if shape != (height, width, ENCODING, 3 * height * width):
            found = f"{image.encoding} {image.height}x{image.width} in {len(image.data)} bytes"
            expected = f"{ENCODING} {height}x{width} in {3 * height * width} bytes"
            add("image", found=f"image of '{name}' {found}", expected=expected)
    names, position = list(message.joint_names), np.asarray(message.position, np.float64)
    if missing := [name for name in contract.joints if name not in names]:
        add("joint", found=f"joints {', '.join(names) or 'none'}", expected=f"'{missing[0]}' among them")
    elif len(position) != len(names):
        add("position", found=f"{len(position)} positions", expected=f"{len(names)}, one per joint")
    elif bad := _not_finite(position):
        add("finite", found=f"position of {names[bad[0]]} {position[bad[0]]}", expected="a finite number")


def _check_stamps(stamps: Sequence[float], topic: str, findings: Findings) -> None:
    for frame, (before, now) in enumerate(pairwise(stamps), 1):
        at = f"frame {frame} at {now:.3f} s"
        if now == before:
            findings.add("duplicate", topic, at, "the stamp of the frame before", "a later one")
        elif now < before:
            findings.add("backwards", topic, at, f"a stamp {before - now:.3f} s before that of the frame before", "a later one")


def _check_rate(stamps: Sequence[float], contract: RobotContract, findings: Findings) -> None:
    rate = contract.observation.rate
    intervals = np.diff(stamps)
    if not len(intervals) or (intervals <= 0).any():
        return
    expected = f"{rate:g} Hz, as {contract.path} says"
    if abs(float(np.median(intervals)) * rate - 1) > RATE_TOLERANCE:
        findings.add("rate", OBSERVATION, "", f"{1 / float(np.median(intervals)):.4g} Hz (median)", expected)
        return
    for frame in np.flatnonzero(abs(intervals * rate - 1) > JITTER).tolist():
        at = f"frame {frame + 1} at {stamps[frame + 1]:.3f} s"
        findings.add("gap", OBSERVATION, at, f"{intervals[frame]:.4g} s after the frame before", f"{1 / rate:g} s ({expected})")


def _check_chunks(reader: EpisodeReader, contract: RobotContract, observed: set[float], findings: Findings) -> None:
    answered = []
    for frame, message in _decoded(reader, CHUNK, findings):
        at, data, names = _at(frame, message.header.stamp), np.asarray(message.data, np.float64), list(message.joint_names)
        if message.rows == 0 or data.size == 0 or data.size % message.rows:
            findings.add("rows", CHUNK, at, f"{data.size} values in {message.rows} rows", "as many in each row")
        elif message.semantics in (JOINT_POSITION, JOINT_DELTA):
            width = data.size // message.rows
            if sorted(names) != sorted(contract.joints) or width != len(names):
                found = f"{width} columns for {', '.join(names) or 'no joints'}"
                findings.add("joint", CHUNK, at, found, f"one for each of {', '.join(contract.joints)}")
        if bad := _not_finite(data):
            findings.add("finite", CHUNK, at, f"value {bad[0]} {data[bad[0]]}", "a finite number")
        answered.append(seconds(message.observation_stamp))
        # The answer to the last frame before the episode may come when recording has begun.
        if answered[-1] not in observed and answered[-1] > min(observed, default=0.0):
            findings.add("answers", CHUNK, at, f"an answer to {answered[-1]:.3f} s", f"the stamp of a frame of {OBSERVATION}")
    _check_stamps(answered, CHUNK, findings)


def _check_others(reader: EpisodeReader, contract: RobotContract, findings: Findings) -> None:
    stamps = []
    for frame, message in _decoded(reader, PROGRESS, findings):
        stamps.append(seconds(message.header.stamp))
        if _not_finite([message.steps_to_go, message.reward]):
            found = f"steps_to_go {message.steps_to_go}, reward {message.reward}"
            findings.add("finite", PROGRESS, _at(frame, message.header.stamp), found, "finite numbers")
    _check_stamps(stamps, PROGRESS, findings)
    stamps = []
    for frame, message in _decoded(reader, SAFETY, findings):
        at, command = _at(frame, message.header.stamp), np.asarray(message.command, np.float64)
        stamps.append(seconds(message.header.stamp))
        if sorted(message.joint_names) != sorted(contract.joints) or len(command) != len(contract.joints):
            found = f"{len(command)} commands for {', '.join(message.joint_names) or 'no joints'}"
            findings.add("joint", SAFETY, at, found, f"one for each of {', '.join(contract.joints)}")
        elif bad := _not_finite(command):
            findings.add("finite", SAFETY, at, f"command of {message.joint_names[bad[0]]} {command[bad[0]]}", "a finite number")
    # One tick may be published twice, for its change of state and for the rate.
    _check_stamps(list(dict.fromkeys(stamps)), SAFETY, findings)


def _not_finite(values: ArrayLike) -> list[int]:
    return [int(i) for i in np.flatnonzero(~np.isfinite(np.asarray(values, np.float64)))]


def _at(frame: int, stamp: Any) -> str:
    return f"frame {frame} at {seconds(stamp):.3f} s"


def fail(findings: Sequence[Finding]) -> None:
    """
    Raises:
        VlaRosError: there is a finding; the message is the first one.
    """
    if findings:
        more = f"; and {len(findings) - 1} more, see `vla-ros episodes check`" if len(findings) > 1 else ""
        raise VlaRosError(f"{findings[0]}{more}")
