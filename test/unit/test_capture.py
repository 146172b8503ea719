"""Cameras that camera_node reads itself: the same pictures as topics give, at a file's rate, published while somebody listens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image as ImageMsg

from vla_ros.errors import VlaRosError
from vla_ros.nodes import convert
from vla_ros.nodes.camera_node import Capture, by_camera
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.types import Image

SIZE = RobotContract.load("panda").observation.size
NAMES = ("front", "wrist")
RATE, FRAMES = 40.0, 6


class Node:
    """What a Capture asks of its node; keeps what comes. Its clock is the steady one, so that stamps show the pace."""

    def __init__(self, listeners: int) -> None:
        self.contract = RobotContract.load("panda")
        self.fed: list[tuple[str, float, Image]] = []
        self.sent: list[ImageMsg] = []
        self.errors: list[str] = []
        self.diagnostics = SimpleNamespace(error=self.errors.append)
        self._publisher = SimpleNamespace(publish=self.sent.append, get_subscription_count=lambda: listeners)

    def create_publisher(self, *_: object) -> SimpleNamespace:
        return self._publisher

    def get_clock(self) -> SimpleNamespace:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=time.monotonic_ns()))

    def feed(self, *frame: object) -> None:
        assert len(self.sent) in (0, len(self.fed)), "the observation comes first"
        self.fed.append(frame)  # type: ignore[arg-type]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "camera.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"RGBA"), RATE, (96, 72))  # lossless
    for k in range(FRAMES):
        writer.write(picture(k))
    writer.release()
    return path


def picture(k: int) -> Image:
    """[72, 96, 3] BGR."""
    return np.random.default_rng(k).integers(0, 256, (72, 96, 3), np.uint8)


def run(node: Node, device: Path, frames: int) -> None:
    capture = Capture(node, "front", str(device))  # type: ignore[arg-type]
    capture.start()
    deadline = time.monotonic() + 20
    while len(node.fed) < frames and time.monotonic() < deadline:
        time.sleep(0.01)
    capture.stop()
    assert len(node.fed) >= frames
    assert not node.errors


@pytest.mark.parametrize("listeners", [0, 1])
def test_frames_are_those_that_come_by_topic_and_start_again(video: Path, listeners: int) -> None:
    node = Node(listeners)
    run(node, video, 2 * FRAMES + 1)
    for k, (name, stamp, small) in enumerate(node.fed):
        rgb = np.ascontiguousarray(picture(k % FRAMES)[..., ::-1])
        assert name == "front"
        np.testing.assert_array_equal(small, resize(rgb, SIZE))
        if listeners:
            np.testing.assert_array_equal(convert.image(node.sent[k]), rgb)
            assert convert.seconds(node.sent[k].header.stamp) == pytest.approx(stamp, abs=1e-6)
            assert node.sent[k].header.frame_id == "front_optical"
    assert len(node.sent) == listeners * len(node.fed)


def test_a_file_is_played_on_a_schedule_that_does_not_drift(video: Path) -> None:
    node = Node(0)
    run(node, video, 40)
    stamps = np.array([stamp for _, stamp, _ in node.fed])
    ticks = np.floor(stamps * RATE + 0.01)  # a wait may end a moment early
    assert np.diff(ticks).min() >= 1, "never two frames in one period"
    assert np.median(stamps * RATE - ticks) < 0.4, "at the periods' beginnings"


@pytest.mark.parametrize("shape", [(480, 640), (64, 64), (65, 200), (30, 40)])
def test_colours_may_change_places_after_resizing(shape: tuple[int, int]) -> None:
    """For every way that resize() has."""
    bgr = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(cv2.cvtColor(resize(bgr, SIZE), cv2.COLOR_BGR2RGB), resize(rgb, SIZE))


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        ("", NAMES, {}),
        ([""], NAMES, {}),
        (["", ""], NAMES, {}),
        ("/dev/video0", NAMES[:1], {"front": "/dev/video0"}),
        (0, NAMES[:1], {"front": "0"}),
        ([2, 0], NAMES, {"front": "2", "wrist": "0"}),
        (["", "a.avi"], NAMES, {"wrist": "a.avi"}),
    ],
)
def test_devices_of_cameras(given: str | int | Sequence[str | int], names: Sequence[str], expected: dict[str, str]) -> None:
    assert by_camera(given, names) == expected


def test_a_wrong_number_of_devices_is_named() -> None:
    with pytest.raises(VlaRosError, match=r"`devices`: found 1 \(/dev/video0\), expected 2, one for each .* \(front, wrist\)"):
        by_camera("/dev/video0", NAMES)
    with pytest.raises(VlaRosError, match="found 3 .*expected 2"):
        by_camera([0, 1, 2], NAMES)
