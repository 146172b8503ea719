"""What the arm must not touch and what it carries, as safety files say it: boxes for frames, walls, obstacles, payload,
and how it evades obstacles that move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vla_ros.errors import VlaRosError
from vla_ros.robots.strict import Section
from vla_ros.types import Obstacle

Interval = tuple[float, float]
Box = tuple[Interval, Interval, Interval]
Vector = tuple[float, float, float]

FARTHEST = 1000.0  # m
TABLE = "table"  # the wall that every robot must have
SIZES = {"box": 3, "sphere": 1, "cylinder": 2}  # numbers in Obstacle.size


@dataclass(frozen=True)
class Wall:
    """The half-space on the other side of a plane is forbidden to the arm."""

    point: Vector  # m, on the plane, base frame
    normal: Vector  # unit vector into the permitted side


@dataclass(frozen=True)
class Payload:
    """What the hand holds, beyond what the URDF contains."""

    frame: str
    mass: float  # kg
    centre: Vector  # m, of mass, in the frame


@dataclass(frozen=True)
class BarrierConfig:
    """Section `barrier` of config/safety/<robot>.yaml; without it, nothing is evaded."""

    gain: float  # 1/s: the approach may use up this share of the remaining distance per second
    distance: float  # m, that is kept
    activation: float  # m, from where an obstacle counts

    @classmethod
    def from_section(cls, section: Section, earlier: BarrierConfig | None, looser: Callable[..., VlaRosError]) -> BarrierConfig:
        """
        Args:
            earlier: the section of an earlier file, that this one may only tighten; `looser` makes the error.

        Raises:
            VlaRosError: key unknown, missing, out of range or looser.
        """
        section.check_keys("gain", "distance", "activation")
        config = cls(
            gain=section.number("gain", 0.1, 50.0),
            distance=section.number("distance", 0.001, 1.0),
            activation=section.number("activation", 0.002, 3.0),
        )
        if config.activation <= config.distance:
            raise section.wrong("activation", f"more than distance ({config.distance:g} m)")
        if earlier is not None:
            if config.gain > earlier.gain:
                raise looser("barrier.gain", config.gain, f"at most {earlier.gain:g}")
            if config.distance < earlier.distance:
                raise looser("barrier.distance", config.distance, f"at least {earlier.distance:g}")
            if config.activation < earlier.activation:
                raise looser("barrier.activation", config.activation, f"at least {earlier.activation:g}")
        return config


def workspace(section: Section, earlier: Mapping[str, Box], looser: Callable[..., VlaRosError]) -> dict[str, Box]:
    """The boxes {frame: {x, y, z: [lower, upper]}} m laid over earlier ones."""
    boxes = dict(earlier)
    for frame in section.keys():  # noqa: SIM118 (Section is no dict)
        sides = section.section(frame).check_keys("x", "y", "z")
        bounds = boxes.get(frame, ((-math.inf, math.inf),) * 3)
        x, y, z = (
            interval(sides, axis, f"workspace.{frame}.{axis}", bound, looser) for axis, bound in zip("xyz", bounds, strict=True)
        )
        boxes[frame] = (x, y, z)
    return boxes


def interval(section: Section, key: str, name: str, bound: Interval, looser: Callable[..., VlaRosError]) -> tuple[float, float]:
    """[lower, upper] inside `bound`."""
    low, high = section.numbers(key, 2)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise section.wrong(key, "[lower, upper], finite, lower < upper")
    if low < bound[0] or high > bound[1]:
        raise looser(name, [low, high], f"an interval inside [{bound[0]:g}, {bound[1]:g}]")
    return low, high


def walls(section: Section, earlier: Mapping[str, Wall]) -> dict[str, Wall]:
    """Half-spaces {name: {point, normal}} added to earlier ones; a name is given once."""
    result = dict(earlier)
    for name in section.keys():  # noqa: SIM118
        entry = section.section(name).check_keys("point", "normal")
        normal = finite(entry, "normal")
        length = math.hypot(*normal)
        if abs(length - 1.0) > 1e-3:
            raise entry.wrong("normal", "a unit vector into the permitted side")
        x, y, z = normal
        wall = Wall(finite(entry, "point"), (x / length, y / length, z / length))
        if result.setdefault(name, wall) != wall:
            raise _twice(section, name)
    return result


def world(section: Section, earlier: Mapping[str, Obstacle]) -> dict[str, Obstacle]:
    """Obstacles {name: {shape, size, position, quaternion}} added to earlier ones; a name is given once."""
    result = dict(earlier)
    for name in section.keys():  # noqa: SIM118
        entry = section.section(name).check_keys("shape", "size", "position", "quaternion")
        shape = entry.choice("shape", tuple(SIZES))
        size = entry.numbers("size", SIZES[shape])
        quaternion = (0.0, 0.0, 0.0, 1.0)
        if "quaternion" in entry.keys():  # noqa: SIM118
            x, y, z, w = entry.numbers("quaternion", 4)
            quaternion = (x, y, z, w)
        obstacle = Obstacle(name, shape, size, finite(entry, "position"), quaternion)
        if complaint := check(obstacle):
            raise VlaRosError(f"{section.path}: {section.key}.{name}: {complaint}")
        if result.setdefault(name, obstacle) != obstacle:
            raise _twice(section, name)
    return result


def check(obstacle: Obstacle) -> str:
    """What is wrong with an obstacle; '' if nothing."""
    count = SIZES.get(obstacle.shape)
    if count is None:
        return f"shape: found '{obstacle.shape}', expected one of {', '.join(SIZES)}"
    if len(obstacle.size) != count or not all(math.isfinite(s) and s > 0.0 for s in obstacle.size):
        return f"size: found {list(obstacle.size)}, expected {count} positive numbers of m"
    if not all(abs(p) <= FARTHEST for p in (*obstacle.position, *obstacle.size)):
        return f"position: found {list(obstacle.position)}, expected 3 numbers of m within {FARTHEST:g}"
    if not abs(math.hypot(*obstacle.quaternion) - 1.0) < 1e-3:
        return f"quaternion: found {list(obstacle.quaternion)}, expected x, y, z, w of length 1"
    return ""


def payload(section: Section) -> Payload:
    """{frame, mass, centre}."""
    section.check_keys("frame", "mass", "centre")
    return Payload(section.text("frame"), section.number("mass", 0.0, 1e4), finite(section, "centre"))


def finite(section: Section, key: str) -> Vector:
    """Three finite numbers."""
    x, y, z = section.numbers(key, 3)
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        raise section.wrong(key, "three finite numbers")
    return x, y, z


def _twice(section: Section, name: str) -> VlaRosError:
    return VlaRosError(
        f"{section.path}: {section.key}.{name}: is given otherwise in an earlier file; expected a name of its own "
        "(a safety file adds walls and obstacles, it moves none)"
    )
