"""The other process of test_embedded_graph.py: one node that does what its first argument says."""

# ruff: noqa: E402  (rclpy can be imported only after activate())

from __future__ import annotations

import sys
import time

from vla_ros import embedded

embedded.activate()

import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool
from vla_ros.action import RunTask


class Peer(Node):
    """Echoes joint positions as commands, serves SetBool, has a parameter, counts on a timer."""

    def __init__(self) -> None:
        super().__init__("peer", namespace="/cell")
        self.declare_parameter("gain", 2.0)
        self._commands = self.create_publisher(Float64MultiArray, "/command", 1)
        self.create_subscription(JointState, "/joints", self._echo, 1)
        self.create_service(SetBool, "~/enable", self._enable)

    def _echo(self, message: JointState) -> None:
        gain = self.get_parameter("gain").value
        self._commands.publish(Float64MultiArray(data=gain * message.position))

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = request.data, f"enable {request.data}"
        return response


class Heart(Node):
    """Publishes ten times, 20 ms apart, with a deadline of 0.4 s, then falls silent.

    It keeps all ten: its subscriber may still be matching, or be off the processor, while they are sent.
    """

    def __init__(self) -> None:
        super().__init__("heart")
        self._left = 10
        lively = QoSProfile(
            depth=10, deadline=Duration(seconds=0.4), liveliness_lease_duration=Duration(seconds=0.3),
            liveliness=LivelinessPolicy.AUTOMATIC, durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )  # fmt: skip
        self._beat = self.create_publisher(String, "/beat", lively)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._weak = self.create_publisher(String, "/weak", best_effort)
        self.create_timer(0.02, self._tick)

    def _tick(self) -> None:
        if self._beat.get_subscription_count() and self._left:
            self._left -= 1
            self._beat.publish(String(data="beat"))


class Runner(Node):
    """Serves the RunTask action: 5 steps of 20 ms, or 500 if the instruction says `long`."""

    def __init__(self) -> None:
        super().__init__("runner")
        ActionServer(
            self, RunTask, "run_task", self._execute, callback_group=ReentrantCallbackGroup(),
            goal_callback=lambda goal: GoalResponse.REJECT if goal.instruction == "no" else GoalResponse.ACCEPT,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )  # fmt: skip

    def _execute(self, goal):
        steps = 500 if goal.request.instruction == "long" else 5
        for step in range(steps):
            if goal.is_cancel_requested:
                goal.canceled()
                return RunTask.Result(outcome="aborted", steps=step)
            goal.publish_feedback(RunTask.Feedback(steps=step + 1))
            time.sleep(0.02)
        goal.succeed()
        return RunTask.Result(outcome="success", steps=steps)


def main() -> int:
    rclpy.init()
    node = {"peer": Peer, "heart": Heart, "runner": Runner, "managed": lambda: LifecycleNode("managed")}[sys.argv[1]]()
    executor = MultiThreadedExecutor(4) if sys.argv[1] == "runner" else None
    timer = node.create_timer(0.0, lambda: (timer.cancel(), print("ready", flush=True)))
    try:
        rclpy.spin(node, executor)
    except (KeyboardInterrupt, ExternalShutdownException) as end:
        print(type(end).__name__, flush=True)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
