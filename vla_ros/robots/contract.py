"""The robot's contract (config/robots/*.yaml): which topic and field is which part of observation and action."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.paths import resolve, share
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.types import Array

STATE_FIELDS = ("tip_x", "tip_y")
SEMANTICS = ("tip_delta_xy",)


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
class ActionSpec:
    semantics: str
    bins: int  # per axis
    max_step: float  # m per policy step and axis
    chunk: int  # rows per chunk
    height: float  # m, tip above the table top
    low: tuple[float, float]  # m, x and y of the tip's workspace, base frame
    high: tuple[float, float]  # m


@dataclass(frozen=True)
class JointLimits:
    """Limits of the contract's joints in their order, from the URDF. Arrays are [n] and read-only."""

    lower: Array  # rad
    upper: Array  # rad
    velocity: Array  # rad/s
    effort: Array  # N m


@dataclass(frozen=True)
class RobotContract:
    """One robot as config/robots/<name>.yaml describes it."""

    path: Path
    robot: str
    urdf: Path
    joints: tuple[str, ...]
    tip: str  # frame that the action moves
    posture: tuple[float, ...]  # [n] rad, what inverse kinematics prefers
    home_tip: tuple[float, float]  # m, x, y
    control: Control
    cameras: dict[str, Camera]  # the first one is the reference for alignment
    observation: ObservationSpec
    action: ActionSpec
    time_limit: float  # s, of an episode
    limits: JointLimits

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
    top.check_keys(
        "robot", "urdf", "joints", "tip", "posture", "home_tip",
        "control", "cameras", "observation", "action", "episode",
    )  # fmt: skip
    control = top.section("control").check_keys("rate", "state_topic", "command_topic")
    cameras = _cameras(top.section("cameras"))
    observation = _observation(top.section("observation"), tuple(cameras))
    action = _action(top.section("action"))
    episode = top.section("episode").check_keys("time_limit")
    joints = top.texts("joints")
    urdf = resolve(top.text("urdf"))
    links, limits = _read_urdf(top, urdf, joints)
    tip = top.text("tip")
    if tip not in links:
        raise top.wrong("tip", f"a link of {urdf}: {', '.join(links)}")
    posture = top.numbers("posture", len(joints))
    if not ((np.array(posture) >= limits.lower) & (np.array(posture) <= limits.upper)).all():
        raise top.wrong("posture", f"joint positions inside the limits of {urdf}")
    x, y = top.numbers("home_tip", 2)
    if not (action.low[0] <= x <= action.high[0] and action.low[1] <= y <= action.high[1]):
        raise top.wrong("home_tip", f"a point inside action.workspace {action.low}..{action.high}")
    rate = control.number("rate", 1, 2000)
    if abs(rate / observation.rate - round(rate / observation.rate)) > 1e-9:
        raise control.wrong("rate", f"a multiple of observation.rate ({observation.rate:g} Hz)")
    return RobotContract(
        path=top.path, robot=top.text("robot"), urdf=urdf, joints=joints, tip=tip, posture=posture, home_tip=(x, y),
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


def _observation(section: Section, cameras: tuple[str, ...]) -> ObservationSpec:
    section.check_keys("rate", "size", "cameras", "max_skew", "max_age", "state")
    height, width = section.numbers("size", 2)
    if not all(v.is_integer() and 8 <= v <= 4096 for v in (height, width)):
        raise section.wrong("size", "two integers in [8, 4096]: height, width")
    used = section.texts("cameras")
    if unknown := [c for c in used if c not in cameras]:
        raise section.wrong("cameras", f"names from `cameras` ({', '.join(cameras)}), not '{unknown[0]}'")
    state = section.texts("state")
    if any(s not in STATE_FIELDS for s in state):
        raise section.wrong("state", f"a list out of {', '.join(STATE_FIELDS)}")
    return ObservationSpec(
        rate=section.number("rate", 0.1, 1000), size=(int(height), int(width)), cameras=used,
        max_skew=section.number("max_skew", 0, 10), max_age=section.number("max_age", 0, 60), state=state,
    )  # fmt: skip


def _action(section: Section) -> ActionSpec:
    section.check_keys("semantics", "bins", "max_step", "chunk", "height", "workspace")
    workspace = section.section("workspace").check_keys("x", "y")
    x, y = workspace.numbers("x", 2), workspace.numbers("y", 2)
    for key, (low, high) in (("x", x), ("y", y)):
        if low >= high:
            raise workspace.wrong(key, "[low, high] with low < high")
    bins = section.integer("bins", 3, 1001)
    if bins % 2 == 0:
        raise section.wrong("bins", "an odd number, so that one bin means no motion")
    return ActionSpec(
        semantics=section.choice("semantics", SEMANTICS), bins=bins,
        max_step=section.number("max_step", 1e-4, 1.0), chunk=section.integer("chunk", 1, 200),
        height=section.number("height", 0.0, 2.0), low=(x[0], y[0]), high=(x[1], y[1]),
    )  # fmt: skip


def _read_urdf(top: Section, urdf: Path, joints: tuple[str, ...]) -> tuple[list[str], JointLimits]:
    try:
        root = ET.parse(urdf).getroot()
    except OSError as error:
        raise VlaRosError(f"{top.path}: urdf: {urdf} cannot be read ({error.strerror})") from error
    except ET.ParseError as error:
        raise VlaRosError(f"{top.path}: urdf: {urdf} is not valid XML: {error}") from error
    limits = {j.get("name", ""): limit for j in root.findall("joint") if (limit := j.find("limit")) is not None}
    rows = []
    for name in joints:
        if name not in limits:
            raise top.wrong("joints", f"joints with a <limit> in {urdf}: {', '.join(limits)}; not '{name}'")
        try:
            rows.append([float(limits[name].attrib[key]) for key in ("lower", "upper", "velocity", "effort")])
        except (KeyError, ValueError) as error:
            raise VlaRosError(
                f"{urdf}: joint {name}: <limit> lacks a number ({error}); expected lower, upper, velocity, effort"
            ) from error
    columns = np.array(rows).T
    columns.flags.writeable = False
    return [link.get("name", "") for link in root.findall("link")], JointLimits(*columns)
