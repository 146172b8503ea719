"""`vla-ros doctor` on a fake cell in which one thing at a time is wrong: it names that, with the remedy, and moves nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fake_cell
import numpy as np
import pytest
import rclpy
from fake_cell import FakeCell
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from vla_ros.msg import SafetyState

from vla_ros.cli.doctor.observe import look
from vla_ros.doctor.examine import Asked, examine
from vla_ros.doctor.finding import Finding, Level
from vla_ros.doctor.host import Host
from vla_ros.embedded.config import WANTED_BUFFER
from vla_ros.nodes import qos

SECONDS = 1.0
LOOKS = 3  # a shared machine may stop the fake cell for a third of a look, and its rates are wrong; what was planted stays
MACHINE = Host(Path(), 10**12, WANTED_BUFFER)  # sound; what may be wrong with it is tested without a graph


@pytest.fixture(scope="module")
def doctor() -> Iterator[Node]:
    rclpy.init()
    yield Node("_doctor", enable_rosout=False, start_parameter_services=False)
    rclpy.try_shutdown()


@pytest.fixture(scope="module")
def panda(doctor: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCell]:
    cell = FakeCell(fake_cell.contract("panda", tmp_path_factory.mktemp("panda")))
    yield cell
    cell.close()


@pytest.fixture(scope="module")
def aloha(doctor: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCell]:
    cell = FakeCell(fake_cell.contract("aloha", tmp_path_factory.mktemp("aloha")), "/right")
    yield cell
    cell.close()


def examined(doctor: Node, cell: FakeCell, asked: Asked | None = None, seconds: float = SECONDS) -> list[Finding]:
    observed = look(doctor, cell.contract, cell.namespace, seconds)
    return examine(cell.contract, observed, MACHINE, asked or Asked())


def wrong(findings: list[Finding]) -> dict[str, Finding]:
    return {each.check: each for each in findings if each.level is not Level.OK}


@pytest.mark.parametrize("robot", ["panda", "aloha"])
def test_on_a_sound_graph_it_reports_nothing(robot: str, doctor: Node, request: pytest.FixtureRequest) -> None:
    cell: FakeCell = request.getfixturevalue(robot)
    findings = examined(doctor, cell, seconds=1.5)
    assert wrong(findings) == {}
    checks = [each.check for each in findings]
    assert len(checks) == len(set(checks)), "each check once"
    for name in cell.contract.observation.cameras:
        assert {f"camera:{name}", f"camera_rate:{name}", f"camera_info:{name}"} <= set(checks)
    (rate,) = [each for each in findings if each.check == "joint_rate"]
    assert f"{cell.namespace}/joint_states" in rate.found
    assert rate.expected == "20 Hz, at least 16"
    assert cell.commands == 0, "the doctor moves nothing"
    own = {topic for topic, _ in doctor.get_publisher_names_and_types_by_node("_doctor", "/")}
    assert own <= {"/parameter_events"}, "and publishes nothing"


@dataclass(frozen=True)
class Fault:
    """What is planted, and what the doctor must say: the checks that are not ok, and words of finding and remedy of the first."""

    plant: Callable[[FakeCell], object]
    checks: tuple[str, ...]
    found: str
    fix: str
    level: Level = Level.FAILURE
    asked: Asked = field(default_factory=Asked)


def values(**changed: object) -> Callable[[FakeCell], None]:
    """Settings of the cell."""

    def plant(cell: FakeCell) -> None:
        for name, value in changed.items():
            assert hasattr(cell, name), name
            setattr(cell, name, value)

    return plant


def drop_joint(cell: FakeCell) -> None:
    cell.names, cell.position, cell.velocity = cell.names[:-1], cell.position[:-1], cell.velocity[:-1]


def reverse(cell: FakeCell) -> None:
    cell.names, cell.position = cell.names[::-1], cell.position[::-1]


def degrees(cell: FakeCell) -> None:
    cell.position = np.degrees(cell.position)


def second_publisher(cell: FakeCell) -> None:
    intruder = cell.add("moveit_servo")
    cell.do(lambda: intruder.create_publisher(Float64MultiArray, cell.name(cell.contract.control.command_topic), 1))


def second_driver(cell: FakeCell) -> None:
    other = cell.add("joint_state_publisher")
    cell.do(lambda: other.create_publisher(JointState, cell.name(cell.contract.control.state_topic), 1))


def second_camera(cell: FakeCell) -> None:
    other = cell.add("usb_cam")
    cell.do(lambda: other.create_publisher(Image, cell.name(cell.contract.cameras["front"].topic), qos.SENSOR))


def estop(cell: FakeCell) -> None:
    button = cell.add("button")
    publisher = cell.do(lambda: button.create_publisher(Bool, "/estop", 10))
    cell.do(lambda: button.create_timer(0.1, lambda: publisher.publish(Bool(data=True))))
    cell.state, cell.reason = int(SafetyState.LATCHED), "estop_topic"


def other_type(cell: FakeCell) -> None:
    node = cell.add("old_tool")
    cell.do(lambda: node.create_publisher(String, cell.name("/observation"), 1))


def strict_subscriber(cell: FakeCell) -> None:
    """A viewer of nobody's that asks for more than the sensors give."""
    node = cell.add("viewer")
    topic = cell.name(cell.contract.cameras["front"].topic)
    cell.do(lambda: node.create_subscription(Image, topic, lambda _: None, QoSProfile(depth=1)))


