"""Start all nodes of a launch file, as `ros2 launch` does, with ROS 2 or without.

The file is a *.launch.yaml: a path, `vla_ros NAME`, or the name of one in this package's launch/ folder.
Ctrl-C ends every node (SIGINT, after --grace SIGTERM, then SIGKILL; press again to go on faster).
The exit status is 1 when a process failed by itself or had to be killed.

examples:
  vla-ros launch cell robot:=panda
  vla-ros launch vla_ros cell.launch.yaml --show-args
  vla-ros launch my/cell.launch.yaml real_time_factor:=2.0 --dry-run
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from vla_ros.embedded.launch import (
    LaunchDescription,
    Launcher,
    OutputLine,
    ProcessResult,
    declared_arguments,
    parse,
)
from vla_ros.embedded.launch.arguments import argument_line
from vla_ros.embedded.launch.launcher import LAUNCHER, describe_exit, launch_log_folder
from vla_ros.errors import VlaRosError
from vla_ros.paths import share

INTERMIXED = True
BURST = 0.5  # s; one Ctrl-C may arrive twice, from the terminal and from a wrapper (make, timeout) that passes it on
SUFFIXES = (".launch.yaml", ".launch.yml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """File, arguments and options."""
    parser.add_argument("words", nargs="+", metavar="FILE [NAME:=VALUE ...]", help="launch file and its arguments")
    parser.add_argument("-s", "--show-args", action="store_true", help="list the arguments of the file and end")
    parser.add_argument("-n", "--dry-run", action="store_true", help="print the command lines and end")
    parser.add_argument("--grace", type=float, default=5.0, metavar="S", help="seconds per signal when ending (default 5)")


def run(args: argparse.Namespace) -> int:
    """Shows, prints or runs the launch file."""
    file, given = split_words(args.words)
    if args.show_args:
        arguments = declared_arguments(file)
        print(f"Arguments of {file} (pass as NAME:=VALUE):")
        print("\n".join(f"  {argument_line(argument)}" for argument in arguments) or "  none")
        return 0
    description = parse(file, given)
    if args.dry_run:
        for process in description.processes:
            print(f"[{process.name}] {process.shell_line()}")
        return 0
    return launch(description, args.grace)


def split_words(words: list[str]) -> tuple[Path, dict[str, str]]:
    """The launch file's path and the arguments behind it.

    Raises:
        VlaRosError: no such file, or a word that is not NAME:=VALUE.
    """
    names = [word for word in words if ":=" not in word]
    given = {}
    for word in words:
        name, assign, value = word.partition(":=")
        if assign and not name:
            raise VlaRosError(f"argument {word!r} has no name, expected NAME:=VALUE")
        if assign:
            given[name] = value
    if len(names) == 2 and names[0] == "vla_ros":
        return in_package(names[1]), given
    if len(names) != 1:
        raise VlaRosError(f"expected one launch file and NAME:=VALUE pairs, found {', '.join(map(repr, names)) or 'none'}")
    path = Path(names[0]).expanduser()
    if path.exists() or len(path.parts) > 1:
        return path, given
    return in_package(names[0]), given


def in_package(name: str) -> Path:
    """A launch file of this package by its name, with or without its suffix."""
    folder = share() / "launch"
    for candidate in (folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)):
        if candidate.is_file():
            return candidate
    known = sorted(file.name for suffix in SUFFIXES for file in folder.glob(f"*{suffix}"))
    raise VlaRosError(f"launch file {name!r} not found here or in {folder}; there are: {', '.join(known) or 'none'}")


def launch(description: LaunchDescription, grace: float) -> int:
    """Runs it until everything has ended; SIGINT, SIGTERM and SIGHUP begin the shutdown."""
    folder = launch_log_folder(dict(os.environ)) / time.strftime(f"%Y-%m-%d-%H-%M-%S-{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "launch.log").open("w", encoding="utf-8") as log:

        def on_line(line: OutputLine) -> None:
            log.write(f"{time.time():.6f} {line.stream} {line.text}\n")
            if line.shown:
                print(line.text, file=sys.stderr if line.process == LAUNCHER else sys.stdout, flush=True)

        print(f"[{LAUNCHER}] all output also goes to {folder / 'launch.log'}", file=sys.stderr)
        launcher = Launcher(description, on_line, grace)
        with shutdown_signals(launcher), launcher:
            while not launcher.wait(timeout=1.0):
                log.flush()
        print_table(launcher.poll(), sys.stderr)
        return 1 if launcher.failed else 0


@contextmanager
def shutdown_signals(launcher: Launcher) -> Iterator[None]:
    """Turns signals to this process into a shutdown of the launch, and puts the old handlers back afterwards."""

    latest = -BURST

    def handle(number: int, _frame: object) -> None:
        nonlocal latest
        now = time.monotonic()
        if now - latest >= BURST:
            latest = now
            launcher.request_shutdown(signal.Signals(number).name)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_table(results: list[ProcessResult], stream: TextIO) -> None:
    """How every process ended."""
    rows = [("process", "pid", "time", "end")]
    rows += [(each.name, str(each.pid or "-"), f"{each.runtime:.1f} s", ending(each)) for each in results]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]), file=stream)


def ending(result: ProcessResult) -> str:
    """One process' end in words."""
    if result.exit_code is None:
        return f"FAILED: {result.note}" if result.failed else "running"
    how = describe_exit(result.exit_code)
    if result.killed:
        how = "did not end when asked, SIGKILL"
    elif result.asked:
        how += " when asked"
    restarts = f", restarted {result.restarts} times" if result.restarts else ""
    return f"{'FAILED: ' if result.failed else ''}{how}{restarts}"
