"""One child process: a session of its own, output cut into lines, its end noticed before it is reaped."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from typing import BinaryIO

from vla_ros.embedded.launch.description import ProcessSpec

CHUNK = 65536
LONGEST_LINE = 1 << 20  # bytes; longer output without a line end is cut there, so that memory stays bounded


class Child:
    """A running process. All methods are called by the launcher's supervisor thread only, unless said otherwise."""

    def __init__(self, spec: ProcessSpec, environment: dict[str, str], emit: Callable[[str, str], None]) -> None:
        """Starts it.

        Raises:
            OSError: the program cannot be started.
        """
        self.spec = spec
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            spec.command,
            env=environment,
            cwd=spec.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C reaches the launcher only, which passes it on once
        )
        self._emit = emit
        self._buffers: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.streams: dict[str, BinaryIO] = {}
        for name, stream in (("stdout", self.process.stdout), ("stderr", self.process.stderr)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self.streams[name] = stream  # type: ignore[assignment]

    @property
    def pid(self) -> int:
        return self.process.pid

    def has_ended(self) -> bool:
        """Whether it has exited; it stays a zombie, so that its id cannot be reused before `reap`."""
        if self.process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # SIGCHLD is ignored in this process: the kernel has reaped it
            return True

    def send(self, number: signal.Signals) -> None:
        """Signals the whole process group: workers of a node get it as they would from a terminal."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def read(self, name: str) -> bool:
        """Takes what has arrived on a stream and emits whole lines; False at its end."""
        try:
            data = os.read(self.streams[name].fileno(), CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        *lines, rest = (self._buffers[name] + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines.append(rest)
            rest = b""
        self._buffers[name] = rest
        for line in lines:
            self._emit(name, line.removesuffix(b"\r").decode(errors="replace"))
        return True

    def reap(self, selector: selectors.BaseSelector) -> int:
        """Ends what is left of the group, empties the pipes and returns the exit code (negative: signal number)."""
        self.send(signal.SIGTERM)
        for name, stream in self.streams.items():
            with contextlib.suppress(KeyError):
                selector.unregister(stream)
            if not stream.closed:
                self._drain(name)
                stream.close()
            if self._buffers[name]:
                self._emit(name, self._buffers[name].decode(errors="replace"))
                self._buffers[name] = b""
        return self.process.wait()

    def _drain(self, name: str) -> None:
        """Reads what the pipe holds; its end need not come, because a detached grandchild may keep it open."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.streams[name], selectors.EVENT_READ)
            while selector.select(timeout=0) and self.read(name):
                pass
