"""The safety filter as a node: the only publisher to the controllers.

Each joint state, the drivers' heartbeat, is answered by one command; a watchdog on a steady clock takes over when they
fall silent. Everything runs on one executor thread, so the filter needs no lock.
"""

from __future__ import annotations

import functools
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Bool, Float64MultiArray, Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from vla_ros.errors import VlaRosError
from vla_ros.memory import Collector
from vla_ros.msg import ActionChunk as ActionChunkMsg
from vla_ros.msg import SafetyState as SafetyStateMsg
from vla_ros.nodes import convert, qos
from vla_ros.nodes.controller_check import UNCHECKED, ControllerCheck
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.driver_stop import INACTIVE, DriverStop, Stage
from vla_ros.nodes.main import run
from vla_ros.nodes.safety_inputs import SafetyInputs
from vla_ros.nodes.safety_world import markers
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.stop import StopSpec
from vla_ros.safety.filter import SafetyFilter
from vla_ros.types import SafeCommand, SafetyMode

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

QUEUE = 5  # joint states and chunks that may wait while a tick is computed
FRESH = 3  # control periods
PRIORITY = -10  # nice value
LEASE = 0.5  # s; a controller that asks for liveliness stops this long after the death of this process
CHECK_PERIOD = 0.25  # s, between looks at who publishes commands
HEARTBEAT = 0.02  # s, steady clock
MARKERS = 0.1  # s
REST = 0.5  # s of standing commands after which the driver is stopped even if the measured arm still moves
STOP_TOPIC, STOP_SERVICE, SECOND = "estop_topic", "estop_service", "second_command_publisher"
HALL = "estop_hall"


