"""Transport of the embedded runtime between two processes on this machine.

1. Images: 4 topics x 30 Hz, 640x480 rgb8, best effort: latency from the stamp before serialisation to the callback,
   messages that never came, CPU share of either process.
2. Round trip: JointState (7 joints) there, Float64MultiArray back, one at a time, as in lock-stepped simulation.

    python benchmarks/transport.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vla_ros import embedded  # noqa: E402

embedded.activate()

import rclpy  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402

TOPICS = 4
RATE = 30.0  # [Hz] per topic
WIDTH, HEIGHT = 640, 480
CAMERA_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
DOMAIN = 111  # of its own, away from a robot's


def cpu_seconds() -> float:
    """CPU time of this process so far [s]."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Cameras(Node):
    """Publishes noise on all topics."""

    def __init__(self, frames: int) -> None:
        super().__init__("cameras")
        self._left = frames
        self._senders = [self.create_publisher(Image, f"/bench/image_{i}", CAMERA_QOS) for i in range(TOPICS)]
        shape = (HEIGHT, WIDTH, 3)
        self._pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        for sender in self._senders:
            sender.wait_for_subscriptions(1)
        self.create_timer(1 / RATE, self._tick)

    def _tick(self) -> None:
        if not self._left:
            raise ExternalShutdownException
        self._left -= 1
        for sender in self._senders:
            message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=self._pixels)
            now = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = now // 10**9, now % 10**9
            sender.publish(message)


class Viewer(Node):
    """Notes how old each image is on arrival."""

    def __init__(self) -> None:
        super().__init__("viewer")
        self.ages: list[float] = []
        for i in range(TOPICS):
            self.create_subscription(Image, f"/bench/image_{i}", self._arrived, CAMERA_QOS)

    def _arrived(self, message: Any) -> None:
        stamp = message.header.stamp
        self.ages.append(time.time() - stamp.sec - stamp.nanosec / 1e9)


class Pong(Node):
    """Answers each joint state with a command."""

    def __init__(self) -> None:
        super().__init__("pong")
        self._commands = self.create_publisher(Float64MultiArray, "/bench/command", 1)
        self.create_subscription(JointState, "/bench/joints", self._answer, 1)

    def _answer(self, message: Any) -> None:
        self._commands.publish(Float64MultiArray(data=message.position))


def run_peer(role: str, frames: int) -> None:
    """The other process: publish `frames` images per topic, or answer, and print CPU and wall time."""
    node = Cameras(frames) if role == "cameras" else Pong()
    cpu, wall = cpu_seconds(), time.monotonic()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        print(json.dumps({"cpu": cpu_seconds() - cpu, "wall": time.monotonic() - wall}), flush=True)


def start_peer(role: str, frames: int = 0) -> subprocess.Popen[str]:
    """Run this file as the other process."""
    command = [sys.executable, __file__, "--role", role, "--frames", str(frames)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure_images(seconds: float) -> dict[str, float]:
    """Latency [ms], drops and CPU [%] of the image load."""
    frames = int(seconds * RATE)
    viewer = Viewer()
    executor = SingleThreadedExecutor()
    executor.add_node(viewer)
    peer = start_peer("cameras", frames)
    cpu, wall = 0.0, 0.0
    deadline = time.monotonic() + seconds + 20
    while peer.poll() is None and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.2)
        if viewer.ages and not wall:
            cpu, wall = cpu_seconds(), time.monotonic()
    used, took = cpu_seconds() - cpu, time.monotonic() - wall
    for _ in range(100):
        executor.spin_once(timeout_sec=0.01)
    told = json.loads(peer.communicate(timeout=10)[0])
    executor.shutdown()
    viewer.destroy_node()
    milliseconds = np.array(viewer.ages) * 1e3
    return {
        "image_p50_ms": float(np.median(milliseconds)),
        "image_p99_ms": float(np.percentile(milliseconds, 99)),
        "image_max_ms": float(milliseconds.max()),
        "image_sent": frames * TOPICS,
        "image_dropped": frames * TOPICS - len(viewer.ages),
        "image_publisher_cpu_percent": 100 * told["cpu"] / told["wall"],
        "image_subscriber_cpu_percent": 100 * used / took,
    }


def measure_round_trip(count: int) -> dict[str, float]:
    """Round trip of a joint state and the command that answers it [ms]."""
    node = Node("ping")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    arrived: list[float] = []
    node.create_subscription(Float64MultiArray, "/bench/command", lambda _: arrived.append(time.perf_counter()), 1)
    joints = node.create_publisher(JointState, "/bench/joints", 1)
    peer = start_peer("pong")
    joints.wait_for_subscriptions(1)
    time.sleep(0.5)
    names, values = [f"joint{i}" for i in range(7)], np.arange(7.0)
    trips = []
    lost = 0
    for _ in range(count):
        start = time.perf_counter()
        joints.publish(JointState(name=names, position=values, velocity=values))
        had = len(arrived)
        while len(arrived) == had and time.perf_counter() - start < 1.0:
            executor.spin_once(timeout_sec=0.5)
        if len(arrived) == had:
            lost += 1
        else:
            trips.append(1e3 * (arrived[-1] - start))
    peer.terminate()
    peer.communicate(timeout=10)
    executor.shutdown()
    node.destroy_node()
    return {
        "round_trip_p50_ms": float(np.median(trips)),
        "round_trip_p99_ms": float(np.percentile(trips, 99)),
        "round_trip_per_second": 1e3 / float(np.mean(trips)),
        "round_trip_lost": lost,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 s of images and 1000 round trips, not 20 s and 5000")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    parser.add_argument("--role", choices=("cameras", "pong"), help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["ROS_DOMAIN_ID"] = os.environ.get("ROS_DOMAIN_ID") or str(DOMAIN)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init(args=[])
    if options.role:
        run_peer(options.role, options.frames)
    else:
        figures = measure_images(4.0 if options.quick else 20.0)
        figures |= measure_round_trip(1000 if options.quick else 5000)
        print(f"{TOPICS} topics x {RATE:.0f} Hz x {WIDTH}x{HEIGHT} rgb8, and {7}-joint round trips, two processes")
        for name, value in figures.items():
            print(f"  {name:<30} {value:10.3f}" if isinstance(value, float) else f"  {name:<30} {value:10d}")
        if options.json:
            print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
