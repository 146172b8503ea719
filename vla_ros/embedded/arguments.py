"""ROS command-line arguments: everything between `--ros-args` and `--` (or the end)."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vla_ros.embedded.names import Remap
from vla_ros.errors import VlaRosError

_WITH_VALUE = ("--log-config-file", "--log-file-name", "-e", "--enclave")
_FLAGS = ("--enable-stdout-logs", "--disable-stdout-logs", "--enable-external-lib-logs", "--disable-external-lib-logs",
          "--enable-rosout-logs", "--disable-rosout-logs")  # fmt: skip


@dataclass
class Arguments:
    """Parsed ROS arguments, and what was left over for the program."""

    remaps: list[Remap] = field(default_factory=list)
    parameters: list[tuple[str, str, Any]] = field(default_factory=list)  # (node pattern, parameter, value), later wins
    log_levels: dict[str, str] = field(default_factory=dict)  # logger name ("" for all) -> level name
    rosout: bool = True
    stdout: bool = True
    remaining: list[str] = field(default_factory=list)

    def overrides(self, node: str, namespace: str) -> dict[str, Any]:
        """Parameter values given for a node, by parameter name."""
        full = f"{namespace.rstrip('/')}/{node}"
        return {name: value for pattern, name, value in self.parameters if _matches(pattern, full, node)}


def _matches(pattern: str, full: str, node: str) -> bool:
    if pattern in ("", "/**", full, node):
        return True
    if "*" not in pattern:
        return False
    # `*` is one part of the name, `**` any number of them
    wanted, parts = pattern.strip("/").split("/"), full.strip("/").split("/")
    if not pattern.startswith("/"):
        return fnmatch.fnmatchcase(node, pattern)
    return _parts_match(wanted, parts)


def _parts_match(wanted: list[str], parts: list[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_parts_match(wanted[1:], parts[skip:]) for skip in range(len(parts) + 1))
    return bool(parts) and wanted[0] in ("*", parts[0]) and _parts_match(wanted[1:], parts[1:])


def parse(argv: list[str]) -> Arguments:
    """Parse a command line.

    Raises:
        VlaRosError: unknown ROS argument, a rule without `:=`, or a bad parameter file.
    """
    result = Arguments()
    items = iter(argv)
    inside = False
    for item in items:
        if item == "--ros-args":
            inside = True
        elif not inside:
            result.remaining.append(item)
        elif item == "--":
            inside = False
        elif item in ("-r", "--remap"):
            result.remaps.append(_remap(_value(items, item)))
        elif item in ("-p", "--param"):
            result.parameters.append(_parameter(_value(items, item)))
        elif item == "--params-file":
            result.parameters += read_parameter_file(Path(_value(items, item)))
        elif item == "--log-level":
            name, found, level = _value(items, item).rpartition(":=")
            result.log_levels[name if found else ""] = level
        elif item in _WITH_VALUE:
            _value(items, item)
        elif item in _FLAGS:
            result.rosout = result.rosout and item != "--disable-rosout-logs"
            result.stdout = result.stdout and item != "--disable-stdout-logs"
        elif ":=" in item and not item.startswith("-"):
            result.remaps.append(_remap(item))
        else:
            raise VlaRosError(f"command line after --ros-args: found {item!r}, expected -r, -p, --params-file or --log-level")
    return result


def _value(items: Any, option: str) -> str:
    value = next(items, None)
    if value is None:
        raise VlaRosError(f"command line: {option} stands last, expected a value after it")
    return str(value)


def _remap(text: str) -> Remap:
    match, found, replacement = text.partition(":=")
    if not found or not match or not replacement:
        raise VlaRosError(f"command line: remapping {text!r}, expected from:=to")
    kind = ""
    for scheme in ("rostopic", "rosservice"):
        if f"{scheme}://" in match:
            kind, match = scheme.removeprefix("ros"), match.replace(f"{scheme}://", "")
            replacement = replacement.replace(f"{scheme}://", "")
    node, colon, rest = match.partition(":")
    return Remap(rest if colon else match, replacement, node if colon else "", kind)


def _parameter(text: str) -> tuple[str, str, Any]:
    name, found, value = text.partition(":=")
    if not found or not name:
        raise VlaRosError(f"command line: parameter {text!r}, expected name:=value")
    node, colon, rest = name.partition(":")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise VlaRosError(f"command line: parameter {text!r}, the value is no YAML: {error}") from error
    return (node if colon else "/**"), (rest if colon else name), "" if parsed is None else parsed


def read_parameter_file(path: Path) -> list[tuple[str, str, Any]]:
    """(node pattern, parameter, value) of a ROS 2 parameter file; nested names are joined by dots.

    Raises:
        VlaRosError: no such file, no YAML, or not of the form node: ros__parameters: {...}.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise VlaRosError(f"{path}: cannot be read as a parameter file: {error}") from error
    if not isinstance(content, dict):
        raise VlaRosError(f"{path}: found {type(content).__name__}, expected node names with ros__parameters under them")
    found: list[tuple[str, str, Any]] = []
    _nodes(path, "", content, found)
    return found


def _nodes(path: Path, prefix: str, content: dict[Any, Any], found: list[tuple[str, str, Any]]) -> None:
    for key, value in content.items():
        if key == "ros__parameters":
            if not isinstance(value, dict):
                raise VlaRosError(f"{path}: {prefix}: ros__parameters: found {value!r}, expected a mapping")
            found += [(prefix, name, item) for name, item in _flat("", value)]
        elif isinstance(value, dict):
            name = str(key)
            _nodes(path, f"{prefix.rstrip('/')}/{name.lstrip('/')}" if prefix else name, value, found)
        else:
            raise VlaRosError(f"{path}: {prefix or 'top level'}: found key {key!r} = {value!r}, expected ros__parameters")


def _flat(prefix: str, content: dict[Any, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat += _flat(f"{name}.", value) if isinstance(value, dict) else [(name, value)]
    return flat
