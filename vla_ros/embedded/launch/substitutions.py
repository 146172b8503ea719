"""`$(var x)` and its relatives: the grammar of ROS 2 launch files, parsed and expanded.

Text outside `$(...)` is kept as it is, except that a backslash protects `$`, quotes and itself. Inside, arguments are
separated by spaces; quotes keep spaces together; substitutions nest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vla_ros.embedded.launch.document import closest
from vla_ros.embedded.launch.packages import share_of
from vla_ros.errors import VlaRosError

ESCAPABLE = "$\"'\\()"


@dataclass(frozen=True)
class Call:
    """`$(name argument ...)`; each argument is a template of its own."""

    name: str
    arguments: tuple[tuple[str | Call, ...], ...]


Template = tuple["str | Call", ...]


@dataclass
class Scope:
    """What substitutions may look up."""

    configurations: dict[str, str]
    environment: dict[str, str]
    file: Path
    skipped: set[str] = field(default_factory=set)  # args declared only in branches that were not taken


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def template(self, stop: str = "", quote: str = "") -> Template:
        """Reads up to an unescaped character of `stop` or the closing `quote`."""
        parts: list[str | Call] = []
        literal = ""
        while self.at < len(self.text):
            char = self.text[self.at]
            following = self.text[self.at + 1 : self.at + 2]
            if char == "\\" and following and following in ESCAPABLE:
                literal += following
                self.at += 2
            elif char == "$" and following == "(":
                if literal:
                    parts.append(literal)
                    literal = ""
                parts.append(self.call())
            elif char == quote or char in stop:
                break
            elif stop and char in "\"'":
                literal, parts = self.quoted(char, literal, parts)
            else:
                literal += char
                self.at += 1
        if literal:
            parts.append(literal)
        return tuple(parts)

    def quoted(self, quote: str, literal: str, parts: list[str | Call]) -> tuple[str, list[str | Call]]:
        start = self.at
        self.at += 1
        inner = self.template(quote=quote)
        if self.at >= len(self.text):
            raise VlaRosError(f"quote at column {start + 1} of {self.text!r} is not closed")
        self.at += 1
        if literal:
            parts.append(literal)
        return "", [*parts, *(inner or ("",))]

    def call(self) -> Call:
        start = self.at
        self.at += 2
        arguments: list[Template] = []
        while True:
            while self.at < len(self.text) and self.text[self.at] == " ":
                self.at += 1
            if self.at >= len(self.text):
                raise VlaRosError(f"`$(` at column {start + 1} of {self.text!r} is not closed")
            if self.text[self.at] == ")":
                self.at += 1
                break
            before = self.at
            arguments.append(self.template(stop=" )"))
            if self.at == before:
                raise VlaRosError(f"unexpected {self.text[self.at]!r} at column {self.at + 1} of {self.text!r}")
        if not arguments or len(arguments[0]) != 1 or not isinstance(arguments[0][0], str):
            raise VlaRosError(f"`$(` at column {start + 1} of {self.text!r} has no substitution name")
        return Call(arguments[0][0], tuple(arguments[1:]))


def parse_template(text: str) -> Template:
    """Text with `$(...)` as parts.

    Raises:
        VlaRosError: a bracket or quote is not closed, or a substitution has no name.
    """
    return _Parser(text).template()


def expand(text: str, scope: Scope) -> str:
    """Text with every substitution replaced.

    Raises:
        VlaRosError: malformed, unknown or unsupported substitution, or one without a value.
    """
    return _expand(parse_template(text), scope)


def boolean(text: str) -> bool:
    """true/1 and false/0 in any case, as launch conditions have it."""
    word = text.strip().lower()
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    raise VlaRosError(f"found {text!r}, expected true, false, 1 or 0")


def _expand(template: Template, scope: Scope) -> str:
    return "".join(part if isinstance(part, str) else _perform(part, scope) for part in template)


def _perform(call: Call, scope: Scope) -> str:
    if call.name not in SUBSTITUTIONS:
        if call.name in UNSUPPORTED:
            raise VlaRosError(f"$({call.name}) works under ros2 launch only; {UNSUPPORTED[call.name]}")
        names = ", ".join(sorted(SUBSTITUTIONS))
        raise VlaRosError(f"unknown substitution $({call.name}){closest(call.name, SUBSTITUTIONS)} (known: {names})")
    function, fewest, most = SUBSTITUTIONS[call.name]
    if not fewest <= len(call.arguments) <= most:
        count = str(fewest) if fewest == most else f"{fewest} to {most}" if most < MANY else f"at least {fewest}"
        raise VlaRosError(f"$({call.name}) has {len(call.arguments)} arguments, expected {count}")
    return function(scope, *(_expand(argument, scope) for argument in call.arguments))


def _lookup(kind: str, values: Mapping[str, str], name: str, default: tuple[str, ...], hint: str) -> str:
    if name in values:
        return values[name]
    if default:
        return default[0]
    raise VlaRosError(f"{kind} {name!r} has no value{hint}")


def _var(scope: Scope, name: str, *default: str) -> str:
    if name in scope.skipped:
        hint = ": it is declared only in a branch whose condition is false"
    else:
        hint = closest(name, scope.configurations) or f" (known: {', '.join(sorted(scope.configurations)) or 'none'})"
    return _lookup("launch argument", scope.configurations, name, default, hint)


def _env(scope: Scope, name: str, *default: str) -> str:
    hint = f"; give a default: $(env {name} something)"
    return _lookup("environment variable", scope.environment, name, default, hint)


def _find_package_share(scope: Scope, package: str) -> str:
    return str(share_of(package, scope.environment))


def _find_executable(scope: Scope, name: str) -> str:
    found = shutil.which(name, path=scope.environment.get("PATH"))
    if found is None:
        raise VlaRosError(f"executable {name!r} is not on PATH")
    return found


def _text(value: bool) -> str:
    return "true" if value else "false"


def _equals(_scope: Scope, left: str, right: str) -> str:
    return _text(left == right)


MANY = 1000
SUBSTITUTIONS: dict[str, tuple[Callable[..., str], int, int]] = {
    "var": (_var, 1, 2),
    "env": (_env, 1, 2),
    "find-pkg-share": (_find_package_share, 1, 1),
    "find-exec": (_find_executable, 1, 1),
    "dirname": (lambda scope: str(scope.file.parent), 0, 0),
    "not": (lambda _scope, value: _text(not boolean(value)), 1, 1),
    "and": (lambda _scope, left, right: _text(boolean(left) and boolean(right)), 2, 2),
    "or": (lambda _scope, left, right: _text(boolean(left) or boolean(right)), 2, 2),
    "all": (lambda _scope, *values: _text(all(boolean(value) for value in values)), 1, MANY),
    "any": (lambda _scope, *values: _text(any(boolean(value) for value in values)), 1, MANY),
    "equals": (_equals, 2, 2),
    "not-equals": (lambda _scope, left, right: _text(left != right), 2, 2),
    "if": (lambda _scope, condition, yes, no="": yes if boolean(condition) else no, 2, 3),
}
UNSUPPORTED = {
    "eval": "use $(not ...), $(and ...), $(equals ...) or $(if ...)",
    "command": "run the command first and hand its result over as an argument",
    "anon": "give the node a name",
    "optenv": "use $(env NAME default)",
    "exec-in-pkg": "use `node` with `pkg` and `exec`",
    "find-pkg-prefix": "use $(find-pkg-share vla_ros)",
    "filename": "use $(dirname)",
}
