"""The embedded runtime between two real processes over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterEvent
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSPolicyKind, QoSProfile, qos_profile_parameter_events
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool
from vla_ros.action import RunTask

PEER = Path(__file__).with_name("embedded_peer.py")
ROOT = Path(__file__).resolve().parents[2]


class Peers:
    """Processes of one test."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def start(self, role: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a peer and wait until its node is up."""
        env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, str(PEER), role, *arguments],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


@pytest.fixture
def peers():
    made = Peers()
    yield made
    for process in made.running:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=10)


@pytest.fixture
def node():
    rclpy.init(args=[])
    made = Node("tester")
    made.executor_for_test = SingleThreadedExecutor()
    made.executor_for_test.add_node(made)
    yield made
    made.executor_for_test.shutdown()
    made.destroy_node()
    rclpy.try_shutdown()


def spin_until(node: Any, condition: Callable[[], Any], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        node.executor_for_test.spin_once(timeout_sec=0.05)
    return bool(condition())


def result(node: Any, future: Any) -> Any:
    node.executor_for_test.spin_until_future_complete(future, timeout_sec=5)
    assert future.done()
    return future.result()


def test_topics_there_and_back(node, peers):
    peers.start("peer")
    got: list[Any] = []
    publisher = node.create_publisher(JointState, "/joints", 1)
    subscription = node.create_subscription(Float64MultiArray, "/command", got.append, 1)
    assert publisher.wait_for_subscriptions(1)
    assert spin_until(node, lambda: subscription.get_publisher_count() == 1)
    rounds = []
    for i in range(100):
        start = time.perf_counter()
        publisher.publish(JointState(name=["a", "b"], position=[float(i), -1.0]))
        assert spin_until(node, lambda i=i: len(got) == i + 1)
        rounds.append(time.perf_counter() - start)
        np.testing.assert_array_equal(got[-1].data, [2.0 * i, -2.0])
    assert np.median(rounds) < 5e-3  # 0.2 ms on a quiet machine


def test_an_image_of_a_megabyte_arrives_whole(node, peers):
    got: list[Any] = []
    publisher = node.create_publisher(Image, "/image", 1)
    node.create_subscription(Image, "/image", got.append, 1)
    pixels = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
    assert publisher.wait_for_subscriptions(1)
    publisher.publish(Image(height=480, width=640, encoding="rgb8", step=1920, data=pixels))
    assert spin_until(node, lambda: got)
    np.testing.assert_array_equal(got[0].data.reshape(480, 640, 3), pixels)


def test_services_across_processes(node, peers):
    peers.start("peer")
    client = node.create_client(SetBool, "/cell/peer/enable")
    assert client.wait_for_service(timeout_sec=5)
    answer = result(node, client.call_async(SetBool.Request(data=True)))
    assert (answer.success, answer.message) == (True, "enable True")
    futures = [client.call_async(SetBool.Request(data=bool(i % 2))) for i in range(8)]
    assert [result(node, future).success for future in futures] == [bool(i % 2) for i in range(8)]


def test_parameters_of_another_process(node, peers):
    peers.start("peer", "--ros-args", "-p", "gain:=3.0")
    events: list[Any] = []
    node.create_subscription(ParameterEvent, "/parameter_events", events.append, qos_profile_parameter_events)
    client = AsyncParameterClient(node, "/cell/peer")
    assert client.wait_for_services(timeout_sec=5)
    assert result(node, client.get_parameters(["gain"])).values[0].double_value == 3.0
    assert result(node, client.list_parameters()).result.names == ["use_sim_time", "gain"]
    assert result(node, client.set_parameters([Parameter("gain", value=4.0)])).results[0].successful
    refused = result(node, client.set_parameters([Parameter("gain", value="high"), Parameter("none", value=1)])).results
    assert "Wrong parameter type" in refused[0].reason
    assert "none" in refused[1].reason
    assert result(node, client.get_parameters(["gain"])).values[0].double_value == 4.0
    assert spin_until(node, lambda: any(event.node == "/cell/peer" for event in events))
    changed = [event for event in events if event.node == "/cell/peer"][-1].changed_parameters
    assert [(parameter.name, parameter.value.double_value) for parameter in changed] == [("gain", 4.0)]


def test_deadline_and_liveliness_events(node, peers):
    heart = peers.start("heart")
    missed: list[Any] = []
    alive: list[Any] = []
    beats: list[Any] = []
    qos = QoSProfile(
        depth=10, deadline=Duration(seconds=0.5), liveliness=LivelinessPolicy.AUTOMATIC,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )  # fmt: skip
    callbacks = SubscriptionEventCallbacks(deadline=missed.append, liveliness=alive.append)
    node.create_subscription(String, "/beat", beats.append, qos, event_callbacks=callbacks)
    assert spin_until(node, lambda: len(beats) == 10)
    assert not missed
    assert alive[0].alive_count == 1
    assert spin_until(node, lambda: missed)
    assert missed[0].total_count >= 1
    heart.send_signal(signal.SIGINT)
    assert spin_until(node, lambda: alive[-1].alive_count == 0)


def test_a_killed_process_loses_liveliness_within_its_lease(node, peers):
    heart = peers.start("heart")
    alive: list[Any] = []
    lease = Duration(seconds=0.5)
    qos = QoSProfile(depth=1, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=lease)
    node.create_subscription(
        String, "/beat", lambda _: None, qos, event_callbacks=SubscriptionEventCallbacks(liveliness=alive.append)
    )
    assert spin_until(node, lambda: alive and alive[-1].alive_count == 1)
    heart.kill()
    killed = time.monotonic()
    assert spin_until(node, lambda: alive[-1].alive_count == 0)
    assert alive[-1].not_alive_count == 1
    assert time.monotonic() - killed < 1.5


def test_a_late_subscription_gets_the_last_transient_local_message(node, peers):
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    state = node.create_publisher(String, "/state", qos)
    state.publish(String(data="old"))
    state.publish(String(data="last"))
    got: list[Any] = []
    node.create_subscription(String, "/state", lambda message: got.append(message.data), qos)
    assert spin_until(node, lambda: got)
    assert got == ["last"]


def test_incompatible_qos_event_and_warning(node, peers, capfd):
    peers.start("heart")
    events: list[Any] = []
    callbacks = SubscriptionEventCallbacks(incompatible_qos=events.append)
    node.create_subscription(String, "/weak", lambda _: None, 1, event_callbacks=callbacks)
    assert spin_until(node, lambda: events)
    assert events[0].last_policy_kind == QoSPolicyKind.RELIABILITY
    node.create_subscription(String, "/weak", lambda _: None, 1)
    text = []
    assert spin_until(node, lambda: text.append(capfd.readouterr().err) or "incompatible QoS" in "".join(text))
    assert "RELIABILITY" in "".join(text)


def test_actions_with_feedback_cancel_and_reject(node, peers):
    peers.start("runner")
    client = ActionClient(node, RunTask, "/run_task")
    assert client.wait_for_server(timeout_sec=5)
    steps: list[int] = []
    goal = result(
        node,
        client.send_goal_async(RunTask.Goal(instruction="reach"), lambda message: steps.append(message.feedback.steps)),
    )
    assert goal.accepted
    done = result(node, goal.get_result_async())
    assert (done.status, done.result.outcome, steps) == (GoalStatus.STATUS_SUCCEEDED, "success", [1, 2, 3, 4, 5])

    goal = result(node, client.send_goal_async(RunTask.Goal(instruction="long")))
    outcome = goal.get_result_async()
    assert len(result(node, goal.cancel_goal_async()).goals_canceling) == 1
    assert result(node, outcome).status == GoalStatus.STATUS_CANCELED
    assert spin_until(node, lambda: goal.status == GoalStatus.STATUS_CANCELED)
    assert not result(node, client.send_goal_async(RunTask.Goal(instruction="no"))).accepted


def test_the_graph_knows_nodes_topics_and_services(node, peers):
    def services() -> list[tuple[str, list[str]]]:
        return node.get_service_names_and_types_by_node("peer", "/cell")

    def subscriptions() -> list[tuple[str, list[str]]]:
        return node.get_subscriber_names_and_types_by_node("peer", "/cell")

    process = peers.start("peer")
    assert spin_until(node, lambda: ("peer", "/cell") in node.get_node_names_and_namespaces())
    # It is announced before what it offers, which comes piece by piece.
    assert spin_until(node, lambda: ("/cell/peer/enable", ["std_srvs/srv/SetBool"]) in services())
    assert spin_until(node, lambda: ("/joints", ["sensor_msgs/msg/JointState"]) in subscriptions())
    assert spin_until(node, lambda: node.count_publishers("/command") == 1)
    assert ("/command", ["std_msgs/msg/Float64MultiArray"]) in node.get_topic_names_and_types()
    assert ("/cell/peer/enable", ["std_srvs/srv/SetBool"]) in node.get_service_names_and_types()
    info = node.get_publishers_info_by_topic("/command")[0]
    assert (info.node_name, info.node_namespace) == ("peer", "/cell")
    assert info.topic_type_hash.startswith("RIHS01_")
    process.terminate()
    assert spin_until(node, lambda: "peer" not in node.get_node_names())
    assert node.count_publishers("/command") == 0


def test_lifecycle_services(node, peers):
    peers.start("managed")
    change = node.create_client(ChangeState, "/managed/change_state")
    state = node.create_client(GetState, "/managed/get_state")
    assert change.wait_for_service(timeout_sec=5)
    assert state.wait_for_service(timeout_sec=5)

    def ask(transition: int) -> bool:
        return result(node, change.call_async(ChangeState.Request(transition=Transition(id=transition)))).success

    assert not ask(Transition.TRANSITION_ACTIVATE)
    assert ask(Transition.TRANSITION_CONFIGURE)
    assert ask(Transition.TRANSITION_ACTIVATE)
    assert result(node, state.call_async(GetState.Request())).current_state.label == "active"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "ExternalShutdownException")]
)
@pytest.mark.parametrize("role", ["peer", "runner"])
def test_signals_end_spin_promptly(peers, number, name, role):
    process = peers.start(role)
    time.sleep(0.2)  # into the wait of spin
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=5)
    assert (process.returncode, out.strip(), err) == (0, name, "")
    assert time.monotonic() - start < 2


def test_a_wrong_parameter_is_reported_by_its_process(peers):
    process = peers.start("peer", "--ros-args", "-p", "gian:=3.0")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert "'gian'" in err
    assert "'gain'" in err


def test_no_participant_is_a_clear_error():
    code = "from vla_ros import embedded; embedded.activate(); import rclpy; rclpy.init(); rclpy.create_node('n')"
    interface = "<General><Interfaces><NetworkInterface name='nope'/></Interfaces></General>"
    for key, value, text in (
        ("ROS_DOMAIN_ID", "999", "ROS_DOMAIN_ID: found '999'"),
        ("CYCLONEDDS_URI", f"<CycloneDDS><Domain>{interface}</Domain></CycloneDDS>", "no DDS participant in domain"),
    ):
        env = os.environ | {"PYTHONPATH": str(ROOT), key: value}
        ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode == 1
        assert text in ended.stderr
