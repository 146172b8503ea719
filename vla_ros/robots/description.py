"""The robot's description for a backend: its URDF, fixed to the world, with what that backend adds. config/gazebo says what.

The URDF itself stays free of backends: everybody else reads kinematics, limits and shapes from it and nothing more.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros import paths
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.strict import Section, load_xml, load_yaml
from vla_ros.types import Array

WORLD = "world"  # root link of a robot that stands fixed
PLUGINS = {"gazebo": "gz_ros2_control/GazeboSimSystem", "mock": "mock_components/GenericSystem"}  # of ros2_control, by backend
OPTICAL = "-1.5707963267948966 0 -1.5707963267948966"  # rpy: from x ahead, z up to z ahead, y down
NEAR, FAR = 0.02, 12.0  # m, what a camera sees


@dataclass(frozen=True)
class SimulatedCamera:
    """One camera of a Gazebo cell; `position` and `look_at` m in the frame of link `parent`."""

    parent: str
    position: tuple[float, ...]
    look_at: tuple[float, ...]
    up: tuple[float, ...]
    fov: float  # rad, horizontal
    size: tuple[int, int]  # px, height and width
    rate: float  # Hz

    def rpy(self) -> Array:
        """Fixed-axis angles [3] rad of a frame at the camera with x ahead and z up."""
        x = np.subtract(self.look_at, self.position)
        x = x / np.linalg.norm(x)
        y = np.cross(self.up, x)
        y /= np.linalg.norm(y)
        z = np.cross(x, y)
        return np.array([math.atan2(y[2], z[2]), math.atan2(-x[2], math.hypot(x[0], x[1])), math.atan2(x[1], x[0])])


def load_cameras(contract: RobotContract, path: str | Path = "") -> dict[str, SimulatedCamera]:
    """The contract's cameras in Gazebo, from config/gazebo/<robot>.yaml or a file.

    Raises:
        VlaRosError: a camera of the contract is missing, or a key is unknown, missing or of the wrong type.
    """
    folder = paths.share() / "config" / "gazebo"
    top = load_yaml(paths.resolve(path) if path else folder / f"{contract.robot}.yaml").check_keys("robot", "cameras")
    if top.text("robot") != contract.robot:
        raise top.wrong("robot", f"'{contract.robot}' as in {contract.path}")
    section = top.section("cameras").check_keys(*contract.cameras)
    return {name: _camera(section.section(name)) for name in contract.cameras}


def _camera(section: Section) -> SimulatedCamera:
    section.check_keys("parent", "position", "look_at", "up", "fov", "size", "rate")
    height, width = section.numbers("size", 2)
    up = section.numbers("up", 3) if "up" in section.keys() else (0.0, 0.0, 1.0)  # noqa: SIM118 (Section is no dict)
    position, look_at = section.numbers("position", 3), section.numbers("look_at", 3)
    if np.linalg.norm(np.cross(np.subtract(look_at, position), up)) < 1e-6:
        raise section.wrong("up", f"another direction than the one from {list(position)} to {list(look_at)}")
    return SimulatedCamera(
        section.text("parent"), position, look_at, up, section.number("fov", 0.05, 3.1),
        (int(height), int(width)), section.number("rate", 0.1, 1000),
    )  # fmt: skip


def describe(
    contract: RobotContract, backend: str, cameras: dict[str, SimulatedCamera] | None = None, controllers: str | Path = ""
) -> str:
    """URDF text for ros2_control.

    Args:
        backend: a key of PLUGINS.
        cameras: what `gazebo` renders (load_cameras).
        controllers: parameter file of the controller manager, which Gazebo's plugin reads.

    Raises:
        VlaRosError: unknown backend, or a camera on a link that the robot does not have.
    """
    if backend not in PLUGINS:
        raise VlaRosError(f"backend: found '{backend}', expected one of {', '.join(PLUGINS)}")
    root = load_xml(contract.urdf)
    links = [link.get("name", "") for link in root.findall("link")]
    for name, camera in (cameras or {}).items():
        if camera.parent not in links or camera.parent == WORLD:  # Gazebo drops what hangs on the world itself
            expected = f"a link of the robot's in {contract.urdf}"
            raise VlaRosError(f"camera '{name}': parent: found '{camera.parent}', expected {expected}")
    _fix_to_world(root, links)
    for name, camera in (cameras or {}).items():
        _add_camera(root, name, camera, contract)
    _add_control(root, contract, PLUGINS[backend])
    if backend == "gazebo":
        plugin = ET.SubElement(
            ET.SubElement(root, "gazebo"), "plugin",
            filename="gz_ros2_control-system", name="gz_ros2_control::GazeboSimROS2ControlPlugin",
        )  # fmt: skip
        ET.SubElement(plugin, "parameters").text = str(controllers)
        ET.SubElement(plugin, "robot_param_node").text = "description_node"  # Humble's plugin asks it; later ones hear the topic
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _fix_to_world(root: ET.Element, links: list[str]) -> None:
    if WORLD in links:
        return
    children = {child.get("link") for joint in root.findall("joint") for child in joint.findall("child")}
    base = next(link for link in links if link not in children)
    ET.SubElement(root, "link", name=WORLD)
    _fixed(root, f"{WORLD}_joint", WORLD, base, "0 0 0", "0 0 0")


def _fixed(root: ET.Element, name: str, parent: str, child: str, xyz: str, rpy: str) -> None:
    joint = ET.SubElement(root, "joint", name=name, type="fixed")
    ET.SubElement(joint, "parent", link=parent)
    ET.SubElement(joint, "child", link=child)
    ET.SubElement(joint, "origin", xyz=xyz, rpy=rpy)


def _add_camera(root: ET.Element, name: str, camera: SimulatedCamera, contract: RobotContract) -> None:
    """A link that looks along x with the sensor, and the optical frame that the pictures are stamped with."""
    mount, frame = f"{name}_camera", contract.cameras[name].frame
    for link in (mount, frame):
        ET.SubElement(root, "link", name=link)
    _fixed(root, f"{mount}_joint", camera.parent, mount, _row(camera.position), _row(camera.rpy()))
    _fixed(root, f"{frame}_joint", mount, frame, "0 0 0", OPTICAL)
    sensor = ET.SubElement(ET.SubElement(root, "gazebo", reference=mount), "sensor", name=name, type="camera")
    entries = {
        "always_on": "true", "update_rate": f"{camera.rate:g}", "topic": contract.cameras[name].topic.removeprefix("/"),
        "gz_frame_id": frame,
    }  # fmt: skip
    for key, text in entries.items():
        ET.SubElement(sensor, key).text = text
    body = ET.SubElement(sensor, "camera")
    ET.SubElement(body, "horizontal_fov").text = f"{camera.fov:g}"
    ET.SubElement(body, "camera_info_topic").text = contract.cameras[name].info.removeprefix("/")
    image, clip = ET.SubElement(body, "image"), ET.SubElement(body, "clip")
    height, width = camera.size
    for parent, key, text in (
        (image, "width", str(width)), (image, "height", str(height)), (image, "format", "R8G8B8"),
        (clip, "near", f"{NEAR:g}"), (clip, "far", f"{FAR:g}"),
    ):  # fmt: skip
        ET.SubElement(parent, key).text = text


def _add_control(root: ET.Element, contract: RobotContract, plugin: str) -> None:
    """Position commands in, positions and velocities out, from home."""
    control = ET.SubElement(root, "ros2_control", name=contract.robot, type="system")
    ET.SubElement(ET.SubElement(control, "hardware"), "plugin").text = plugin
    for name, home in zip(contract.joints, Kinematics(contract).home(), strict=True):
        joint = ET.SubElement(control, "joint", name=name)
        ET.SubElement(joint, "command_interface", name="position")
        position = ET.SubElement(joint, "state_interface", name="position")
        ET.SubElement(position, "param", name="initial_value").text = f"{home:.6f}"
        ET.SubElement(joint, "state_interface", name="velocity")


def _row(values: Array | tuple[float, ...]) -> str:
    return " ".join(f"{value:.9g}" for value in values)
