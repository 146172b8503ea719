"""Managed nodes."""

from rclpy.lifecycle.node import LifecycleNode, LifecycleNodeMixin, LifecyclePublisher, LifecycleState, Node
from rclpy.lifecycle.states import TransitionCallbackReturn

State = LifecycleState

__all__ = [
    "LifecycleNode", "LifecycleNodeMixin", "LifecyclePublisher", "LifecycleState", "Node", "State",
    "TransitionCallbackReturn",
]  # fmt: skip
