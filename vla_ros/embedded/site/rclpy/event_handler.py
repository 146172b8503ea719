"""QoS events: deadline missed, liveliness, incompatible QoS, lost messages, matches."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple

from cyclonedds.core import DDSStatus
from cyclonedds.internal import DDS, dds_c_t

import rclpy.logging
from rclpy.qos import QoSPolicyKind
from rclpy.waitable import Waitable
from vla_ros.embedded.endpoint_qos import POLICY_KINDS


class QoSPublisherEventType(IntEnum):
    """Numbers as in rcl."""

    RCL_PUBLISHER_OFFERED_DEADLINE_MISSED = 0
    RCL_PUBLISHER_LIVELINESS_LOST = 1
    RCL_PUBLISHER_OFFERED_INCOMPATIBLE_QOS = 2
    RCL_PUBLISHER_INCOMPATIBLE_TYPE = 3
    RCL_PUBLISHER_MATCHED = 4


class QoSSubscriptionEventType(IntEnum):
    """Numbers as in rcl."""

    RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED = 0
    RCL_SUBSCRIPTION_LIVELINESS_CHANGED = 1
    RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS = 2
    RCL_SUBSCRIPTION_MESSAGE_LOST = 3
    RCL_SUBSCRIPTION_INCOMPATIBLE_TYPE = 4
    RCL_SUBSCRIPTION_MATCHED = 5


class QoSDeadlineMissedInfo(NamedTuple):
    """Deadlines missed since start and since the last event."""

    total_count: int
    total_count_change: int


QoSRequestedDeadlineMissedInfo = QoSOfferedDeadlineMissedInfo = QoSDeadlineMissedInfo


class QoSLivelinessLostInfo(NamedTuple):
    """How often the publisher was not asserted in time."""

    total_count: int
    total_count_change: int


class QoSLivelinessChangedInfo(NamedTuple):
    """Publishers that are alive and not."""

    alive_count: int
    not_alive_count: int
    alive_count_change: int
    not_alive_count_change: int


class QoSIncompatibleInfo(NamedTuple):
    """How many endpoints did not match, and the last policy that was why."""

    total_count: int
    total_count_change: int
    last_policy_kind: QoSPolicyKind


QoSRequestedIncompatibleQoSInfo = QoSOfferedIncompatibleQoSInfo = QoSIncompatibleInfo


class QoSMessageLostInfo(NamedTuple):
    """Messages that the subscription never got."""

    total_count: int
    total_count_change: int


class MatchedInfo(NamedTuple):
    """Matched endpoints."""

    total_count: int
    total_count_change: int
    current_count: int
    current_count_change: int


PublisherMatchedInfo = SubscriptionMatchedInfo = MatchedInfo


class UnsupportedEventTypeError(RuntimeError):
    """The middleware has no such event."""


def _plain(kind: Callable[..., Any]) -> Callable[[Any], Any]:
    names = kind._fields  # type: ignore[attr-defined]
    return lambda status: kind(*(getattr(status, name) for name in names))


def _incompatible(status: Any) -> QoSIncompatibleInfo:
    kind = POLICY_KINDS.get(status.last_policy_id, QoSPolicyKind.INVALID)
    return QoSIncompatibleInfo(status.total_count, status.total_count_change, kind)


_STATUSES: dict[str, tuple[int, Any, Callable[[Any], Any]]] = {
    "offered_deadline_missed": (
        DDSStatus.OfferedDeadlineMissed, dds_c_t.offered_deadline_missed_status, _plain(QoSDeadlineMissedInfo)),
    "requested_deadline_missed": (
        DDSStatus.RequestedDeadlineMissed, dds_c_t.requested_deadline_missed_status, _plain(QoSDeadlineMissedInfo)),
    "liveliness_lost": (DDSStatus.LivelinessLost, dds_c_t.liveliness_lost_status, _plain(QoSLivelinessLostInfo)),
    "liveliness_changed": (
        DDSStatus.LivelinessChanged, dds_c_t.liveliness_changed_status, _plain(QoSLivelinessChangedInfo)),
    "offered_incompatible_qos": (
        DDSStatus.OfferedIncompatibleQos, dds_c_t.offered_incompatible_qos_status, _incompatible),
    "requested_incompatible_qos": (
        DDSStatus.RequestedIncompatibleQos, dds_c_t.requested_incompatible_qos_status, _incompatible),
    "sample_lost": (DDSStatus.SampleLost, dds_c_t.sample_lost_status, _plain(QoSMessageLostInfo)),
    "publication_matched": (DDSStatus.PublicationMatched, dds_c_t.publication_matched_status, _plain(MatchedInfo)),
    "subscription_matched": (DDSStatus.SubscriptionMatched, dds_c_t.subscription_matched_status, _plain(MatchedInfo)),
}  # fmt: skip


class EventHandler(Waitable):
    """All status changes of one DDS endpoint that somebody wants to know of."""

    def __init__(self, callback_group: Any, endpoint: Any, callbacks: dict[str, Callable[[Any], Any]]) -> None:
        self.callback_group = callback_group
        self._endpoint = endpoint
        self._callbacks = callbacks
        mask = 0
        for name in callbacks:
            mask |= _STATUSES[name][0]
        endpoint.set_status_mask(mask)
        self.conditions = (endpoint,)

    def take(self) -> Callable[[], Any] | None:
        for name, callback in self._callbacks.items():
            _, kind, convert = _STATUSES[name]
            status = kind()
            # Reading the status resets its trigger and its *_change counts.
            getattr(DDS._dll_handle, f"dds_get_{name}_status")(ctypes.c_int32(self._endpoint._ref), ctypes.byref(status))
            changes = [getattr(status, field) for field, _ in status._fields_ if field.endswith("_change")]
            if any(changes):
                info = convert(status)
                return lambda callback=callback, info=info: callback(info)  # type: ignore[misc]
        return None


class _EventCallbacks:
    """Which callbacks a publisher or subscription has; statuses by attribute."""

    _events: ClassVar[dict[str, str]]

    def create_event_handlers(
        self, callback_group: Any, endpoint: Any, topic: str, logger: rclpy.logging.RcutilsLogger
    ) -> Iterable[EventHandler]:
        """One handler for the endpoint, or none if nothing is to be watched."""
        wanted = {status: callback for name, status in self._events.items() if (callback := getattr(self, name)) is not None}
        incompatible = self._events["incompatible_qos"]
        if incompatible not in wanted and self.use_default_callbacks:  # type: ignore[attr-defined]
            wanted[incompatible] = lambda info: logger.warning(self.warning(topic, info))
        return [EventHandler(callback_group, endpoint, wanted)] if wanted else []

    def warning(self, topic: str, info: QoSIncompatibleInfo) -> str:
        """What is logged by default."""
        raise NotImplementedError


class PublisherEventCallbacks(_EventCallbacks):
    """Callbacks for a publisher's events; an incompatible subscription is logged unless told otherwise."""

    _events: ClassVar[dict[str, str]] = {
        "deadline": "offered_deadline_missed",
        "liveliness": "liveliness_lost",
        "incompatible_qos": "offered_incompatible_qos",
        "matched": "publication_matched",
    }

    def __init__(
        self, *, deadline: Callable | None = None, liveliness: Callable | None = None,
        incompatible_qos: Callable | None = None, incompatible_type: Callable | None = None,
        matched: Callable | None = None, use_default_callbacks: bool = True,
    ) -> None:  # fmt: skip
        if incompatible_type is not None:
            raise UnsupportedEventTypeError("incompatible_type: Cyclone DDS does not report it")
        self.deadline, self.liveliness, self.incompatible_qos, self.matched = (
            deadline,
            liveliness,
            incompatible_qos,
            matched,
        )
        self.use_default_callbacks = use_default_callbacks

    def warning(self, topic: str, info: QoSIncompatibleInfo) -> str:
        return (
            f"New subscription discovered on topic '{topic}', requesting incompatible QoS. "
            f"No messages will be sent to it. Last incompatible policy: {info.last_policy_kind.name}"
        )


