"""rclpy's value classes, and one node alone: parameters, timers on sim time, logging, executors."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import rclpy
from rcl_interfaces.msg import FloatingPointRange, Log, ParameterDescriptor, SetParametersResult
from rclpy import qos
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    InvalidTopicNameException,
    ParameterAlreadyDeclaredException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
    RCLError,
)
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.time import Time
from rosgraph_msgs.msg import Clock as ClockMsg
from std_msgs.msg import String

from vla_ros.embedded.endpoint_qos import from_dds, to_dds


@pytest.fixture
def ros():
    rclpy.init(args=[])
    yield
    rclpy.try_shutdown()


def test_time_and_duration_arithmetic():
    start = Time(seconds=1, nanoseconds=5, clock_type=ClockType.ROS_TIME)
    assert (start + Duration(seconds=0.5)).nanoseconds == 1_500_000_005
    assert (start - Time(seconds=1, clock_type=ClockType.ROS_TIME)).nanoseconds == 5
    assert Time.from_msg(start.to_msg()) == start
    assert Duration(nanoseconds=-1).to_msg().sec == -1
    with pytest.raises(TypeError):
        _ = start < Time(seconds=2)
    with pytest.raises(OverflowError):
        Time(seconds=1 << 34)


def test_qos_profiles():
    assert QoSProfile(depth=3).reliability == qos.ReliabilityPolicy.RELIABLE
    assert qos.qos_profile_sensor_data.reliability == qos.ReliabilityPolicy.BEST_EFFORT
    with pytest.raises(qos.InvalidQoSProfileException):
        QoSProfile(history=qos.HistoryPolicy.KEEP_LAST)
    with pytest.raises(AttributeError, match="dept"):
        QoSProfile(dept=1)
    answer, reason = qos.qos_check_compatible(qos.qos_profile_sensor_data, QoSProfile(depth=1))
    assert answer == qos.QoSCompatibility.ERROR
    assert "Best effort publisher" in reason


def test_qos_to_dds_and_back():
    profile = QoSProfile(
        depth=1, reliability=qos.ReliabilityPolicy.BEST_EFFORT, durability=qos.DurabilityPolicy.TRANSIENT_LOCAL,
        deadline=Duration(seconds=0.1), liveliness=qos.LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=Duration(seconds=2), lifespan=Duration(seconds=3),
    )  # fmt: skip
    back = from_dds(to_dds(profile, writer=True))
    for name in ("reliability", "durability", "deadline", "liveliness", "liveliness_lease_duration", "lifespan"):
        assert getattr(back, name) == getattr(profile, name), name


def test_parameters_are_declared_checked_and_set(ros):
    with Node("n") as node:
        limits = ParameterDescriptor(floating_point_range=[FloatingPointRange(from_value=0.0, to_value=1.0, step=0.25)])
        node.declare_parameter("speed", 0.5, limits)
        node.declare_parameter("fixed", 1, ParameterDescriptor(read_only=True))
        with pytest.raises(ParameterAlreadyDeclaredException):
            node.declare_parameter("speed", 0.5)
        with pytest.raises(ParameterNotDeclaredException):
            node.get_parameter("sped")
        with pytest.raises(InvalidParameterValueException, match="out of range"):
            node.declare_parameter("other", 3.0, ParameterDescriptor(floating_point_range=limits.floating_point_range))

        def reason(name, value):
            return node.set_parameters([Parameter(name, value=value)])[0].reason

        assert "out of range" in reason("speed", 2.0)
        assert "valid step" in reason("speed", 0.3)
        assert "Wrong parameter type" in reason("speed", "fast")
        assert "read-only" in reason("fixed", 2)
        assert reason("speed", 1.0) == ""
        assert node.get_parameter("speed").value == 1.0
        node.declare_parameter("typed", Parameter.Type.STRING)
        with pytest.raises(ParameterUninitializedException):
            node.get_parameter("typed")


def test_callbacks_may_refuse_parameters(ros):
    with Node("n") as node:
        node.declare_parameter("a", 1)
        seen = []
        node.add_on_set_parameters_callback(lambda p: SetParametersResult(successful=p[0].value < 5, reason="too big"))
        node.add_post_set_parameters_callback(seen.extend)
        assert node.set_parameters([Parameter("a", value=9)])[0].reason == "too big"
        assert node.set_parameters([Parameter("a", value=2)])[0].successful
        assert [parameter.value for parameter in seen] == [2]


def test_overrides_replace_defaults_and_wrong_ones_are_reported(ros, capfd):
    arguments = ["--ros-args", "-p", "speed:=2.0", "-p", "velocty:=1.0", "-p", "gains:=[1, 2.5]"]
    with Node("n", cli_args=arguments) as node:
        assert node.declare_parameter("speed", 1.0).value == 2.0
        assert node.declare_parameter("gains", [0.0]).value == [1.0, 2.5]
        node.declare_parameter("velocity", 0.0)
        assert node._rcl_unused_overrides() == {"velocty": "velocity"}
        rclpy.spin_once(node, timeout_sec=0)
        assert "[ERROR]" in (text := capfd.readouterr().err)
        assert "'velocty'" in text
        assert "'velocity'" in text
    with Node("m", cli_args=["--ros-args", "-p", "speed:=fast"]) as node, pytest.raises(InvalidParameterTypeException):
        node.declare_parameter("speed", 1.0)


def test_command_line_renames_and_remaps(ros):
    with Node("n", cli_args=["--ros-args", "-r", "__node:=m", "-r", "__ns:=/cell", "-r", "chat:=talk"]) as node:
        assert node.get_fully_qualified_name() == "/cell/m"
        assert node.create_publisher(String, "chat", 1).topic_name == "/cell/talk"
        assert node.resolve_topic_name("~/x") == "/cell/m/x"
        with pytest.raises(InvalidTopicNameException):
            node.create_publisher(String, "a b", 1)


def test_sim_time_drives_timers_and_jumps_back(ros):
    sim = [Parameter("use_sim_time", value=True)]
    with Node("n", parameter_overrides=sim) as node, SingleThreadedExecutor() as executor:
        executor.add_node(node)
        clock = node.create_publisher(ClockMsg, "/clock", 1)
        calls = []
        node.create_timer(0.1, lambda: calls.append(node.get_clock().now().nanoseconds))
        assert node.get_clock().now().nanoseconds == 0

        def at(seconds):
            clock.publish(ClockMsg(clock=Time(seconds=seconds).to_msg()))
            deadline = time.monotonic() + 2
            while node.get_clock().now().nanoseconds != int(seconds * 1e9) and time.monotonic() < deadline:
                executor.spin_once(timeout_sec=0.1)
            executor.spin_once(timeout_sec=0)

        at(5.0)
        calls.clear()
        for step in range(1, 11):
            at(5.0 + step * 0.05)
        assert len(calls) == 5
        time.sleep(0.2)
        executor.spin_once(timeout_sec=0.05)
        assert len(calls) == 5
        at(1.0)
        at(1.11)
        assert len(calls) == 6


def test_sim_time_that_nobody_waits_for_wakes_nobody(ros):
    """It is read where it is asked for; a timer on it is woken by it again."""
    with Node("n", parameter_overrides=[Parameter("use_sim_time", value=True)]) as node, SingleThreadedExecutor() as executor:
        executor.add_node(node)
        clock = node.create_publisher(ClockMsg, "/clock", 1)
        assert clock.wait_for_subscriptions()

        def at(seconds):
            clock.publish(ClockMsg(clock=Time(seconds=seconds).to_msg()))
            time.sleep(0.05)

        while executor._waitset.wait(0):  # of the set-up
            executor.spin_once(timeout_sec=0)
        for step in range(1, 6):
            at(step)
            assert executor._waitset.wait(0) == []
        assert node.get_clock().now().nanoseconds == 5_000_000_000
        calls = []
        node.create_timer(0.1, lambda: calls.append(node.get_clock().now().nanoseconds))
        at(5.2)
        end = time.monotonic() + 2
        while not calls and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        assert calls == [5_200_000_000]
        node.set_parameters([Parameter("use_sim_time", value=False)])
        assert abs(node.get_clock().now().nanoseconds - time.time_ns()) < 10**9


def test_steady_timer_keeps_its_rate(ros):
    with Node("n") as node, SingleThreadedExecutor() as executor:
        executor.add_node(node)
        stamps = []
        node.create_timer(0.02, lambda: stamps.append(time.monotonic()), clock=Clock(clock_type=ClockType.STEADY_TIME))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        assert 20 <= len(stamps) <= 26


def test_exclusive_groups_exclude_and_reentrant_ones_do_not(ros):
    for group, most in ((MutuallyExclusiveCallbackGroup(), 1), (ReentrantCallbackGroup(), 2)):
        with Node("n") as node, MultiThreadedExecutor(4) as executor:
            executor.add_node(node)
            running, peak = [], []

            def work(running=running, peak=peak):
                running.append(1)
                peak.append(len(running))
                time.sleep(0.05)
                running.pop()

            for _ in range(2):
                node.create_timer(0.01, work, callback_group=group)
            end = time.monotonic() + 0.4
            while time.monotonic() < end:
                executor.spin_once(timeout_sec=0.05)
            assert len(peak) >= 4
            assert min(max(peak), 2) == most


def test_exceptions_leave_spin(ros):
    for make in (SingleThreadedExecutor, lambda: MultiThreadedExecutor(2)):
        with Node("n") as node, make() as executor:
            executor.add_node(node)

            def fail():
                raise ZeroDivisionError("callback")

            timer = node.create_timer(0.01, fail)
            with pytest.raises(ZeroDivisionError, match="callback"):
                for _ in range(20):
                    executor.spin_once(timeout_sec=0.1)
            timer.cancel()


def test_coroutines_and_tasks(ros):
    with Node("n") as node, SingleThreadedExecutor() as executor:
        executor.add_node(node)
        future = rclpy.Future()

        async def wait():
            return await future + 1

        task = executor.create_task(wait)
        executor.spin_once(timeout_sec=0)
        assert not task.done()
        threading.Timer(0.05, future.set_result, [41]).start()
        executor.spin_until_future_complete(task, timeout_sec=2)
        assert task.result() == 42
        guard = node.create_guard_condition(future.cancel)
        guard.trigger()
        executor.spin_once(timeout_sec=1)


def test_logging_format_levels_throttle_and_rosout(ros, capfd):
    with Node("talker", namespace="/cell") as node, SingleThreadedExecutor() as executor:
        executor.add_node(node)
        lines = []
        node.create_subscription(Log, "/rosout", lines.append, qos.qos_profile_rosout_default)
        logger = node.get_logger()
        assert not logger.debug("hidden")
        for _ in range(3):
            logger.info("often", throttle_duration_sec=10.0)
            logger.warning("once", once=True)
        logger.get_child("part").error("bad")
        err = capfd.readouterr().err.splitlines()
        assert [line.split(": ", 1)[1] for line in err] == ["often", "once", "bad"]
        assert err[0].startswith("[INFO] [")
        assert "[cell.talker.part]" in err[2]
        end = time.monotonic() + 2
        while len(lines) < 3 and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        assert [(line.level, line.name, line.msg) for line in lines] == [
            (20, "cell.talker", "often"), (30, "cell.talker", "once"), (40, "cell.talker.part", "bad"),
        ]  # fmt: skip
        assert lines[0].function == "test_logging_format_levels_throttle_and_rosout"


def test_the_context_opens_and_closes_once(ros):
    with pytest.raises(RuntimeError, match="once"):
        rclpy.init(args=[])
    node = Node("n")
    rclpy.shutdown()
    assert not rclpy.ok()
    with pytest.raises(RCLError, match="already called"):
        rclpy.shutdown()
    node.destroy_node()
    rclpy.init(args=[])
    Node("again").destroy_node()


def test_cyclones_threads_end_with_the_last_participant(ros):
    """Left to the interpreter's own end, they would still receive while everything is taken apart."""

    def threads():
        return {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}

    other = Context()
    other.init(args=[])
    nodes = [Node("one"), Node("two", context=other)]
    assert {"recv", "tev"} <= threads()
    rclpy.shutdown()
    nodes[0].destroy_node()
    assert {"recv", "tev"} <= threads()
    other.shutdown()
    nodes[1].destroy_node()
    assert not {"recv", "tev"} & threads()


def test_attributes_of_nodes_do_not_collide_with_the_runtimes(ros):
    taken = ("_name", "_parameters", "_publishers", "_state", "_set", "_check", "_clock", "_logger", "readers")

    class Mine(Node):
        def __init__(self):
            vars(self).update(dict.fromkeys(taken))
            super().__init__("mine")
            vars(self).update(dict.fromkeys(taken))

    with Mine() as node:
        node.declare_parameter("a", 1)
        assert node.set_parameters([Parameter("a", value=2)])[0].successful
        node.create_publisher(String, "chat", 1).publish(String(data="x"))
        assert node.get_name() == "mine"
        assert node.get_logger().name == "mine"
