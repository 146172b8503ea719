"""`arg` declarations: found without running the file (for --show-args), and filled in while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vla_ros.embedded.launch.context import Context
from vla_ros.embedded.launch.description import Argument
from vla_ros.embedded.launch.document import Item, action, closest, load
from vla_ros.errors import VlaRosError

ARG_KEYS = {"name", "default", "description", "choice", "if", "unless"}


def declared_arguments(file: Path) -> tuple[Argument, ...]:
    """Every `arg` in the file itself, in order, whatever conditions stand around it.

    Raises:
        VlaRosError: the file cannot be read, or an `arg` is malformed.
    """
    found: dict[str, Argument] = {}
    for argument in _walk(load(file)):
        found.setdefault(argument.name, argument)
    return tuple(found.values())


def includes_others(file: Path) -> bool:
    """Whether the file has an `include`, whose arguments are only known once its path is."""

    def walk(items: list[Item]) -> bool:
        for item in items:
            name, body = action(item)
            if name == "include" or (name == "group" and walk(_children(body))):
                return True
        return False

    return walk(load(file))


def _children(group: Item) -> list[Item]:
    if group.is_list():
        return group.items()
    children = group.mapping().get("children")
    return children.items() if children else []


def _walk(items: list[Item]) -> list[Argument]:
    found = []
    for item in items:
        name, body = action(item)
        if name == "arg":
            found.append(read_argument(body))
        elif name == "group":
            found += _walk(_children(body))
    return found


def read_argument(body: Item) -> Argument:
    """The declaration itself; the default keeps its substitutions."""
    keys = body.mapping(ARG_KEYS)
    if "name" not in keys:
        body.fail("`name` is missing")
    choices = []
    for choice in keys["choice"].items() if "choice" in keys else []:
        entry = choice.mapping({"value"})
        if "value" not in entry:
            choice.fail("expected `value: ...`")
        choices.append(entry["value"].text())
    return Argument(
        name=keys["name"].text(),
        default=keys["default"].text() if "default" in keys else None,
        description=keys["description"].text() if "description" in keys else "",
        choices=tuple(choices),
        where=body.where,
    )


def declare(body: Item, context: Context) -> None:
    """Runs an `arg`: a value from outside stands, otherwise the default is filled in."""
    argument = read_argument(body)
    context.arguments.setdefault(argument.name, argument)
    if argument.name not in context.configurations:
        if argument.default is None:
            raise VlaRosError(
                f"{argument.where}: required argument {argument.name!r} was not given"
                f"{' (' + argument.description + ')' if argument.description else ''}; add {argument.name}:=VALUE"
            )
        context.configurations[argument.name] = context.text(body.mapping()["default"])
    value = context.configurations[argument.name]
    if argument.choices and value not in argument.choices:
        body.fail(f"argument {argument.name!r} is {value!r}, expected one of {', '.join(argument.choices)}")


def check_given(file: Path, given: Mapping[str, str], declared: Mapping[str, Argument]) -> None:
    """Refuses arguments that nothing declares: ros2 launch ignores them, and a typing error goes unnoticed."""
    for name in given:
        if name not in declared:
            lines = [f"  {argument_line(argument)}" for argument in declared.values()] or ["  none"]
            raise VlaRosError(
                f"{file}: unknown argument {name!r}{closest(name, declared)}\ndeclared arguments:\n" + "\n".join(lines)
            )


def argument_line(argument: Argument) -> str:
    """One line for listings: name, default or `required`, choices, description."""
    default = "required" if argument.default is None else f"default: {argument.default!r}"
    choices = f", one of {', '.join(argument.choices)}" if argument.choices else ""
    description = f"  {argument.description}" if argument.description else ""
    return f"{argument.name} ({default}{choices}){description}"
