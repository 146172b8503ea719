"""The robot's contract (config/robots/*.yaml): which topic and field is which part of observation and action."""

from __future__ import annotations

import functools
import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.paths import resolve, share
from vla_ros.robots.strict import Section, load_xml, load_yaml
from vla_ros.types import Array

STATE_FIELDS = {  # per semantics of the action: what `observation.state` can name
    "tip_delta_xy": ("tip_x", "tip_y"),
    "joint_position": ("position",),  # of every joint, in the contract's order
}
SEMANTICS = tuple(STATE_FIELDS)
LARGEST_ANGLE = 4 * math.pi  # rad; no joint turns further, so more is a value in degrees


@dataclass(frozen=True)
class Control:
    rate: float  # Hz, joint states in, commands out
    state_topic: str
    command_topic: str


@dataclass(frozen=True)
class Camera:
    topic: str
    info: str
    frame: str


@dataclass(frozen=True)
class ObservationSpec:
    rate: float  # Hz
    size: tuple[int, int]  # px, height, width
    cameras: tuple[str, ...]  # what the policy sees
    max_skew: float  # s
    max_age: float  # s
    state: tuple[str, ...]


@dataclass(frozen=True)
class TipPlane:
    """What only `tip_delta_xy` has: steps of one tip in the plane of the table."""

    bins: int  # per axis
    max_step: float  # m per policy step and axis
    height: float  # m, tip above the table top
    low: tuple[float, float]  # m, x and y of the tip's workspace, base frame
    high: tuple[float, float]  # m
    home: tuple[float, float]  # m, x and y of the tip


@dataclass(frozen=True)
class ActionSpec:
    """What one row of a chunk means, and how many rows there are.

    `tip_delta_xy` acts on one tip and has a `plane`; `joint_position` rows are [n] joint positions. The plane's parts
    can be read here (`action.low`): on a robot without one that is a VlaRosError.
    """

    path: Path
    semantics: str
    chunk: int  # rows per chunk
    rate: float  # Hz, of the rows
    tip_plane: TipPlane | None

    @property
    def plane(self) -> TipPlane:
        if self.tip_plane is None:
            raise VlaRosError(
                f"{self.path}: action.semantics: found {self.semantics}, expected tip_delta_xy: "
                "what was asked for needs a tip that moves in the table's plane"
            )
        return self.tip_plane

    @property
    def bins(self) -> int:
        return self.plane.bins

    @property
    def max_step(self) -> float:
        return self.plane.max_step

    @property
    def height(self) -> float:
        return self.plane.height

    @property
    def low(self) -> tuple[float, float]:
        return self.plane.low

    @property
    def high(self) -> tuple[float, float]:
        return self.plane.high


@dataclass(frozen=True)
class JointLimits:
    """Limits of the contract's joints in their order, from the URDF. Arrays are [n] and read-only.

    A prismatic joint (a gripper) has m for rad and N for N m.
    """

    lower: Array  # rad
    upper: Array  # rad
    velocity: Array  # rad/s
    effort: Array  # N m
    prismatic: NDArray[np.bool_]


@dataclass(frozen=True)
class RobotContract:
    """One robot as config/robots/<name>.yaml describes it."""

    path: Path
    robot: str
    urdf: Path
    joints: tuple[str, ...]
    tips: tuple[str, ...]  # the frame of each arm's tool
    posture: tuple[float, ...]  # [n] rad, what inverse kinematics prefers; with `joint_position` also the home
    control: Control
    cameras: dict[str, Camera]  # the first one is the reference for alignment
    observation: ObservationSpec
    action: ActionSpec
    time_limit: float  # s, of an episode
    limits: JointLimits

    @property
    def tip(self) -> str:
        """The tip of a robot that has one arm. Raises VlaRosError where there are more."""
        if len(self.tips) != 1:
            raise VlaRosError(f"{self.path}: tips: found {', '.join(self.tips)}, expected one: which tip is not said")
        return self.tips[0]

    @property
    def grippers(self) -> tuple[str, ...]:
        """Its prismatic joints; the lower limit is where the fingers are closed."""
        return tuple(name for name, slides in zip(self.joints, self.limits.prismatic, strict=True) if slides)

    @property
    def home_tip(self) -> tuple[float, float]:
        """m, x and y of the tip at home; VlaRosError without a tip plane (`posture` is the home then)."""
        return self.action.plane.home

    @property
    def srdf(self) -> Path:
        """Pairs of links that may touch: the file beside the URDF, of the same name. Raises VlaRosError if missing."""
        path = self.urdf.with_suffix(".srdf")
        if not path.is_file():
            raise VlaRosError(f"{self.path}: urdf: {path} is missing, expected the SRDF beside {self.urdf.name}")
        return path

    @property
    def ticks_per_step(self) -> int:
        """Control ticks in one policy step."""
        return round(self.control.rate / self.observation.rate)

    @staticmethod
    def known() -> tuple[str, ...]:
        """Names of the robots that come with the package."""
        return tuple(sorted(p.stem for p in (share() / "config" / "robots").glob("*.yaml")))

    @staticmethod
    def load(name_or_path: str | Path) -> RobotContract:
        """Reads a contract by robot name (config/robots/<name>.yaml) or by path (ends in .yaml).

        Raises:
            VlaRosError: unknown robot, or a key unknown, missing, of wrong type or length, or at odds with the URDF.
        """
        text = str(name_or_path)
        if text.endswith((".yaml", ".yml")):
            return _parse(load_yaml(resolve(text)))
        known = RobotContract.known()
        if text not in known:
            raise VlaRosError(f"unknown robot '{text}'; known robots: {', '.join(known)} (or a path to a .yaml)")
        return _load_known(text)


