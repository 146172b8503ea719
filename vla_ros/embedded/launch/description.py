"""What a launch file comes to: processes with their command lines, and the arguments that it declares."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

SCREEN_OUTPUTS = ("screen", "both", "full")
OUTPUTS = ("log", "own_log", *SCREEN_OUTPUTS)


@dataclass(frozen=True)
class Argument:
    """An `arg` of a launch file; `default` is the unexpanded text, None means that a value must be given."""

    name: str
    default: str | None
    description: str
    choices: tuple[str, ...]
    where: str  # "file:line"


@dataclass(frozen=True)
class ProcessSpec:
    """One process to start, everything expanded."""

    name: str  # label: executable and position, "policy_node-3"
    command: tuple[str, ...]
    environment: dict[str, str]  # complete, not only what the file adds
    where: str  # "file:line"
    cwd: Path | None = None
    output: str = "log"  # one of OUTPUTS; "log" shows stderr only, as ros2 launch does
    respawn: bool = False
    respawn_delay: float = 0.0  # s
    required: bool = False  # on_exit: shutdown

    @property
    def shows_stdout(self) -> bool:
        return self.output in SCREEN_OUTPUTS

    def shell_line(self) -> str:
        """The command as one could type it."""
        return shlex.join(self.command)


@dataclass(frozen=True)
class LaunchDescription:
    """A launch file with its arguments filled in."""

    file: Path
    processes: tuple[ProcessSpec, ...]
    arguments: tuple[Argument, ...] = ()
    configurations: dict[str, str] = field(default_factory=dict)  # values at the end of the file
