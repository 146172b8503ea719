"""Launch files: every construct, and errors that name file and line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from vla_ros.embedded.launch import LaunchDescription, declared_arguments, parse
from vla_ros.embedded.launch.substitutions import Scope, expand
from vla_ros.errors import VlaRosError
from vla_ros.paths import share

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str, name: str = "x.launch.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def launch(folder: Path, body: str, environment: dict[str, str] | None = None, **arguments: str) -> LaunchDescription:
    return parse(write(folder, "launch:\n" + body), arguments, environment if environment is not None else {"PATH": "/bin"})


def node_arguments(command: tuple[str, ...]) -> list[str]:
    """What follows the executable's name."""
    return list(command[command.index("exec") + 2 :])


def test_node_becomes_one_command_line(tmp_path: Path) -> None:
    parameters = write(tmp_path, "/**: {ros__parameters: {a: 1}}", "p.yaml")
    (process,) = launch(
        tmp_path,
        f"""
- arg: {{name: rate, default: "10"}}
- node:
    pkg: vla_ros
    exec: policy_node
    name: policy
    namespace: left
    args: --verbose "two words"
    ros_args: --log-level debug
    output: screen
    on_exit: shutdown
    param:
    - from: "{parameters}"
    - {{name: rate, value: $(var rate)}}
    - {{name: text, value: "'10'"}}
    - {{name: gain, value: 0.5}}
    - {{name: joints, value: [a, b]}}
    - name: limits
      param:
      - {{name: speed, value: 1.0}}
      - name: inner
        param: [{{name: active, value: true}}]
    remap:
    - {{from: image, to: /camera/image}}
    env:
    - {{name: OMP_NUM_THREADS, value: "1"}}
""",
    ).processes
    assert process.command[:5] == (sys.executable, "-m", "vla_ros.cli", "exec", "policy_node")
    assert node_arguments(process.command) == [
        "--verbose", "two words", "--ros-args", "--log-level", "debug", "-r", "__node:=policy", "-r", "__ns:=/left",
        "--params-file", str(parameters), "-p", "rate:=10", "-p", "text:='10'", "-p", "gain:=0.5",
        "-p", "joints:=[a, b]",
        "-p", "limits.speed:=1.0", "-p", "limits.inner.active:=true", "-r", "image:=/camera/image",
    ]  # fmt: skip
    assert process.name == "policy_node-1"
    assert process.required
    assert process.shows_stdout
    assert process.environment == {"PATH": "/bin", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1", 1), ("1.0", 1.0), ("true", True), ("word", "word"), ('"1"', 1), ("\"'1'\"", "1"), ('"$(var one)"', 1),
        ('"$(var path)/b c"', "/a/b c"), ("[1, 2]", [1, 2]), ("[1.0, 2.5]", [1.0, 2.5]), ('"a: b"', "a: b"),
        ('"yes"', True), ("1e-6", 1e-6), ('"[x, y]"', ["x", "y"]), ("\"''\"", ""), ("'héé'", "héé"),
    ],
)  # fmt: skip
def test_parameter_values_keep_their_type(tmp_path: Path, written: str, expected: object) -> None:
    body = f"""
- let: {{name: one, value: "1"}}
- let: {{name: path, value: /a}}
- node: {{pkg: vla_ros, exec: n, param: [{{name: p, value: {written}}}]}}
"""
    (process,) = launch(tmp_path, body).processes
    handed_over = process.command[-1]
    assert handed_over.startswith("p:=")
    read_back = yaml.safe_load(handed_over.removeprefix("p:="))
    # YAML 1.1 reads 1e-6 without a dot as a string; so do launch_yaml and rcl's own reader
    assert read_back == ("1e-6" if written == "1e-6" else expected)
    assert type(read_back) is (str if written == "1e-6" else type(expected))


def test_groups_restore_what_they_changed_and_conditions_choose(tmp_path: Path) -> None:
    description = launch(
        tmp_path,
        """
- arg: {name: sim, default: "true"}
- set_env: {name: A, value: outer}
- group:
  - push_ros_namespace: {namespace: arm}
  - set_env: {name: A, value: inner}
  - unset_env: {name: PATH}
  - let: {name: sim, value: "false"}
  - group:
      children:
      - push-ros-namespace: {namespace: left}
      - node: {pkg: vla_ros, exec: a}
  - node: {pkg: vla_ros, exec: b, namespace: /absolute}
- node: {pkg: vla_ros, exec: c, if: $(var sim)}
- node: {pkg: vla_ros, exec: d, unless: $(var sim)}
- group:
    if: $(not $(var sim))
    children:
    - node: {pkg: vla_ros, exec: e}
- group:
    scoped: false
    children:
    - let: {name: kept, value: "1"}
""",
    )
    by_name = {process.name: process for process in description.processes}
    assert list(by_name) == ["a-1", "b-2", "c-3"]
    assert "__ns:=/arm/left" in by_name["a-1"].command
    assert "__ns:=/absolute" in by_name["b-2"].command
    assert not any("__ns" in word for word in by_name["c-3"].command)
    assert by_name["a-1"].environment == {"A": "inner"}
    assert by_name["c-3"].environment == {"A": "outer", "PATH": "/bin"}
    assert description.configurations == {"sim": "true", "kept": "1"}


