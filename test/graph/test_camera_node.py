"""camera_node as a process: aligned observations from topics or a device, and named faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from node_process import NodeProcess, spin_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image as ImageMsg
from sensor_msgs.msg import JointState as JointStateMsg
from vla_ros.msg import Observation as ObservationMsg

from vla_ros.nodes import convert, qos
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.types import Image, JointState

CONTRACT = RobotContract.load("panda")
TOPIC = CONTRACT.cameras["front"].topic


class Cell(Node):
    """Joint states at 100 Hz and, if there is one, a camera at 20 Hz."""

    def __init__(self) -> None:
        super().__init__("cell")
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)
        self.picture: Image | None = None
        self.sent: dict[float, Image] = {}
        self.observations: list[ObservationMsg] = []
        self.frames: list[ImageMsg] = []
        self.message = ""
        self.joints = self.create_publisher(JointStateMsg, CONTRACT.control.state_topic, 5)
        self.camera = self.create_publisher(ImageMsg, TOPIC, qos.SENSOR)
        self.create_subscription(ObservationMsg, "/observation", self.observations.append, qos.SENSOR)
        self.create_subscription(ImageMsg, TOPIC, self.frames.append, qos.SENSOR)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_timer(0.01, self._move)
        self.create_timer(0.05, self._shoot)

    def now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def _move(self) -> None:
        state = JointState(self.now(), CONTRACT.joints[::-1], np.arange(7.0), np.zeros(7))
        self.joints.publish(convert.joint_state_message(state))

    def _shoot(self) -> None:
        if self.picture is not None:
            stamp = self.now()
            self.sent[stamp] = self.picture
            self.camera.publish(convert.image_message(self.picture, stamp, "front_optical"))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.message = next((s.message for s in message.status if s.name == "vla_ros: camera"), self.message)

    def until_observed(self, number: int, seconds: float = 15.0) -> None:
        spin_until(self.executor_, lambda: len(self.observations) >= number, f"{number} observations", seconds)


@pytest.fixture
def cell() -> Iterator[Cell]:
    rclpy.init()
    node = Cell()
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_observations_are_aligned_resized_and_at_the_contracts_rate(cell: Cell) -> None:
    cell.picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    with NodeProcess("camera_node"):
        cell.until_observed(8)
    for message in cell.observations:
        observation = convert.observation(message)
        assert observation.stamp in cell.sent
        assert np.array_equal(observation.images["front"], resize(cell.picture, CONTRACT.observation.size))
        assert observation.joints.names == CONTRACT.joints
        assert observation.joints.position.tolist() == list(range(7))[::-1]
        assert 0 <= observation.skew <= CONTRACT.observation.max_skew
    stamps = np.array([convert.seconds(m.header.stamp) for m in cell.observations])
    assert np.diff(stamps).min() > 0.1 - CONTRACT.observation.max_skew


def test_a_missing_camera_and_a_broken_one_are_named(cell: Cell) -> None:
    with NodeProcess("camera_node", timeout=0.5):
        spin_until(cell.executor_, lambda: f"{TOPIC}: no sensor_msgs/Image" in cell.message, "fault", 15)
        assert "config/robots/panda.yaml" in cell.message
        assert cell.observations == []
        broken = convert.image_message(np.zeros((8, 8, 3), np.uint8), cell.now())
        broken.encoding = "bayer_rggb8"
        cell.camera.publish(broken)
        spin_until(cell.executor_, lambda: "found 'bayer_rggb8', expected one of rgb8" in cell.message, "error", 5)
        cell.picture = np.zeros((64, 64, 3), np.uint8)
        cell.until_observed(1, 5.0)
        spin_until(cell.executor_, lambda: "no sensor_msgs/Image" not in cell.message, "fault cleared", 5)


def write_video(path: Path, colour: tuple[int, int, int]) -> Path:
    """80x60, 20 Hz, of one colour [BGR]."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (80, 60))
    for _ in range(10):
        writer.write(np.full((60, 80, 3), colour, np.uint8))
    writer.release()
    return path


def test_a_device_is_read_and_published(cell: Cell, tmp_path: Path) -> None:
    with NodeProcess("camera_node", devices=write_video(tmp_path / "camera.avi", (0, 0, 200))) as process:
        cell.until_observed(3)
        status, output = process.end()
    assert (status, "Traceback" in output) == (0, False), output
    image = convert.observation(cell.observations[-1]).images["front"]
    assert image.shape == (64, 64, 3)
    assert np.abs(image.mean(axis=(0, 1)) - [200, 0, 0]).max() < 8, "red, so channels are in RGB order"
    assert {(m.width, m.height, m.encoding, m.header.frame_id) for m in cell.frames} == {(80, 60, "rgb8", "front_optical")}


def test_devices_are_the_contracts_cameras_in_its_order(cell: Cell, tmp_path: Path) -> None:
    content = yaml.safe_load(CONTRACT.path.read_text())
    content["observation"]["cameras"] = ["front", "wrist"]
    robot = tmp_path / "panda.yaml"
    robot.write_text(yaml.safe_dump(content))
    videos = [write_video(tmp_path / f"{name}.avi", colour) for name, colour in (("red", (0, 0, 200)), ("blue", (200, 0, 0)))]
    with NodeProcess("camera_node", robot=robot, devices=f"[{videos[0]}, {videos[1]}]"):
        cell.until_observed(10)
    for message in cell.observations:
        means = {name: image.mean(axis=(0, 1)) for name, image in convert.observation(message).images.items()}
        assert list(means) == ["front", "wrist"]
        assert np.abs(means["front"] - [200, 0, 0]).max() < 8
        assert np.abs(means["wrist"] - [0, 0, 200]).max() < 8


def test_an_unknown_device_ends_with_a_clear_line() -> None:
    status, output = NodeProcess("camera_node", devices="/dev/video77").wait()
    assert status == 2
    assert "'/dev/video77' of camera 'front' cannot be opened as a camera" in output


def test_a_wrong_number_of_devices_ends_with_a_clear_line() -> None:
    status, output = NodeProcess("camera_node", devices="[0, 2]").wait()
    assert status == 2
    assert "parameter `devices`: found 2 (0, 2), expected 1, one for each policy camera" in output
