"""The vla-ros command: help, errors, words of `launch`, and messages as YAML."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_ros.cli import __main__ as cli
from vla_ros.cli import graph, launch, message_yaml
from vla_ros.cli.topic_stream import rate_report
from vla_ros.errors import VlaRosError
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.stop import StopSpec


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert re.search(rf"^  {command.name} +{re.escape(command.help)}$", text, re.MULTILINE)
    assert cli.main([]) == 2


@pytest.mark.parametrize("name", ["launch", "exec", "run", "topic", "node", "param", "service", "action", "doctor"])
def test_help_teaches_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: vla-ros {name}" in text
    assert f"examples:\n  vla-ros {name}" in text


def test_every_command_in_the_table_has_the_two_functions() -> None:
    assert len({command.name for command in cli.COMMANDS}) == len(cli.COMMANDS)
    for command in cli.COMMANDS:
        module = importlib.import_module(command.module)
        assert callable(module.add_arguments), command.name
        assert callable(module.run), command.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["topci", "list"], "unknown command 'topci'; did you mean 'topic'?"),
        (["exec", "no_node"], "no node 'no_node' in vla_ros; known: "),
        (["run", "no_script.py"], "script not found: no_script.py"),
        (["launch", "no_such"], "launch file 'no_such' not found here or in"),
        (["launch", "a", "b"], "expected one launch file and NAME:=VALUE pairs, found 'a', 'b'"),
        (["launch", "cell", ":=1"], "argument ':=1' has no name"),
        (["launch", "cell", "policy:=/p", "judge:=/j", "robt:=x"], "unknown argument 'robt'; did you mean 'robot'?"),
        (["launch", "cell", "judge:=/j"], "required argument 'policy' was not given"),
    ],
)
def test_errors_are_one_line_on_stderr(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vla-ros: error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_debug_variable_adds_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_ROS_DEBUG", "1")
    assert cli.main(["run", "no_script.py"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_table_alone_imports_nothing_heavy() -> None:
    code = (
        "import sys, vla_ros.cli.__main__ as m; m.overview();print([n for n in ('rclpy', 'torch', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_broken_pipe_is_quiet() -> None:
    command = f"'{sys.executable}' -m vla_ros.cli --help | true"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["cell"], ["cell.launch.yaml"], ["vla_ros", "cell.launch.yaml"], ["vla_ros", "cell"]])
def test_launch_finds_files_of_the_package(words: list[str]) -> None:
    file, given = launch.split_words([*words, "robot:=panda", "store:=a:=b"])
    assert file == share() / "launch" / "cell.launch.yaml"
    assert given == {"robot": "panda", "store": "a:=b"}


@pytest.mark.parametrize(
    ("robot", "file", "more"),
    [
        ("panda", "cell", []), ("fr3", "cell", ["backend:=replay"]), ("aloha", "hardware", []),
        ("aloha", "cell", ["backend:=hardware", "drivers:=interbotix"]),
    ],
)  # fmt: skip
def test_a_cell_in_a_namespace_takes_the_contracts_topics_with_it(
    robot: str, file: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"robot:={robot}", "policy:=p", "judge:=j", "namespace:=a", "lead:=fleet", *more]
    assert cli.main(["launch", "--dry-run", file, *words]) == 0
    nodes = dict(re.findall(r"^\[(\w+)-\d+\] (.*)$", capsys.readouterr().out, re.MULTILINE))
    for name, line in nodes.items():
        assert "-r __ns:=/a " in line
        assert "-r /clock:=clock" in line or name == "interbotix_node"
    contract = RobotContract.load(robot)
    control, stop = contract.control, StopSpec.load(contract)
    safety = [control.state_topic, control.command_topic, stop.switch, *(f"{name}/_action/cancel_goal" for name in stop.cancel)]
    cameras = [control.state_topic, *(contract.cameras[name].topic for name in contract.observation.cameras)]
    taken = {"safety_node": safety, "camera_node": cameras, "interbotix_node": safety}
    taken |= {"sim_node": [*safety, *cameras], "replay_node": [*safety, *cameras]}
    for name in taken.keys() & nodes.keys():
        for topic in taken[name]:
            assert f"-r {topic}:={topic[1:]}" in nodes[name], f"{name} leaves {topic} where all cells have it"
    assert "-p lead:=fleet " in nodes["trainer_node"]
    assert "-p store:=runs/a/store " in nodes["policy_node"]


@pytest.mark.parametrize("file", sorted((share() / "launch").glob("*.launch.yaml")), ids=lambda file: file.name)
def test_shipped_launch_files_start_only_nodes_that_exist(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["launch", str(file), "--show-args"]) == 0
    required = re.findall(r"^  (\w+) \(required", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["launch", "--dry-run", str(file), *(f"{name}:=/{name}" for name in required)]) == 0
    started = re.findall(r"^\[(\w+)-\d+\] .* exec (\w+) ", capsys.readouterr().out, re.MULTILINE)
    cell = {"safety_node", "policy_node", "progress_node", "camera_node", "trainer_node"}
    assert {name for _, name in started} >= ({"fleet_node"} if file.name.startswith("fleet") else cell)
    for label, executable in started:
        assert label == executable
        assert (share() / "scripts" / executable).is_file(), f"{executable} has no script for ros2 run"
        assert (Path(cli.__file__).parents[1] / "nodes" / f"{executable}.py").is_file()


def test_run_executes_a_script_as_main(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("WORD = 'beside'\n")
    script = tmp_path / "s.py"
    script.write_text("import sys, rclpy, helper\nprint(__name__, helper.WORD, sys.argv[1:])\nsys.exit(5)\n")
    command = [sys.executable, "-m", "vla_ros.cli", "run", str(script), "--flag", "--ros-args", "-p", "x:=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "__main__ beside ['--flag', '--ros-args', '-p', 'x:=1']\n"
    assert done.returncode == 5


def test_message_to_yaml_as_ros2_prints_it() -> None:
    from sensor_msgs.msg import JointState

    message = JointState(name=["a", "b"], position=[0.5, 1.0])
    message.header.frame_id = "base"
    assert message_yaml.to_yaml(message) == (
        "header:\n  stamp:\n    sec: 0\n    nanosec: 0\n  frame_id: base\nname:\n- a\n- b\n"
        "position:\n- 0.5\n- 1.0\nvelocity: []\neffort: []\n"
    )
    assert message_yaml.to_yaml(message_yaml.field_of(message, "position.-1")) == "1.0\n"


def test_long_arrays_and_strings_are_truncated() -> None:
    from sensor_msgs.msg import Image

    image = Image(encoding="x" * 200)
    image.data = bytes(range(200))
    plain = yaml.safe_load(message_yaml.to_yaml(image))
    assert plain["data"] == [*range(128), "..."]
    assert plain["encoding"] == "x" * 128 + "..."
    assert len(yaml.safe_load(message_yaml.to_yaml(image, truncate=None))["data"]) == 200
    short = yaml.safe_load(message_yaml.to_yaml(image, no_arr=True, no_str=True))
    assert short["data"] == "<sequence type: uint8, length: 200>"
    assert short["encoding"] == "<string length: <200>>"


def test_fill_sets_nested_fields_and_arrays() -> None:
    from geometry_msgs.msg import PoseArray
    from sensor_msgs.msg import JointState

    poses = message_yaml.fill(PoseArray(), "{header: {frame_id: base, stamp: {sec: 3}}, poses: [{position: {x: 1, y: 2.5}}, {}]}")
    assert (poses.header.frame_id, poses.header.stamp.sec, len(poses.poses)) == ("base", 3, 2)
    assert (poses.poses[0].position.x, poses.poses[0].position.y, poses.poses[1].orientation.w) == (1.0, 2.5, 1.0)
    joints = message_yaml.fill(JointState(), "{name: [a], position: [1, 2]}")
    assert np.array_equal(joints.position, [1.0, 2.0])
    assert message_yaml.fill(JointState(), "") == JointState()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{nam: [a]}", "nam: no such field in JointState; there are: header, name"),
        ("{header: {stamp: 3}}", "header.stamp: found 3, expected a mapping"),
        ("{header: {frame_id: [1]}}", r"header.frame_id: found \[1\], expected string"),
        ("{header: {stamp: {sec: true}}}", "header.stamp.sec: found True, expected int32"),
        ("{header: {stamp: {sec: 99999999999}}}", "header.stamp.sec: "),
        ("{position: 3}", "position: found 3, expected a list"),
        ("{position: [a]}", "position: .* does not fit"),
        ("{position: [", "not YAML"),
    ],
)
def test_fill_refuses_what_does_not_fit(text: str, message: str) -> None:
    from sensor_msgs.msg import JointState

    with pytest.raises(VlaRosError, match=message):
        message_yaml.fill(JointState(), text)


def test_rate_report() -> None:
    assert rate_report(deque([0.1, 0.1, 0.2])) == ("average rate: 7.500\n\tmin: 0.100s max: 0.200s std dev: 0.04714s window: 4")


def test_waiting_for_something_that_never_comes() -> None:
    answers = iter([None, None, "here"])
    assert graph.awaited(lambda: next(answers), "missing") == "here"
    with pytest.raises(VlaRosError, match="topic /x has no publisher"):
        graph.awaited(lambda: None, "topic /x has no publisher", patience=0.1)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("msg", "String", "not of the form package/msg/Name"),
        ("msg", "std_srvs/srv/SetBool", "not of the form package/msg/Name"),
        ("srv", "std_srvs/srv/SetBol", "'std_srvs/srv/SetBol' is not known"),
        ("action", "no_package/action/Go", "'no_package/action/Go' is not known"),
    ],
)
def test_unknown_interfaces(kind: str, name: str, message: str) -> None:
    with pytest.raises(VlaRosError, match=message):
        graph.interface(kind, name)