def test_include_hands_arguments_down(tmp_path: Path) -> None:
    inner = 'launch:\n- arg: {name: who}\n- arg: {name: n, default: "2"}\n- executable: {cmd: echo $(var who) $(dirname)}\n'
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", inner, "inner.launch.yaml")
    body = "- include: {file: $(dirname)/sub/inner.launch.yaml, arg: [{name: who, value: me}]}\n"
    description = launch(tmp_path, body, n="3")
    assert description.processes[0].command == ("echo", "me", str(tmp_path / "sub"))
    assert description.configurations == {"who": "me", "n": "3"}
    with pytest.raises(VlaRosError, match=r"x\.launch\.yaml:2: .*declares no argument 'whom'; did you mean 'who'"):
        launch(tmp_path, body.replace("name: who", "name: whom"))


def test_executable_options(tmp_path: Path) -> None:
    (process, shell) = launch(
        tmp_path,
        """
- executable:
    cmd: /usr/bin/printf '%s' "a b" $(env HOME)
    name: say
    cwd: /tmp
    launch-prefix: nice -n 5
    respawn: true
    respawn_delay: 0.5
    output: both
- executable: {cmd: "echo $HOME | cat", shell: true}
""",
        {"HOME": "/h"},
    ).processes
    assert process.command == ("nice", "-n", "5", "/usr/bin/printf", "%s", "a b", "/h")
    assert (process.name, process.cwd, process.respawn, process.respawn_delay) == ("say-1", Path("/tmp"), True, 0.5)
    assert shell.command == ("/bin/sh", "-c", "echo $HOME | cat")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain 'quoted' text", "plain 'quoted' text"),
        ("$(var a)-$(var a)", "1-1"),
        ("$(var $(var b))", "1"),
        ("$(var missing default)", "default"),
        ("$(var missing 'two words')", "two words"),
        ('$(var missing "")', ""),
        ("$(env NOT_SET $(var a))", "1"),
        (r"\$(var a)", "$(var a)"),
        (r"\\$(var a)", r"\1"),
        ("cost 5$", "cost 5$"),
        ("$(not true)", "false"),
        ("$(and true $(equals $(var a) 1))", "true"),
        ("$(or 0 FALSE)", "false"),
        ("$(any false false 1)", "true"),
        ("$(all true true 0)", "false"),
        ("$(equals 1 1.0)", "false"),
        ("$(not-equals x y)", "true"),
        ("$(if $(equals $(var a) 1) yes no)", "yes"),
        ("$(dirname)/f", "/files/f"),
    ],
)
def test_substitutions(text: str, expected: str) -> None:
    assert expand(text, Scope({"a": "1", "b": "a"}, {}, Path("/files/x.launch.yaml"))) == expected


