"""Limits of the safety filter: the URDF's, tightened by config/safety/*.yaml, and never loosened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros import paths
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.strict import Section, load_yaml

Interval = tuple[float, float]
Box = tuple[Interval, Interval, Interval]

# Single numbers >= 0; a smaller one is the tighter one. config/safety/panda.yaml documents them.
SCALARS = (
    "row_jump", "chunk_age", "chunk_lead", "chunk_horizon", "settle", "max_lag", "policy_silence",
    "state_age", "state_silence", "state_latch", "tracking_brake", "tracking_latch", "standstill",
)  # fmt: skip
REQUIRED = (*SCALARS, "acceleration", "velocity_scale", "position_margin", "workspace")
KEYS = (*REQUIRED, "robot", "velocity", "position")


@dataclass(frozen=True)
class Limits:
    """Everything that bounds a command; tuples are [n] in the order of `joints`.

    Units: position and row_jump rad, velocity rad/s, acceleration rad/s², workspace m, times s.
    `source` names the files.
    """

    robot: str
    joints: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    workspace: Mapping[str, Box]
    row_jump: float
    chunk_age: float
    chunk_lead: float
    chunk_horizon: float
    settle: float
    max_lag: float
    policy_silence: float
    state_age: float
    state_silence: float
    state_latch: float
    tracking_brake: float
    tracking_latch: float
    standstill: float
    source: str = ""

    @classmethod
    def load(cls, contract: RobotContract, *files: str | Path) -> Limits:
        """The URDF's limits tightened by each file in turn; the first one must be complete.

        Args:
            contract: joint names and the URDF's limits.
            files: names in config/safety (`panda`) or paths; none: the file with the robot's name.

        Raises:
            VlaRosError: unknown or missing key, wrong type or length, another robot, or a value that loosens a limit.
        """
        base, *overlays = [_read(file) for file in files or (contract.robot,)]
        missing = [key for key in REQUIRED if key not in base.keys()]  # noqa: SIM118 (Section is no dict)
        if missing:
            raise VlaRosError(f"{base.path}: missing {', '.join(missing)}; the first safety file must give every limit")
        bounds = contract.limits
        limits = cls(
            robot=contract.robot,
            joints=contract.joints,
            lower=tuple(bounds.lower.tolist()),
            upper=tuple(bounds.upper.tolist()),
            velocity=tuple(bounds.velocity.tolist()),
            acceleration=(math.inf,) * len(contract.joints),
            workspace={},
            source=str(contract.urdf),
            **dict.fromkeys(SCALARS, math.inf),
        )
        for section in (base, *overlays):
            limits = _tighten(limits, section)
        return limits

    def tightened(self, file: str | Path) -> Limits:
        """These limits with one more file (task, policy, training phase) laid over them. Raises VlaRosError as
        load()."""
        return _tighten(self, _read(file))


def _read(file: str | Path) -> Section:
    text = str(file)
    if text.endswith((".yaml", ".yml")):
        path = paths.resolve(text)
    else:
        folder = paths.share() / "config" / "safety"
        path = folder / f"{text}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(f.stem for f in folder.glob("*.yaml")))
            raise VlaRosError(f"{folder}: no safety file '{text}.yaml'; known: {known}; or give a path")
    return load_yaml(path).check_keys(*KEYS)


def _tighten(limits: Limits, section: Section) -> Limits:
    """`limits` with the file's values; raises VlaRosError naming both files where one is looser."""
    given = section.keys()
    if "robot" in given and section.text("robot") != limits.robot:
        raise section.wrong("robot", f"'{limits.robot}' as in the robot's contract")
    lower, upper = _position(limits, section)
    velocity, acceleration = limits.velocity, limits.acceleration
    if "velocity" in given:
        velocity = _joint_row(limits, section, "velocity", velocity)
    if "velocity_scale" in given:
        scale = section.number("velocity_scale", 1e-3, 1.0)
        velocity = tuple(min(v, scale * most) for v, most in zip(velocity, limits.velocity, strict=True))
    if "acceleration" in given:
        acceleration = _joint_row(limits, section, "acceleration", acceleration)
    scalars: dict[str, Any] = {}
    for key in SCALARS:
        if key in given:
            scalars[key] = section.number(key, 0.0, 1e6)
            if scalars[key] > getattr(limits, key):
                raise _looser(limits, section, key, scalars[key], f"at most {getattr(limits, key):g}")
    return replace(
        limits, lower=lower, upper=upper, velocity=velocity, acceleration=acceleration,
        workspace=_workspace(limits, section), source=f"{limits.source} + {section.path}", **scalars,
    )  # fmt: skip


def _looser(limits: Limits, section: Section, key: str, found: object, bound: str) -> VlaRosError:
    return VlaRosError(
        f"{section.path}: {key}: found {found}, expected {bound} as in {limits.source}: "
        "a safety file only tightens; give a tighter value here or correct the other file"
    )


def _position(limits: Limits, section: Section) -> tuple[tuple[float, ...], tuple[float, ...]]:
    margin = section.number("position_margin", 0.0, 10.0) if "position_margin" in section.keys() else 0.0  # noqa: SIM118
    lower, upper = [low + margin for low in limits.lower], [high - margin for high in limits.upper]
    if "position" in section.keys():  # noqa: SIM118
        intervals = section.section("position").check_keys(*limits.joints)
        for name in intervals.keys():  # noqa: SIM118
            j = limits.joints.index(name)
            bound = (limits.lower[j], limits.upper[j])
            low, high = _interval(limits, intervals, name, f"position.{name}", bound)
            lower[j], upper[j] = max(low, lower[j]), min(high, upper[j])
    for name, low, high in zip(limits.joints, lower, upper, strict=True):
        if not low < high:
            raise VlaRosError(f"{section.path}: {name} has no room: [{low:g}, {high:g}] rad; lower position_margin")
    return tuple(lower), tuple(upper)


def _interval(limits: Limits, section: Section, key: str, name: str, bound: Interval) -> Interval:
    low, high = section.numbers(key, 2)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise section.wrong(key, "[lower, upper], finite, lower < upper")
    if low < bound[0] or high > bound[1]:
        raise _looser(limits, section, name, [low, high], f"an interval inside [{bound[0]:g}, {bound[1]:g}]")
    return low, high


def _joint_row(limits: Limits, section: Section, key: str, bound: tuple[float, ...]) -> tuple[float, ...]:
    row = section.numbers(key, len(limits.joints))
    if not np.isfinite(row).all() or min(row) <= 0.0:
        raise section.wrong(key, "positive finite numbers")
    for name, value, most in zip(limits.joints, row, bound, strict=True):
        if value > most:
            raise _looser(limits, section, f"{key} of {name}", value, f"at most {most:g}")
    return row


def _workspace(limits: Limits, section: Section) -> dict[str, Box]:
    boxes = dict(limits.workspace)
    if "workspace" not in section.keys():  # noqa: SIM118
        return boxes
    frames = section.section("workspace")
    for frame in frames.keys():  # noqa: SIM118
        sides = frames.section(frame).check_keys("x", "y", "z")
        old = boxes.get(frame, ((-math.inf, math.inf),) * 3)
        x, y, z = (
            _interval(limits, sides, axis, f"workspace.{frame}.{axis}", bound)
            for axis, bound in zip("xyz", old, strict=True)
        )
        boxes[frame] = (x, y, z)
    return boxes
