"""Looks at a live graph for some seconds and tells what it saw, as values. Publishes nothing and calls no service but those that
read parameters.

Threads: none of its own. Callbacks run while `look` spins; what they keep is small, but for the last picture of each camera.
"""

from __future__ import annotations

import functools
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros.cli import graph, param
from vla_ros.doctor import endpoints
from vla_ros.doctor.commands import CHUNK, POLICY_NODE, SAFETY_NODE, TRAINER_NODE
from vla_ros.doctor.observed import CameraInfo, CameraSeen, Endpoint, Joints, Observed, SafetySeen, Status, Timing
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.types import JointState, SafetyMode

if TYPE_CHECKING:
    from rclpy.node import Node

STATUS_PREFIX = "vla_ros: "  # of this package's nodes in /diagnostics
ENDLESS = 2**62  # ns; DDS' longest duration is beyond it, and means no limit
QUEUE = 100  # messages that may wait while another one is handled: a rate is counted, so none should be lost


class Arrivals:
    """Stamps of one topic against both clocks; which one counts is known at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float, float]] = []  # s: arrival, stamp, age on the wall clock, age on /clock

    def note(self, stamp: float, simulated_now: float) -> None:
        self.rows.append((time.monotonic(), stamp, time.time() - stamp, simulated_now - stamp))

    def timing(self, simulated: bool) -> Timing:
        columns = np.array(self.rows).reshape(-1, 4).T
        return Timing(columns[0], columns[1], columns[3 if simulated else 2])


class Observer:
    """Subscriptions of one look; `destroy` takes them back."""

    def __init__(self, node: Node, contract: RobotContract, namespace: str = "") -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo as CameraInfoMsg
        from sensor_msgs.msg import Image
        from sensor_msgs.msg import JointState as JointStateMsg
        from std_msgs.msg import Bool

        from vla_ros.msg import ActionChunk, Observation, PolicyVersion, SafetyState
        from vla_ros.nodes import qos

        self.node, self.contract, self.names = node, contract, Observed(namespace=namespace)
        self.arrivals: defaultdict[str, Arrivals] = defaultdict(Arrivals)  # by topic, full names
        self.joints: list[JointState] = []
        self.pictures: dict[str, Any] = {}
        self.infos: dict[str, CameraInfo] = {}
        self.states: list[Any] = []  # the first one and the last one
        self.estops: dict[str, bool] = {}
        self.status: dict[str, Status] = {}
        self.version = self.chunks = 0
        self._now = math.nan  # s on /clock
        lossy = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.BEST_EFFORT)  # what every publisher serves
        heard: list[tuple[Any, str, Any, Any]] = [
            (Clock, self.names.name("clock"), self._on_clock, lossy),
            (JointStateMsg, self.names.name(contract.control.state_topic), self._on_joints, lossy),
            (Observation, self.names.name("observation"), functools.partial(self._on_stamped, "observation"), lossy),
            (SafetyState, self.names.name("safety/state"), self._on_state, qos.STATUS),
            (PolicyVersion, self.names.name("policy/active"), self._on_version, qos.STATUS),
            (ActionChunk, self.names.name(CHUNK), self._on_chunk, lossy),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, lossy),
        ]
        hall_and_cell = {"/estop", self.names.name("estop")}
        heard += [(Bool, topic, functools.partial(self._on_estop, topic), lossy) for topic in hall_and_cell]
        for name, camera in contract.cameras.items():
            heard.append((Image, self.names.name(camera.topic), functools.partial(self._on_image, name), lossy))
            heard.append((CameraInfoMsg, self.names.name(camera.info), functools.partial(self._on_info, name), lossy))
        self._subscriptions = [node.create_subscription(kind, topic, do, profile) for kind, topic, do, profile in heard]

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self.node.destroy_subscription(subscription)

    # -- callbacks -------------------------------------------------------------------------------------------------

    def _on_clock(self, message: Any) -> None:
        self._now = message.clock.sec + message.clock.nanosec * 1e-9

    def _on_stamped(self, topic: str, message: Any) -> None:
        stamp = message.header.stamp
        self.arrivals[topic].note(stamp.sec + stamp.nanosec * 1e-9, self._now)

    def _on_joints(self, message: Any) -> None:
        from vla_ros.nodes import convert

        self._on_stamped("joints", message)
        self.joints.append(convert.joint_state(message))

    def _on_image(self, name: str, message: Any) -> None:
        self._on_stamped(f"camera {name}", message)
        self.pictures[name] = message

    def _on_info(self, name: str, message: Any) -> None:
        focal = (float(message.k[0]), float(message.k[4]))
        self.infos[name] = CameraInfo(int(message.width), int(message.height), focal, message.header.frame_id)

    def _on_state(self, message: Any) -> None:
        self.states = [*self.states[:1], message]

    def _on_version(self, message: Any) -> None:
        self.version = int(message.number)

    def _on_chunk(self, _message: Any) -> None:
        self.chunks += 1

    def _on_estop(self, topic: str, message: Any) -> None:
        self.estops[topic] = bool(message.data)

    def _on_diagnostics(self, message: Any) -> None:
        self.status |= statuses(message, self.names.namespace)

    # -- the result ------------------------------------------------------------------------------------------------

    def observed(self, seconds: float) -> Observed:
        """What was heard so far, and who is there now."""
        names = self.names
        own = f"{self.node.get_namespace().rstrip('/')}/{self.node.get_name()}"
        types = {topic: tuple(kinds) for topic, kinds in self.node.get_topic_names_and_types()}
        publishers = {topic: _endpoints(self.node.get_publishers_info_by_topic(topic), own) for topic in types}
        subscriptions = {topic: _endpoints(self.node.get_subscriptions_info_by_topic(topic), own) for topic in types}
        found = frozenset(graph.full_node_names(self.node)) - {own}
        simulated = bool(publishers.get(names.name("clock")))
        return Observed(
            namespace=names.namespace, seconds=seconds, simulated=simulated, nodes=found,
            types=types, publishers=publishers, subscriptions=subscriptions,
            offered=self._offered(own), parameters=self._parameters(found),
            joints=Joints(self.arrivals["joints"].timing(simulated), tuple(self.joints)),
            cameras={name: self._camera(name, simulated) for name in self.contract.cameras},
            observation=self.arrivals["observation"].timing(simulated),
            safety=_safety(self.states), estop=any(self.estops.values()),
            version=self.version, chunks=self.chunks, status=self.status,
        )  # fmt: skip

    def _camera(self, name: str, simulated: bool) -> CameraSeen:
        from vla_ros.nodes import convert

        picture, info = self.pictures.get(name), self.infos.get(name)
        if picture is None:
            return CameraSeen(info=info)
        problem = ""
        try:
            convert.image(picture)
        except VlaRosError as error:
            problem = str(error)
        timing = self.arrivals[f"camera {name}"].timing(simulated)
        return CameraSeen(timing, int(picture.width), int(picture.height), picture.header.frame_id, problem, info)

    def _offered(self, own: str) -> dict[str, tuple[str, ...]]:
        """Who offers each service; a service's name alone may only be its client's."""
        offered: defaultdict[str, list[str]] = defaultdict(list)
        for name, namespace in self.node.get_node_names_and_namespaces():
            full = f"{namespace.rstrip('/')}/{name}"
            if full != own:
                for service, _ in self.node.get_service_names_and_types_by_node(name, namespace):
                    offered[service].append(full)
        return {service: tuple(nodes) for service, nodes in offered.items()}

    def _parameters(self, found: frozenset[str]) -> dict[str, dict[str, Any] | None]:
        """What the checks compare: the robot of each node, and what else its own check reads."""
        controller = self.contract.control.command_topic.lstrip("/").split("/")[0]
        wanted = {name: ["robot"] for name in endpoints.expected_nodes()}
        for name, more in ((SAFETY_NODE, "safety"), (POLICY_NODE, "device"), (TRAINER_NODE, "episodes_dir")):
            wanted[name] = [*wanted[name], more]
        wanted[controller] = ["joints"]
        told: dict[str, dict[str, Any] | None] = {}
        for name, keys in wanted.items():
            if (full := self.names.name(name)) not in found:
                continue
            try:
                values = param.values_of(self.node, full, keys)
            except VlaRosError:
                told[full] = None  # it hangs; what it should have told is missing, and its check says so
            else:
                told[full] = {key: value for key, (_, value) in zip(keys, values, strict=True) if value is not None}
        return told


def statuses(message: Any, namespace: str) -> dict[str, Status]:
    """What the nodes of the cell say in a DiagnosticArray, by their short names (`safety`)."""
    prefix = f"{STATUS_PREFIX}{namespace.lstrip('/')}{'/' if namespace else ''}"
    found = {}
    for status in message.status:
        name = status.name.removeprefix(prefix)
        if name != status.name and "/" not in name:
            values = {entry.key: entry.value for entry in status.values}
            found[name] = Status(status.level[0], status.message, values)
    return found


def look(node: Node, contract: RobotContract, namespace: str, seconds: float) -> Observed:
    """Watches for `seconds` s. The node must be in no executor."""
    from rclpy.executors import SingleThreadedExecutor

    observer = Observer(node, contract, namespace)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    begin = time.monotonic()
    try:
        while (left := begin + seconds - time.monotonic()) > 0.0:
            executor.spin_once(timeout_sec=left)
    finally:
        executor.remove_node(node)
        executor.shutdown()
    try:
        return observer.observed(seconds)
    finally:
        observer.destroy()


def _endpoints(infos: list[Any], own: str) -> tuple[Endpoint, ...]:
    from rclpy.qos import DurabilityPolicy, LivelinessPolicy, ReliabilityPolicy

    found = []
    for info in infos:
        name, profile = f"{info.node_namespace.rstrip('/')}/{info.node_name}", info.qos_profile
        if name != own:
            found.append(
                Endpoint(
                    name, info.topic_type, profile.reliability == ReliabilityPolicy.RELIABLE,
                    profile.durability == DurabilityPolicy.TRANSIENT_LOCAL, _seconds(profile.deadline),
                    _seconds(profile.liveliness_lease_duration), profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC,
                )
            )  # fmt: skip
    return tuple(found)


def _seconds(duration: Any) -> float:
    """s of a QoS duration; unset and DDS' longest one mean no limit."""
    nanoseconds = 0 if duration is None else duration.nanoseconds
    return nanoseconds * 1e-9 if 0 < nanoseconds < ENDLESS else math.inf


def _safety(states: list[Any]) -> SafetySeen | None:
    if not states:
        return None
    first, last = states[0], states[-1]
    return SafetySeen(
        SafetyMode(last.state), last.reason, np.array(last.command, np.float64), float(last.tip_speed), float(last.speed_cap),
        int(last.ticks - first.ticks), int(last.missed_ticks - first.missed_ticks),
    )  # fmt: skip
