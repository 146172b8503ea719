"""Sources that tests kill, each a process of its own: `python fake_sources.py policy AMPLITUDE SECONDS`, or `... arm`.

policy swings the first joint, AMPLITUDE rad around the home posture, SECONDS per swing; 0 rad stands still. A chunk of ROWS
rows every 0.1 s; liveliness is leased, so that the death of the process is noticed.
arm sends joint states on the wall clock, of an arm that is always where it was last commanded to be.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from vla_ros import embedded

embedded.activate()

import rclpy  # noqa: E402  (the embedded runtime must be active first)
from rclpy.duration import Duration  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import LivelinessPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import JointState as JointStateMsg  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from vla_ros.msg import ActionChunk as ActionChunkMsg  # noqa: E402

from vla_ros.nodes import convert, qos  # noqa: E402
from vla_ros.robots.contract import RobotContract  # noqa: E402
from vla_ros.robots.kinematics import Kinematics  # noqa: E402
from vla_ros.types import ActionChunk, JointState  # noqa: E402

PERIOD, ROWS = 0.05, 8
LEASE = 0.5  # s


class ChunkSource(Node):
    def __init__(self, amplitude: float, seconds: float) -> None:
        super().__init__("chunk_source")
        self.amplitude, self.seconds = amplitude, seconds
        self.contract = RobotContract.load("panda")
        self.home = Kinematics(self.contract).home()
        self.joints: JointStateMsg | None = None
        self.start: float | None = None
        self.hold: np.ndarray | None = None
        offered = QoSProfile(depth=1, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=Duration(seconds=LEASE))
        self.chunks = self.create_publisher(ActionChunkMsg, "/policy/chunk", offered)
        self.create_subscription(JointStateMsg, self.contract.control.state_topic, self._on_joints, qos.LATEST)

    def _on_joints(self, message: JointStateMsg) -> None:
        now = convert.seconds(message.header.stamp)
        if self.start is None:
            self.start = now
            self.hold = np.array(message.position)
        if self.joints is not None and now < convert.seconds(self.joints.header.stamp) + 0.1 - 1e-6:
            return
        self.joints = message
        due = now + PERIOD * np.arange(1, ROWS + 1)
        rows = np.tile(self.home if self.amplitude else self.hold, (ROWS, 1))
        rows[:, 0] += self.amplitude * np.sin(2 * math.pi / self.seconds * (due - self.start))
        chunk = ActionChunk(due[0], PERIOD, self.contract.joints, rows, observation_stamp=now, policy_version=1)
        self.chunks.publish(convert.chunk_message(chunk))


class ArmSource(Node):
    def __init__(self) -> None:
        super().__init__("arm_source")
        self.contract = RobotContract.load("panda")
        self.position = Kinematics(self.contract).home()
        self.velocity = np.zeros(len(self.contract.joints))
        self.joints = self.create_publisher(JointStateMsg, self.contract.control.state_topic, 5)
        self.create_subscription(Float64MultiArray, self.contract.control.command_topic, self._on_command, qos.COMMAND)
        self.create_timer(1 / self.contract.control.rate, self._send)

    def _on_command(self, message: Float64MultiArray) -> None:
        position = np.array(message.data)
        self.velocity = (position - self.position) * self.contract.control.rate
        self.position = position

    def _send(self) -> None:
        now = self.get_clock().now().nanoseconds * 1e-9
        state = JointState(now, self.contract.joints, self.position, self.velocity)
        self.joints.publish(convert.joint_state_message(state))


if __name__ == "__main__":
    rclpy.init()
    kind, *numbers = sys.argv[1:]
    rclpy.spin(ChunkSource(*map(float, numbers)) if kind == "policy" else ArmSource())
