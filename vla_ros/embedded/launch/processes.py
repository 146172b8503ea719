"""`node` and `executable`: from the YAML entry to a ProcessSpec with its whole command line."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from vla_ros.embedded.launch.context import Context, join_namespace, located
from vla_ros.embedded.launch.description import OUTPUTS, ProcessSpec
from vla_ros.embedded.launch.document import Item
from vla_ros.embedded.launch.packages import executable_of
from vla_ros.errors import VlaRosError

COMMON_KEYS = {
    "name", "env", "cwd", "output", "launch-prefix", "respawn", "respawn_delay", "on_exit", "if", "unless"
}  # fmt: skip
NODE_KEYS = COMMON_KEYS | {"pkg", "exec", "exec_name", "namespace", "args", "ros_args", "param", "remap"}
EXECUTABLE_KEYS = COMMON_KEYS | {"cmd", "shell"}
PARAM_KEYS = {"name", "value", "param", "from"}
NODE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NAMESPACE = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)*")


def add_node(body: Item, keys: dict[str, Item], context: Context) -> None:
    """Appends the process of a `node` entry."""
    for key in ("pkg", "exec"):
        if key not in keys:
            body.fail(f"`{key}` is missing")
    package, executable = context.text(keys["pkg"]), context.text(keys["exec"])
    try:  # a package of ROS 2's own, where that is installed
        own = [sys.executable, "-m", "vla_ros.cli", "exec", executable]
        program = own if package == "vla_ros" else [str(executable_of(package, executable, context.environment))]
    except VlaRosError as error:
        raise located(keys["pkg"], error) from error
    ros = ["--ros-args"]
    ros += _words(keys["ros_args"], context) if "ros_args" in keys else []
    if "name" in keys:
        ros += ["-r", f"__node:={_node_name(keys['name'], context)}"]
    namespace = join_namespace(context.namespace, context.text(keys["namespace"])) if "namespace" in keys else None
    namespace = context.namespace if namespace is None else namespace
    if not NAMESPACE.fullmatch(namespace):
        keys.get("namespace", body).fail(f"{namespace!r} is not a namespace; letters, digits and _ between slashes")
    if namespace:
        ros += ["-r", f"__ns:={namespace}"]
    for entry in keys["param"].items() if "param" in keys else []:
        ros += _parameter(entry, context)
    for entry in keys["remap"].items() if "remap" in keys else []:
        ros += ["-r", ":=".join(_pair(entry, context, "from", "to"))]
    command = program + (_words(keys["args"], context) if "args" in keys else [])
    label = context.text(keys["exec_name"]) if "exec_name" in keys else executable
    _append(body, keys, context, label, [*command, *ros])


def add_executable(body: Item, keys: dict[str, Item], context: Context) -> None:
    """Appends the process of an `executable` entry."""
    if "cmd" not in keys:
        body.fail("`cmd` is missing")
    if "shell" in keys and context.boolean(keys["shell"]):
        text = context.text(keys["cmd"])
        command, first = ["/bin/sh", "-c", text], text.split()[0] if text.split() else ""
    else:
        command = _words(keys["cmd"], context)
        first = command[0] if command else ""
    if not first:
        keys["cmd"].fail("the command is empty")
    label = context.text(keys["name"]) if "name" in keys else Path(first).name
    _append(body, keys, context, label, command)


def add_ros2_launch(body: Item, file: Path, arguments: dict[str, str], context: Context) -> None:
    """Appends a process of `ros2 launch` for an included file that is no YAML: a driver's own."""
    ros2 = shutil.which("ros2", path=context.environment.get("PATH"))
    if ros2 is None:
        body.fail(f"found {file.name}; only *.launch.yaml files can be included without ROS 2 (no `ros2` on PATH)")
    if context.namespace:
        body.fail(f"{file.name} cannot be put into namespace {context.namespace!r} here; use `ros2 launch`, or start it apart")
    words = [f"{name}:={value}" for name, value in arguments.items() if value != ""]
    _append(body, {}, context, file.name.split(".")[0], [ros2, "launch", str(file), *words], required=True)


