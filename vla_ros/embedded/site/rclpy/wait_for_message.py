"""Wait for one message."""

from __future__ import annotations

from typing import Any

from rclpy.qos import QoSProfile
from rclpy.task import Future


def wait_for_message(
    msg_type: Any, node: Any, topic: str, *, qos_profile: QoSProfile | int = 1, time_to_wait: float = -1
) -> tuple[bool, Any]:
    """(True, message), or (False, None) after time_to_wait [s]; negative waits forever."""
    import rclpy

    future = Future()
    subscription = node.create_subscription(msg_type, topic, _first(future), qos_profile)
    try:
        timeout = None if time_to_wait < 0 else time_to_wait
        if node.executor is not None:
            node.executor.spin_until_future_complete(future, timeout)
        else:
            rclpy.spin_until_future_complete(node, future, timeout_sec=timeout)
    finally:
        node.destroy_subscription(subscription)
    return future.done(), future.result()


def _first(future: Future) -> Any:
    def callback(message: Any) -> None:
        if not future.done():
            future.set_result(message)

    return callback
