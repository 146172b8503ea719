"""Publishers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rclpy.duration import Duration
from rclpy.exceptions import InvalidHandle
from rclpy.qos import QoSProfile
from vla_ros.embedded import dds
from vla_ros.embedded.messages import Message, serialize


class Publisher:
    """Sends messages of one type to one topic; publish() sends at once, in the calling thread."""

    def __init__(self, writer: dds.Writer, msg_type: type[Message], topic: str, qos_profile: QoSProfile) -> None:
        self._writer = writer
        self.msg_type = msg_type
        self.topic = self.topic_name = topic
        self.qos_profile = qos_profile
        self.event_handlers: Iterable[Any] = ()

    def publish(self, msg: Message | bytes) -> None:
        """Send a message, or ready CDR bytes.

        Raises:
            TypeError: a message of another type.
            InvalidHandle: the publisher was destroyed.
        """
        if self._writer.closed:
            raise InvalidHandle(f"publisher on {self.topic} was destroyed")
        if isinstance(msg, self.msg_type):
            self._writer.write(serialize(msg))
        elif isinstance(msg, bytes):
            self._writer.write(msg)
        else:
            raise TypeError(f"Expected {self.msg_type}, got {type(msg)}")

    def get_subscription_count(self) -> int:
        """Number of matched subscriptions."""
        return self._writer.matched()

    def assert_liveliness(self) -> None:
        """Tell that this publisher is alive (MANUAL_BY_TOPIC)."""
        self._writer.assert_liveliness()

    def wait_for_all_acked(self, timeout: Duration | None = None) -> bool:
        """Wait until all reliable readers have all; False after the timeout (None or negative: forever)."""
        forever = timeout is None or timeout.nanoseconds < 0
        return self._writer.wait_for_acks(dds.INFINITE if timeout is None or forever else timeout.nanoseconds)

    def wait_for_subscriptions(self, count: int = 1, timeout_sec: float = 5.0) -> bool:
        """Not in rclpy: wait until `count` subscriptions are matched; False after the timeout [s]."""
        deadline = time.monotonic() + timeout_sec
        while self.get_subscription_count() < count:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        return True

    def destroy(self) -> None:
        """Stop sending."""
        self._writer.close()
