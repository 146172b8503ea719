"""QoS by class of topic (DESIGN: sensors best effort, commands reliable and newest only, status transient local)."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(reliability: ReliabilityPolicy, depth: int, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


SENSOR = _profile(ReliabilityPolicy.BEST_EFFORT, 5, DurabilityPolicy.VOLATILE)
LATEST = _profile(ReliabilityPolicy.BEST_EFFORT, 1, DurabilityPolicy.VOLATILE)  # inference wants the newest, never a queue
COMMAND = _profile(ReliabilityPolicy.RELIABLE, 1, DurabilityPolicy.VOLATILE)
RECORD = _profile(ReliabilityPolicy.RELIABLE, 100, DurabilityPolicy.VOLATILE)  # recorder: nothing may be lost
STATUS = _profile(ReliabilityPolicy.RELIABLE, 1, DurabilityPolicy.TRANSIENT_LOCAL)


def observations(lossless: bool, depth: int) -> QoSProfile:
    """/observation: lossless where a lock-stepped clock waits for the answers, also for a node that comes up late; best
    effort on a cell, where a late frame is worth nothing."""
    if lossless:
        return _profile(ReliabilityPolicy.RELIABLE, depth, DurabilityPolicy.TRANSIENT_LOCAL)
    return _profile(ReliabilityPolicy.BEST_EFFORT, depth, DurabilityPolicy.VOLATILE)


def simulated(node: Node) -> bool:
    """Does the node follow a simulation's clock, which may be in lock step?"""
    return bool(node.get_parameter("use_sim_time").value)
