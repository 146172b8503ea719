"""Obstacles as visualization markers, both ways: /safety/world in, /safety/markers out. Knows messages, but no node."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.strict import load_xml
from vla_ros.safety.limits import Limits
from vla_ros.safety.surroundings import check
from vla_ros.types import Obstacle, SafetyMode

MOST = 64  # obstacles; each costs the filter distance queries in every tick
LARGEST = 10.0  # m, of a size; more is a value in mm
SHAPES = {Marker.CUBE: "box", Marker.SPHERE: "sphere", Marker.CYLINDER: "cylinder"}
MARKERS = {shape: kind for kind, shape in SHAPES.items()}
COLOURS = {
    SafetyMode.RUN: (0.1, 0.8, 0.2), SafetyMode.BRAKE: (1.0, 0.7, 0.0), SafetyMode.HELD: (0.3, 0.5, 1.0),
    SafetyMode.LATCHED: (1.0, 0.1, 0.1),
}  # fmt: skip


def base_frame(contract: RobotContract) -> str:
    """The root link of the robot's URDF."""
    root = load_xml(contract.urdf)
    children = {child.get("link") for joint in root.findall("joint") for child in joint.findall("child")}
    return next(name for link in root.findall("link") if (name := link.get("name", "")) not in children)


class World:
    """The obstacles that markers have laid out so far."""

    def __init__(self, frame: str) -> None:
        self.frame = frame
        self.obstacles: dict[tuple[str, int], Obstacle] = {}

    def merged(self, message: MarkerArray) -> dict[tuple[str, int], Obstacle]:
        """The obstacles after the message, which is taken whole or not at all; the caller assigns them.

        Raises:
            VlaRosError: a marker cannot be an obstacle: which one, and why.
        """
        result = dict(self.obstacles)
        for index, marker in enumerate(message.markers):
            key = (marker.ns, marker.id)
            if marker.action == Marker.DELETEALL:
                result.clear()
            elif marker.action == Marker.DELETE:
                result.pop(key, None)
            elif marker.action == Marker.ADD:
                where = f"markers[{index}] '{_name(key)}'"
                if marker.header.frame_id not in ("", self.frame):
                    found = marker.header.frame_id
                    raise VlaRosError(f"{where}: frame_id: found '{found}', expected '{self.frame}' or empty")
                result[key] = _obstacle(_name(key), marker, where)
            else:
                raise VlaRosError(f"markers[{index}]: action: found {marker.action}, expected ADD, DELETE or DELETEALL")
        if len(result) > MOST:
            raise VlaRosError(f"found {len(result)} obstacles, expected at most {MOST}")
        return result


def _name(key: tuple[str, int]) -> str:
    return f"{key[0] or 'world'}/{key[1]}"


def _obstacle(name: str, marker: Marker, where: str) -> Obstacle:
    shape = SHAPES.get(marker.type)
    if shape is None:
        raise VlaRosError(f"{where}: type: found {marker.type}, expected CUBE, SPHERE or CYLINDER")
    if marker.lifetime.sec or marker.lifetime.nanosec:
        raise VlaRosError(f"{where}: lifetime: expected 0; an obstacle stays until it is deleted")
    x, y, z = scale = (marker.scale.x, marker.scale.y, marker.scale.z)
    if not all(math.isfinite(edge) and 0.0 < edge <= LARGEST for edge in scale):
        raise VlaRosError(f"{where}: scale: found {list(scale)}, expected lengths in (0, {LARGEST:g}] m")
    if (shape != "box" and x != y) or (shape == "sphere" and y != z):
        raise VlaRosError(f"{where}: scale: found {list(scale)}, expected equal diameters of a {shape}")
    p, q = marker.pose.position, marker.pose.orientation
    position, quaternion = (p.x, p.y, p.z), (q.x, q.y, q.z, q.w)
    obstacle = Obstacle(name, shape, {"box": (x, y, z), "sphere": (x,), "cylinder": (x, z)}[shape], position, quaternion)
    if complaint := check(obstacle):
        raise VlaRosError(f"{where}: {complaint}")
    return obstacle


def markers(frame: str, stamp: Time, limits: Limits, obstacles: Iterable[Obstacle], mode: SafetyMode, reason: str) -> MarkerArray:
    """What the filter keeps the arm out of and in, and its mode in words."""
    result: list[Marker] = []

    def add(kind: int, ns: str, position: Sequence[float], size: Sequence[float], colour: Any, **fields: Any) -> None:
        marker = Marker(type=kind, ns=ns, id=len(result), action=Marker.ADD, **fields)
        marker.header.frame_id, marker.header.stamp = frame, stamp
        marker.pose.position = Point(x=float(position[0]), y=float(position[1]), z=float(position[2]))
        marker.scale = Vector3(x=float(size[0]), y=float(size[1]), z=float(size[2]))
        marker.color = ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=colour[3])
        result.append(marker)

    for name, box in limits.workspace.items():
        sides = [(max(low, -LARGEST), min(high, LARGEST)) for low, high in box]
        middle = [(low + high) / 2.0 for low, high in sides]
        add(Marker.CUBE, f"workspace/{name}", middle, [high - low for low, high in sides], (0.2, 0.8, 0.3, 0.08))
    for name, wall in limits.walls.items():
        thickness = 0.004  # m
        centre = [point - axis * thickness / 2.0 for point, axis in zip(wall.point, wall.normal, strict=True)]
        pose = Pose(orientation=_upright_to(wall.normal))
        add(Marker.CUBE, f"wall/{name}", centre, (2.0, 2.0, thickness), (0.6, 0.5, 0.4, 0.3), pose=pose)
    for obstacle in obstacles:
        x, y, z, w = obstacle.quaternion
        size = obstacle.size
        edges = {"box": size, "sphere": size * 3, "cylinder": (size[0], size[0], size[-1])}[obstacle.shape]
        pose = Pose(orientation=Quaternion(x=x, y=y, z=z, w=w))
        kind = MARKERS[obstacle.shape]
        add(kind, f"obstacle/{obstacle.name}", obstacle.position, edges, (0.9, 0.3, 0.2, 0.5), pose=pose)
    text = f"{mode.name} {reason}".strip()
    add(Marker.TEXT_VIEW_FACING, "mode", (0.0, 0.0, 1.1), (0.0, 0.0, 0.06), (*COLOURS[mode], 1.0), text=text)
    return MarkerArray(markers=[Marker(action=Marker.DELETEALL), *result])


def _upright_to(normal: Sequence[float]) -> Quaternion:
    """The turn that takes z to the unit vector `normal`."""
    x, y, z = normal
    if z < -1.0 + 1e-9:
        return Quaternion(x=1.0, y=0.0, z=0.0, w=0.0)
    w = math.sqrt((1.0 + z) / 2.0)
    return Quaternion(x=-y / (2.0 * w), y=x / (2.0 * w), z=0.0, w=w)
