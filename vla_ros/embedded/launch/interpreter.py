"""Walks the actions of a launch file in order, as ROS 2 does, and collects the processes to start.

Like there, `arg` and `let` act on everything below them, a `group` restores arguments, environment and namespace at its
end, and an `include` does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from vla_ros.embedded.launch.arguments import (
    ARG_KEYS,
    check_given,
    declare,
    declared_arguments,
    includes_others,
    read_argument,
)
from vla_ros.embedded.launch.context import Context, join_namespace
from vla_ros.embedded.launch.description import LaunchDescription
from vla_ros.embedded.launch.document import Item, action, closest, load
from vla_ros.embedded.launch.processes import (
    EXECUTABLE_KEYS,
    NODE_KEYS,
    add_executable,
    add_node,
    add_ros2_launch,
)

CONDITION = {"if", "unless"}
ROS_ONLY = {
    "append_env", "composable_node", "lifecycle_node", "load_composable_node", "log", "node_container", "push_env",
    "pop_env", "reset", "ros_timer", "set_descriptor", "set_parameter", "set_parameters_from_file", "set_remap",
    "set_ros_log_dir", "set_use_sim_time", "shutdown", "timer",
}  # fmt: skip

Run = Callable[[Item, "dict[str, Item]", Context], None]

__all__ = ["declared_arguments", "parse"]


def parse(
    path: str | Path,
    arguments: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> LaunchDescription:
    """Reads a launch file with `arguments` filled in; `environment` is os.environ if not given.

    Raises:
        VlaRosError: file and line of whatever is misspelt, missing, unsupported or unknown.
    """
    file = Path(path).expanduser().absolute()
    given = dict(arguments or {})
    known = {argument.name: argument for argument in declared_arguments(file)}
    context = Context(
        configurations=dict(given),
        environment=dict(os.environ if environment is None else environment),
        file=file,
        arguments=known,
    )
    if not includes_others(file):
        check_given(file, given, context.arguments)  # first, because a misspelt name also leaves another one missing
    _run_file(file, context)
    check_given(file, given, context.arguments)
    return LaunchDescription(
        file=file,
        processes=tuple(context.processes),
        arguments=tuple(context.arguments.values()),
        configurations=dict(context.configurations),
    )


def _run_file(file: Path, context: Context) -> None:
    outer_file, outer_including = context.file, context.including
    context.file, context.including = file, (*context.including, file)
    _run_all(load(file), context)
    context.file, context.including = outer_file, outer_including


def _run_all(items: list[Item], context: Context) -> None:
    for item in items:
        name, body = action(item)
        known, run = _known_action(item, name)
        if name == "group" and body.is_list():
            with context.scoped():
                _run_all(body.items(), context)
            continue
        keys = body.mapping(known)
        if context.condition(keys):
            run(body, keys, context)
        else:
            _skip(name, body, context)


def _known_action(item: Item, name: str) -> tuple[set[str], Run]:
    if name not in ACTIONS:
        known = ", ".join(sorted(ACTIONS))
        if name in ROS_ONLY:
            item.fail(f"`{name}` works under ros2 launch only; known here: {known}")
        item.fail(f"unknown action {name!r}{closest(name, ACTIONS)} (known: {known})")
    return ACTIONS[name]


def _skip(name: str, body: Item, context: Context) -> None:
    """A branch whose condition is false: its spelling is checked, and its arguments are known but have no value."""
    if name == "arg":
        argument = read_argument(body)
        context.arguments.setdefault(argument.name, argument)
        context.skipped.add(argument.name)
    if name != "group":
        return
    children = body if body.is_list() else body.mapping(ACTIONS["group"][0]).get("children", body)
    for child in children.items():
        child_name, child_body = action(child)
        known, _run = _known_action(child, child_name)
        if child_body.is_mapping():
            child_body.mapping(known)
        _skip(child_name, child_body, context)


def _need(body: Item, keys: dict[str, Item], *names: str) -> list[Item]:
    for name in names:
        if name not in keys:
            body.fail(f"`{name}` is missing")
    return [keys[name] for name in names]


def _arg(body: Item, _keys: dict[str, Item], context: Context) -> None:
    declare(body, context)


def _let(body: Item, keys: dict[str, Item], context: Context) -> None:
    name, value = _need(body, keys, "name", "value")
    context.configurations[context.text(name)] = context.text(value)


def _set_env(body: Item, keys: dict[str, Item], context: Context) -> None:
    name, value = _need(body, keys, "name", "value")
    context.environment[context.text(name)] = context.text(value)


def _unset_env(body: Item, keys: dict[str, Item], context: Context) -> None:
    (name,) = _need(body, keys, "name")
    context.environment.pop(context.text(name), None)


def _push_namespace(body: Item, keys: dict[str, Item], context: Context) -> None:
    (namespace,) = _need(body, keys, "namespace")
    context.namespace = join_namespace(context.namespace, context.text(namespace))


def _group(body: Item, keys: dict[str, Item], context: Context) -> None:
    (children,) = _need(body, keys, "children")
    if "scoped" in keys and not context.boolean(keys["scoped"]):
        _run_all(children.items(), context)
        return
    with context.scoped():
        _run_all(children.items(), context)


def _include(body: Item, keys: dict[str, Item], context: Context) -> None:
    (file_item,) = _need(body, keys, "file")
    file = (context.file.parent / context.text(file_item)).absolute()
    if not file.name.endswith((".launch.yaml", ".launch.yml")):
        pairs = [entry.mapping({"name", "value"}) for entry in (keys["arg"].items() if "arg" in keys else [])]
        arguments = {context.text(pair["name"]): context.text(pair["value"]) for pair in pairs}
        add_ros2_launch(file_item, file, arguments, context)
        return
    if not file.is_file():
        there = ", ".join(sorted(each.name for each in file.parent.glob("*.launch.yaml"))) or "none"
        file_item.fail(f"launch file not found: {file} (in that folder: {there})")
    if file in context.including:
        file_item.fail(f"{file} includes itself (through {' -> '.join(each.name for each in context.including)})")
    declared = {argument.name for argument in declared_arguments(file)}
    for entry in keys["arg"].items() if "arg" in keys else []:
        name_item, value_item = _need(entry, entry.mapping({"name", "value"}), "name", "value")
        name = context.text(name_item)
        if name not in declared:
            known = ", ".join(sorted(declared)) or "none"
            name_item.fail(f"{file.name} declares no argument {name!r}{closest(name, declared)} (declared: {known})")
        context.configurations[name] = context.text(value_item)
    _run_file(file, context)


ACTIONS: dict[str, tuple[set[str], Run]] = {
    "arg": (ARG_KEYS, _arg),
    "let": ({"name", "value"} | CONDITION, _let),
    "set_env": ({"name", "value"} | CONDITION, _set_env),
    "unset_env": ({"name"} | CONDITION, _unset_env),
    "push_ros_namespace": ({"namespace"} | CONDITION, _push_namespace),
    "push-ros-namespace": ({"namespace"} | CONDITION, _push_namespace),
    "group": ({"children", "scoped"} | CONDITION, _group),
    "include": ({"file", "arg"} | CONDITION, _include),
    "node": (NODE_KEYS, add_node),
    "executable": (EXECUTABLE_KEYS, add_executable),
}
