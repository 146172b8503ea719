"""What Gazebo gets: descriptions with ros2_control and cameras, worlds, bridge and controllers; checked by structure here, and by
the parsers' own checks (`gz sdf --check`, of Fortress `ign sdf --check`) where one is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np
import pinocchio as pin
import pytest
import yaml

from vla_ros.errors import VlaRosError
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.description import PLUGINS, describe, load_cameras
from vla_ros.robots.kinematics import Kinematics

PARSER = shutil.which("gz") or shutil.which("ign")
WORLDS = sorted((share() / "urdf" / "worlds").glob("*.sdf"))
SYSTEMS = {"Physics", "UserCommands", "SceneBroadcaster", "Sensors"}


@pytest.fixture(scope="module", params=RobotContract.known())
def contract(request: pytest.FixtureRequest) -> RobotContract:
    return RobotContract.load(request.param)


def gazebo(contract: RobotContract) -> ET.Element:
    return ET.fromstring(describe(contract, "gazebo", load_cameras(contract), "/controllers.yaml"))


def test_control_block_names_every_joint_in_order_and_starts_at_home(contract: RobotContract) -> None:
    for backend, plugin in PLUGINS.items():
        root = ET.fromstring(describe(contract, backend))
        (control,) = root.findall("ros2_control")
        assert control.findtext("hardware/plugin") == plugin
        joints = control.findall("joint")
        assert tuple(joint.get("name") for joint in joints) == contract.joints
        for joint, home in zip(joints, Kinematics(contract).home(), strict=True):
            assert [entry.get("name") for entry in joint.findall("command_interface")] == ["position"]
            assert [entry.get("name") for entry in joint.findall("state_interface")] == ["position", "velocity"]
            assert float(joint.findtext("state_interface/param") or "nan") == pytest.approx(home, abs=1e-6)
    plugin = gazebo(contract).find("gazebo/plugin")
    assert plugin is not None
    assert plugin.findtext("parameters") == "/controllers.yaml"


def test_cameras_send_the_contracts_topics_and_look_where_they_shall(contract: RobotContract) -> None:
    root, cameras = gazebo(contract), load_cameras(contract)
    sensors = {entry.get("reference"): entry.find("sensor") for entry in root.findall("gazebo") if entry.get("reference")}
    assert list(sensors) == [f"{name}_camera" for name in contract.cameras]
    model = pin.buildModelFromXML(ET.tostring(root, encoding="unicode"))
    data = model.createData()
    pin.framesForwardKinematics(model, data, pin.neutral(model))
    for name, expected in contract.cameras.items():
        sensor, camera = sensors[f"{name}_camera"], cameras[name]
        assert sensor is not None
        assert "/" + str(sensor.findtext("topic")) == expected.topic
        assert "/" + str(sensor.findtext("camera/camera_info_topic")) == expected.info
        assert sensor.findtext("gz_frame_id") == expected.frame
        assert 1000 % float(sensor.findtext("update_rate") or 0) == 0
        assert float(sensor.findtext("update_rate") or 0) >= contract.observation.rate
        parent, optical = (data.oMf[model.getFrameId(frame)] for frame in (camera.parent, expected.frame))
        ahead = parent.act(np.array(camera.look_at)) - optical.translation
        np.testing.assert_allclose(optical.rotation[:, 2], ahead / np.linalg.norm(ahead), atol=1e-6)
        assert optical.rotation[:, 1] @ (parent.rotation @ np.array(camera.up)) < 0, f"{name} is upside down"


def test_the_robot_itself_is_not_changed(contract: RobotContract) -> None:
    """Both engines take the description, and its joints, masses and kinematics are the URDF's."""
    text = describe(contract, "gazebo", load_cameras(contract))
    model, plain = pin.buildModelFromXML(text), pin.buildModelFromUrdf(str(contract.urdf))
    assert list(model.names) == list(plain.names)
    np.testing.assert_allclose([i.mass for i in model.inertias[1:]], [i.mass for i in plain.inertias[1:]])
    np.testing.assert_array_equal(model.upperPositionLimit, plain.upperPositionLimit)
    assert mujoco.MjModel.from_xml_string(text).nv == len(contract.joints)


