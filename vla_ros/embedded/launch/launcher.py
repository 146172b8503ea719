"""Starts the processes of a launch file, passes their output on, and ends them all together.

One supervisor thread does everything (start, output, exits, respawn, escalation), so no state needs a lock except the
results. The public methods set events and read snapshots; request_shutdown may be called from a signal handler.
"""

from __future__ import annotations

import selectors
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from vla_ros.embedded.launch import watchdog
from vla_ros.embedded.launch.child import Child
from vla_ros.embedded.launch.description import LaunchDescription, ProcessSpec

TICK = 0.05  # s between looks at exits and deadlines
ESCALATION = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
ASKED_EXITS = {0, 130, 143, -signal.SIGINT, -signal.SIGTERM}
LAUNCHER = "launch"  # name under which the launcher's own lines appear


@dataclass(frozen=True)
class OutputLine:
    """A line of a process, or of the launcher itself (process == "launch")."""

    process: str
    stream: str  # stdout | stderr
    line: str
    shown: bool  # whether the launch file sends it to the screen

    @property
    def text(self) -> str:
        return f"[{self.process}] {self.line}"


@dataclass(frozen=True)
class ProcessResult:
    """State of one process; `exit_code` is None while it runs, negative for a signal."""

    name: str
    pid: int | None  # None: could not be started
    exit_code: int | None
    runtime: float  # s, of the latest run
    restarts: int = 0
    asked: bool = False  # it ended after the launch was asked to end
    killed: bool = False  # SIGKILL was needed
    note: str = ""

    @property
    def failed(self) -> bool:
        """It went wrong by itself, or did not let itself be ended."""
        if self.exit_code is None:
            return self.pid is None
        if not self.asked:
            return self.exit_code != 0
        return self.killed


