"""Message classes behave like rosidl's, and their bytes are ROS 2's."""

from __future__ import annotations

import copy
import time
from array import array

import numpy as np
import pytest
import vla_ros.msg
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovariance, Quaternion
from rcl_interfaces.msg import ParameterValue
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, Header, String
from std_srvs.srv import Empty, SetBool, Trigger
from vla_ros.action import RunTask

from vla_ros.embedded import interfaces
from vla_ros.embedded.checks import FieldError
from vla_ros.embedded.idl import dds_name, dds_type, ros_name
from vla_ros.embedded.messages import deserialize, message_class, serialize, type_hash
from vla_ros.errors import VlaRosError


def test_defaults_constants_and_keyword_construction():
    assert Quaternion() == Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)
    assert Quaternion().w == 1.0
    assert vla_ros.msg.SafetyState.LATCHED == 3
    state = JointState(name=["a"], position=[1.0])
    assert state.name == ["a"]
    assert state.position.dtype == np.float64
    assert state.header.stamp.sec == 0
    assert JointState().name is not JointState().name


def test_field_types_are_rosidls():
    assert JointState.get_fields_and_field_types() == {
        "header": "std_msgs/Header",
        "name": "sequence<string>",
        "position": "sequence<double>",
        "velocity": "sequence<double>",
        "effort": "sequence<double>",
    }
    assert PoseWithCovariance.get_fields_and_field_types()["covariance"] == "double[36]"
    assert Image.get_fields_and_field_types()["data"] == "sequence<uint8>"


@pytest.mark.parametrize(
    ("make", "found", "expected"),
    [
        (lambda: Float64(data=1), "int 1", "float"),
        (lambda: String(data=b"x"), "bytes", "str"),
        (lambda: Header(stamp=3), "int 3", "Time"),
        (lambda: Image(height=-1), "-1", "uint32"),
        (lambda: Image(height=np.float32(1)), "float32", "uint32"),
        (lambda: JointState(position="12"), "'12'", "float64"),
        (lambda: JointState(name=[1]), "int 1", "str"),
        (lambda: JointState(position=[True]), "True", "float64"),
        (lambda: Image(data=[256]), "256", "uint8"),
        (lambda: PoseWithCovariance(covariance=np.zeros(35)), "35", "36"),
        (lambda: DiagnosticStatus(level=1), "int 1", "bytes of length 1"),
    ],
)
def test_wrong_values_are_refused_with_message_field_found_and_expected(make, found, expected):
    with pytest.raises(FieldError) as error:
        make()
    assert found in str(error.value)
    assert expected in str(error.value)
    assert "/msg/" in str(error.value)


def test_unknown_names_are_refused():
    with pytest.raises(AssertionError, match="positon"):
        JointState(positon=[1.0])
    with pytest.raises(AttributeError, match="positon"):
        JointState().positon = [1.0]


@pytest.mark.parametrize(
    "data", [[1, 2], (1, 2), array("B", [1, 2]), b"\x01\x02", bytearray(b"\x01\x02"), np.array([[1, 2]], np.uint8)]
)
def test_arrays_are_taken_in_every_form(data):
    message = Image(data=data)
    assert message.data.tolist() == [1, 2]
    assert deserialize(bytes(serialize(message)), Image) == message


def test_a_list_of_messages_can_be_appended_to():
    message = vla_ros.msg.Observation()
    message.images.append(Image(width=3))
    assert deserialize(bytes(serialize(message)), vla_ros.msg.Observation).images[0].width == 3


def test_every_known_message_survives_the_wire():
    for full in interfaces.store.fielddefs:
        cls = message_class(full)
        message = cls()
        assert deserialize(bytes(serialize(message)), cls) == message, full
        assert copy.deepcopy(message) == message, full


def test_bytes_are_cdr():
    assert bytes(serialize(String(data="hi"))) == b"\x00\x01\x00\x00\x03\x00\x00\x00hi\x00"
    assert bytes(serialize(Empty.Request())) == b"\x00\x01\x00\x00\x00"


def test_byte_is_bytes_as_under_rclpy():
    message = DiagnosticStatus(level=DiagnosticStatus.ERROR)
    assert message.level == b"\x02"
    again = deserialize(bytes(serialize(message)), DiagnosticStatus)
    assert again.level == b"\x02"
    assert again == message
    high = ParameterValue(byte_array_value=[b"\xff", b"\x01"])
    assert deserialize(bytes(serialize(high)), ParameterValue).byte_array_value.tolist() == [-1, 1]


def test_received_arrays_are_views_and_an_image_costs_no_work_per_pixel():
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    message = Image(data=pixels)
    assert np.shares_memory(message.data, pixels)
    data = bytes(serialize(message))
    received = deserialize(data, Image)
    assert not received.data.flags.owndata
    np.testing.assert_array_equal(received.data.reshape(480, 640, 3), pixels)
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        deserialize(bytes(serialize(Image(data=pixels))), Image)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 10e-3  # 0.1 ms on a quiet machine, 40 ms with work per element


def test_services_and_actions_have_rosidls_parts():
    assert Trigger.Response(success=True, message="done").message == "done"
    assert SetBool.Request(data=True).data is True
    assert Trigger.Request.TYPE == "std_srvs/srv/Trigger_Request"
    goal = RunTask.Impl.SendGoalService.Request(goal=RunTask.Goal(instruction="reach"))
    assert goal.TYPE == "vla_ros/action/RunTask_SendGoal_Request"
    assert goal.goal.instruction == "reach"
    assert list(goal.get_fields_and_field_types()) == ["goal_id", "goal"]
    result = RunTask.Impl.GetResultService.Response(status=4, result=RunTask.Result(outcome="success"))
    assert deserialize(bytes(serialize(result)), type(result)) == result
    assert RunTask.Impl.FeedbackMessage().feedback == RunTask.Feedback()


def test_known_type_hashes_of_jazzy():
    assert type_hash("std_msgs/msg/String") == "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
    assert type_hash("builtin_interfaces/msg/Time") == "RIHS01_b106235e25a4c5ed35098aa0a61a3ee9c9b18d197f398b0e4206cea9acf9c197"


def test_dds_names_and_types():
    assert dds_name("std_msgs/msg/String") == "std_msgs::msg::dds_::String_"
    assert ros_name("vla_ros::action::dds_::RunTask_SendGoal_Request_") == "vla_ros/action/RunTask_SendGoal_Request"
    assert ros_name("somebody::elses") == "somebody::elses"
    assert dds_type("sensor_msgs/msg/Image").__idl_typename__ == "sensor_msgs::msg::dds_::Image_"


def test_a_broken_list_is_reported_when_it_is_sent():
    message = JointState(name=["a"])
    message.name.append(3)
    with pytest.raises(VlaRosError, match="JointState"):
        serialize(message)


def test_truncated_bytes_are_refused():
    with pytest.raises(VlaRosError, match="std_msgs/msg/String"):
        deserialize(b"\x00\x01\x00\x00\x09\x00\x00\x00hi", String)


def test_definitions_with_the_wrong_number_of_sections_are_refused(tmp_path):
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "Bad.srv").write_text("bool a\n")
    with pytest.raises(VlaRosError, match=r"here/srv/Bad: found 1 sections .* expected 2"):
        interfaces.load(tmp_path, "here")
