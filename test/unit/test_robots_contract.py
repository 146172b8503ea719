"""The contract: what is read, and that every mistake is named with file and key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract

TEXT = (share() / "config" / "robots" / "panda.yaml").read_text(encoding="utf-8")
ALOHA = (share() / "config" / "robots" / "aloha.yaml").read_text(encoding="utf-8")
URDF = (share() / "urdf" / "panda.urdf").read_text(encoding="utf-8")
LIMIT2 = 'lower="-1.7628" upper="1.7628" velocity="2.175" effort="87"'  # of panda_joint2


def load_changed(folder: Path, old: str, new: str) -> RobotContract:
    assert old in TEXT
    path = folder / "panda.yaml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return RobotContract.load(path)


def test_reads_every_part() -> None:
    contract = RobotContract.load("panda")
    assert contract.joints == tuple(f"panda_joint{k}" for k in range(1, 8))
    assert (contract.control.rate, contract.observation.rate, contract.ticks_per_step) == (200, 10, 20)
    assert contract.observation.size == (64, 64)
    assert contract.observation.cameras == ("front",)
    assert list(contract.cameras) == ["front", "wrist"]
    assert contract.cameras["front"].topic == "/camera/front/image_raw"
    assert (contract.action.low, contract.action.high) == ((0.30, -0.26), (0.70, 0.26))
    assert contract.time_limit == 4.5


def test_limits_are_the_data_sheets() -> None:
    """Franka Control Interface documentation, Robot and interface specifications, Limits for Panda."""
    limits = RobotContract.load("panda").limits
    np.testing.assert_array_equal(limits.lower, [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
    np.testing.assert_array_equal(limits.upper, [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
    np.testing.assert_array_equal(limits.velocity, [2.1750] * 4 + [2.6100] * 3)
    np.testing.assert_array_equal(limits.effort, [87.0] * 4 + [12.0] * 3)
    with pytest.raises(ValueError, match="read-only"):
        limits.lower[0] = 0.0


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("max_step: 0.04", "max_steps: 0.04", ["action.max_steps", "did you mean 'max_step'"]),
        ("robot: panda", "robots: panda", ["unknown key 'robots'", "did you mean 'robot'"]),
        ("  max_age: 0.3", "  #", ["observation.max_age", "missing"]),
        ("size: [64, 64]", "size: [64, 64, 3]", ["observation.size", "[64, 64, 3]", "2 numbers"]),
        ("size: [64, 64]", "size: [64.5, 64]", ["observation.size", "integers"]),
        ("bins: 21", "bins: 20", ["action.bins", "20", "odd"]),
        ("bins: 21", "bins: many", ["action.bins", "'many'", "integer"]),
        ("rate: 200", "rate: true", ["control.rate", "True", "number"]),
        ("rate: 200", "rate: 205", ["control.rate", "multiple"]),
        ("cameras: [front]", "cameras: [top]", ["observation.cameras", "top", "front, wrist"]),
        ("tip: panda_tool", "tip: gripper", ["tip", "gripper", "panda_tool"]),
        ("posture: [0.0,", "posture: [", ["posture", "7 numbers"]),
        ("posture: [0.0,", "posture: [3.0,", ["posture", "inside the limits"]),
        ("panda_joint7]", "panda_joint9]", ["joints", "panda_joint9"]),
        ("home_tip: [0.36, 0.0]", "home_tip: [0.9, 0.0]", ["home_tip", "workspace"]),
        ("x: [0.30, 0.70]", "x: [0.70, 0.30]", ["action.workspace.x", "low < high"]),
        ("x: [0.30, 0.70]", "x: [0.30, .inf]", ["action.workspace.x", "inf", "finite"]),
        ("posture: [0.0,", "posture: [.nan,", ["posture", "nan", "inside the limits"]),
        ("tip: panda_tool", "tips: [panda_tool]", ["unknown key 'tips'", "did you mean 'tip'"]),
        ("semantics: tip_delta_xy", "semantics: torque", ["action.semantics", "torque", "tip_delta_xy"]),
        ("urdf/panda.urdf", "urdf/pandas.urdf", ["urdf", "pandas.urdf", "cannot be read"]),
        ("state: [tip_x, tip_y]", "state: [tip_z]", ["observation.state", "tip_x, tip_y"]),
        ("episode:", "episode: [", ["not valid YAML"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    with pytest.raises(VlaRosError) as error:
        load_changed(tmp_path, old, new)
    message = str(error.value)
    assert str(tmp_path / "panda.yaml") in message
    for part in parts:
        assert part in message


def test_unknown_robot_lists_the_known() -> None:
    with pytest.raises(VlaRosError, match=r"unknown robot 'pandaa'; known robots: .*panda"):
        RobotContract.load("pandaa")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VlaRosError, match=r"no\.yaml: cannot be read"):
        RobotContract.load(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("tips: [left_tool, right_tool]", "tips: [left_tool, middle_tool]", ["tips", "middle_tool", "right_tool"]),
        ("tips: [left_tool, right_tool]", "tip: left_tool", ["unknown key 'tip'", "did you mean 'tips'"]),
        ("tips: [left_tool, right_tool]", "tips: [left_tool, left_tool]", ["tips", "distinct"]),
        ("left_waist, left_shoulder", "left_waits, left_shoulder", ["joints", "left_waits", "left_waist"]),
        ("joints: [left_waist, ", "joints: [left_tool_joint, ", ["left_tool_joint", "type", "'fixed'", "revolute or prismatic"]),
        ("  chunk: 100", "  chunk: 100\n  bins: 21", ["unknown key 'action.bins'"]),
        ("  rate: 50                                  # [Hz] of the rows", "", ["action.rate", "missing"]),
        ("  rate: 50                                  # [Hz] of the rows", "  rate: 60", ["control.rate", "action.rate (60 Hz)"]),
        ("state: [position]", "state: [tip_x]", ["observation.state", "tip_x", "position"]),
        ("-0.3, 0.0, 0.024,", "-0.3, 0.0, 0.24,", ["posture", "0.24", "inside the limits"]),
    ],
)
def test_mistakes_of_a_joint_position_robot_are_named(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    assert old in ALOHA
    path = tmp_path / "aloha.yaml"
    path.write_text(ALOHA.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(VlaRosError) as error:
        RobotContract.load(path)
    for part in parts:
        assert part in str(error.value)


def load_with_urdf(folder: Path, old: str, new: str) -> RobotContract:
    assert old in URDF
    (folder / "arm.urdf").write_text(URDF.replace(old, new, 1), encoding="utf-8")
    return load_changed(folder, "package://vla_ros/urdf/panda.urdf", str(folder / "arm.urdf"))


@pytest.mark.parametrize(
    ("new", "parts"),
    [
        (None, ["<limit> is missing", "lower, upper, velocity, effort"]),
        ('lower="-1.7628" upper="1.7628" velocity="2.175"', ["<limit effort> is missing"]),
        ('lower="-1.7628" upper="many" velocity="2.175" effort="87"', ["<limit upper>", "'many'", "a number"]),
        ('lower="1.7628" upper="-1.7628" velocity="2.175" effort="87"', ["<limit lower>", "1.7628", "less than upper (-1.7628)"]),
        ('lower="0.5" upper="0.5" velocity="2.175" effort="87"', ["<limit lower>", "less than upper"]),
        ('lower="-1.7628" upper="1.7628" velocity="0" effort="87"', ["<limit velocity>", "found 0", "above 0"]),
        ('lower="-1.7628" upper="1.7628" velocity="2.175" effort="-87"', ["<limit effort>", "found -87", "above 0"]),
        ('lower="nan" upper="1.7628" velocity="2.175" effort="87"', ["<limit lower>", "found nan", "finite"]),
        ('lower="-1.7628" upper="inf" velocity="2.175" effort="87"', ["<limit upper>", "found inf", "finite"]),
        ('lower="-1.7628" upper="1.7628" velocity="1e999" effort="87"', ["<limit velocity>", "1e999", "finite"]),
        ('lower="-101" upper="101" velocity="2.175" effort="87"', ["<limit lower>", "found -101", "rad within 4 pi", "degrees"]),
    ],
)
def test_impossible_limits_are_named(tmp_path: Path, new: str | None, parts: list[str]) -> None:
    old = LIMIT2 if new else f"<limit {LIMIT2}/>"
    with pytest.raises(VlaRosError) as error:
        load_with_urdf(tmp_path, old, new or "")
    for part in [str(tmp_path / "arm.urdf"), "joint panda_joint2", *parts]:
        assert part in str(error.value)


def test_a_joint_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VlaRosError, match=r"arm\.urdf: joint panda_joint2: type: found 'continuous', expected revolute or"):
        load_with_urdf(tmp_path, '<joint name="panda_joint2" type="revolute">', '<joint name="panda_joint2" type="continuous">')


def test_srdf_lies_beside_the_urdf(tmp_path: Path) -> None:
    assert RobotContract.load("panda").srdf == RobotContract.load("panda").urdf.with_suffix(".srdf")
    contract = load_with_urdf(tmp_path, LIMIT2, LIMIT2)
    with pytest.raises(VlaRosError, match=r"panda\.yaml: urdf: .*arm\.srdf is missing, expected the SRDF beside arm\.urdf"):
        _ = contract.srdf
