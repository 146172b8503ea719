"""Limits of the safety filter: the URDF's, tightened by config/safety/*.yaml, and never loosened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_ros import paths
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import LARGEST_ANGLE, RobotContract
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.safety import surroundings
from vla_ros.safety.people import Separation
from vla_ros.safety.surroundings import TABLE, BarrierConfig, Box, Payload, Wall
from vla_ros.types import Obstacle

# Single numbers >= 0; a smaller one is the tighter one. config/safety/panda.yaml documents them.
SCALARS = (
    "tip_speed", "reduced_speed", "probation_speed", "chunk_age", "chunk_lead", "chunk_horizon", "settle", "max_lag",
    "policy_silence", "state_age", "state_silence", "state_latch",
)  # fmt: skip
# The same, where a larger one is the tighter one.
FLOORS = ("clearance", "reset_after")
# One number for all joints or a list of one per joint, in the joint's unit (rad, or m of a prismatic joint).
PER_JOINT = ("row_jump", "tracking_brake", "tracking_latch", "standstill")
ANGLES = ("position_margin", "row_jump", "tracking_brake", "tracking_latch")  # rad
ROWS = ("velocity", "acceleration", "jerk")  # one per joint
SCALES = {"velocity_scale": "velocity", "torque_scale": "torque"}  # (0, 1] of what the files before allow
REQUIRED = (*SCALARS, *FLOORS, *PER_JOINT, *SCALES, "acceleration", "jerk", "position_margin", "walls")
OPTIONAL = ("robot", "velocity", "position", "workspace", "world", "payload", "people", "barrier")


@dataclass(frozen=True)
class Limits:
    """Everything that bounds a command; tuples are [n] in the order of `joints`.

    Units: position, row_jump and tracking rad, velocity and standstill rad/s, acceleration rad/s², jerk rad/s³, torque
    N m (m and N for a prismatic joint), tip speeds m/s, clearance m, times s. `source` names the files.
    """

    robot: str
    joints: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    torque: tuple[float, ...]
    workspace: Mapping[str, Box]
    walls: Mapping[str, Wall]
    world: Mapping[str, Obstacle]
    payload: Payload | None
    people: Separation | None
    barrier: BarrierConfig | None
    row_jump: tuple[float, ...]
    tracking_brake: tuple[float, ...]
    tracking_latch: tuple[float, ...]
    standstill: tuple[float, ...]
    tip_speed: float
    reduced_speed: float
    probation_speed: float
    clearance: float
    chunk_age: float
    chunk_lead: float
    chunk_horizon: float
    settle: float
    max_lag: float
    policy_silence: float
    state_age: float
    state_silence: float
    state_latch: float
    reset_after: float
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
        unbounded = (math.inf,) * len(contract.joints)
        limits = cls(
            robot=contract.robot,
            joints=contract.joints,
            lower=tuple(bounds.lower.tolist()),
            upper=tuple(bounds.upper.tolist()),
            velocity=tuple(bounds.velocity.tolist()),
            torque=tuple(bounds.effort.tolist()),
            acceleration=unbounded,
            jerk=unbounded,
            workspace={},
            walls={},
            world={},
            payload=None,
            people=None,
            barrier=None,
            source=str(contract.urdf),
            **dict.fromkeys(PER_JOINT, unbounded),  # type: ignore[arg-type]
            **dict.fromkeys(SCALARS, math.inf),  # type: ignore[arg-type]
            **dict.fromkeys(FLOORS, 0.0),  # type: ignore[arg-type]
        )
        for section in (base, *overlays):
            limits = _tighten(limits, section)
        if TABLE not in limits.walls:
            raise VlaRosError(f"{base.path}: walls: found {', '.join(limits.walls) or 'none'}, expected '{TABLE}'")
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
    return load_yaml(path).check_keys(*REQUIRED, *OPTIONAL)


def _tighten(limits: Limits, section: Section) -> Limits:
    """`limits` with the file's values; raises VlaRosError naming both files where one is looser."""

    def looser(key: str, found: object, bound: str) -> VlaRosError:
        return VlaRosError(
            f"{section.path}: {key}: found {found}, expected {bound} as in {limits.source}: "
            "a safety file only tightens; give a tighter value here or correct the other file"
        )

    given = section.keys()
    if "robot" in given and section.text("robot") != limits.robot:
        raise section.wrong("robot", f"'{limits.robot}' as in the robot's contract")
    changes: dict[str, Any] = {"source": f"{limits.source} + {section.path}"}
    changes["lower"], changes["upper"] = _position(limits, section, looser)
    for key in (*ROWS, *PER_JOINT):
        if key in given:
            row = _joint_row(limits, section, key, spread=key in PER_JOINT)
            for name, value, most in zip(limits.joints, row, getattr(limits, key), strict=True):
                if value > most:
                    raise looser(f"{key} of {name}", value, f"at most {most:g}")
            changes[key] = row
    for key, scaled in SCALES.items():
        if key in given:
            share = section.number(key, 1e-3, 1.0)
            now = changes.get(scaled, getattr(limits, scaled))
            pairs = zip(now, getattr(limits, scaled), strict=True)
            changes[scaled] = tuple(min(value, share * most) for value, most in pairs)
    for key in (*SCALARS, *FLOORS):
        if key in given:
            # settling takes a control period at least
            value, bound = section.number(key, 1e-2 if key == "settle" else 0.0, 1e6), getattr(limits, key)
            if key in SCALARS and value > bound:
                raise looser(key, value, f"at most {bound:g}")
            if key in FLOORS and value < bound:
                raise looser(key, value, f"at least {bound:g}")
            changes[key] = value
    if "workspace" in given:
        changes["workspace"] = surroundings.workspace(section.section("workspace"), limits.workspace, looser)
    if "walls" in given:
        changes["walls"] = surroundings.walls(section.section("walls"), limits.walls)
    if "world" in given:
        changes["world"] = surroundings.world(section.section("world"), limits.world)
    if "payload" in given:
        changes["payload"] = surroundings.payload(section.section("payload"))
        if limits.payload is not None and changes["payload"].mass < limits.payload.mass:
            raise looser("payload.mass", changes["payload"].mass, f"at least {limits.payload.mass:g}")
    if "people" in given:
        if limits.people is not None:
            raise looser("people", "a second section", "the one")
        changes["people"] = Separation.from_section(section.section("people"))
    if "barrier" in given:
        changes["barrier"] = BarrierConfig.from_section(section.section("barrier"), limits.barrier, looser)
    return replace(limits, **changes)


