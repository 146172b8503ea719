"""rclpy-compatible runtime on Cyclone DDS for machines without ROS 2.

After `activate()`, `import rclpy`, `from sensor_msgs.msg import Image` and `from vla_ros.msg import Progress` work as
on a ROS 2 machine and speak ROS 2's wire format. On a ROS 2 machine `activate()` does nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SITE = Path(__file__).resolve().parent / "site"


def available() -> bool:
    """Whether a real rclpy (not the embedded one) can be imported."""
    spec = importlib.util.find_spec("rclpy")
    return spec is not None and not (spec.origin or "").startswith(str(SITE))


def activate() -> None:
    """Make the embedded rclpy and all message packages importable; idempotent, nothing to do under ROS 2."""
    if available():
        return
    from vla_ros.embedded import finder

    if str(SITE) not in sys.path:
        sys.path.insert(0, str(SITE))
    finder.install()