JOINT_NAMES = tuple(f"panda_joint{k}" for k in range(1, 8))
MOVED = ("joint_value:panda_joint2", "joint_value:panda_joint4", "joint_value:panda_joint6", "joint_value:panda_joint7")
FAULTS = {
    "no joint states": Fault(values(joint_every=0), ("joint_states",), "but none came", "start the arm's driver"),
    "slow joint states": Fault(values(joint_every=3), ("joint_rate",), "Hz", "raise the driver's rate"),
    "a second driver": Fault(
        second_driver, ("joint_publisher",), "/joint_states: /driver, /joint_state_publisher", "end all but the arm's driver"
    ),
    "a second camera": Fault(second_camera, ("camera:front",), "/driver, /usb_cam", "end all but one"),
    "joint missing": Fault(drop_joint, ("joint_names",), "panda_joint7 missing", "name the driver's joints as panda.yaml does"),
    "joints in another order": Fault(
        reverse, ("joint_order",), "another order: panda_joint7, panda_joint6", "commands carry no names", Level.WARNING
    ),
    "controller in another order": Fault(
        lambda cell: cell.add("forward_position_controller", joints=list(JOINT_NAMES[::-1])),
        ("joint_order",), "/forward_position_controller: joints: panda_joint7", "parameter joints: [panda_joint1, panda_joint2",
    ),
    "joints in degrees": Fault(degrees, MOVED, "panda_joint2 at -45", "these are degrees"),
    "no velocities": Fault(values(velocity=np.zeros(0)), ("joint_velocity",), "/joint_states: none", "publish velocities"),
    "driver on another clock": Fault(values(joint_delay=5.0), ("joint_stamps",), "5.0", "chrony"),
    "camera missing": Fault(
        values(picture_every=0), ("camera:front", "camera:wrist"), "/camera/front/image_raw: published by /driver, but none came",
        "start its driver",
    ),
    "camera slow": Fault(values(picture_every=3), ("camera_rate:front",), "Hz", "raise the camera's rate"),
    "camera on another clock": Fault(values(picture_delay=-3.0), ("camera_stamps:front",), "ahead", "chrony"),
    "wrong encoding": Fault(
        values(encoding="bayer_rggb8"), ("camera_picture:front", "camera_picture:wrist"), "found 'bayer_rggb8', expected one of",
        "set the driver's encoding",
    ),
    "small picture": Fault(
        values(size=(48, 48), info_size=(48, 48)), ("camera_picture:front", "camera_picture:wrist"), "48 x 48 px",
        "raise the driver's resolution", Level.WARNING,
    ),
    "camera without info": Fault(
        values(info=False), ("camera_info:front", "camera_info:wrist"), "/camera/front/camera_info: none", "calibrate the camera"
    ),
    "info of another size": Fault(
        values(info_size=(480, 640)), ("camera_info:front", "camera_info:wrist"), "640 x 480 px for pictures of 128 x 96",
        "calibrate at the resolution",
    ),
    "not calibrated": Fault(
        values(focal=0.0), ("camera_info:front", "camera_info:wrist"), "focal lengths 0, 0 px", "run camera_calibration"
    ),
    "info in another frame": Fault(
        values(info_frame="usb_cam"), ("camera_info:front", "camera_info:wrist"), "frame_id 'usb_cam'", "set the driver's frame"
    ),
    "picture in another frame": Fault(
        values(frame="usb_cam"), ("camera_frame:front", "camera_frame:wrist"), "frame_id 'usb_cam'", "set the driver's frame_id"
    ),
    "best effort joint states": Fault(
        lambda cell: cell.replace("driver", profile=qos.SENSOR), ("qos",),
        "/joint_states: /driver to /safety_node: reliability: best effort offered, reliable asked for", "have /driver offer it",
    ),
    "a viewer that hears nothing": Fault(
        strict_subscriber, ("qos",), "/driver to /viewer: reliability", "/viewer ask for less"
    ),
    "two types": Fault(other_type, ("types",), "/observation: std_msgs/msg/String, vla_ros/msg/Observation", "remap or rebuild"),
    "second publisher of commands": Fault(
        second_publisher, ("command_publisher",), "/moveit_servo, /safety_node", "end /moveit_servo, or have it publish"
    ),
    "nobody takes commands": Fault(
        lambda cell: cell.replace("driver", listens=False), ("command_subscriber",), "nobody takes commands", "activate the contr"
    ),
    "a stop does not reach the driver": Fault(
        lambda cell: cell.replace("driver", stops=False), ("driver_stop",),
        "not offered: /joint_trajectory_controller/follow_joint_trajectory/_action/cancel_goal, /controller_manager/switch",
        "start controller manager",
    ),
    "no safety node": Fault(
        lambda cell: cell.remove("safety_node"), ("safety_node", "command_publisher", "safety_state", "limits"),
        "/safety_node is not in the graph", "vla-ros exec safety_node",
    ),
    "latched": Fault(
        values(state=int(SafetyState.LATCHED), reason="tracking_latch:panda_joint3"), ("safety_state",),
        "LATCHED: tracking_latch:panda_joint3", "vla-ros safety reset",
    ),
    "e-stop held": Fault(estop, ("estop_held", "safety_state"), "somebody holds /estop true", "vla-ros safety reset --release"),
    "no policy": Fault(
        lambda cell: cell.remove("policy_node"), ("policy_node", "policy_version"), "/policy_node is not in the graph",
        "vla-ros exec policy_node",
    ),
    "policy without a version": Fault(
        lambda cell: cell.replace("policy_node", version=0), ("policy_version",), "no version was told", "policy_node still load"
    ),
    "no trainer": Fault(
        lambda cell: cell.remove("trainer_node"), ("trainer_node",), "not in the graph", "robot:=panda policy:=DIR", Level.WARNING
    ),
    "a node of another robot": Fault(
        lambda cell: cell.replace("camera_node", robot="aloha"), ("camera_node",), "/camera_node: robot is aloha", "robot:=panda"
    ),
    "a node that reports": Fault(values(fault="cable?"), ("diagnostics:camera",), "cable?", "as the message says"),
    "other safety files": Fault(
        values(), ("limits",), "safety_node has panda", "safety:=package://vla_ros/config/safety/panda.yaml",
        asked=Asked(safety=("package://vla_ros/config/safety/panda.yaml",)),
    ),
    "policy on the CPU": Fault(
        values(), ("policy_device",), "policy_node runs on cpu", "device:=cuda", asked=Asked(device="cuda")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_remedy(name: str, doctor: Node, panda: FakeCell) -> None:
    fault = FAULTS[name]
    try:
        fault.plant(panda)
        for _ in range(LOOKS):
            found = wrong(examined(doctor, panda, fault.asked, 1.4 if name == "a node that reports" else SECONDS))
            if tuple(found) == fault.checks:
                break
    finally:
        panda.mend()
    assert tuple(found) == fault.checks, found
    first = found[fault.checks[0]]
    assert fault.found in first.found
    assert fault.fix in first.fix
    assert first.level is fault.level
    assert all(each.fix and each.expected for each in found.values())
    assert panda.commands == 0, "the doctor moves nothing"


def test_grippers_in_radians_are_named(doctor: Node, aloha: FakeCell) -> None:
    """Interbotix publishes the motor's angle under the gripper's name; the contract has the finger's travel in m."""
    aloha.position[[6, 13]] = 0.9
    try:
        found = wrong(examined(doctor, aloha))
    finally:
        aloha.mend()
    assert tuple(found) == ("joint_value:left_gripper", "joint_value:right_gripper")
    first = found["joint_value:left_gripper"]
    assert "/right/joint_states: left_gripper at 0.9" in first.found
    assert first.expected == "0.021 .. 0.057 m (aloha.urdf)"
    assert "radians of the gripper's motor" in first.fix


def test_the_command_tells_it_by_table_json_and_status(doctor: Node, panda: FakeCell) -> None:
    words = [sys.executable, "-m", "vla_ros.cli", "doctor", f"robot:={panda.contract.path}", "--seconds", "2"]
    sound = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=60, check=False)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    told = json.loads(sound.stdout)
    assert told["sound"]
    assert {row["check"] for row in told["findings"]} >= {"disk", "dds_buffer", "dds_settings", "gpu", "joint_rate", "limits"}
    try:
        panda.info = False
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    finally:
        panda.mend()
    assert done.returncode == 1, done.stdout + done.stderr
    text = " ".join(done.stdout.split())
    assert "camera_info:front" in text
    assert "calibrate the camera" in text
    assert re.search(r"2 of \d+ checks failed, 0 with warnings$", text)
    assert panda.commands == 0


def test_the_phases_do_not_begin_before_all_is_sound(doctor: Node, panda: FakeCell) -> None:
    """The fake safety node has no services: had the e-stop been asked for, this would end otherwise."""
    words = [sys.executable, "-m", "vla_ros.cli", "doctor", "phases", f"robot:={panda.contract.path}", "--seconds", "2", "--yes"]
    try:
        degrees(panda)
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    finally:
        panda.mend()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "these are degrees" in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1] == "nothing was changed; mend what failed and call again"
    assert panda.commands == 0