@functools.cache
def _load_known(name: str) -> RobotContract:
    return _parse(load_yaml(share() / "config" / "robots" / f"{name}.yaml"))


def _parse(top: Section) -> RobotContract:
    semantics = top.section("action").choice("semantics", SEMANTICS)
    common = ("robot", "urdf", "joints", "posture", "control", "cameras", "observation", "action", "episode", "stop")
    top.check_keys(*common, *(("tip", "home_tip") if semantics == "tip_delta_xy" else ("tips",)))
    control = top.section("control").check_keys("rate", "state_topic", "command_topic")
    cameras = _cameras(top.section("cameras"))
    observation = _observation(top.section("observation"), tuple(cameras), STATE_FIELDS[semantics])
    joint_rows = semantics == "joint_position"
    action = _joint_action(top.section("action")) if joint_rows else _tip_action(top, observation.rate)
    episode = top.section("episode").check_keys("time_limit")
    joints = top.texts("joints")
    urdf = resolve(top.text("urdf"))
    links, limits = _read_urdf(top, urdf, joints)
    tips = top.texts("tips") if joint_rows else (top.text("tip"),)
    if unknown := [tip for tip in tips if tip not in links]:
        raise top.wrong("tips" if joint_rows else "tip", f"links of {urdf}: {', '.join(links)}; not '{unknown[0]}'")
    posture = top.numbers("posture", len(joints))
    if not ((np.array(posture) >= limits.lower) & (np.array(posture) <= limits.upper)).all():
        raise top.wrong("posture", f"joint positions inside the limits of {urdf}")
    rate = control.number("rate", 1, 2000)
    for name, slower in (("observation.rate", observation.rate), ("action.rate", action.rate)):
        if abs(rate / slower - round(rate / slower)) > 1e-9:
            raise control.wrong("rate", f"a multiple of {name} ({slower:g} Hz)")
    return RobotContract(
        path=top.path, robot=top.text("robot"), urdf=urdf, joints=joints, tips=tips, posture=posture,
        control=Control(rate, control.text("state_topic"), control.text("command_topic")),
        cameras=cameras, observation=observation, action=action,
        time_limit=episode.number("time_limit", 0.1, 3600), limits=limits,
    )  # fmt: skip


def _cameras(section: Section) -> dict[str, Camera]:
    if not section.keys():
        raise VlaRosError(f"{section.path}: {section.key}: found no camera, expected at least one")
    cameras = {}
    for name in section.keys():  # noqa: SIM118 (Section is no dict)
        entry = section.section(name).check_keys("topic", "info", "frame")
        cameras[name] = Camera(entry.text("topic"), entry.text("info"), entry.text("frame"))
    return cameras


def _observation(section: Section, cameras: tuple[str, ...], fields: tuple[str, ...]) -> ObservationSpec:
    section.check_keys("rate", "size", "cameras", "max_skew", "max_age", "state")
    height, width = section.numbers("size", 2)
    if not all(v.is_integer() and 8 <= v <= 4096 for v in (height, width)):
        raise section.wrong("size", "two integers in [8, 4096]: height, width")
    used = section.texts("cameras")
    if unknown := [c for c in used if c not in cameras]:
        raise section.wrong("cameras", f"names from `cameras` ({', '.join(cameras)}), not '{unknown[0]}'")
    state = section.texts("state")
    if any(s not in fields for s in state):
        raise section.wrong("state", f"a list out of {', '.join(fields)}")
    return ObservationSpec(
        rate=section.number("rate", 0.1, 1000), size=(int(height), int(width)), cameras=used,
        max_skew=section.number("max_skew", 0, 10), max_age=section.number("max_age", 0, 60), state=state,
    )  # fmt: skip


