"""safety_node as a process: every joint state is answered, and each way to fail ends in a stop with its name."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from node_process import NodeProcess, spin_until
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import LivelinessPolicy, QoSProfile
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger
from vla_ros.msg import ActionChunk as ActionChunkMsg
from vla_ros.msg import SafetyState

from vla_ros import paths
from vla_ros.nodes import convert, qos
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.limits import Limits
from vla_ros.types import ActionChunk, JointState

CONTRACT = RobotContract.load("panda")
LIMITS = Limits.load(CONTRACT)
HOME = Kinematics(CONTRACT).home()
STEP = 0.01 * np.array([1, 0, 0, 0, 0, 0, 0])  # rad per chunk


class Driver(Node):
    """The arm's driver and the policy: joint states at 200 Hz that follow the commands, and a chunk every 0.1 s."""

    def __init__(self) -> None:
        super().__init__("driver")
        self.position = HOME.copy()
        self.driving = self.policy = True
        self.joint_names: list[str] = list(CONTRACT.joints)
        self.corrupt = False  # NaN in the joint states
        self.rows = STEP
        self.commands: list[np.ndarray] = []
        self.state = SafetyState()
        self.lost = 0
        self.status: dict[str, str] = {}
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)
        asked = QoSProfile(depth=1, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=Duration(seconds=1.0))
        self.create_subscription(
            Float64MultiArray, CONTRACT.control.command_topic, self._on_command, asked,
            event_callbacks=SubscriptionEventCallbacks(liveliness=self._on_liveliness),
        )  # fmt: skip
        self.create_subscription(SafetyState, "/safety/state", self._on_state, qos.STATUS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.joints = self.create_publisher(JointStateMsg, CONTRACT.control.state_topic, 5)
        self.chunks = self.create_publisher(ActionChunkMsg, "/policy/chunk", qos.COMMAND)
        self.estop = self.create_publisher(Bool, "/estop", 10)
        self.create_timer(1 / CONTRACT.control.rate, self._drive)
        self.create_timer(0.1, self._decide)

    def now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def _drive(self) -> None:
        if self.driving:
            message = convert.joint_state_message(
                JointState(self.now(), CONTRACT.joints, self.position * (np.nan if self.corrupt else 1), np.zeros(7))
            )
            message.name = self.joint_names
            self.joints.publish(message)

    def _decide(self) -> None:
        if self.policy:
            now = self.now()
            rows = (self.position + self.rows)[None]
            chunk = ActionChunk(now + 0.12, 0.1, CONTRACT.joints, rows, observation_stamp=now, policy_version=2)
            self.chunks.publish(convert.chunk_message(chunk))

    def _on_command(self, message: Float64MultiArray) -> None:
        self.position = np.array(message.data)
        self.commands.append(self.position)

    def _on_state(self, message: SafetyState) -> None:
        self.state = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "vla_ros: safety":
                self.status = {value.key: value.value for value in status.values}
                self.status.update(message=status.message, level=str(status.level[0]))

    def _on_liveliness(self, event: Any) -> None:
        self.lost += event.not_alive_count_change > 0 or event.alive_count_change < 0

    def until(self, state: int, reason: str = "", seconds: float = 5.0) -> None:
        spin_until(
            self.executor_,
            lambda: self.state.state == state and self.state.reason.startswith(reason) and len(self.state.command) > 0,
            f"state {state} {reason}; it is {self.state.state} {self.state.reason}", seconds,
        )  # fmt: skip

    def spin(self, seconds: float) -> None:
        end = self.now() + seconds
        spin_until(self.executor_, lambda: self.now() >= end, "time", seconds + 1)

    def call(self, name: str) -> Any:
        client = self.create_client(Trigger, name)
        spin_until(self.executor_, client.service_is_ready, name, 5.0)
        future = client.call_async(Trigger.Request())
        spin_until(self.executor_, future.done, f"answer of {name}", 5.0)
        self.destroy_client(client)
        return future.result()

    def reset(self) -> None:
        """As an operator would: again until the cause is gone."""
        deadline = time.monotonic() + 6.0
        while not (answer := self.call("/safety/reset")).success:
            assert time.monotonic() < deadline, f"reset: {answer.message}; {self.state.state} {self.state.reason}, {self.status}"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Driver, NodeProcess]]:
    """Watchdogs that a busy test machine does not trip."""
    text = (paths.share() / "config" / "safety" / "panda.yaml").read_text()
    for key in ("state_age", "state_silence"):
        text = re.sub(rf"^{key}: [0-9.]+", f"{key}: 0.4", text, flags=re.MULTILINE)
    file = tmp_path_factory.mktemp("safety") / "patient.yaml"
    file.write_text(text)
    rclpy.init()
    driver = Driver()
    with NodeProcess("safety_node", robot="panda", safety=str(file)) as process:
        spin_until(driver.executor_, lambda: bool(driver.commands), "first command", 15.0)
        yield driver, process
    driver.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def driver(graph: tuple[Driver, NodeProcess]) -> Driver:
    """A driver whose arm runs."""
    driver, _ = graph
    driver.driving = driver.policy = True
    driver.corrupt, driver.rows, driver.joint_names = False, STEP, list(CONTRACT.joints)
    if driver.position[0] > 0.5:
        driver.rows = -STEP
    driver.spin(0.3)
    if driver.state.state == SafetyState.LATCHED:
        driver.reset()
    driver.until(SafetyState.RUN)
    return driver


