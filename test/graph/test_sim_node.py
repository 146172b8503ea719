"""sim_node as a process on the graph: topics, commands, reset, lock step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Duration
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from vla_ros.msg import TrueOutcome
from vla_ros.srv import ResetCell

from vla_ros.nodes import convert, qos
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.sim.env import TabletopEnv

CONTRACT = RobotContract.load("panda")
START = (
    "import sys; from vla_ros import embedded; embedded.activate();"
    "from vla_ros.nodes.sim_node import main; sys.exit(main(sys.argv))"
)


def start(*parameters: str) -> subprocess.Popen[str]:
    arguments = [a for p in parameters for a in ("-p", p)]
    return subprocess.Popen(
        [sys.executable, "-c", START, "--ros-args", *arguments], env=os.environ, stderr=subprocess.PIPE, text=True
    )


class Graph:
    """The rest of the graph: hears everything, and plays safety filter and trainer when told to."""

    def __init__(self) -> None:
        self.node = Node("test_graph")
        self.heard: dict[str, list[Any]] = {}
        self.hold: list[float] | None = None  # answer joint states with this command
        self.acknowledge = False
        for topic, kind in (
            ("/joint_states", JointState), ("/camera/front/image_raw", Image), ("/camera/wrist/image_raw", Image),
            ("/camera/front/camera_info", CameraInfo), ("/clock", Clock), ("/sim/truth", TrueOutcome),
        ):  # fmt: skip
            self.heard[topic] = []
            self.node.create_subscription(kind, topic, self._listener(topic), qos.RECORD)
        self.command = self.node.create_publisher(Float64MultiArray, CONTRACT.control.command_topic, qos.COMMAND)
        self.trajectory = self.node.create_publisher(
            JointTrajectory, "/joint_trajectory_controller/joint_trajectory", qos.COMMAND
        )
        self.ack = self.node.create_publisher(Header, "/trainer/ack", qos.RECORD)
        self.reset = self.node.create_client(ResetCell, "/cell/reset")
        self.parameters = self.node.create_client(SetParameters, "/sim_node/set_parameters")

    def _listener(self, topic: str) -> Callable[[Any], None]:
        def listen(message: Any) -> None:
            self.heard[topic].append(message)
            if topic == "/joint_states" and self.hold is not None:
                self.command.publish(Float64MultiArray(data=self.hold))
            if topic == "/camera/front/image_raw" and self.acknowledge:
                self.ack.publish(Header(stamp=message.header.stamp))

        return listen

    def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> bool:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            rclpy.spin_once(self.node, timeout_sec=0.05)
        return condition()

    def spin(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def call(self, client: Any, request: Any) -> Any:
        assert self.until(client.service_is_ready)
        future = client.call_async(request)
        assert self.until(future.done)
        return future.result()

    def set_factor(self, value: float) -> Any:
        parameter = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        request = SetParameters.Request(parameters=[Parameter(name="real_time_factor", value=parameter)])
        return self.call(self.parameters, request).results[0]

    def position(self) -> np.ndarray:
        count = len(self.heard["/joint_states"])
        assert self.until(lambda: len(self.heard["/joint_states"]) > count)
        return np.asarray(self.heard["/joint_states"][-1].position)

    def now(self) -> float:
        return convert.seconds(self.heard["/joint_states"][-1].header.stamp)


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    sim = start("use_sim_time:=true", "lockstep_topics:=['/trainer/ack std_msgs/msg/Header']", "lockstep_timeout:=0.5")
    yield sim
    sim.terminate()
    sim.communicate(timeout=10)


@pytest.fixture(scope="module")
def graph(process: subprocess.Popen[str]) -> Iterator[Graph]:
    rclpy.init()
    graph = Graph()
    assert graph.until(lambda: bool(graph.heard["/joint_states"]), 20.0), process.poll()
    yield graph
    graph.node.destroy_node()
    rclpy.shutdown()


def test_rates_stamps_and_contents(graph: Graph) -> None:
    graph.spin(0.5)
    for messages in graph.heard.values():
        messages.clear()
    begin = time.monotonic()
    assert graph.until(lambda: len(graph.heard["/joint_states"]) >= 201)
    assert time.monotonic() - begin == pytest.approx(1.0, abs=0.25)
    stamps = np.array([convert.seconds(m.header.stamp) for m in graph.heard["/joint_states"]])
    np.testing.assert_allclose(np.diff(stamps), 0.005, atol=1e-6)
    assert len(graph.heard["/clock"]) >= 199
    state = graph.heard["/joint_states"][-1]
    assert tuple(state.name) == CONTRACT.joints
    assert len(state.position) == len(state.velocity) == 7
    for camera in ("front", "wrist"):
        frames = graph.heard[f"/camera/{camera}/image_raw"]
        assert 9 <= len(frames) <= 12
        frame = frames[-1]
        assert (frame.height, frame.width, frame.encoding, frame.step) == (128, 128, "rgb8", 384)
        assert frame.header.frame_id == f"{camera}_optical"
        assert convert.seconds(frame.header.stamp) in stamps
        assert convert.image(frame).std() > 10
    info = graph.heard["/camera/front/camera_info"][-1]
    assert (info.height, info.width) == (128, 128)
    assert info.k[2] == 64
    assert 200 < info.k[0] == info.k[4] < 300


def test_training_sees_what_the_graph_sees(graph: Graph) -> None:
    """The in-process environment's picture of a scene is the live one after camera_node's resize."""
    env = TabletopEnv(CONTRACT)
    expected = env.image(env.reset(seed=0)).astype(int)
    live = resize(convert.image(graph.heard["/camera/front/image_raw"][-1]), CONTRACT.observation.size)
    assert abs(live - expected).mean() < 0.5
    assert abs(live - env.image(env.reset(seed=1))).mean() > 2


def test_reset_lays_out_and_tells_the_truth(graph: Graph) -> None:
    before = graph.position()
    first = graph.call(graph.reset, ResetCell.Request(seed=11, split="train", task="push"))
    again = graph.call(graph.reset, ResetCell.Request(seed=11, split="train", task="push"))
    assert first.success, first.message
    assert first.instruction == again.instruction
    assert " to the " in first.instruction
    assert graph.until(lambda: graph.heard["/sim/truth"][-1].instruction == first.instruction)
    assert not graph.heard["/sim/truth"][-1].success
    assert 0.07 < graph.heard["/sim/truth"][-1].distance < 0.23
    np.testing.assert_allclose(graph.position(), before, atol=1e-3)
    wrong = graph.call(graph.reset, ResetCell.Request(seed=1, split="train", task="juggle"))
    assert not wrong.success
    assert "juggle" in wrong.message


def test_what_fell_off_the_table_a_person_puts_back(graph: Graph) -> None:
    """Then the next scene can be laid out by script again."""
    scene = ResetCell.Request(seed=11, split="train", task="push")
    told = graph.call(graph.reset, scene)
    goal = graph.heard["/sim/truth"][-1].distance
    assert told.success
    drop, put_back = (graph.node.create_client(Trigger, f"/sim/{name}") for name in ("drop", "put_back"))
    dropped = graph.call(drop, Trigger.Request())
    assert dropped.success
    assert dropped.message in told.instruction
    assert graph.until(lambda: graph.heard["/sim/truth"][-1].distance > 0.6)
    answer = graph.call(graph.reset, scene)
    assert (answer.success, answer.operator) == (False, True)
    assert answer.message == f"{dropped.message} fell off the table: put it back"
    assert graph.call(put_back, Trigger.Request()).success
    assert graph.until(lambda: graph.heard["/sim/truth"][-1].distance == pytest.approx(goal, abs=1e-3))
    assert graph.call(graph.reset, scene).success


def test_commands_move_the_arm_and_bad_ones_do_not(graph: Graph) -> None:
    home = graph.position()
    graph.command.publish(Float64MultiArray(data=(home + 0.02).tolist()))
    graph.spin(0.5)
    np.testing.assert_allclose(graph.position(), home + 0.02, atol=2e-3)
    for bad in ([0.0] * 6, [float("nan")] * 7, []):
        graph.command.publish(Float64MultiArray(data=bad))
        graph.spin(0.1)
    np.testing.assert_allclose(graph.position(), home + 0.02, atol=2e-3)
    point = JointTrajectoryPoint(positions=home[::-1].tolist(), time_from_start=Duration(nanosec=400_000_000))
    graph.trajectory.publish(JointTrajectory(joint_names=list(CONTRACT.joints[::-1]), points=[point]))
    graph.spin(0.25)
    middle = graph.position()
    assert (middle < home + 0.018).all()
    assert (middle > home + 0.002).all()
    graph.spin(0.5)
    np.testing.assert_allclose(graph.position(), home, atol=2e-3)


def test_lock_step_waits_for_its_answers(graph: Graph) -> None:
    graph.hold, graph.acknowledge = graph.position().tolist(), True
    assert graph.set_factor(0.0).successful
    begin, wall = graph.now(), time.monotonic()
    graph.spin(2.0)
    assert (graph.now() - begin) / (time.monotonic() - wall) > 1.5
    stamps = [convert.seconds(m.header.stamp) for m in graph.heard["/joint_states"]]
    np.testing.assert_allclose(np.diff(stamps[-300:]), 0.005, atol=1e-6)
    graph.acknowledge = False
    graph.spin(0.1)
    seen = graph.now()
    graph.spin(0.3)
    assert graph.now() - seen <= 0.1 + 1e-6
    graph.acknowledge = True
    graph.ack.publish(Header(stamp=graph.heard["/camera/front/image_raw"][-1].header.stamp))
    graph.spin(0.5)
    assert graph.now() - seen > 0.2


def test_lock_step_goes_on_without_the_filter(graph: Graph) -> None:
    graph.hold = None
    seen = graph.now()
    graph.spin(1.2)
    assert 0.005 < graph.now() - seen < 0.1
    assert graph.set_factor(1.0).successful
    assert graph.set_factor(-1.0).reason.startswith("parameter real_time_factor: found -1.0")


def test_timeouts_are_named(process: subprocess.Popen[str], graph: Graph) -> None:
    process.terminate()
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert f"lock step: no command on {CONTRACT.control.command_topic} within 0.5 s" in errors
    assert "command: found 6 values, expected 7 joint positions; refused" in errors


@pytest.mark.parametrize(
    ("parameter", "part"),
    [
        ("robot:=pand", "unknown robot 'pand'; known robots:"),
        ("real_time_factor:=-2.0", "real_time_factor: found -2.0"),
        ("camera_size:=[64]", "camera_size: found [64], expected height 16..960"),
        ("camera_rate:=30.0", "camera_rate: found 30.0, expected a divisor of 200 Hz"),
        ("lockstep_topics:=['/a b/msg/C']", "found '/a b/msg/C'"),
    ],
)
def test_wrong_parameters_end_it_with_one_line(parameter: str, part: str) -> None:
    sim = start(parameter)
    _, errors = sim.communicate(timeout=20)
    assert sim.returncode == 2
    assert part in errors
    assert "Traceback" not in errors