def _joint_action(section: Section) -> ActionSpec:
    section.check_keys("semantics", "chunk", "rate")
    return ActionSpec(
        path=section.path, semantics=section.text("semantics"), chunk=section.integer("chunk", 1, 200),
        rate=section.number("rate", 0.1, 1000), tip_plane=None,
    )  # fmt: skip


def _tip_action(top: Section, rate: float) -> ActionSpec:
    section = top.section("action").check_keys("semantics", "bins", "max_step", "chunk", "height", "workspace")
    workspace = section.section("workspace").check_keys("x", "y")
    low_x, high_x = _interval(workspace, "x")
    low_y, high_y = _interval(workspace, "y")
    x, y = top.numbers("home_tip", 2)
    if not (low_x <= x <= high_x and low_y <= y <= high_y):
        raise top.wrong("home_tip", f"a point inside action.workspace {(low_x, low_y)}..{(high_x, high_y)}")
    bins = section.integer("bins", 3, 1001)
    if bins % 2 == 0:
        raise section.wrong("bins", "an odd number, so that one bin means no motion")
    plane = TipPlane(
        bins=bins, max_step=section.number("max_step", 1e-4, 1.0), height=section.number("height", 0.0, 2.0),
        low=(low_x, low_y), high=(high_x, high_y), home=(x, y),
    )  # fmt: skip
    return ActionSpec(
        path=section.path, semantics=section.text("semantics"), chunk=section.integer("chunk", 1, 200),
        rate=rate, tip_plane=plane,
    )  # fmt: skip


def _interval(section: Section, key: str) -> tuple[float, float]:
    low, high = section.numbers(key, 2)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise section.wrong(key, "[low, high], finite, with low < high")
    return low, high


def _read_urdf(top: Section, urdf: Path, joints: tuple[str, ...]) -> tuple[list[str], JointLimits]:
    """Names of the links, and the limits of `joints`."""
    try:
        root = load_xml(urdf)
    except VlaRosError as error:
        raise VlaRosError(f"{top.path}: urdf: {error}") from error
    elements = {joint.get("name", ""): joint for joint in root.findall("joint")}
    rows = []
    for name in joints:
        if name not in elements:
            known = ", ".join(n for n, e in elements.items() if e.find("limit") is not None)
            raise top.wrong("joints", f"joints of {urdf} with a <limit>: {known}; not '{name}'")
        rows.append(_joint_limit(urdf, name, elements[name]))
    columns = np.array(rows).T
    columns.flags.writeable = False
    prismatic = np.array([elements[name].get("type") == "prismatic" for name in joints])
    lower, upper, velocity, effort = columns
    return [link.get("name", "") for link in root.findall("link")], JointLimits(lower, upper, velocity, effort, prismatic)


def _joint_limit(urdf: Path, name: str, joint: ET.Element) -> list[float]:
    """lower, upper, velocity, effort; each of them finite and possible for a joint of that type."""
    kind, limit = joint.get("type", ""), joint.find("limit")
    if kind not in {"revolute", "prismatic"}:
        raise VlaRosError(f"{urdf}: joint {name}: type: found '{kind}', expected revolute or prismatic")
    if limit is None:
        raise VlaRosError(f"{urdf}: joint {name}: <limit> is missing, expected lower, upper, velocity, effort")
    values: dict[str, float] = {}
    for key in ("lower", "upper", "velocity", "effort"):
        where, text = f"{urdf}: joint {name}: <limit {key}>", limit.get(key)
        if text is None:
            raise VlaRosError(f"{where} is missing, expected a number")
        try:
            value = float(text)
        except ValueError as error:
            raise VlaRosError(f"{where}: found '{text}', expected a number") from error
        if not math.isfinite(value):
            raise VlaRosError(f"{where}: found {text}, expected a finite number")
        if key in {"velocity", "effort"} and value <= 0:
            raise VlaRosError(f"{where}: found {text}, expected a number above 0")
        if kind == "revolute" and key in {"lower", "upper"} and abs(value) > LARGEST_ANGLE:
            raise VlaRosError(f"{where}: found {text}, expected rad within 4 pi (are these degrees?)")
        values[key] = value
    if values["lower"] >= values["upper"]:
        raise VlaRosError(
            f"{urdf}: joint {name}: <limit lower>: found {values['lower']:g}, expected less than upper ({values['upper']:g})"
        )
    return list(values.values())
