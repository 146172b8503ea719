"""/training/health: the maintenance alarm of the trainer node. Everything runs in the goal's thread, between two episodes."""

from __future__ import annotations

import time

from rclpy.node import Node

from vla_ros.episodes.trajectory import load_trajectory
from vla_ros.errors import VlaRosError
from vla_ros.learning import health
from vla_ros.learning.examined import of_trajectory
from vla_ros.learning.stopping import Stop
from vla_ros.msg import Episode, Health
from vla_ros.nodes import qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.robots.contract import RobotContract

RINGS = ("worse", "probation", "failures", "quality")  # of the stopping rules: those that say the cell has become worse


class Maintenance:
    """Watches all practice while the node runs: its first episodes are the cell as it should be."""

    def __init__(self, node: Node, contract: RobotContract, diagnostics: Diagnostics) -> None:
        self._node, self._contract, self._diagnostics = node, contract, diagnostics
        self._health = health.Health()
        self._alarm = node.create_publisher(Health, "training/health", qos.STATUS)

    def examine(self, e: Episode) -> None:
        """Reads its recording. One that broke off may lack what is asked for, and is left out."""
        if e.outcome == "aborted":
            return
        before = time.monotonic()
        try:
            t = load_trajectory(e.file, self._contract)
            self._health.episode(of_trajectory(t, self._contract, e.outcome == "success"))
        except VlaRosError as error:
            self._node.get_logger().error(f"health: {error}")
            self._diagnostics.count("unexamined_episodes")
        self._diagnostics.sample("health", time.monotonic() - before)

    def ring(self, stop: Stop) -> None:
        """What has changed in the cell, as far as the record shows, if this rule says that it has become worse."""
        if stop.rule not in RINGS:
            return
        causes = self._health.causes()
        message = f"maintenance: {stop.rule}: {stop.sentence}; {self._health.sentence()}"
        alarm = Health(message=message, causes=[str(c) for c in causes], scores=[c.score for c in causes])
        alarm.header.stamp = self._node.get_clock().now().to_msg()
        self._alarm.publish(alarm)
        self._node.get_logger().warning(message)
        self._diagnostics.fault("health", message, level=2 if stop.rule == "failures" else 1)

    def clear(self) -> None:
        self._diagnostics.clear("health")
        self._alarm.publish(Health())
