"""The robot's description with what the backend adds (ros2_control, cameras), as topic and as parameter, for the spawner."""

from __future__ import annotations

from rclpy.node import Node
from std_msgs.msg import String

from vla_ros import paths
from vla_ros.nodes import qos
from vla_ros.nodes.main import run
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.description import describe, load_cameras


class DescriptionNode(Node):
    def __init__(self) -> None:
        super().__init__("description_node")
        contract = RobotContract.load(self.declare_parameter("robot", "panda").value)
        backend = str(self.declare_parameter("backend", "gazebo").value)
        # Where the cameras are (config/gazebo) and the controller manager's parameters (config/controllers); empty: the robot's.
        cameras = str(self.declare_parameter("cameras", "").value)
        controllers = str(self.declare_parameter("controllers", "").value) or f"config/controllers/{contract.robot}.yaml"
        seen = load_cameras(contract, cameras) if backend == "gazebo" else None
        text = describe(contract, backend, seen, paths.resolve(controllers).absolute())
        self.declare_parameter("robot_description", text)
        self.create_publisher(String, "robot_description", qos.STATUS).publish(String(data=text))
        self.get_logger().info(f"description of {contract.robot} for {backend}, with cameras {', '.join(seen or {}) or 'none'}")


def main(args: list[str] | None = None) -> int:
    return run(DescriptionNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
