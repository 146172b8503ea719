"""ROS QoS profiles to DDS policies and back, as rmw_cyclonedds translates them."""

from __future__ import annotations

from typing import Any

from cyclonedds.qos import Policy, Qos
from rclpy.duration import Duration, Infinite
from rclpy.qos import (
    UNSPECIFIED,
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)

# [ns] that publish() waits for a reliable reader that is behind by more than Cyclone buffers, before it raises.
# rmw_cyclonedds waits forever, with which one hung viewer would halt a robot's control loop.
MAX_BLOCKING = 10**9
UNLIMITED = -1
DEFAULT_DEPTH = 1
# DDS policy ids of incompatible-QoS statuses
POLICY_KINDS = {
    2: QoSPolicyKind.DURABILITY,
    4: QoSPolicyKind.DEADLINE,
    8: QoSPolicyKind.LIVELINESS,
    11: QoSPolicyKind.RELIABILITY,
    13: QoSPolicyKind.HISTORY,
    21: QoSPolicyKind.LIFESPAN,
}


def _given(duration: Duration) -> bool:
    return duration not in (UNSPECIFIED, Infinite)


def to_dds(profile: QoSProfile, *, writer: bool, user_data: str = "") -> Qos:
    """DDS policies of a writer's or reader's profile."""
    best_effort = profile.reliability == ReliabilityPolicy.BEST_EFFORT or (
        # The best that matches everybody.
        profile.reliability == ReliabilityPolicy.BEST_AVAILABLE and not writer
    )
    transient = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    keep_all = profile.history == HistoryPolicy.KEEP_ALL
    depth = max(profile.depth, DEFAULT_DEPTH)
    history = Policy.History.KeepAll if keep_all else Policy.History.KeepLast(depth)
    lease = profile.liveliness_lease_duration
    lease_ns = lease.nanoseconds if _given(lease) else Infinite.nanoseconds
    manual = profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
    policies = [
        Policy.Reliability.BestEffort if best_effort else Policy.Reliability.Reliable(MAX_BLOCKING),
        Policy.Durability.TransientLocal if transient else Policy.Durability.Volatile,
        history,
        (Policy.Liveliness.ManualByTopic if manual else Policy.Liveliness.Automatic)(lease_ns),
        Policy.Deadline(profile.deadline.nanoseconds if _given(profile.deadline) else Infinite.nanoseconds),
    ]
    if user_data:
        policies.append(Policy.Userdata(user_data.encode()))
    if writer:
        policies.append(Policy.WriterDataLifecycle(autodispose=False))
        if _given(profile.lifespan):
            policies.append(Policy.Lifespan(profile.lifespan.nanoseconds))
        if transient:
            policies.append(Policy.DurabilityService(0, history, UNLIMITED, UNLIMITED, UNLIMITED))
    return Qos(*policies)


def user_data(qos: Qos, key: str) -> str:
    """Value of `key` in an endpoint's `key=value;key=value;` user data; empty if it is not there."""
    policy = qos[Policy.Userdata]
    for part in bytes(policy.data).split(b";") if policy is not None else ():
        name, _, value = part.partition(b"=")
        if name == key.encode():
            return value.decode(errors="replace")
    return ""


def from_dds(qos: Qos) -> QoSProfile:
    """Profile of an endpoint that discovery reports (history and depth are not part of it)."""
    found = {policy.__scope__: policy for policy in qos}
    reliable = isinstance(found.get("Reliability"), Policy.Reliability.Reliable)
    volatile = found.get("Durability", Policy.Durability.Volatile) == Policy.Durability.Volatile
    manual = isinstance(found.get("Liveliness"), Policy.Liveliness.ManualByTopic)
    return QoSProfile(
        history=HistoryPolicy.UNKNOWN,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE if volatile else DurabilityPolicy.TRANSIENT_LOCAL,
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC if manual else LivelinessPolicy.AUTOMATIC,
        deadline=_duration(found.get("Deadline"), "deadline"),
        lifespan=_duration(found.get("Lifespan"), "lifespan"),
        liveliness_lease_duration=_duration(found.get("Liveliness"), "lease_duration"),
    )


def _duration(policy: Any, field: str) -> Duration:
    return Infinite if policy is None else Duration(nanoseconds=min(getattr(policy, field), Infinite.nanoseconds))
