"""Safety files only tighten, and every mistake in one names file, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ros import paths
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.limits import Limits

CONTRACT = RobotContract.load("panda")


def write(folder: Path, text: str, base: bool = False) -> Path:
    file = folder / "task.yaml"
    start = (paths.share() / "config" / "safety" / "panda.yaml").read_text() if base else ""
    file.write_text(start + text)
    return file


def test_urdf_limits_are_tightened() -> None:
    limits = Limits.load(CONTRACT)
    assert limits.upper[0] == pytest.approx(2.8973 - 0.02)
    assert limits.lower[3] == pytest.approx(-3.0718 + 0.02)
    assert limits.velocity[0] == pytest.approx(2.175 * 0.8)
    assert limits.acceleration == (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0)


def test_overlay_tightens_only_what_it_names(tmp_path: Path) -> None:
    base = Limits.load(CONTRACT)
    overlay = write(tmp_path, "position: {panda_joint4: [-2.5, -0.5]}\nvelocity_scale: 0.5\nrow_jump: 0.1\n")
    for limits in (Limits.load(CONTRACT, "panda", overlay), base.tightened(overlay)):
        assert (limits.lower[3], limits.upper[3]) == (-2.5, -0.5)
        assert limits.velocity[0] == pytest.approx(base.velocity[0] * 0.5)
        assert limits.row_jump == (0.1,) * 7
        assert limits.upper[0] == base.upper[0]
        assert limits.workspace == base.workspace
        assert str(overlay) in limits.source


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("velocity: [9, 9, 9, 9, 9, 9, 9]", "velocity of panda_joint1", "at most 1.74"),
        ("acceleration: [16, 1, 1, 1, 1, 1, 1]", "acceleration of panda_joint1", "at most 15"),
        ("position: {panda_joint1: [-2.9, 2.9]}", "position.panda_joint1", "inside [-2.8773, 2.8773]"),
        (
            "workspace: {panda_tool: {x: [0.1, 0.5], y: [0, 0.1], z: [0.1, 0.2]}}",
            "workspace.panda_tool.x",
            "[0.15, 0.8]",
        ),
        ("policy_silence: 5", "policy_silence", "at most 0.3"),
    ],
)
def test_loosening_is_an_error_that_names_both_files(tmp_path: Path, text: str, key: str, expected: str) -> None:
    overlay = write(tmp_path, text)
    with pytest.raises(VlaRosError) as error:
        Limits.load(CONTRACT, "panda", overlay)
    for part in (str(overlay), "config/safety/panda.yaml", "panda.urdf", key, expected):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("velocty: [1, 1]", ["velocty", "did you mean 'velocity'"]),
        ("velocity: [1, 1]", ["velocity", "a list of 7 numbers"]),
        ("acceleration: [.nan, 1, 1, 1, 1, 1, 1]", ["acceleration", "positive finite"]),
        ("velocity_scale: 1.5", ["velocity_scale", "1.5", "[0.001, 1]"]),
        ("robot: aloha", ["robot", "aloha", "panda"]),
        ("position_margin: 2", ["position_margin", "no room"]),
        ("position: {panda_joint: [-1, 1]}", ["panda_joint", "panda_joint1"]),
        ("row_jump: 35", ["row_jump", "35", "rad within 4 pi", "degrees"]),
        ("position: {panda_joint1: [-90, 90]}", ["position.panda_joint1", "[-90, 90]", "rad within 4 pi", "degrees"]),
        ("acceleration: [1, 1]", ["acceleration", "[1, 1]", "a list of 7 numbers"]),
        ("jerk: [1, 1, 1, -1, 1, 1, 1]", ["jerk", "-1", "positive finite numbers"]),
        ("position: {panda_joint9: [0, 1]}", ["position.panda_joint9", "panda_joint1"]),
        ("position: {panda_joint1: [1, 0]}", ["position.panda_joint1", "[1, 0]", "lower < upper"]),
        ("clearance: 0.001", ["clearance", "0.001", "at least 0.01"]),
        ("walls: {table: {point: [0, 0, -1], normal: [0, 0, 1]}}", ["walls.table", "otherwise in an earlier file"]),
        ("walls: {back: {point: [0, 0, 0], normal: [0, 0, 2]}}", ["walls.back.normal", "[0, 0, 2]", "a unit vector"]),
        ("world: {post: {shape: cone, size: [1], position: [1, 0, 0]}}", ["world.post.shape", "cone", "box, sphere"]),
        ("settle: 0", ["settle", "0", "[0.01"]),
        ("row_jump: true", ["row_jump", "True", "number"]),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, text: str, parts: list[str]) -> None:
    overlay = write(tmp_path, text)
    with pytest.raises(VlaRosError) as error:
        Limits.load(CONTRACT, "panda", overlay)
    for part in (str(overlay), *parts):
        assert part in str(error.value)


def test_first_file_must_be_complete_and_known(tmp_path: Path) -> None:
    with pytest.raises(VlaRosError, match=r"missing .*acceleration"):
        Limits.load(CONTRACT, write(tmp_path, "robot: panda"))
    with pytest.raises(VlaRosError, match=r"known: .*panda"):
        Limits.load(CONTRACT, "pnada")
