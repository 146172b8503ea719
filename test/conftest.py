"""Puts the embedded rclpy on the path and gives this pytest process a ROS domain of its own, on loopback."""

from __future__ import annotations

import os
import signal
import socket


def free_domain() -> int:
    """A ROS domain in 1..100 (below the ephemeral ports) whose first participant's port nobody has on loopback."""
    for attempt in range(100):
        domain = 1 + (os.getpid() + attempt) % 100
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", 7410 + 250 * domain))
            except OSError:
                continue
        return domain
    raise RuntimeError("no free ROS domain in 1..100; end other tests first")


# A background job (`make test &`, some CI runners) starts with SIGINT ignored, and so would every process that a test
# starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["ROS_DOMAIN_ID"] = str(free_domain())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_STATIC_PEERS", None)
os.environ.pop("CYCLONEDDS_URI", None)

from vla_ros import embedded  # noqa: E402  (the environment must be set first)

embedded.activate()
