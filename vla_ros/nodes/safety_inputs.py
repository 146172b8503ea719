"""What the safety filter hears besides joint states and chunks: people, obstacles, reduced speed, cameras, versions.

Everything runs on safety_node's executor thread.
"""

from __future__ import annotations

import math

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Range
from std_srvs.srv import SetBool
from visualization_msgs.msg import MarkerArray

from vla_ros.errors import VlaRosError
from vla_ros.msg import Observation as ObservationMsg
from vla_ros.msg import PolicyVersion as PolicyVersionMsg
from vla_ros.nodes import convert, qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.safety_world import World, base_frame
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.filter import SafetyFilter
from vla_ros.safety.people import NEAR, REASONS, PeopleGuard

PEOPLE_TOPIC, WORLD_TOPIC = "safety/human_distance", "safety/world"
OBSERVATION = "observation"  # the filter's name for the cameras as an input
FIRST = 1  # the version that nobody announces: the weights that the policy was started with
# A publisher that keeps its obstacles for late subscribers, so that a restarted filter knows them, too.
WORLD_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)  # fmt: skip


class SafetyInputs:
    """Subscriptions and services that only ever slow the arm down or stop it."""

    def __init__(self, node: Node, contract: RobotContract, safety: SafetyFilter, diagnostics: Diagnostics) -> None:
        self._node, self._contract, self._filter, self._diagnostics = node, contract, safety, diagnostics
        # Cameras as a required input: their aligned observations, because one age covers drivers and camera_node.
        watch_cameras = bool(node.declare_parameter("watch_cameras", False).value)
        # Only chunks of weights that the trainer has announced, or of the first ones.
        check_versions = bool(node.declare_parameter("check_versions", False).value)
        self.people = PeopleGuard(safety.limits.people) if safety.limits.people is not None else None
        self._people_shown = (1.0, "")
        self.world = World(base_frame(contract))
        self._newest = -math.inf  # s, stamp of the newest observation
        if self.people is not None:
            node.create_subscription(Range, PEOPLE_TOPIC, self._on_distance, qos.LATEST)
            self._apply_people()
        node.create_subscription(MarkerArray, WORLD_TOPIC, self._on_world, WORLD_QOS)
        node.create_service(SetBool, "safety/reduced_speed", self._on_reduced_speed)
        if watch_cameras:
            safety.watch(OBSERVATION, contract.observation.max_age)
            node.create_subscription(ObservationMsg, "observation", self._on_observation, qos.LATEST)
        if check_versions:
            safety.known_versions = {FIRST}
        node.create_subscription(PolicyVersionMsg, "policy/version", self._on_version, qos.STATUS)

    def tick(self, now: float) -> None:
        """Every control tick, before the filter's."""
        if self.people is not None:
            self.people.update(now)
            self._apply_people()

    def report(self) -> None:
        """Once a second, for /diagnostics."""
        self._diagnostics.set("world_obstacles", len(self.world.obstacles))
        if self.people is not None:
            self._diagnostics.set("people_distance_m", f"{self.people.distance:.2f}")
            self._diagnostics.set("people_cap", f"{self.people.cap:.3f} {self.people.reason}".strip())

    def _now(self) -> float:
        return float(self._node.get_clock().now().nanoseconds) * 1e-9

    def _on_distance(self, message: Range) -> None:
        """Nearer than the sensor can tell counts as touching; beyond its range, no person in view included, the sensor
        must say max_range: everything else is a fault."""
        assert self.people is not None
        distance = float(message.range)
        if distance > message.max_range:
            distance = math.nan
        elif 0.0 <= distance < message.min_range:
            distance = 0.0
        self.people.measured(distance, convert.seconds(message.header.stamp), self._now())
        self._apply_people()

    def _apply_people(self) -> None:
        people = self.people
        assert people is not None
        shown = (people.cap, people.reason)
        if shown == self._people_shown:
            return
        self._people_shown = shown
        source = people.reason or NEAR
        self._filter.cap_speed(source, people.cap)  # first the new bound, so that there is always one
        for other in REASONS:
            if other != source:
                self._filter.cap_speed(other, 1.0)
        if people.cap > 0.0:  # the cap bounds a share; this bounds what the formula is about
            self._filter.limit_tip_speed("people", people.speed)

    def _on_world(self, message: MarkerArray) -> None:
        try:
            obstacles = self.world.merged(message)
            self._filter.set_world(list(obstacles.values()))
        except VlaRosError as error:
            self._diagnostics.count("refused_worlds")
            refused = f"{self._node.resolve_topic_name(WORLD_TOPIC)}: refused whole: {error}"
            self._diagnostics.error(refused)
            self._node.get_logger().error(refused, throttle_duration_sec=1.0)
        else:
            self.world.obstacles = obstacles
            self._diagnostics.count("accepted_worlds")

    def _on_reduced_speed(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        speed = self._filter.limits.reduced_speed if request.data else None
        self._filter.limit_tip_speed("reduced", speed)
        response.success = True
        response.message = f"end effector at most {speed:g} m/s" if speed is not None else "full speed inside the limits"
        self._diagnostics.set("reduced_speed", request.data)
        self._node.get_logger().info(response.message)
        return response

    def _on_observation(self, message: ObservationMsg) -> None:
        """Only a newer picture counts: a camera that repeats its last one is silent."""
        stamp, now = convert.seconds(message.header.stamp), self._now()
        if stamp > self._newest or self._newest > now:  # the clock may have been set back
            self._newest = stamp
            self._filter.heard(OBSERVATION, min(stamp, now))

    def _on_version(self, message: PolicyVersionMsg) -> None:
        if self._filter.known_versions is not None:
            self._filter.known_versions.update((int(message.number), int(message.parent)))
        self._filter.limit_tip_speed("probation", self._filter.limits.probation_speed if message.probation else None)
        self._diagnostics.set("probation", message.number if message.probation else "none")