class SubscriptionEventCallbacks(_EventCallbacks):
    """Callbacks for a subscription's events; an incompatible publisher is logged unless told otherwise."""

    _events: ClassVar[dict[str, str]] = {
        "deadline": "requested_deadline_missed",
        "liveliness": "liveliness_changed",
        "incompatible_qos": "requested_incompatible_qos",
        "message_lost": "sample_lost",
        "matched": "subscription_matched",
    }

    def __init__(
        self, *, deadline: Callable | None = None, liveliness: Callable | None = None,
        message_lost: Callable | None = None, incompatible_qos: Callable | None = None,
        incompatible_type: Callable | None = None, matched: Callable | None = None, use_default_callbacks: bool = True,
    ) -> None:  # fmt: skip
        if incompatible_type is not None:
            raise UnsupportedEventTypeError("incompatible_type: Cyclone DDS does not report it")
        self.deadline, self.liveliness, self.message_lost = deadline, liveliness, message_lost
        self.incompatible_qos, self.matched = incompatible_qos, matched
        self.use_default_callbacks = use_default_callbacks

    def warning(self, topic: str, info: QoSIncompatibleInfo) -> str:
        return (
            f"New publisher discovered on topic '{topic}', offering incompatible QoS. "
            f"No messages will be received from it. Last incompatible policy: {info.last_policy_kind.name}"
        )