class SafetyNode(Node):
    def __init__(self) -> None:
        super().__init__("safety_node")
        self.contract = RobotContract.load(self.declare_parameter("robot", "panda").value)
        files = self.declare_parameter("safety", "").value.split(",")  # names or paths, each tightening the one before
        # Rate of /safety/state besides changes; 0 publishes every tick.
        self._state_every = self._period(self.declare_parameter("state_rate", 0.0).value)
        # A driver that publishes joint states best effort needs false.
        reliable = self.declare_parameter("reliable", True).value
        # s, DEADLINE asked of the joint states; 0 asks for none. A driver that offers no deadline would not be heard at all.
        state_deadline = float(self.declare_parameter("state_deadline", 0.0).value)
        # Whether the controller is asked which joints it takes, and how, before the first command; sim_node cannot be asked.
        check_controller = bool(self.declare_parameter("check_controller", False).value)
        self.filter = SafetyFilter.for_robot(self.contract, *(name.strip() for name in files if name.strip()))
        self.period = 1.0 / self.contract.control.rate
        self._shown: tuple[SafetyMode, str, tuple[str, ...]] | None = None
        self._shown_at = 0.0
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        # Simulated time may stand still for long; then nothing is silent.
        self._simulated, self._stated = qos.simulated(self), 0.0  # s, stamp of the newest joint state
        self._silence_clock = self.get_clock() if self._simulated else steady
        self._heard = self._silence_clock.now().nanoseconds

        control = self.contract.control
        self.diagnostics = Diagnostics(self, "safety", self.contract.robot)
        self.commands = self.create_publisher(
            Float64MultiArray, control.command_topic, self._command_qos(),
            event_callbacks=PublisherEventCallbacks(deadline=self._missed("command_deadlines_missed")),
        )  # fmt: skip
        self.states = self.create_publisher(SafetyStateMsg, "safety/state", qos.STATUS)
        self.create_subscription(
            JointStateMsg, control.state_topic, self._on_joint_state, _state_qos(reliable, state_deadline),
            event_callbacks=SubscriptionEventCallbacks(
                deadline=self._missed("state_deadlines_missed"), liveliness=self._lost("state_publishers_lost"),
                incompatible_qos=self._on_incompatible,
            ),
        )  # fmt: skip
        # A publisher that leases its liveliness is missed when the lease ends, any other when its participant's does (10 s).
        self.create_subscription(
            ActionChunkMsg, "policy/chunk", self._on_chunk, QUEUE,
            event_callbacks=SubscriptionEventCallbacks(liveliness=self._lost("chunk_publishers_lost")),
        )  # fmt: skip
        # Its own, and in a namespace the whole hall's.
        for topic, cause in {"/estop": HALL, self.resolve_topic_name("estop"): STOP_TOPIC}.items():
            self.create_subscription(Bool, topic, functools.partial(self._on_estop, cause), 10)
        self.create_service(Trigger, "safety/estop", self._on_estop_service)
        # A group of its own, as it waits for the driver while everything else goes on.
        self.create_service(Trigger, "safety/reset", self._on_reset, callback_group=ReentrantCallbackGroup())
        self.inputs = SafetyInputs(self, self.contract, self.filter, self.diagnostics)
        self.controller = ControllerCheck(self, self.contract, self.diagnostics) if check_controller else None
        self.stop = DriverStop(self, StopSpec.load(self.contract), self.diagnostics)
        self._fastest = float("nan")  # rad/s, of the measured joints
        self._ordered = 0.0  # s, perf_counter, of an e-stop that no command has obeyed yet
        self._standing: float | None = None  # s, monotonic, since when a latched command stands
        self.heartbeat = self.create_publisher(Header, "safety/heartbeat", qos.LATEST)
        self.markers = self.create_publisher(MarkerArray, "safety/markers", qos.COMMAND)
        self.create_timer(self.period, self._watch, clock=steady)
        self.create_timer(CHECK_PERIOD, self._survey, clock=steady)
        self.create_timer(HEARTBEAT, self._beat, clock=steady)
        self.create_timer(MARKERS, self._show, clock=steady)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._come_first()
        self._collector = Collector()
        self.get_logger().info(f"limits: {self.filter.limits.source}; commands go to {control.command_topic}")

    def destroy_node(self) -> None:
        self._collector.close()
        super().destroy_node()

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """/safety/state may be wanted at every tick for a while: `vla-ros twin excite` records it."""
        for parameter in parameters:
            if parameter.name == "state_rate":
                try:
                    self._state_every = self._period(parameter.value)
                except VlaRosError as error:
                    return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _period(self, rate: Any) -> float:
        """s between two states; 0: one every tick. Never longer than half an observation's: a recording must tell what was
        executed between two of them."""
        if not isinstance(rate, int | float) or not 0.0 <= rate < math.inf:
            raise VlaRosError(f"parameter `state_rate`: found {rate}, expected a number of Hz, or 0 for every tick")
        return 1.0 / max(rate, 2 * self.contract.observation.rate) if rate > 0 else 0.0

    def _come_first(self) -> None:
        """On a loaded machine the control loop must not queue behind inference and learning; nor the middleware's threads,
        which hand it the joint states."""
        try:
            for thread in Path("/proc/self/task").iterdir():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), PRIORITY)
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

    def _missed(self, key: str) -> Any:
        """A QoS event's callback that counts missed deadlines."""

        def count(event: Any) -> None:
            self.diagnostics.count(key, event.total_count_change)

        return count

    def _lost(self, key: str) -> Any:
        """A QoS event's callback that counts publishers whose liveliness ended."""

        def count(event: Any) -> None:
            if event.alive_count_change < 0:
                self.diagnostics.count(key, -event.alive_count_change)
                self.get_logger().warning(f"{key}: {event.alive_count} left", throttle_duration_sec=1.0)

        return count

    def _on_incompatible(self, event: Any) -> None:
        policy = getattr(event.last_policy_kind, "name", event.last_policy_kind)
        text = f"{self.contract.control.state_topic}: its publisher does not offer what is asked for: {policy}"
        self.diagnostics.fault("state_qos", f"{text}; see the parameters state_deadline and reliable")
        self.get_logger().error(text)

    def _now(self) -> float:
        """[s]; a simulation's joint states come more often than its clock, and tell the same time."""
        now = float(self.get_clock().now().nanoseconds) * 1e-9
        return max(now, self._stated) if self._simulated else now

    def _on_joint_state(self, message: JointStateMsg) -> None:
        start = time.perf_counter()
        state = convert.joint_state(message)
        self._stated = state.stamp
        if self._unchecked():
            return  # the filter starts with the first command, from where the arm is then
        # A fresh joint state is answered for its own instant: the clock's message may have overtaken it by a period, and
        # would make this tick count as a missed one and swallow the next.
        now = self._now()
        self._fastest = float(np.abs(state.velocity).max()) if len(state.velocity) else float("nan")
        self.inputs.tick(now)
        sent = self.filter.tick(state.stamp if 0.0 <= now - state.stamp <= FRESH * self.period else now, state)
        if sent is not None:
            self._heard = self._silence_clock.now().nanoseconds
            self._send(sent)
            self.diagnostics.sample("tick", time.perf_counter() - start)
        self.diagnostics.count("joint_states", rate=True)
        self._collector.between()

    def _unchecked(self) -> bool:
        """Nobody knows yet whether the controller would understand a command."""
        return self.controller is not None and not self.controller.ready

    def _watch(self) -> None:
        """Commands go on open loop when the joint states are silent."""
        if self._unchecked():
            return
        silent = (self._silence_clock.now().nanoseconds - self._heard) * 1e-9
        # An ordered stop does not wait for joint states that do not come.
        overdue = self._ordered and time.perf_counter() - self._ordered > 1.5 * self.period
        if silent <= self.filter.limits.state_silence and not overdue:
            return
        now = self._now()
        self._fastest = float("nan")
        self.inputs.tick(now)
        sent = self.filter.tick(now, None)
        if sent is not None:
            self._send(sent)

    def _send(self, sent: SafeCommand) -> None:
        self.commands.publish(convert.command_message(sent))
        if self._ordered:
            self.diagnostics.sample("estop_to_command", time.perf_counter() - self._ordered)
            self._ordered = 0.0
        self.diagnostics.count("commands", rate=True)
        shown = (sent.mode, sent.reason, sent.active)
        if shown != self._shown and (self._shown is None or shown[:2] != self._shown[:2]) and sent.reason:
            self.get_logger().warning(f"{sent.mode.name}: {sent.reason}", throttle_duration_sec=1.0)
        if shown != self._shown or not 0.0 <= sent.stamp - self._shown_at < self._state_every:
            self._shown, self._shown_at = shown, sent.stamp
            self.states.publish(convert.safety_message(sent, self.contract.joints, self.filter.counters))
        self.stop.tick(self._rests(sent))

    def _rests(self, sent: SafeCommand) -> bool:
        """Latched and come to rest; an arm that does not follow a standing command any more is not waited for."""
        if sent.mode != SafetyMode.LATCHED or sent.velocity.any():
            self._standing = None
            return False
        now = time.monotonic()
        self._standing = now if self._standing is None else self._standing
        return self._fastest <= np.max(self.filter.limits.standstill) or now - self._standing > REST

    def _beat(self) -> None:
        """For whoever guards the drives: this process and its control loop are alive."""
        self.heartbeat.publish(Header(stamp=self.get_clock().now().to_msg(), frame_id=self.filter.mode.name))
        self.stop.tick(rest=False)  # its time limits hold without control ticks, too
        self._collector.between()

    def _show(self) -> None:
        if not self.markers.get_subscription_count():
            return
        limits, world = self.filter.limits, self.inputs.world
        obstacles = [*limits.world.values(), *world.obstacles.values()]
        stamp = self.get_clock().now().to_msg()
        self.markers.publish(markers(world.frame, stamp, limits, obstacles, self.filter.mode, self.filter.reason))

    def _on_chunk(self, message: ActionChunkMsg) -> None:
        now = self._now()
        chunk = convert.chunk(message)
        if self._unchecked():
            reason = UNCHECKED
        else:
            reason = INACTIVE if self.stop.stage is Stage.RESUMING else self.filter.submit(chunk, now)
        self.diagnostics.count("chunks", rate=True)
        if reason:
            self.diagnostics.count(f"rejected_{reason.split(':')[0]}")
            self.get_logger().warning(f"chunk rejected: {reason}", throttle_duration_sec=1.0)
        elif chunk.observation_stamp > 0.0:
            self.diagnostics.sample("observation_to_chunk", now - chunk.observation_stamp)

    def _on_estop(self, cause: str, message: Bool) -> None:
        if message.data:
            self._order()
            self.filter.estop(cause, held=True)
        else:
            self.filter.release(cause)

    def _order(self) -> None:
        """A stop was ordered now; /diagnostics tells how long the command that obeys it took."""
        if self.filter.mode != SafetyMode.LATCHED:
            self._ordered = time.perf_counter()

    def _on_estop_service(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._order()
        self.filter.estop(STOP_SERVICE)
        response.success, response.message = True, "latched; clear the cause, then call /safety/reset"
        return response

    async def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The filter first, which takes its commands to where the arm is; then the driver; only then chunks."""
        await self.stop.settled()
        response.success, response.message = self.filter.reset()
        if response.success and (failed := await self.stop.resume()):
            self.filter.estop(INACTIVE)
            response.success, response.message = False, failed
        if self.filter.mode == SafetyMode.LATCHED and response.success:
            response.success, response.message = False, f"latched again meanwhile: {self.filter.reason}"
        self.get_logger().info(f"reset: {response.message}")
        return response

    def _survey(self) -> None:
        """Who publishes and who takes commands; what the filter has to report."""
        if self.controller is not None and self._unchecked():
            self.controller.tick()
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
        self.inputs.report()
        self.diagnostics.set("driver", self.stop.stage.value)
        if not safety.seeded:
            expected = f"sensor_msgs/JointState with {', '.join(self.contract.joints)}"
            self.diagnostics.fault("state", f"{self.contract.control.state_topic}: {safety.reason}; expected {expected}")
        elif safety.mode in (SafetyMode.LATCHED, SafetyMode.BRAKE):
            self.diagnostics.fault("state", f"{safety.mode.name}: {safety.reason}")
        else:
            self.diagnostics.clear("state")
        values = {"mode": safety.mode.name, "reason": safety.reason, "limits": safety.limits.source}
        for key in ("ticks", "missed_ticks", "limited_ticks", "accepted_chunks", "rejected_chunks"):
            values[key] = str(getattr(counters, key))
        for key, value in values.items():
            self.diagnostics.set(key, value)


def _state_qos(reliable: bool, deadline: float) -> QoSProfile:
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=QUEUE, reliability=reliability)
    if deadline > 0.0:
        profile.deadline = Duration(seconds=deadline)
    return profile


def main(args: list[str] | None = None) -> int:
    return run(SafetyNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