def test_find_pkg_share_is_this_package() -> None:
    assert expand("$(find-pkg-share vla_ros)", Scope({}, {}, Path("/x"))) == str(share())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$(var a", "not closed"),
        ("$(var 'a)", "not closed"),
        ("$()", "no substitution name"),
        ("$(vra a)", r"unknown substitution \$\(vra\); did you mean 'var'"),
        ("$(eval 1 + 1)", "ros2 launch only"),
        ("$(var)", "has 0 arguments, expected 1 to 2"),
        ("$(not a b)", "has 2 arguments, expected 1"),
        ("$(var other)", r"launch argument 'other' has no value \(known: a\)"),
        ("$(env NOT_SET)", "give a default"),
        ("$(not maybe)", "expected true, false, 1 or 0"),
        ("$(find-pkg-share nav2)", "'nav2' is not known without ROS 2"),
        ("$(find-exec no-such-program)", "not on PATH"),
    ],
)
def test_bad_substitutions(text: str, message: str) -> None:
    with pytest.raises(VlaRosError, match=message):
        expand(text, Scope({"a": "1"}, {"PATH": "/bin"}, Path("/x")))


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("- nod: {pkg: vla_ros, exec: a}", 2, "unknown action 'nod'; did you mean 'node'"),
        ("- timer: {period: 1.0}", 2, "ros2 launch only"),
        ("- node:\n    pkg: vla_ros\n    exce: a", 4, "unknown key 'exce'; did you mean 'exec'"),
        ("- node:\n    pkg: vla_ros\n    pkg: vla_ros", 4, "given twice"),
        ("- node: {exec: a}", 2, "`pkg` is missing"),
        ("- node:\n    pkg: demo_nodes\n    exec: a", 3, "'demo_nodes' is not known without ROS 2"),
        ("- node: {pkg: vla_ros, exec: a, name: 1a}", 2, "'1a' is not a node name"),
        ("- node: {pkg: vla_ros, exec: a, namespace: a-b}", 2, "not a namespace"),
        ("- node: {pkg: vla_ros, exec: a, output: sceen}", 2, "expected one of log"),
        ("- node: {pkg: vla_ros, exec: a, on_exit: restart}", 2, "expected `shutdown`"),
        ("- node: {pkg: vla_ros, exec: a, respawn: true, on_exit: shutdown}", 2, "not both"),
        ("- node: {pkg: vla_ros, exec: a, respawn: true, respawn_delay: 2}", 2, "decimal point"),
        ("- node: {pkg: vla_ros, exec: a, if: true}", 2, 'put it in quotes: "true"'),
        ("- node: {pkg: vla_ros, exec: a, if: maybe}", 2, "expected true, false, 1 or 0"),
        ("- node: {pkg: vla_ros, exec: a, if: '1', unless: '1'}", 2, "not both"),
        ("- node: {pkg: vla_ros, exec: a, param: [{name: p}]}", 2, "either `value` or a nested `param`"),
        ("- node: {pkg: vla_ros, exec: a, param: [{from: /no/file.yaml}]}", 2, "parameter file not found"),
        ("- node: {pkg: vla_ros, exec: a, param: [{name: p, value: '[1'}]}", 2, "not a parameter value"),
        ("- node: {pkg: vla_ros, exec: a, remap: [{from: a}]}", 2, "`to` is missing"),
        ("- executable: {name: a}", 2, "`cmd` is missing"),
        ("- executable: {cmd: 'echo \"a'}", 2, "cannot be split"),
        ("- arg: {name: a, default: 1.0}", 2, 'put it in quotes: "1.0"'),
        ("- arg: {name: a, default: x, choice: [{value: y}]}", 2, "expected one of y"),
        ("- let: {name: a}", 2, "`value` is missing"),
        ("- arg: {name: a, description: the first one}", 2, "required argument 'a' was not given .the first one."),
        ("- let: {name: a, value: x}\n- let: {name: b, value: $(var c)}", 3, r"'c' has no value \(known: a\)"),
        ("- group:\n  - let:\n    name: a", 3, "exactly one action name"),
        ("- include: {file: $(dirname)/none.launch.yaml}", 2, "launch file not found"),
        ("- include: {file: $(dirname)/other.launch.py}", 2, "only \\*.launch.yaml"),
        ("- include: {file: $(dirname)/x.launch.yaml}", 2, "includes itself"),
        ("- group:\n    if: 'false'\n    children:\n    - node: {pgk: a}", 5, "unknown key 'pgk'; did you mean 'pkg'"),
        (
            "- group: {if: 'false', children: [{arg: {name: z}}]}\n- let: {name: q, value: $(var z)}",
            3,
            "condition is false",
        ),
        ("  bad: [", 2, "not valid YAML"),
        ("- a\n", 2, "expected a mapping"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, body: str, line: int, message: str) -> None:
    with pytest.raises(VlaRosError, match=message) as caught:
        launch(tmp_path, body)
    reported = str(caught.value)
    found = int(reported.removeprefix(f"{tmp_path / 'x.launch.yaml'}:").split(":")[0])
    # a YAML scanner's own errors are reported where it gave up, which may be a line later
    assert found == line or ("not valid YAML" in reported and found >= line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file is empty"),
        ("nodes: []", "unknown key 'nodes'"),
        ("launch: {}", "expected a list"),
        ("- 1", "expected a mapping"),
    ],
)
def test_files_without_a_launch_list(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VlaRosError, match=message):
        parse(write(tmp_path, text))


def test_unknown_argument_lists_the_declared_ones(tmp_path: Path) -> None:
    body = "- arg: {name: robot, default: panda, description: name of the contract}\n- arg: {name: policy}\n"
    with pytest.raises(VlaRosError, match="unknown argument 'polcy'; did you mean 'policy'") as caught:
        launch(tmp_path, body, polcy="x")
    assert "robot (default: 'panda')  name of the contract" in str(caught.value)
    assert "policy (required)" in str(caught.value)


def test_declared_arguments_are_found_without_values(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "launch:\n- arg: {name: a}\n- group: {if: $(var a), children: [{arg: {name: b, default: $(var a)}}]}\n",
    )
    assert [(argument.name, argument.default) for argument in declared_arguments(file)] == [
        ("a", None),
        ("b", "$(var a)"),
    ]
