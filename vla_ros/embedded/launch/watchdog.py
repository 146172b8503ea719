"""Ends whatever a launch has started once the launcher is gone, however it went (SIGKILL and crashes included).

Run as a script with the launch's mark and the seconds that each signal gets. Standard input is a pipe from the
launcher; its end of file means that the launcher is gone. Every process that carries the mark in its environment is
then signalled: SIGINT, SIGTERM, SIGKILL. Finding them by mark and not by process id means that no id can have been
taken over by a stranger, and that grandchildren are found too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "VLA_ROS_LAUNCH_MARK"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Process ids with the mark in their environment, this process and zombies left out."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # it has ended meanwhile, or belongs to somebody else
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def end_all(mark: str, patience: float) -> None:
    """Signals the marked processes with rising insistence, `patience` [s] apart, until none is left."""
    for number in SIGNALS:
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while marked(mark):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        pass
    end_all(sys.argv[1], float(sys.argv[2]))


if __name__ == "__main__":
    main()
