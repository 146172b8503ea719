"""The `vla-ros` command: a table of subcommands, each in a module of its own that is imported when it is used.

A subcommand's module has `add_arguments(parser)` and `run(args) -> int`; its docstring is the text of its --help.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from vla_ros import __doc__ as package_summary
from vla_ros.errors import VlaRosError

USAGE_ERROR = 2


@dataclass(frozen=True)
class Command:
    """One line of the table."""

    name: str
    module: str
    help: str
    group: str


COMMANDS = (
    Command("demo", "vla_ros.cli.demo", "the whole loop in a simulated cell, with figures and a video", "run"),
    Command("train", "vla_ros.cli.train", "ground, sft: stages 0 and 1; improve, ppo, ire-vla, recap: practice", "run"),
    Command("twin", "vla_ros.cli.twin", "excite, fit, check: the simulated cell made like the recorded one", "run"),
    Command("deploy", "vla_ros.cli.deploy", "practise in the twin, try on the cell, accept or keep the old version", "run"),
    Command("teleop", "vla_ros.cli.teleop", "keyboard, gamepad, leader arms: a person acts, and records demonstrations", "run"),
    Command("launch", "vla_ros.cli.launch", "start all nodes of a launch file, as `ros2 launch` does", "run"),
    Command("exec", "vla_ros.cli.exec", "start one node of this package, as `ros2 run vla_ros` does", "run"),
    Command("run", "vla_ros.cli.run", "run any script that imports rclpy", "run"),
    Command("topic", "vla_ros.cli.topic", "list, echo, hz, info, pub", "look at the graph"),
    Command("node", "vla_ros.cli.node", "list, info", "look at the graph"),
    Command("param", "vla_ros.cli.param", "list, get, set, dump", "look at the graph"),
    Command("service", "vla_ros.cli.service", "list, type, call", "look at the graph"),
    Command("action", "vla_ros.cli.action", "list, send_goal", "look at the graph"),
    Command("doctor", "vla_ros.cli.doctor", "what is wrong, with the remedy; phases: guided bring-up", "look at the graph"),
    Command("safety", "vla_ros.cli.safety", "watch, estop, reset, state, limits, replay", "look at the graph"),
    Command("policy", "vla_ros.cli.policy", "list, show, diff, activate, rollback", "recordings and versions"),
    Command("report", "vla_ros.cli.report", "a run as one page: practice, versions, alarms, videos", "recordings and versions"),
    Command(
        "episodes",
        "vla_ros.cli.episodes",
        "list, show, check, merge, split, export, import, demonstrate",
        "recordings and versions",
    ),
)
EXAMPLES = """\
examples:
  vla-ros launch cell robot:=panda         the simulated cell with all nodes; Ctrl-C ends them
  vla-ros launch cell --show-args          what can be set
  vla-ros topic echo /progress             from a second terminal: steps-to-go, live
  vla-ros COMMAND --help                   what a command does, with examples

environment: ROS_DOMAIN_ID separates graphs; VLA_ROS_DEBUG=1 prints a traceback with every error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit status: 0, 1 (it ran and failed), 2 (bad input), 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(overview(), flush=True)
            return 0 if words else USAGE_ERROR
        command = find(words[0])
        module = importlib.import_module(command.module)
        return int(module.run(parse_words(command, module, words[1:])) or 0)
    except VlaRosError as error:
        if debugging():
            traceback.print_exc()
        print(f"vla-ros: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); what is buffered must not raise once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def debugging() -> bool:
    """Whether VLA_ROS_DEBUG asks for tracebacks."""
    return os.environ.get("VLA_ROS_DEBUG", "") not in ("", "0")


def overview() -> str:
    """Text of `vla-ros --help`."""
    lines = ["usage: vla-ros COMMAND [...]", "", (package_summary or "").strip()]
    for group in dict.fromkeys(command.group for command in COMMANDS):
        lines += ["", f"{group}:"]
        lines += [f"  {command.name:<10} {command.help}" for command in COMMANDS if command.group == group]
    return "\n".join([*lines, "", EXAMPLES])


def find(name: str) -> Command:
    """The subcommand of that name.

    Raises:
        VlaRosError: there is none; the message names the nearest one.
    """
    for command in COMMANDS:
        if command.name == name:
            return command
    names = [command.name for command in COMMANDS]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise VlaRosError(f"unknown command {name!r}{hint} (known: {', '.join(names)}; see --help)")


def parse_words(command: Command, module: ModuleType, words: list[str]) -> argparse.Namespace:
    """Arguments of a subcommand; argparse itself prints its errors and exits with status 2."""
    parser = argparse.ArgumentParser(
        prog=f"vla-ros {command.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    if getattr(module, "INTERMIXED", False):  # options may stand between positionals
        return parser.parse_intermixed_args(words)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