class Launcher:
    """Runs a LaunchDescription. As a context manager it starts on entry and shuts down on exit.

    `on_line` is called from the supervisor thread with every line. `grace` [s] is what SIGINT and SIGTERM each get
    before the next signal.
    """

    def __init__(
        self,
        description: LaunchDescription,
        on_line: Callable[[OutputLine], None] | None = None,
        grace: float = 5.0,
    ) -> None:
        self.description = description
        self.reason = ""  # why it ended
        self._on_line = on_line
        self._grace = grace
        self._asked = threading.Event()
        self._hurry = 0  # escalation steps asked for by hand
        self._mark = uuid.uuid4().hex
        self._thread = threading.Thread(target=self._supervise, name="launcher", daemon=True)
        self._lock = threading.Lock()
        self._results: dict[str, ProcessResult] = {}
        self._children: dict[str, Child] = {}
        self._due: list[tuple[float, ProcessSpec]] = []  # respawns
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._selector = selectors.DefaultSelector()

    def start(self) -> None:
        """Starts all processes and returns when the last one has its process id."""
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise self._error

    def poll(self) -> list[ProcessResult]:
        """State of every process so far, in starting order."""
        with self._lock:
            now = time.monotonic()
            return [
                replace(result, runtime=now - self._children[name].started)
                if result.exit_code is None and name in self._children
                else result
                for name, result in self._results.items()
            ]

    def pids(self) -> dict[str, int]:
        """Process ids of those that run."""
        return {result.name: result.pid for result in self.poll() if result.exit_code is None and result.pid is not None}

    def running(self) -> bool:
        """Whether the launch has not ended yet."""
        return self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until everything has ended; False when `timeout` [s] passed first."""
        self._thread.join(timeout)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def request_shutdown(self, reason: str = "asked to") -> None:
        """Begins the shutdown and returns at once; a repeated call goes on to the next signal right away."""
        if self._asked.is_set():
            self._hurry += 1
            return
        self.reason = reason
        self._asked.set()

    def shutdown(self, reason: str = "asked to") -> list[ProcessResult]:
        """Ends everything (SIGINT, SIGTERM, SIGKILL, `grace` seconds apart) and returns the results."""
        if self._thread.is_alive():
            if not self._asked.is_set():
                self.request_shutdown(reason)
            self.wait()
        return self.poll()

    @property
    def failed(self) -> bool:
        """Whether any process failed by itself or had to be killed."""
        return any(result.failed for result in self.poll())

    def __enter__(self) -> Launcher:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    # Supervisor thread from here on.

    def _supervise(self) -> None:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__, self._mark, str(self._grace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            for spec in self.description.processes:
                self._start(spec)
            self._started.set()
            self._run()
        except BaseException as error:  # noqa: BLE001  handed to the caller of wait()
            self._error = error
        finally:
            self._started.set()
            self._selector.close()
            if guard.stdin is not None:
                guard.stdin.close()
            guard.wait()  # it ends stragglers that left their process group

    def _run(self) -> None:
        step, deadline = -1, 0.0
        while self._children or (self._due and not self._asked.is_set()):
            for key, _events in self._selector.select(timeout=TICK):
                child, stream = key.data
                if not child.read(stream):
                    self._selector.unregister(key.fileobj)
            for child in [child for child in self._children.values() if child.has_ended()]:
                self._ended(child)
            now = time.monotonic()
            if not self._asked.is_set():
                for spec in [spec for due, spec in self._due if due <= now]:
                    self._due = [(due, other) for due, other in self._due if other is not spec]
                    self._start(spec)
            elif step < 0 or now > deadline or self._hurry > step:
                step = min(step + 1, len(ESCALATION) - 1)
                deadline = now + self._grace
                self._signal_all(ESCALATION[step], first=step == 0)

    def _start(self, spec: ProcessSpec) -> None:
        restarts = self._results[spec.name].restarts + 1 if spec.name in self._results else 0
        environment = {**spec.environment, watchdog.MARK: self._mark}
        environment.setdefault("PYTHONUNBUFFERED", "1")  # lines as they are written, not in blocks
        try:
            child = Child(spec, environment, lambda stream, line: self._emit(spec, stream, line))
        except OSError as error:
            self._say(f"{spec.name}: cannot be started: {error} ({spec.where})")
            self._note(ProcessResult(spec.name, None, None, 0.0, restarts, note=str(error)))
            if spec.required:
                self.request_shutdown(f"required process {spec.name} could not be started")
            return
        for name, stream in child.streams.items():
            self._selector.register(stream, selectors.EVENT_READ, (child, name))
        with self._lock:
            self._children[spec.name] = child
        self._note(ProcessResult(spec.name, child.pid, None, 0.0, restarts))
        self._say(f"{spec.name}: started with pid {child.pid}")

    def _ended(self, child: Child) -> None:
        spec = child.spec
        code = child.reap(self._selector)
        asked = self._asked.is_set()
        killed = asked and code == -signal.SIGKILL
        before = self._results[spec.name]
        with self._lock:
            del self._children[spec.name]
        runtime = time.monotonic() - child.started
        self._note(ProcessResult(spec.name, child.pid, code, runtime, before.restarts, asked, killed))
        clean = code == 0 or (asked and code in ASKED_EXITS)
        self._say(f"{spec.name}: {'ended cleanly' if clean else f'died with {describe_exit(code)}'} (pid {child.pid})")
        if asked:
            return
        if spec.respawn:
            self._due.append((time.monotonic() + spec.respawn_delay, spec))
        elif spec.required:
            self.request_shutdown(f"required process {spec.name} ended with {describe_exit(code)}")

    def _signal_all(self, number: signal.Signals, first: bool) -> None:
        if first:
            self._say(f"shutting down: {self.reason}")
        for child in self._children.values():
            if not first:
                self._say(f"{child.spec.name}: still there, sending {number.name}")
            child.send(number)

    def _note(self, result: ProcessResult) -> None:
        with self._lock:
            self._results[result.name] = result

    def _emit(self, spec: ProcessSpec, stream: str, line: str) -> None:
        if self._on_line is not None:
            self._on_line(OutputLine(spec.name, stream, line, spec.shows_stdout or stream == "stderr"))

    def _say(self, line: str) -> None:
        if self._on_line is not None:
            self._on_line(OutputLine(LAUNCHER, "stderr", line, shown=True))


def describe_exit(code: int) -> str:
    """`exit code 3` or `signal SIGSEGV`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def launch_log_folder(environment: dict[str, str]) -> Path:
    """Where ROS 2 keeps logs: ROS_LOG_DIR, ROS_HOME/log or ~/.ros/log."""
    if environment.get("ROS_LOG_DIR"):
        return Path(environment["ROS_LOG_DIR"]).expanduser()
    home = environment.get("ROS_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".ros") / "log"
