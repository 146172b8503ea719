"""Programs of other packages for launch tests: `fake_drivers.py ROLE ARGUMENTS`. An install of them is made by `install(folder)`.

What they put on the graph is what the real ones do there, as far as this package meets it: names, types, parameters, services.
No arm moves. `ros2 launch FILE` stands for franka_ros2 (franka.launch.py), Gazebo with gz_ros2_control (gz_sim.launch.py, which
waits for robot_description as the plugin does), and an Interbotix driver (xsarm_control.launch.py).
"""

from __future__ import annotations

import contextlib
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

PACKAGES = {
    "franka_bringup": (), "interbotix_xsarm_control": (), "ros_gz_sim": ("create",), "ros_gz_bridge": ("parameter_bridge",),
    "controller_manager": ("spawner",), "realsense2_camera": ("realsense2_camera_node",), "usb_cam": ("usb_cam_node_exe",),
}  # fmt: skip
RATE = 200.0  # Hz, joint states
GROUP = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]


def install(folder: Path, *left_out: str) -> dict[str, str]:
    """Environment variables of a ROS 2 in `folder` with these packages, but those left out."""
    index = folder / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package, programs in PACKAGES.items():
        if package not in left_out:
            (index / package).touch()
            for program in programs:
                _program(folder / "lib" / package / program, program)
    _program(folder / "bin" / "ros2", "ros2")
    return {"AMENT_PREFIX_PATH": str(folder), "PATH": f"{folder / 'bin'}:/usr/bin:/bin", "ROS_DISTRO": "jazzy"}


