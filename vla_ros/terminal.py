"""Single keys of a terminal: pressed ones arrive at once and are not echoed."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Iterator

from vla_ros.errors import VlaRosError

NAMES = {b"A": "up", b"B": "down", b"C": "right", b"D": "left", b" ": "space", b"\r": "enter", b"\n": "enter"}
KEY = re.compile(rb"\x1b[\[O]([A-D])|\x1b[\[O][0-9;]*[~A-Za-z]|(.)", re.DOTALL)  # an arrow, another special key, any other


def has_keys() -> bool:
    """Whether standard input is a terminal."""
    try:
        return os.isatty(sys.stdin.fileno())
    except (OSError, ValueError):  # closed
        return False


@contextlib.contextmanager
def single_keys(terminal: int) -> Iterator[None]:
    """Keys arrive one by one and without echo, Ctrl-C still interrupts, and Ctrl-S cannot stop the output.

    Args:
        terminal: file descriptor; -1 changes nothing.

    Raises:
        VlaRosError: the terminal cannot be set so.
    """
    if terminal < 0:
        yield
        return
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        mode = termios.tcgetattr(terminal)
        mode[0] &= ~termios.IXON
        termios.tcsetattr(terminal, termios.TCSANOW, mode)
        yield
    except termios.error as error:
        raise VlaRosError(f"stdin: the terminal cannot be set to single keys: {error}") from error
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def pressed(terminal: int) -> list[str] | None:
    """Keys pressed since the last call, by name: up, down, left, right, space, enter, or the character. Never waits; None at the
    terminal's end."""
    if not select.select([terminal], [], [], 0)[0]:
        return []
    try:
        data = os.read(terminal, 1024)
    except OSError:  # the other side has gone
        return None
    return keys(data) if data else None


def keys(data: bytes) -> list[str]:
    """Of what a terminal sends."""
    found = [arrow or other for arrow, other in (match.groups(b"") for match in KEY.finditer(data))]
    return [NAMES.get(key, key.decode(errors="replace")) for key in found if key]
