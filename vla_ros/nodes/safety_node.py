"""The safety filter as a node: the only publisher to the controllers.

Each joint state, the drivers' heartbeat, is answered by one command; a watchdog on a steady clock takes over when they
fall silent. Everything runs on one executor thread, so the filter needs no lock.
"""

from __future__ import annotations

import gc
import os
import time

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from vla_ros.msg import ActionChunk as ActionChunkMsg
from vla_ros.msg import SafetyState as SafetyStateMsg
from vla_ros.nodes import convert, qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.main import run
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.filter import SafetyFilter
from vla_ros.types import SafeCommand, SafetyMode

QUEUE = 5  # joint states and chunks that may wait while a tick is computed
FRESH = 3  # control periods
PRIORITY = -10  # nice value
LEASE = 0.5  # s; a controller that asks for liveliness stops this long after the death of this process
CHECK_PERIOD = 1.0  # s, between looks at who publishes commands
STOP_TOPIC, STOP_SERVICE, SECOND = "estop_topic", "estop_service", "second_command_publisher"


class SafetyNode(Node):
    def __init__(self) -> None:
        super().__init__("safety_node")
        self.contract = RobotContract.load(self.declare_parameter("robot", "panda").value)
        files = self.declare_parameter("safety", "").value.split(",")  # names or paths, each tightening the one before
        # Rate of /safety/state besides changes; 0 publishes every tick.
        state_rate = self.declare_parameter("state_rate", 0.0).value
        # A driver that publishes joint states best effort needs false.
        reliable = self.declare_parameter("reliable", True).value
        self.filter = SafetyFilter.for_robot(self.contract, *(name.strip() for name in files if name.strip()))
        self.period = 1.0 / self.contract.control.rate
        self._state_every = 1.0 / state_rate if state_rate > 0 else 0.0
        self._shown: tuple[SafetyMode, str, tuple[str, ...]] | None = None
        self._shown_at = 0.0
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        # Simulated time may stand still for long; then nothing is silent.
        self._silence_clock = self.get_clock() if self.get_parameter("use_sim_time").value else steady
        self._heard = self._silence_clock.now().nanoseconds

        control = self.contract.control
        self.diagnostics = Diagnostics(self, "safety", self.contract.robot)
        self.commands = self.create_publisher(Float64MultiArray, control.command_topic, self._command_qos())
        self.states = self.create_publisher(SafetyStateMsg, "/safety/state", qos.STATUS)
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=QUEUE,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        self.create_subscription(JointStateMsg, control.state_topic, self._on_joint_state, profile)
        self.create_subscription(ActionChunkMsg, "/policy/chunk", self._on_chunk, QUEUE)
        self.create_subscription(Bool, "/estop", self._on_estop, 10)
        self.create_service(Trigger, "/safety/estop", self._on_estop_service)
        self.create_service(Trigger, "/safety/reset", self._on_reset)
        self.create_timer(self.period, self._watch, clock=steady)
        self.create_timer(CHECK_PERIOD, self._survey, clock=steady)
        self._come_first()
        gc.collect()
        gc.freeze()  # collections then look at what a tick allocates, not at the libraries
        self.get_logger().info(f"limits: {self.filter.limits.source}; commands go to {control.command_topic}")

    def _come_first(self) -> None:
        """On a loaded machine the control loop must not queue behind inference and learning."""
        try:
            os.nice(PRIORITY)
        except PermissionError:
            self.get_logger().info(f"no right to run at priority {PRIORITY}; grant CAP_SYS_NICE on a robot")

    def _command_qos(self) -> QoSProfile:
        """What a controller may ask for to notice that the filter is gone or late."""
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            deadline=Duration(seconds=10 * self.period),
            liveliness=LivelinessPolicy.AUTOMATIC,
            liveliness_lease_duration=Duration(seconds=LEASE),
        )

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def _on_joint_state(self, message: JointStateMsg) -> None:
        start = time.perf_counter()
        state = convert.joint_state(message)
        # A fresh joint state is answered for its own instant: the clock's message may have overtaken it by a period, and
        # would make this tick count as a missed one and swallow the next.
        now = self._now()
        sent = self.filter.tick(state.stamp if 0.0 <= now - state.stamp <= FRESH * self.period else now, state)
        if sent is not None:
            self._heard = self._silence_clock.now().nanoseconds
            self._send(sent)
            self.diagnostics.sample("tick", time.perf_counter() - start)
        self.diagnostics.count("joint_states", rate=True)

    def _watch(self) -> None:
        """Commands go on open loop when the joint states are silent."""
        silent = (self._silence_clock.now().nanoseconds - self._heard) * 1e-9
        if silent <= self.filter.limits.state_silence:
            return
        sent = self.filter.tick(self._now(), None)
        if sent is not None:
            self._send(sent)

    def _send(self, sent: SafeCommand) -> None:
        self.commands.publish(convert.command_message(sent))
        self.diagnostics.count("commands", rate=True)
        shown = (sent.mode, sent.reason, sent.active)
        if shown != self._shown and (self._shown is None or shown[:2] != self._shown[:2]) and sent.reason:
            self.get_logger().warning(f"{sent.mode.name}: {sent.reason}", throttle_duration_sec=1.0)
        if shown != self._shown or not 0.0 <= sent.stamp - self._shown_at < self._state_every:
            self._shown, self._shown_at = shown, sent.stamp
            self.states.publish(convert.safety_message(sent, self.contract.joints, self.filter.counters))

    def _on_chunk(self, message: ActionChunkMsg) -> None:
        now = self._now()
        chunk = convert.chunk(message)
        reason = self.filter.submit(chunk, now)
        self.diagnostics.count("chunks", rate=True)
        if reason:
            self.diagnostics.count(f"rejected_{reason.split(':')[0]}")
            self.get_logger().warning(f"chunk rejected: {reason}", throttle_duration_sec=1.0)
        elif chunk.observation_stamp > 0.0:
            self.diagnostics.sample("observation_to_chunk", now - chunk.observation_stamp)

    def _on_estop(self, message: Bool) -> None:
        if message.data:
            self.filter.estop(STOP_TOPIC, held=True)
        else:
            self.filter.release(STOP_TOPIC)

    def _on_estop_service(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.filter.estop(STOP_SERVICE)
        response.success, response.message = True, "latched; clear the cause, then call /safety/reset"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self.filter.reset()
        self.get_logger().info(f"reset: {response.message}")
        return response

    def _survey(self) -> None:
        """Who publishes and who takes commands; what the filter has to report."""
        topic = self.contract.control.command_topic
        publishers = self.get_publishers_info_by_topic(topic)
        if len(publishers) > 1:
            names = sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in publishers)
            self.filter.estop(SECOND, held=True)
            self.diagnostics.fault(SECOND, f"{topic}: {len(publishers)} publishers ({', '.join(names)}), expected one")
        else:
            self.filter.release(SECOND)
            self.diagnostics.clear(SECOND)
        if not self.get_subscriptions_info_by_topic(topic):
            self.diagnostics.fault("no_controller", f"nothing subscribes to {topic}", level=1)
        else:
            self.diagnostics.clear("no_controller")
        self._report()

    def _report(self) -> None:
        safety, counters = self.filter, self.filter.counters
        if not safety.seeded:
            expected = f"sensor_msgs/JointState with {', '.join(self.contract.joints)}"
            self.diagnostics.fault(
                "state", f"{self.contract.control.state_topic}: {safety.reason}; expected {expected}"
            )
        elif safety.mode in (SafetyMode.LATCHED, SafetyMode.BRAKE):
            self.diagnostics.fault("state", f"{safety.mode.name}: {safety.reason}")
        else:
            self.diagnostics.clear("state")
        values = {"mode": safety.mode.name, "reason": safety.reason, "limits": safety.limits.source}
        for key in ("ticks", "missed_ticks", "limited_ticks", "accepted_chunks", "rejected_chunks"):
            values[key] = str(getattr(counters, key))
        for key, value in values.items():
            self.diagnostics.set(key, value)


def main(args: list[str] | None = None) -> int:
    return run(SafetyNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
