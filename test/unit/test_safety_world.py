"""Obstacles out of markers, markers out of limits, and the contract's section `stop`."""

from __future__ import annotations

from pathlib import Path

import pytest
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Quaternion, Vector3
from visualization_msgs.msg import Marker, MarkerArray

from vla_ros.errors import VlaRosError
from vla_ros.nodes.safety_world import MOST, World, base_frame, markers
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.stop import StopSpec, TorqueGroup
from vla_ros.robots.strict import Section
from vla_ros.safety.limits import Limits
from vla_ros.types import Obstacle, SafetyMode

CONTRACT = RobotContract.load("panda")


def marker(kind: int = Marker.CUBE, number: int = 0, size: tuple[float, float, float] = (0.1, 0.2, 0.3)) -> Marker:
    x, y, z = size
    return Marker(ns="a", id=number, type=kind, scale=Vector3(x=x, y=y, z=z))


def taken(*entries: Marker, world: World | None = None) -> list[Obstacle]:
    return list((world or World("base")).merged(MarkerArray(markers=list(entries))).values())


def test_shapes_become_obstacles() -> None:
    cube, sphere, cylinder = taken(
        marker(), marker(Marker.SPHERE, 1, (0.2, 0.2, 0.2)), marker(Marker.CYLINDER, 2, (0.1, 0.1, 0.5))
    )
    assert cube == Obstacle("a/0", "box", (0.1, 0.2, 0.3), (0.0, 0.0, 0.0))
    assert (sphere.shape, sphere.size) == ("sphere", (0.2,))
    assert (cylinder.shape, cylinder.size) == ("cylinder", (0.1, 0.5))


def test_later_markers_of_a_message_see_earlier_ones() -> None:
    world = World("base")
    world.obstacles = world.merged(MarkerArray(markers=[marker(), marker(number=1)]))
    assert taken(Marker(ns="a", id=0, action=Marker.DELETE), world=world)[0].name == "a/1"
    assert [o.name for o in taken(Marker(action=Marker.DELETEALL), marker(number=5), world=world)] == ["a/5"]
    assert len(world.obstacles) == 2, "merged() changes nothing"


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (marker(Marker.ARROW), "type: found 0, expected CUBE"),
        (marker(size=(0.1, float("nan"), 0.1)), "scale: found"),
        (marker(size=(0.1, 0.1, 300.0)), r"\(0, 10\] m"),
        (marker(Marker.SPHERE), "equal diameters of a sphere"),
        (Marker(action=7), "action: found 7"),
    ],
)
def test_what_is_refused(bad: Marker, part: str) -> None:
    with pytest.raises(VlaRosError, match=part):
        taken(marker(number=3), bad)


def test_pose_frame_and_lifetime_are_checked() -> None:
    wrong = [marker() for _ in range(4)]
    wrong[0].pose.orientation = Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)
    wrong[1].pose.position.x = float("inf")
    wrong[2].lifetime = Duration(sec=1)
    wrong[3].header.frame_id = "camera"
    parts = ("quaternion: found .* length 1", "position", "lifetime", "expected 'base' or empty")
    for entry, part in zip(wrong, parts, strict=True):
        with pytest.raises(VlaRosError, match=part):
            taken(entry)
    with pytest.raises(VlaRosError, match=f"found {MOST + 1} obstacles"):
        taken(*(marker(number=k) for k in range(MOST + 1)))


def test_markers_show_every_limit() -> None:
    limits = Limits.load(CONTRACT)
    obstacle = Obstacle("post", "cylinder", (0.1, 0.6), (0.5, 0.5, 0.3))
    frame = base_frame(CONTRACT)
    shown = markers(frame, Time(sec=3), limits, [obstacle], SafetyMode.LATCHED, "estop_topic").markers
    assert frame == "panda_link0"
    assert [m.ns for m in shown[1:]] == [
        *(f"workspace/{name}" for name in limits.workspace), *(f"wall/{name}" for name in limits.walls),
        "obstacle/post", "mode",
    ]  # fmt: skip
    assert shown[-1].text == "LATCHED estop_topic"
    assert {m.header.frame_id for m in shown[1:]} == {frame}
    assert (shown[-2].scale.x, shown[-2].scale.y, shown[-2].scale.z) == (0.1, 0.1, 0.6)


def stop(**content: object) -> StopSpec:
    return StopSpec.from_section(Section(content, Path("robot.yaml"), "stop"))


def test_the_stop_of_the_panda_and_of_motors() -> None:
    spec = StopSpec.load(CONTRACT)
    assert (spec.switch, spec.controllers) == ("/controller_manager/switch_controller", ("forward_position_controller",))
    assert spec.cancel == ("/joint_trajectory_controller/follow_joint_trajectory",)
    assert stop(timeout=1.0, torque_off={"/left/torque_enable": "arm"}).torque == (TorqueGroup("/left/torque_enable", "arm"),)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"timeout": 1.0, "cancle": []}, "did you mean 'cancel'"),
        ({"timeout": 0.0}, r"stop\.timeout"),
        ({"timeout": 1.0, "cancel": ["a"]}, "begin with '/'"),
        ({"timeout": 1.0, "torque_off": {"left": "arm"}}, "found key 'left'"),
        ({"timeout": 1.0, "deactivate": {"service": "switch", "controllers": ["a"]}}, "begins with '/'"),
    ],
)
def test_a_wrong_stop_section_names_its_key(content: dict[str, object], part: str) -> None:
    with pytest.raises(VlaRosError, match=part):
        stop(**content)
