"""Alignment of frames and joint states, and what counts as an image."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.errors import VlaRosError
from vla_ros.robots.alignment import FRAMES, Aligner
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.image import decode, shrink
from vla_ros.types import Image, JointState

CONTRACT = RobotContract.load("panda")
TWO = dataclasses.replace(CONTRACT, observation=dataclasses.replace(CONTRACT.observation, cameras=("front", "wrist")))
SKEW = CONTRACT.observation.max_skew


def joints(stamp: float, value: float = 0.0) -> JointState:
    return JointState(stamp, CONTRACT.joints, np.full(7, value), np.zeros(7))


def frame(value: int = 7) -> Image:
    return np.full((128, 128, 3), value, np.uint8)


def test_a_set_has_the_contracts_size_and_the_closest_joint_state() -> None:
    aligner = Aligner(CONTRACT)
    for k in range(5):
        assert aligner.joints(joints(1.0 + 0.005 * k, k)) is None
    assert aligner.image("front", 1.023, frame()) is None, "waits, as the next joint state is closer than the newest"
    observation = aligner.joints(joints(1.025, 5))
    assert observation is not None
    assert observation.stamp == 1.023
    assert observation.images["front"].shape == (64, 64, 3)
    assert observation.joints.position[0] == 5
    assert observation.skew == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("spacing", "age", "waits"),
    [
        (0.005, 0.0024, False),
        (0.005, 0.0026, True),
        (0.001, 0.0006, True),  # faster than the contract's 200 Hz
        (0.015, 0.0026, True),  # one has been lost; the next comes at the contract's rate
    ],
)
def test_nobody_waits_for_a_joint_state_that_cannot_be_closer(spacing: float, age: float, waits: bool) -> None:
    aligner = Aligner(CONTRACT)
    for k in range(3):
        aligner.joints(joints(1.0 + spacing * k, k))
    newest = 1.0 + 2 * spacing
    at_once = aligner.image("front", newest + age, frame())
    assert (at_once is None) == waits
    observation = at_once or aligner.joints(joints(newest + min(spacing, 0.005), 3))
    assert observation is not None
    assert observation.joints.position[0] == (3 if waits else 2)
    assert observation.skew == pytest.approx(min(spacing, 0.005) - age if waits else age)


def test_a_slow_arm_is_waited_for_rather_than_dropped() -> None:
    """Half of its period is more than max_skew."""
    aligner = Aligner(dataclasses.replace(CONTRACT, control=dataclasses.replace(CONTRACT.control, rate=10)))
    aligner.joints(joints(1.0))
    aligner.joints(joints(1.1))
    assert aligner.image("front", 1.1 + SKEW + 0.01, frame()) is None
    assert aligner.counters.dropped == 0


@settings(max_examples=50, deadline=None)
@given(st.permutations(["front", "wrist", "joints"]))
def test_the_order_of_arrival_does_not_matter(order: list[str]) -> None:
    aligner = Aligner(TWO)
    aligner.joints(joints(0.995))
    results = [aligner.joints(joints(1.0, 1)) if name == "joints" else aligner.image(name, 1.0, frame()) for name in order]
    assert [r is not None for r in results] == [False, False, True]
    assert results[2] is not None
    assert results[2].joints.position[0] == 1
    assert results[2].skew == 0.0
    assert tuple(results[2].images) == ("front", "wrist")


def test_a_partner_beyond_the_skew_drops_the_set() -> None:
    aligner = Aligner(TWO)
    assert aligner.image("front", 1.0, frame()) is None
    assert aligner.image("wrist", 1.0 + SKEW + 0.001, frame()) is None
    assert aligner.joints(joints(1.0)) is None
    assert aligner.counters.dropped == 1
    assert aligner.image("front", 1.1, frame()) is None
    assert aligner.joints(joints(1.1)) is None
    observation = aligner.image("wrist", 1.1 - SKEW + 0.001, frame())
    assert observation is not None
    assert observation.skew == pytest.approx(SKEW - 0.001)


def test_faster_cameras_are_thinned_to_the_contracts_rate() -> None:
    aligner = Aligner(CONTRACT)
    stamps = []
    for k in range(60):
        stamp = 5.0 + k / 30
        aligner.joints(joints(stamp))
        if observation := aligner.image("front", stamp, frame()):
            stamps.append(observation.stamp)
    assert np.allclose(np.diff(stamps), 0.1)
    assert len(stamps) == 20
    assert aligner.counters.skipped == 40


def test_late_frames_and_clock_jumps_are_counted() -> None:
    aligner = Aligner(CONTRACT)
    aligner.joints(joints(10.0))
    assert aligner.image("front", 10.0, frame()) is not None
    assert aligner.image("front", 9.95, frame()) is None
    assert aligner.counters.stale == 1
    assert aligner.image("front", 2.0, frame()) is None
    assert aligner.joints(joints(2.0)) is not None, "simulated time was set back"
    assert aligner.counters.clock_jumps == 1


def test_joint_states_of_a_clock_that_was_ahead_are_forgotten() -> None:
    aligner = Aligner(CONTRACT)
    aligner.joints(joints(70.0))
    aligner.joints(joints(10.0))
    assert aligner.image("front", 10.0, frame()) is not None
    assert aligner.counters.clock_jumps == 1


def test_memory_is_bounded_and_nothing_is_made_up() -> None:
    aligner = Aligner(TWO)
    for k in range(1000):
        assert aligner.image("front", 0.1 * k, frame()) is None
        assert aligner.joints(joints(0.1 * k)) is None
    assert len(aligner._pending) == FRAMES
    assert aligner.counters.emitted == 0
    assert aligner.counters.dropped == 1000 - FRAMES


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (dataclasses.replace(joints(1), names=("x", *CONTRACT.joints[1:])), "'panda_joint1' is missing"),
        (dataclasses.replace(joints(1), position=np.zeros(3)), "3 positions and 7 velocities for 7 names"),
        (joints(1, np.nan), "not finite"),
    ],
)
def test_bad_joint_states_are_errors(state: JointState, match: str) -> None:
    with pytest.raises(VlaRosError, match=match):
        Aligner(CONTRACT).joints(state)


def test_unknown_camera_is_an_error() -> None:
    with pytest.raises(VlaRosError, match="'wrist' is no part of the observation; expected one of front"):
        Aligner(CONTRACT).image("wrist", 1.0, frame())


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_encodings_and_padding(encoding: str) -> None:
    channels = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}[encoding]
    rgb = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    if encoding == "mono8":
        rgb[:] = rgb[:, :, :1]
    order = [2, 1, 0] if encoding.startswith("b") else [0, 1, 2]
    pixels = np.dstack([rgb[:, :, order], np.full((5, 4), 9, np.uint8)])[:, :, :channels]
    padded = np.zeros((5, 4 * channels + 3), np.uint8)
    padded[:, : 4 * channels] = pixels.reshape(5, -1)
    assert np.array_equal(decode(padded.ravel(), encoding, 5, 4, 4 * channels + 3), rgb)


@pytest.mark.parametrize(
    ("size", "encoding", "step", "match"),
    [
        (60, "16UC1", 12, "'16UC1', expected one of rgb8"),
        (59, "rgb8", 12, "59 bytes, expected step . height = 12 . 5 = 60"),
        (55, "rgb8", 11, "step >= 12"),
    ],
)
def test_what_is_no_image(size: int, encoding: str, step: int, match: str) -> None:
    with pytest.raises(VlaRosError, match=match):
        decode(np.zeros(size, np.uint8), encoding, 5, 4, step)


@pytest.mark.parametrize("shape", [(480, 640), (481, 641), (96, 128), (64, 64), (65, 200)])
@pytest.mark.parametrize("size", [(64, 64), (64, 48), (1, 1)])
def test_a_smaller_image_is_the_average_of_areas(shape: tuple[int, int], size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image[:, : shape[1] // 2] = 255
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shrink(image, size).astype(int) - expected).max() <= 1, "halves may be rounded the other way"
    image.flags.writeable = False  # as a received message's
    padded = np.zeros((shape[0], shape[1] + 5, 3), np.uint8)
    padded[:, :-5] = image
    np.testing.assert_array_equal(shrink(padded[:, :-5], size), shrink(image, size))
