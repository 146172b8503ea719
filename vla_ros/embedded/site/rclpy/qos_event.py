"""Name of rclpy.event_handler up to Humble."""

from rclpy.event_handler import *  # noqa: F403
