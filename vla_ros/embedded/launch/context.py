"""State of a launch file while it is being read from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vla_ros.embedded.launch.description import Argument, ProcessSpec
from vla_ros.embedded.launch.document import Item
from vla_ros.embedded.launch.substitutions import Scope, boolean, expand
from vla_ros.errors import VlaRosError


@dataclass
class Context(Scope):
    """What `arg`, `let`, `set_env` and `push_ros_namespace` have set so far, and what has been collected."""

    namespace: str = ""
    including: tuple[Path, ...] = ()  # files that are open, outermost first
    processes: list[ProcessSpec] = field(default_factory=list)
    arguments: dict[str, Argument] = field(default_factory=dict)

    def text(self, item: Item) -> str:
        """A string item with its substitutions performed; errors carry the item's file and line."""
        try:
            return expand(item.text(), self)
        except VlaRosError as error:
            raise located(item, error) from error

    def boolean(self, item: Item) -> bool:
        """true or false as YAML, or a string that becomes one."""
        value = item.value()
        if isinstance(value, bool):
            return value
        text = self.text(item)
        try:
            return boolean(text)
        except VlaRosError as error:
            raise located(item, error) from error

    def condition(self, body: dict[str, Item]) -> bool:
        """Whether `if` and `unless` of an action let it run."""
        if "if" in body and "unless" in body:
            body["unless"].fail("an action may have `if` or `unless`, not both")
        for key in ("if", "unless"):
            if key in body:
                text = self.text(body[key])
                try:
                    return boolean(text) == (key == "if")
                except VlaRosError as error:
                    raise located(body[key], error) from error
        return True

    @contextmanager
    def scoped(self) -> Iterator[None]:
        """Restores arguments, environment and namespace afterwards."""
        saved = dict(self.configurations), dict(self.environment), self.namespace
        try:
            yield
        finally:
            self.configurations, self.environment, self.namespace = saved


def located(item: Item, error: VlaRosError) -> VlaRosError:
    """The error with the item's file and line in front, unless it has them already."""
    text = str(error)
    return error if text.startswith(f"{item.file}:") else VlaRosError(f"{item.where}: {item.key}: {text}")


def join_namespace(base: str, name: str) -> str:
    """`name` under `base`; an absolute name stands for itself. Empty for the root namespace."""
    joined = name if name.startswith("/") else f"{base}/{name}"
    joined = "/" + joined.strip("/")
    return "" if joined == "/" else joined