def _append(
    body: Item, keys: dict[str, Item], context: Context, label: str, command: list[str], required: bool = False
) -> None:
    environment = dict(context.environment)
    for entry in keys["env"].items() if "env" in keys else []:
        name, value = _pair(entry, context, "name", "value")
        environment[name] = value
    output = context.text(keys["output"]) if "output" in keys else "screen" if required else "log"
    if output not in OUTPUTS:
        keys["output"].fail(f"found {output!r}, expected one of {', '.join(OUTPUTS)}")
    if "on_exit" in keys and context.text(keys["on_exit"]) != "shutdown":
        keys["on_exit"].fail("expected `shutdown`; launch files know no other reaction")
    respawn = "respawn" in keys and context.boolean(keys["respawn"])
    if respawn and "on_exit" in keys:
        keys["on_exit"].fail("a process either respawns or ends the launch, not both")
    prefix = _words(keys["launch-prefix"], context) if "launch-prefix" in keys else []
    context.processes.append(
        ProcessSpec(
            name=f"{label}-{len(context.processes) + 1}",
            command=(*prefix, *command),
            environment=environment,
            where=body.where,
            cwd=Path(context.text(keys["cwd"])) if "cwd" in keys else None,
            output=output,
            respawn=respawn,
            respawn_delay=_delay(keys["respawn_delay"]) if "respawn_delay" in keys else 0.0,
            required=required or "on_exit" in keys,
        )
    )


def _words(item: Item, context: Context) -> list[str]:
    """A command line split as a shell would. Substitutions are performed first, so their spaces split as well."""
    try:
        return shlex.split(context.text(item))
    except ValueError as error:
        item.fail(f"cannot be split into words: {error}")


def _delay(item: Item) -> float:
    value = item.value()
    if not isinstance(value, float) or value < 0:
        item.fail(f"found {value!r}, expected seconds with a decimal point, 0.0 or more (ROS 2 refuses integers here)")
    return value


def _node_name(item: Item, context: Context) -> str:
    name = context.text(item)
    if not NODE_NAME.fullmatch(name):
        item.fail(f"{name!r} is not a node name; letters, digits and _, not beginning with a digit")
    return name


def _pair(entry: Item, context: Context, first: str, second: str) -> tuple[str, str]:
    keys = entry.mapping({first, second})
    for key in (first, second):
        if key not in keys:
            entry.fail(f"`{key}` is missing")
    return context.text(keys[first]), context.text(keys[second])


def _parameter(entry: Item, context: Context) -> list[str]:
    """ROS arguments of one `param`: `--params-file` for `from`, `-p name:=value` otherwise."""
    keys = entry.mapping(PARAM_KEYS)
    if "from" in keys:
        if len(keys) > 1:
            entry.fail("`from` stands alone; write further parameters as entries of their own")
        file = Path(context.text(keys["from"]))
        if not file.is_file():
            keys["from"].fail(f"parameter file not found: {file}")
        return ["--params-file", str(file)]
    arguments = []
    for name, value in _flatten(entry, keys, context).items():
        arguments += ["-p", f"{name}:={_yaml(value)}"]
    return arguments


def _flatten(entry: Item, keys: dict[str, Item], context: Context) -> dict[str, Any]:
    if "name" not in keys:
        entry.fail("`name` (with `value` or a nested `param`) or `from` is missing")
    if ("value" in keys) == ("param" in keys):
        entry.fail("expected either `value` or a nested `param`")
    name = keys["name"].text()
    if "value" in keys:
        return {name: _parameter_value(keys["value"], context)}
    result = {}
    for child in keys["param"].items():
        child_keys = child.mapping(PARAM_KEYS - {"from"})
        for key, value in _flatten(child, child_keys, context).items():
            result[f"{name}.{key}"] = value
    return result


def _parameter_value(item: Item, context: Context) -> Any:
    value = item.value()
    if isinstance(value, list):
        return [_scalar(Item(child, item.file, item.key), context) for child in item.node.value]
    return _scalar(item, context)


def _scalar(item: Item, context: Context) -> Any:
    """A parameter's value. Strings are read as YAML after substitution, as launch_ros does: "'100'" stays a string."""
    value = item.value()
    if isinstance(value, (bool, int, float)):
        return value
    text = context.text(item)
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise located(item, VlaRosError(f"{text!r} is not a parameter value; quote it twice: \"'...'\"")) from error
    known = isinstance(read, (bool, int, float, str)) or (
        isinstance(read, list) and all(isinstance(each, (bool, int, float, str)) for each in read)
    )
    return read if known else text


def _yaml(value: Any) -> str:
    """Value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