def _position(limits: Limits, section: Section, looser: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    margin = [0.0] * len(limits.joints)
    if "position_margin" in section.keys():  # noqa: SIM118
        margin = list(_joint_row(limits, section, "position_margin", spread=True, least=0.0))
    lower = [low + m for low, m in zip(limits.lower, margin, strict=True)]
    upper = [high - m for high, m in zip(limits.upper, margin, strict=True)]
    if "position" in section.keys():  # noqa: SIM118
        intervals = section.section("position").check_keys(*limits.joints)
        for name in intervals.keys():  # noqa: SIM118
            j = limits.joints.index(name)
            if max(map(abs, intervals.numbers(name, 2))) > LARGEST_ANGLE:
                raise intervals.wrong(name, f"rad within 4 pi ({LARGEST_ANGLE:.4g}); are these degrees?")
            bound = (limits.lower[j], limits.upper[j])
            low, high = surroundings.interval(intervals, name, f"position.{name}", bound, looser)
            lower[j], upper[j] = max(low, lower[j]), min(high, upper[j])
    for name, low, high in zip(limits.joints, lower, upper, strict=True):
        if not low < high:
            raise VlaRosError(f"{section.path}: {name} has no room: [{low:g}, {high:g}] rad; lower position_margin")
    return tuple(lower), tuple(upper)


def _joint_row(limits: Limits, section: Section, key: str, spread: bool = False, least: float = 1e-12) -> tuple[float, ...]:
    """One finite number per joint; `spread` lets one number stand for all."""
    n = len(limits.joints)
    try:
        row = (section.number(key),) * n if spread else section.numbers(key, n)
    except VlaRosError:
        if not spread:
            raise
        try:
            row = section.numbers(key, n)
        except VlaRosError as error:
            raise section.wrong(key, f"a number, or a list of {n} numbers") from error
    if not all(math.isfinite(value) and value >= least for value in row):
        raise section.wrong(key, "positive finite numbers")
    if key in ANGLES and max(row) > LARGEST_ANGLE:
        raise section.wrong(key, f"rad within 4 pi ({LARGEST_ANGLE:.4g}); are these degrees?")
    return row