def _program(path: Path, role: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {role} "$@"\n')
    path.chmod(0o755)


def ros2(words: Sequence[str]) -> None:
    """`ros2 launch FILE NAME:=VALUE ...`."""
    file, given = Path(words[1]).name, dict(word.split(":=", 1) for word in words[2:])
    rclpy.init(args=[])
    if file == "franka.launch.py":
        robot = given.get("robot_type", "panda")
        serve([ControllerManager(RobotContract.load(robot).joints)])
    elif file == "gz_sim.launch.py":
        assert Path(given["gz_args"].split()[-1]).is_file(), given
        serve([Gazebo()])
    elif file == "xsarm_control.launch.py":
        assert Path(given["mode_configs"]).is_file(), given
        serve([XsSdk(given["robot_name"], yaml.safe_load(Path(given["mode_configs"]).read_text()))])


def create(words: Sequence[str]) -> None:
    """Spawns and ends."""
    assert words[:2] == ["-topic", "robot_description"], words


def spawner(words: Sequence[str]) -> None:
    """The controllers that are active, with the parameters of the file."""
    names = [word for word in words[: words.index("--param-file")] if not word.startswith("--")]
    parameters = yaml.safe_load(Path(words[words.index("--param-file") + 1]).read_text())
    if "--inactive" in words:
        return
    rclpy.init(args=[])
    serve([Controller(name, parameters[name]["ros__parameters"]) for name in names if name in parameters])


def parameter_bridge(words: Sequence[str]) -> None:
    """Publishers of everything in the configuration, and ticks of /clock."""
    rclpy.init(args=list(words))
    serve([Bridge()])


def camera(words: Sequence[str]) -> None:
    """realsense2_camera's names and usb_cam's."""
    rclpy.init(args=list(words))
    serve([Camera()])


ROLES = {
    "ros2": ros2, "create": create, "spawner": spawner, "parameter_bridge": parameter_bridge,
    "realsense2_camera_node": camera, "usb_cam_node_exe": camera,
}  # fmt: skip

if __name__ == "__main__":
    from vla_ros import embedded

    embedded.activate()

    import rclpy
    from action_msgs.srv import CancelGoal
    from controller_manager_msgs.srv import SwitchController
    from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
    from interbotix_xs_msgs.srv import RobotInfo
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, Image, JointState
    from std_msgs.msg import Float64MultiArray, Header, String

    from vla_ros.nodes.interfaces import message_class
    from vla_ros.robots.contract import RobotContract
    from vla_ros.robots.kinematics import Kinematics

    class ControllerManager(Node):
        """With its joint_state_broadcaster, and a joint_trajectory_controller that is loaded."""

        def __init__(self, joints: Sequence[str], name: str = "controller_manager") -> None:
            super().__init__(name)
            self.home: dict[str, float] = dict.fromkeys(joints, 0.0)
            if joints:
                contract = RobotContract.load("fr3" if joints[0].startswith("fr3") else "panda")
                self.home = dict(zip(joints, Kinematics(contract).home().tolist(), strict=True))
            self.states = self.create_publisher(JointState, "/joint_states", 10)
            self.create_service(SwitchController, "/controller_manager/switch_controller", self._switch)
            cancel = "/joint_trajectory_controller/follow_joint_trajectory/_action/cancel_goal"
            self.create_service(CancelGoal, cancel, lambda request, response: response)
            self.create_timer(1 / RATE, self._send)

        def _switch(self, request: Any, response: Any) -> Any:
            response.ok = True
            return response

        def _send(self) -> None:
            if self.home:
                header = Header(stamp=self.get_clock().now().to_msg())
                zero = [0.0] * len(self.home)
                names, positions = list(self.home), list(self.home.values())
                self.states.publish(JointState(header=header, name=names[::-1], position=positions[::-1], velocity=zero))

    class Gazebo(ControllerManager):
        """Has joints when it has heard the robot's description."""

        def __init__(self) -> None:
            super().__init__(())
            late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self.create_subscription(String, "robot_description", self._spawn, late)

        def _spawn(self, message: String) -> None:
            joints = ET.fromstring(message.data).findall("ros2_control/joint")
            self.home = {str(j.get("name")): float(j.findtext("state_interface/param") or "nan") for j in joints}

    class Controller(Node):
        def __init__(self, name: str, parameters: dict[str, Any]) -> None:
            super().__init__(name)
            for key, value in parameters.items():
                self.declare_parameter(key, value)
            self.create_subscription(Float64MultiArray, "~/commands", lambda _: None, 10)

    class XsSdk(Node):
        """One Interbotix arm in ALOHA's start pose."""

        def __init__(self, robot: str, modes: dict[str, Any]) -> None:
            super().__init__("xs_sdk", namespace=robot)
            self.modes = modes
            self.states = self.create_publisher(JointState, "joint_states", 10)
            self.create_subscription(JointGroupCommand, "commands/joint_group", lambda _: None, 10)
            self.create_subscription(JointSingleCommand, "commands/joint_single", lambda _: None, 10)
            self.create_service(RobotInfo, "get_robot_info", self._inform)
            self.create_timer(1 / RATE, self._send)

        def _inform(self, request: Any, response: Any) -> Any:
            group = request.cmd_type == "group"
            section = self.modes["groups" if group else "singles"][request.name]
            response.mode, response.joint_names = section["operating_mode"], GROUP if group else [request.name]
            return response

        def _send(self) -> None:
            names = [*GROUP, "gripper", "left_finger", "right_finger"]
            position = [0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.1, 0.024, -0.024]
            header = Header(stamp=self.get_clock().now().to_msg())
            self.states.publish(JointState(header=header, name=names, position=position, velocity=[0.0] * 9))

    class Bridge(Node):
        def __init__(self) -> None:
            super().__init__("bridge")
            entries = yaml.safe_load(Path(self.declare_parameter("config_file", "").value).read_text())
            wanted = {entry["ros_topic_name"]: message_class(entry["ros_type_name"]) for entry in entries}
            self.out = {topic: self.create_publisher(kind, topic, 10) for topic, kind in wanted.items()}
            self.create_timer(0.01, self._tick)

        def _tick(self) -> None:
            self.out["/clock"].publish(Clock(clock=self.get_clock().now().to_msg()))

    class Camera(Node):
        def __init__(self) -> None:
            super().__init__("camera")
            names = ("~/color/image_raw", "~/color/camera_info") if self.get_name() != "usb_cam" else ("image_raw", "camera_info")
            self.create_publisher(Image, names[0], 10)
            self.create_publisher(CameraInfo, names[1], 10)

    def serve(nodes: list[Any]) -> None:
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)
        with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
            executor.spin()

    ROLES[sys.argv[1]](sys.argv[2:])
