"""Subscriptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from rclpy.qos import QoSProfile
from rclpy.waitable import Waitable, required_parameters
from vla_ros.embedded import dds
from vla_ros.embedded.messages import Message, deserialize


class Subscription(Waitable):
    """Calls `callback(msg)`, or `callback(msg, info)`, for each message."""

    def __init__(
        self, reader: dds.Reader, msg_type: type[Message], topic: str, callback: Callable[..., Any],
        callback_group: Any, qos_profile: QoSProfile, raw: bool,
    ) -> None:  # fmt: skip
        self._reader = reader
        self.msg_type, self.qos_profile, self.raw = msg_type, qos_profile, raw
        self.topic = self.topic_name = topic
        self.callback_group = callback_group
        self.conditions = (reader.condition,)
        self.event_handlers: Iterable[Any] = ()
        self.callback = callback

    @property
    def callback(self) -> Callable[..., Any]:
        """Who gets the messages."""
        return self._callback

    @callback.setter
    def callback(self, value: Callable[..., Any]) -> None:
        self._callback = value
        self._wants_info = required_parameters(value) == 2

    def take(self) -> Callable[[], Any] | None:
        samples = self._reader.take(1)
        if not samples:
            return None
        data, info = samples[0]
        callback = self._callback
        if self._wants_info:
            stamps = {
                "source_timestamp": info.source_timestamp,
                "received_timestamp": time.time_ns(),
                "publication_sequence_number": None,
                "reception_sequence_number": None,
            }
            return lambda: callback(data if self.raw else deserialize(data, self.msg_type), stamps)
        if self.raw:
            return lambda: callback(data)
        return lambda: callback(deserialize(data, self.msg_type))

    def get_publisher_count(self) -> int:
        """Number of matched publishers."""
        return self._reader.matched()

    def destroy(self) -> None:
        """Stop receiving."""
        self._reader.close()
