"""A launch file with a node in a process of its own, looked at and handled with the command line tools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import yaml

from vla_ros.embedded.launch import Launcher, OutputLine, parse

NODE = """
import time
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool
from vla_ros.action import RunTask


class Target(Node):
    def __init__(self):
        super().__init__("unnamed")
        group = ReentrantCallbackGroup()
        self.declare_parameter("rate", 1.0)
        self.declare_parameter("limits.joints", [1.0, 2.0])
        self.add_on_set_parameters_callback(self.check)
        self.joints = self.create_publisher(JointState, "joints", 10)
        self.create_subscription(String, "words", lambda m: self.get_logger().info("heard " + m.data), 10)
        self.create_service(SetBool, "switch", self.switch, callback_group=group)
        self.server = ActionServer(
            self, RunTask, "run_task", self.execute, callback_group=group,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )
        self.create_timer(1.0 / self.get_parameter("rate").value, self.tick)
        self.get_logger().info("up")

    def check(self, parameters):
        bad = any(p.name == "rate" and p.value <= 0 for p in parameters)
        return SetParametersResult(successful=not bad, reason="rate must be positive" if bad else "")

    def tick(self):
        self.joints.publish(JointState(name=["a", "b"], position=[0.5, 1.0]))

    def switch(self, request, response):
        response.success, response.message = request.data, "on" if request.data else "off"
        return response

    def execute(self, goal):
        for step in range(goal.request.seed):
            if goal.is_cancel_requested:
                goal.canceled()
                return RunTask.Result(outcome="aborted", termination_reason="cancelled")
            goal.publish_feedback(RunTask.Feedback(steps=step))
            time.sleep(0.1)
        goal.succeed()
        return RunTask.Result(outcome="success", steps=goal.request.seed)


rclpy.init()
node = Target()
executor = MultiThreadedExecutor(num_threads=4)
executor.add_node(node)
try:
    executor.spin()
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""
LAUNCH = """
launch:
- arg: {{name: rate, default: "20.0"}}
- executable:
    cmd: '"{python}" -m vla_ros.cli run "{script}" --ros-args -r __node:=target -r __ns:=/left -p rate:=$(var rate)'
    name: target
    output: screen
"""
GOAL = ["action", "send_goal", "/left/run_task", "vla_ros/action/RunTask"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("launch")
    (folder / "node.py").write_text(NODE)
    file = folder / "x.launch.yaml"
    file.write_text(LAUNCH.format(python=sys.executable, script=folder / "node.py"))
    seen: list[str] = []

    def on_line(line: OutputLine) -> None:
        seen.append(line.text)

    with Launcher(parse(file), on_line) as launcher:
        deadline = time.monotonic() + 15
        while not any(line.endswith(": up") for line in seen):
            assert launcher.pids(), "\n".join(seen)
            assert time.monotonic() < deadline, "\n".join(seen)
            time.sleep(0.05)
        yield seen
    (result,) = launcher.poll()
    assert not result.failed, "\n".join(seen)


def tool(*words: str, patience: float = 20.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vla_ros.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)


def output(*words: str) -> str:
    done = tool(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_topics(lines: list[str]) -> None:
    listed = output("topic", "list", "-t").splitlines()
    assert "/left/joints [sensor_msgs/msg/JointState]" in listed
    assert not any("_action" in line for line in listed)
    message = yaml.safe_load(output("topic", "echo", "left/joints", "--once").removesuffix("---\n"))
    assert (message["name"], message["position"]) == (["a", "b"], [0.5, 1.0])
    assert output("topic", "echo", "/left/joints", "--once", "--field", "position") == "- 0.5\n- 1.0\n---\n"
    info = output("topic", "info", "/left/joints", "-v")
    assert "Type: sensor_msgs/msg/JointState\n\nPublisher count: 1\n" in info
    assert "Node name: target\nNode namespace: /left\n" in info


def test_hz_until_ctrl_c(lines: list[str]) -> None:
    command = [sys.executable, "-m", "vla_ros.cli", "topic", "hz", "/left/joints"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = process.stdout.readline()
    while not reported.startswith("average"):
        reported = process.stdout.readline()
        assert reported, "it ended without a rate"
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == ""
    assert 10.0 < float(reported.removeprefix("average rate: ")) < 30.0


def test_pub_reaches_the_subscription(lines: list[str]) -> None:
    sent = output("topic", "pub", "--once", "/left/words", "std_msgs/msg/String", "{data: go}")
    assert "publishing #1: std_msgs.msg.String(data='go')" in sent
    deadline = time.monotonic() + 5
    while not any("heard go" in line for line in lines):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nodes() -> None:
    assert "/left/target" in output("node", "list").splitlines()
    info = output("node", "info", "/left/target")
    assert "    /left/joints: sensor_msgs/msg/JointState\n" in info.split("Publishers:")[1].split("Service Servers:")[0]
    assert "    /left/switch: std_srvs/srv/SetBool\n" in info
    assert info.endswith("  Action Servers:\n    /left/run_task: vla_ros/action/RunTask\n  Action Clients:\n")


def test_parameters() -> None:
    assert output("param", "get", "/left/target", "rate") == "Double value is: 20.0\n"
    assert output("param", "get", "/left/target", "limits.joints") == "Double values are: [1.0, 2.0]\n"
    assert output("param", "set", "/left/target", "limits.joints", "[3.0, 4.0]") == "Set parameter successful\n"
    dumped = yaml.safe_load(output("param", "dump", "/left/target"))
    assert dumped["/left/target"]["ros__parameters"]["limits"] == {"joints": [3.0, 4.0]}
    refused = tool("param", "set", "/left/target", "rate", "0.0")
    assert (refused.returncode, refused.stdout) == (1, "Setting parameter failed: rate must be positive\n")
    assert "  rate\n" in output("param", "list", "/left/target")
    assert tool("param", "get", "/left/target", "none").returncode == 2


def test_services() -> None:
    assert "/left/switch [std_srvs/srv/SetBool]" in output("service", "list", "-t").splitlines()
    answer = output("service", "call", "/left/switch", "std_srvs/srv/SetBool", "{data: true}")
    assert "success=True, message='on'" in answer
    wrong = tool("service", "call", "/left/switch", "std_srvs/srv/SetBol", "{}")
    assert wrong.returncode == 2
    assert "type 'std_srvs/srv/SetBol' is not known" in wrong.stderr


def test_actions() -> None:
    assert "/left/run_task [vla_ros/action/RunTask]" in output("action", "list", "-t").splitlines()
    done = output(*GOAL, "{seed: 3}", "--feedback")
    assert done.count("Feedback:") == 3
    assert "    outcome: success\n" in done
    assert done.endswith("Goal finished with status: SUCCEEDED\n")


def test_ctrl_c_cancels_the_goal() -> None:
    command = [sys.executable, "-m", "vla_ros.cli", *GOAL, "{seed: 200}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    while not process.stdout.readline().startswith("Goal accepted"):
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=10)
    assert rest.endswith("Canceling goal...\nGoal canceled.\n")
    assert process.returncode == 130
