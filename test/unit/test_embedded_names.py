"""Names, command-line arguments and the DDS configuration that the environment asks for."""

from __future__ import annotations

import pytest

from vla_ros.embedded import arguments, config, names
from vla_ros.errors import VlaRosError


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("chat", "/ns/chat"),
        ("/chat", "/chat"),
        ("~/state", "/ns/node/state"),
        ("~", "/ns/node"),
        ("{node}/a", "/ns/node/a"),
        ("a/_action/feedback", "/ns/a/_action/feedback"),
    ],
)
def test_names_expand(name, full):
    assert names.topic_error(name) == ""
    assert names.expand(name, "node", "/ns") == full


@pytest.mark.parametrize("name", ["", "3a", "a//b", "a/", "a b", "a-b", "a__b", "{nope}/a", "a/~"])
def test_bad_topic_names(name):
    assert names.topic_error(name)


def test_bad_node_names_and_namespaces():
    assert names.node_error("ok_1") == ""
    assert all(names.node_error(bad) for bad in ("", "1a", "a/b", "a.b"))
    assert names.namespace_error("/") == names.namespace_error("/a/b") == ""
    assert all(names.namespace_error(bad) for bad in ("a", "/a/", "/1a"))


def test_remapping_is_by_full_name_node_and_kind():
    rules = arguments.parse(
        [
            "--ros-args",
            "-r",
            "a:=b",
            "-r",
            "other:c:=d",
            "-r",
            "rosservice://e:=f",
            "-r",
            "__node:=n2",
            "-r",
            "__ns:=/x",
        ]
    ).remaps
    assert names.renamed("n", "/", rules) == ("n2", "/x")
    assert names.remap("/x/a", "topic", "n2", "/x", rules) == "/x/b"
    assert names.remap("/x/c", "topic", "n2", "/x", rules) == "/x/c"
    assert names.remap("/x/c", "topic", "other", "/x", rules) == "/x/d"
    assert names.remap("/x/e", "topic", "n2", "/x", rules) == "/x/e"
    assert names.remap("/x/e", "service", "n2", "/x", rules) == "/x/f"


def test_arguments_end_where_they_should():
    given = arguments.parse(["prog", "--own", "--ros-args", "--log-level", "debug", "--log-level", "a:=warn", "--", "tail"])
    assert given.remaining == ["prog", "--own", "tail"]
    assert given.log_levels == {"": "debug", "a": "warn"}


@pytest.mark.parametrize("bad", [["-r"], ["-r", "x"], ["-p", "x"], ["--nope"], ["-p", "x:=[1"], ["--params-file", "/none"]])
def test_wrong_arguments_are_refused(bad):
    with pytest.raises(VlaRosError):
        arguments.parse(["--ros-args", *bad])


def test_parameter_files_and_precedence(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        "/**:\n  ros__parameters: {speed: 1.0, arm: {stiffness: 2.0}}\n"
        "/cell:\n  node:\n    ros__parameters: {speed: 3.0}\n"
        "other:\n  ros__parameters: {speed: 9.0}\n"
        "/*/node:\n  ros__parameters: {wild: true}\n"
    )
    given = arguments.parse(["--ros-args", "--params-file", str(file), "-p", "extra:=[1, 2]", "-p", "other:speed:=7.0"])
    assert given.overrides("node", "/cell") == {"speed": 3.0, "arm.stiffness": 2.0, "wild": True, "extra": [1, 2]}
    assert given.overrides("node", "/") == {"speed": 1.0, "arm.stiffness": 2.0, "extra": [1, 2]}
    assert given.overrides("other", "/")["speed"] == 7.0


def test_a_parameter_file_of_another_form_is_refused(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("speed: 1.0\n")
    with pytest.raises(VlaRosError, match="ros__parameters"):
        arguments.read_parameter_file(file)


def test_environment_to_configuration():
    local = config.from_environment({"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "localhost"})
    assert local.domain == 7
    assert '<NetworkInterface address="127.0.0.1"' in local.xml
    assert "<MaxMessageSize>65500B" in local.xml
    subnet = config.from_environment({"ROS_STATIC_PEERS": "10.0.0.3; 10.0.0.4"})
    assert subnet.domain == 0
    assert '<Peer address="10.0.0.4"/>' in subnet.xml
    assert "<AllowMulticast>spdp" in subnet.xml
    assert "<Tag>ros_discovery_off_" in config.from_environment({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}).xml
    assert config.from_environment({"CYCLONEDDS_URI": "<CycloneDDS/>"}).xml == ""
    assert config.from_environment({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT"}).xml == ""


@pytest.mark.parametrize(
    ("environment", "key"),
    [({"ROS_DOMAIN_ID": "233"}, "ROS_DOMAIN_ID"), ({"ROS_DOMAIN_ID": "x"}, "ROS_DOMAIN_ID"),
     ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "NEAR"}, "ROS_AUTOMATIC_DISCOVERY_RANGE")],
)  # fmt: skip
def test_a_wrong_environment_is_refused(environment, key):
    with pytest.raises(VlaRosError, match=key):
        config.from_environment(environment)
