"""Camera ingestion: the contract's policy cameras and joint states in, aligned observations at the contract's size
out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image as ImageMsg
from sensor_msgs.msg import JointState as JointStateMsg

from vla_ros.errors import VlaRosError
from vla_ros.msg import Observation as ObservationMsg
from vla_ros.nodes import convert, qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.main import run
from vla_ros.robots.alignment import Aligner
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.types import Image, Observation

QUEUE = 5


class CameraNode(Node):
    """Executor and capture threads all feed the aligner, one at a time under `_feeding`."""

    def __init__(self) -> None:
        super().__init__("camera_node")
        self.contract = RobotContract.load(self.declare_parameter("robot", "panda").value)
        names = self.contract.observation.cameras
        # V4L2 indices, paths or video files that are read here, one for each policy camera in the contract's order; '' for a
        # camera that comes as a topic. One device needs no list: devices:=/dev/video0
        given = self.declare_parameter("devices", "", ParameterDescriptor(dynamic_typing=True)).value
        devices = by_camera(given, names)
        simulated = qos.simulated(self)
        # Default true with simulated time: in lock step a lost frame would stop the clock.
        reliable = bool(self.declare_parameter("reliable", simulated).value)
        self.timeout = float(self.declare_parameter("timeout", 2.0).value)  # s, until a silent input is reported
        self.aligner = Aligner(self.contract)
        self._feeding = threading.Lock()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._silence_clock = self.get_clock() if simulated else steady
        self._heard: dict[str, int] = {}  # input -> ns on the silence clock

        self.diagnostics = Diagnostics(self, "camera", self.contract.robot)
        profile = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)
        self.observations = self.create_publisher(ObservationMsg, "observation", qos.observations(reliable, QUEUE))
        cv2.setNumThreads(1)  # a camera has a thread of its own; to share a picture out among others takes longer than it saves
        self._captures = [Capture(self, name, device) for name, device in devices.items()]
        for name in names:
            if name not in devices:
                self._subscribe(name, profile)
        self.create_subscription(JointStateMsg, self.contract.control.state_topic, self._on_joints, profile)
        started = self._silence_clock.now().nanoseconds
        self._inputs = {
            **{name: f"{self.contract.cameras[name].topic}: no sensor_msgs/Image of camera '{name}'" for name in names},
            **{name: f"device '{device}': no frame of camera '{name}'" for name, device in devices.items()},
            "joints": f"{self.contract.control.state_topic}: no sensor_msgs/JointState",
        }
        self._heard = dict.fromkeys(self._inputs, started)
        self.create_timer(1.0, self._watch, clock=steady)
        for capture in self._captures:
            self.context.on_shutdown(capture.stop)
            capture.start()
        self.get_logger().info(f"observations of {', '.join(names)} at {self.contract.observation.rate:g} Hz")

    def _subscribe(self, name: str, profile: QoSProfile) -> None:
        topic = self.contract.cameras[name].topic

        def on_image(message: ImageMsg) -> None:
            try:
                rgb = convert.image(message)
            except VlaRosError as error:
                self._invalid(f"{topic}: {error}")
            else:
                self.feed(name, convert.seconds(message.header.stamp), rgb)

        self.create_subscription(ImageMsg, topic, on_image, profile)

    def feed(self, name: str, stamp: float, rgb: Image) -> None:
        """One frame [H, W, 3] of a camera; from the executor or a capture thread."""
        self._heard[name] = self._silence_clock.now().nanoseconds
        self.diagnostics.count(f"frames_{name}", rate=True)
        with self._feeding:
            observation = self.aligner.image(name, stamp, rgb)
        self._publish(observation)

    def _on_joints(self, message: JointStateMsg) -> None:
        self._heard["joints"] = self._silence_clock.now().nanoseconds
        try:
            with self._feeding:
                observation = self.aligner.joints(convert.joint_state(message))
        except VlaRosError as error:
            self._invalid(f"{self.contract.control.state_topic}: {error}")
        else:
            self._publish(observation)

    def _publish(self, observation: Observation | None) -> None:
        if observation is None:
            return
        ordered = convert.ordered(observation.joints, self.contract.joints)
        frames = {name: self.contract.cameras[name].frame for name in observation.images}
        message = convert.observation_message(
            Observation(observation.stamp, observation.images, ordered, observation.skew), frames
        )
        self.observations.publish(message)
        now = float(self.get_clock().now().nanoseconds) * 1e-9
        self.diagnostics.count("observations", rate=True)
        self.diagnostics.sample("latency", now - observation.stamp)

    def _invalid(self, message: str) -> None:
        self.diagnostics.error(message)
        self.get_logger().error(message, throttle_duration_sec=2.0)

    def _watch(self) -> None:
        now = self._silence_clock.now().nanoseconds
        for name, missing in self._inputs.items():
            silent = (now - self._heard[name]) * 1e-9
            if silent > self.timeout:
                expected = f"expected as {self.contract.path} says; is its driver running?"
                self.diagnostics.fault(name, f"{missing} for {silent:.0f} s; {expected}")
            else:
                self.diagnostics.clear(name)
        counters = self.aligner.counters
        for key in ("emitted", "skipped", "dropped", "stale", "clock_jumps"):
            self.diagnostics.set(f"aligned_{key}", getattr(counters, key))


def by_camera(given: str | int | Sequence[str | int], names: Sequence[str]) -> dict[str, str]:
    """Device by name of the camera, of those that are devices.

    Raises:
        VlaRosError: not as many as cameras.
    """
    found = [str(entry) for entry in ([given] if isinstance(given, str | int) else given)]
    if not any(found):
        return {}
    if len(found) != len(names):
        raise VlaRosError(
            f"parameter `devices`: found {len(found)} ({', '.join(found)}), expected {len(names)}, one for each policy camera in "
            f"the contract's order ({', '.join(names)}) and '' for one that comes as a topic"
        )
    return {name: device for name, device in zip(names, found, strict=True) if device}


class Capture:
    """Reads a V4L2 device (or a video file, over and over) in a thread of its own, and publishes image_raw while somebody
    listens, as a driver node would.

    Raises:
        VlaRosError: the device cannot be opened.
    """

    def __init__(self, node: CameraNode, name: str, device: str) -> None:
        self._node, self._name, self._device = node, name, device
        self._is_file = Path(device).is_file()
        self._camera, self._size = node.contract.cameras[name], node.contract.observation.size
        self._publisher = node.create_publisher(ImageMsg, self._camera.topic, qos.SENSOR)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"capture {device}", daemon=True)
        self._video = cv2.VideoCapture()
        if not self._open():
            raise VlaRosError(
                f"parameter `devices`: '{device}' of camera '{name}' cannot be opened as a camera; expected a V4L2 index (0) or "
                "path (/dev/video0) that exists, is not in use, and may be read by this user"
            )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)
        if not self._thread.is_alive():  # else it hangs in the driver, which must not lose its device under it
            self._video.release()

    def _open(self) -> bool:
        opened = self._video.open(int(self._device) if self._device.isdigit() else self._device)
        self._video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest of a queue
        return opened

    def _read(self) -> None:
        node = self._node
        rate = self._video.get(cv2.CAP_PROP_FPS) or 30.0  # Hz
        tick = 0
        bgr: Any = None  # [H, W, 3] uint8
        while not self._stopping.is_set():
            if self._is_file:  # a camera paces grab() itself; a file would be read at once
                # On multiples of the period: it does not drift, and files of one rate are in step, as triggered cameras are.
                tick = max(tick, int(time.monotonic() * rate)) + 1
                if self._stopping.wait(max(0.0, tick / rate - time.monotonic())):
                    return
            good = self._grab()
            stamp = float(node.get_clock().now().nanoseconds) * 1e-9
            if good:
                good, bgr = self._video.retrieve(bgr)  # into the same memory: a new picture's costs as much as its decoding
            if not good:
                node.diagnostics.error(f"device '{self._device}' delivers no frame; trying again every second")
                if self._stopping.wait(1.0):
                    return
                self._open()
                continue
            # Colours change places in the small picture: averages are per colour, so it is the same, and a hundredth of the work.
            small = cv2.cvtColor(resize(bgr, self._size), cv2.COLOR_BGR2RGB)
            node.feed(self._name, stamp, np.asarray(small, np.uint8))
            if self._publisher.get_subscription_count():
                rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
                self._publisher.publish(convert.image_message(rgb, stamp, self._camera.frame))

    def _grab(self) -> bool:
        """Waits for the next frame; a file starts again at its end."""
        return self._video.grab() or (self._is_file and self._video.set(cv2.CAP_PROP_POS_FRAMES, 0) and self._video.grab())


def main(args: list[str] | None = None) -> int:
    return run(CameraNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
