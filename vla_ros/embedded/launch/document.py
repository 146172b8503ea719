"""YAML with line marks: every value knows its file and line, so that an error can name them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from vla_ros.errors import VlaRosError


def closest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no known word is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


class Item:
    """A YAML node with its file, line and the key path that led to it."""

    def __init__(self, node: yaml.Node, file: Path, key: str) -> None:
        self.node = node
        self.file = file
        self.key = key

    @property
    def where(self) -> str:
        return f"{self.file}:{self.node.start_mark.line + 1}"

    def fail(self, message: str) -> NoReturn:
        """Raises VlaRosError with file, line and key in front."""
        raise VlaRosError(f"{self.where}: {self.key}: {message}")

    def value(self) -> Any:
        """The plain Python value (str, int, float, bool, None, list, dict).

        Raises:
            VlaRosError: a value that YAML cannot build (2024-13-45 as a date).
        """
        try:
            return yaml.constructor.SafeConstructor().construct_document(self.node)
        except (yaml.YAMLError, ValueError) as error:
            self.fail(f"not a plain value: {error}")

    def text(self) -> str:
        """A string. Numbers and booleans must be quoted here, because launch_yaml refuses them too."""
        if not isinstance(self.node, yaml.ScalarNode):
            self.fail(f"found a {self._kind()}, expected a string")
        if self.node.tag != "tag:yaml.org,2002:str":
            found = self.node.value
            self.fail(f'found {found or "nothing"}, expected a string; put it in quotes: "{found}"')
        return str(self.node.value)

    def items(self) -> list[Item]:
        """The entries of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail(f"found a {self._kind()}, expected a list (lines that begin with '- ')")
        return [Item(child, self.file, f"{self.key}[{i}]") for i, child in enumerate(self.node.value)]

    def mapping(self, known: Iterable[str] | None = None) -> dict[str, Item]:
        """The entries of a mapping; a key outside `known` or given twice is an error."""
        if not isinstance(self.node, yaml.MappingNode):
            self.fail(f"found a {self._kind()}, expected a mapping (`key: value`)")
        result: dict[str, Item] = {}
        for key_node, value_node in self.node.value:
            key = str(key_node.value)
            at_key = Item(key_node, self.file, self.key)
            if key in result:
                at_key.fail(f"key {key!r} is given twice")
            if known is not None and key not in known:
                names = sorted(known)
                at_key.fail(f"unknown key {key!r}{closest(key, names)} (known: {', '.join(names)})")
            result[key] = Item(value_node, self.file, f"{self.key}.{key}" if self.key else key)
        return result

    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode)

    def is_mapping(self) -> bool:
        return isinstance(self.node, yaml.MappingNode)

    def _kind(self) -> str:
        if isinstance(self.node, yaml.ScalarNode):
            return f"value {self.node.value!r}" if self.node.value else "blank value"
        return "list" if self.is_list() else "mapping"


def load(file: Path) -> list[Item]:
    """The actions under `launch:` of a launch file.

    Raises:
        VlaRosError: the file is missing, is not YAML, or has no `launch:` list as its only root.
    """
    if not file.is_file():
        raise VlaRosError(f"launch file not found: {file}")
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise VlaRosError(f"{file}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VlaRosError(f"{file}: not valid YAML: {error}") from error
    if node is None:
        raise VlaRosError(f"{file}:1: the file is empty, expected `launch:` with a list of actions")
    root = Item(node, file, "").mapping({"launch"})
    if "launch" not in root:
        raise VlaRosError(f"{file}:1: expected `launch:` with a list of actions")
    return root["launch"].items()


def action(item: Item) -> tuple[str, Item]:
    """Name and body of an action, which is a mapping with one key."""
    entry = item.mapping()
    if len(entry) != 1:
        item.fail(
            f"found the keys {', '.join(entry) or 'none'}, expected exactly one action name per list entry "
            "(is the body indented under its name?)"
        )
    name, body = next(iter(entry.items()))
    body.key = name
    return name, body