def test_bridge_and_controllers_are_the_contracts(contract: RobotContract) -> None:
    entries = yaml.safe_load((share() / "config" / "gazebo" / f"{contract.robot}_bridge.yaml").read_text())
    found = {entry["ros_topic_name"]: (entry["ros_type_name"], entry["gz_type_name"]) for entry in entries}
    expected = {"/clock": ("rosgraph_msgs/msg/Clock", "gz.msgs.Clock")}
    for camera in contract.cameras.values():
        expected[camera.topic] = ("sensor_msgs/msg/Image", "gz.msgs.Image")
        expected[camera.info] = ("sensor_msgs/msg/CameraInfo", "gz.msgs.CameraInfo")
    assert found == expected
    assert all(entry["gz_topic_name"] == entry["ros_topic_name"] for entry in entries)
    assert {entry["direction"] for entry in entries} == {"GZ_TO_ROS"}
    controllers = yaml.safe_load((share() / "config" / "controllers" / f"{contract.robot}.yaml").read_text())
    assert controllers["controller_manager"]["ros__parameters"]["update_rate"] == contract.control.rate
    controller = contract.control.command_topic.split("/")[1]
    assert tuple(controllers[controller]["ros__parameters"]["joints"]) == contract.joints
    assert controllers[controller]["ros__parameters"]["interface_name"] == "position"
    assert tuple(controllers["joint_trajectory_controller"]["ros__parameters"]["joints"]) == contract.joints


@pytest.mark.parametrize("path", WORLDS, ids=lambda path: path.stem)
def test_worlds_by_structure(path: Path) -> None:
    root = ET.parse(path).getroot()
    assert (root.tag, root.get("version")) == ("sdf", "1.9")
    (world,) = root.findall("world")
    assert world.get("name") == path.stem
    assert {str(plugin.get("name")).removeprefix("gz::sim::systems::") for plugin in world.findall("plugin")} == SYSTEMS
    names = [model.get("name") for model in world.findall("model")]
    assert len(set(names)) == len(names)
    assert "table" in names
    for model in world.findall("model"):
        static = model.findtext("static") == "true"
        for link in model.findall("link"):
            half = float(str(link.findtext("collision/geometry/box/size")).split()[2]) / 2
            bottom = float(str(model.findtext("pose")).split()[2]) - half
            if static:
                continue
            assert bottom == pytest.approx(0.0, abs=1e-9), f"{model.get('name')} does not stand on the table"
            moments = [float(link.findtext(f"inertial/inertia/i{axis}") or 0) for axis in ("xx", "yy", "zz")]
            assert min(moments) > 0
            assert 2 * max(moments) <= sum(moments)
            assert float(link.findtext("inertial/mass") or 0) > 0


def sdf(*words: str) -> str:
    done = subprocess.run([str(PARSER), "sdf", *words], capture_output=True, text=True, check=False, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "Warning" in line or "Error" in line]
    assert not complaints, complaints
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(PARSER is None, reason="no SDF parser installed (gz or ign with sdformat)")
@pytest.mark.parametrize("path", WORLDS, ids=lambda path: path.stem)
def test_worlds_pass_the_parsers_own_check(path: Path) -> None:
    assert sdf("--check", str(path)).strip().endswith("Valid.")


@pytest.mark.skipif(PARSER is None, reason="no SDF parser installed (gz or ign with sdformat)")
def test_descriptions_pass_the_parsers_own_check(contract: RobotContract, tmp_path: Path) -> None:
    """And keep every joint, sensor and plugin when Gazebo turns them into SDF."""
    path = tmp_path / "robot.urdf"
    path.write_text(describe(contract, "gazebo", load_cameras(contract), "/controllers.yaml"))
    assert sdf("--check", str(path)).strip().endswith("Valid.")
    model = ET.fromstring(sdf("-p", str(path))).find("model")
    assert model is not None
    assert {joint.get("name") for joint in model.findall("joint")} >= set(contract.joints)
    sensors = {sensor.get("name"): sensor for sensor in model.iter("sensor")}
    assert set(sensors) == set(contract.cameras)
    assert {sensor.findtext("gz_frame_id") for sensor in sensors.values()} == {c.frame for c in contract.cameras.values()}
    assert [plugin.get("name") for plugin in model.findall("plugin")] == ["gz_ros2_control::GazeboSimROS2ControlPlugin"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("robot: panda", "robot: fr3", "robot: found 'fr3', expected 'panda'"),
        ("  wrist:", "  wirst:", "unknown key 'cameras.wirst'; did you mean 'wrist'"),
        ("up: [1, 0, 0]", "up: [-0.055, 0, 0.22]", "cameras.wrist.up: found .* expected another direction"),
        ("parent: panda_link0", "parent: panda_base", "camera 'front': parent: found 'panda_base', expected a link"),
        ("parent: panda_link0", "parent: world", "camera 'front': parent: found 'world', expected a link of the robot's"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (share() / "config" / "gazebo" / "panda.yaml").read_text()
    assert old in text
    path = tmp_path / "panda.yaml"
    path.write_text(text.replace(old, new, 1))
    panda = RobotContract.load("panda")
    with pytest.raises(VlaRosError, match=message):
        describe(panda, "gazebo", load_cameras(panda, path))


def test_unknown_backend() -> None:
    with pytest.raises(VlaRosError, match="backend: found 'isaac', expected one of gazebo, mock"):
        describe(RobotContract.load("panda"), "isaac")