def test_every_joint_state_is_answered_inside_the_limits(driver: Driver) -> None:
    before = driver.state.ticks
    driver.commands.clear()
    driver.spin(1.5)
    assert driver.state.ticks - before == pytest.approx(300, abs=45), "a busy machine may lose a few"
    q = np.array(driver.commands)
    assert abs(q[-1, 0] - q[0, 0]) > 0.05
    dt = 1 / CONTRACT.control.rate
    # Depth 1 may drop a command on the way, so differences span at most a few periods: the sums still hold the limit.
    assert (np.abs(np.diff(q, axis=0)) <= 4 * np.array(LIMITS.velocity) * dt).all()
    assert driver.state.policy_version == 2
    assert list(driver.state.joint_names) == list(CONTRACT.joints)
    driver.spin(1.0)
    assert driver.status["mode"] == "RUN"
    assert float(driver.status["commands_hz"]) > 150
    assert 0 < float(driver.status["tick_p50_ms"]) < 5


def test_a_malformed_chunk_is_rejected_by_name(driver: Driver) -> None:
    rejected = driver.state.rejected_chunks
    driver.policy = False
    message = convert.chunk_message(ActionChunk(driver.now() + 0.1, 0.1, CONTRACT.joints, HOME[None]))
    message.data = message.data[:5]
    driver.chunks.publish(message)
    spin_until(driver.executor_, lambda: driver.state.reason == "shape", "reason shape", 2.0)
    assert driver.state.rejected_chunks == rejected + 1


def test_silence_of_the_policy_holds_and_it_resumes(driver: Driver) -> None:
    driver.policy = False
    driver.until(SafetyState.HELD, "policy_silence")
    before = driver.position.copy()
    driver.spin(0.2)
    assert np.array_equal(driver.position, before)
    driver.policy = True
    driver.until(SafetyState.RUN)


def test_silence_of_joint_states_brakes_open_loop_then_latches(driver: Driver) -> None:
    driver.driving = False
    driver.commands.clear()
    driver.until(SafetyState.LATCHED, "state_silence")
    driver.spin(0.5)
    assert len(driver.commands) > 50, "commands go on without joint states"
    assert np.array_equal(driver.commands[-1], driver.commands[-20])
    answer = driver.call("/safety/reset")
    assert not answer.success
    assert "cause persists: state_silence" in answer.message
    driver.driving = True
    driver.reset()


@pytest.mark.parametrize("fault", ["nan", "name"])
def test_bad_joint_states_stop_by_name(driver: Driver, fault: str) -> None:
    if fault == "nan":
        driver.corrupt = True
    else:
        driver.joint_names[0] = "wrong"
    driver.until(SafetyState.LATCHED, {"nan": "state_non_finite:", "name": "state_missing:panda_joint1"}[fault])


def test_estop_topic_and_service(driver: Driver) -> None:
    driver.estop.publish(Bool(data=True))
    driver.until(SafetyState.LATCHED, "estop_topic")
    driver.spin(0.3)
    assert "cause persists: estop_topic" in driver.call("/safety/reset").message
    driver.estop.publish(Bool(data=False))
    driver.reset()
    driver.until(SafetyState.RUN)
    assert driver.call("/safety/estop").success
    driver.until(SafetyState.LATCHED, "estop_service")


def test_a_stop_that_no_driver_acknowledges_is_an_error(driver: Driver) -> None:
    """This driver offers no services; the arm is stopped by the commands alone, and a reset has nothing to take back."""
    assert driver.call("/safety/estop").success
    missing = "stop not acknowledged by /controller_manager/switch_controller: no server within 0.5 s"
    spin_until(driver.executor_, lambda: missing in driver.status.get("message", ""), missing, 6.0)
    assert driver.status["level"] == "2"
    driver.reset()
    driver.until(SafetyState.RUN)


def test_a_second_publisher_of_commands_latches(driver: Driver) -> None:
    intruder = rclpy.create_node("intruder")
    intruder.create_publisher(Float64MultiArray, CONTRACT.control.command_topic, 1)
    driver.until(SafetyState.LATCHED, "second_command_publisher")
    named = "2 publishers (/intruder, /safety_node)"
    spin_until(driver.executor_, lambda: named in driver.status.get("message", ""), "fault", 4.0)
    assert driver.status["level"] == "2"
    assert "cause persists" in driver.call("/safety/reset").message
    intruder.destroy_node()
    driver.reset()


def test_wrong_configuration_ends_with_a_clear_line() -> None:
    robot, safety = NodeProcess("safety_node", robot="pandaa"), NodeProcess("safety_node", safety="nothing")
    status, output = robot.wait()
    assert status == 2
    assert "unknown robot 'pandaa'" in output
    status, output = safety.wait()
    assert status == 2
    assert "no safety file 'nothing.yaml'" in output


def test_death_of_the_filter_reaches_the_controller(graph: tuple[Driver, NodeProcess], driver: Driver) -> None:
    """Last: it kills the node."""
    assert driver.lost == 0
    graph[1].end(signal.SIGKILL)
    spin_until(driver.executor_, lambda: driver.lost > 0, "liveliness lost", 5.0)
