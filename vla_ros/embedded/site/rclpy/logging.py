"""Logging as rcutils does it: `[INFO] [stamp] [name]: text` on stderr, and /rosout for the loggers of nodes."""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from rclpy.exceptions import RCLError
from vla_ros.embedded.arguments import Arguments


class LoggingSeverity(IntEnum):
    """Numbers as in rcutils."""

    UNSET = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


_COLORS = {
    LoggingSeverity.DEBUG: "32",
    LoggingSeverity.WARN: "33",
    LoggingSeverity.ERROR: "31",
    LoggingSeverity.FATAL: "31",
}
_levels: dict[str, LoggingSeverity] = {"": LoggingSeverity.INFO}
_sinks: dict[str, Callable[[LoggingSeverity, str, str, Any], None]] = {}
_console = True
_lock = threading.Lock()


def configure(given: Arguments) -> None:
    """Take over levels and switches of the command line.

    Raises:
        RCLError: unknown level.
    """
    global _console
    _console = given.stdout
    for name, level in given.log_levels.items():
        _levels[name] = get_logging_severity_from_string(level)


def get_logging_severity_from_string(name: str) -> LoggingSeverity:
    """Severity by name.

    Raises:
        RCLError: unknown name.
    """
    try:
        return LoggingSeverity[name.upper()]
    except KeyError:
        raise RCLError(f"log level {name!r} is unknown; expected one of {[level.name for level in LoggingSeverity]}") from None


def set_logger_level(name: str, level: int) -> None:
    """Set the level of a logger and of those below it."""
    _levels[name] = LoggingSeverity(level)


def get_logger_level(name: str) -> LoggingSeverity:
    """Level that was set for exactly this logger."""
    return _levels.get(name, LoggingSeverity.UNSET)


def get_logger_effective_level(name: str) -> LoggingSeverity:
    """Level of the logger or of its nearest ancestor that has one."""
    while name:
        if _levels.get(name):
            return _levels[name]
        name = name.rpartition(".")[0]
    return _levels[""]


def add_sink(name: str, sink: Callable[[LoggingSeverity, str, str, Any], None]) -> None:
    """Send the lines of logger `name` and below to `sink(severity, name, text, frame)` too."""
    _sinks[name] = sink


def remove_sink(name: str) -> None:
    """Stop sending."""
    _sinks.pop(name, None)


def get_logger(name: str) -> RcutilsLogger:
    """Logger by name.

    Raises:
        ValueError: no name.
    """
    if not name:
        raise ValueError("Logger name must not be empty.")
    return RcutilsLogger(name)


def initialize() -> None:
    """Nothing to prepare."""


def shutdown() -> None:
    """Nothing to clean up."""


class _Site:
    """What a line of code with throttle, once or skip_first remembers."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.done = self.seen = False


_sites: dict[tuple[str, int], _Site] = {}


class RcutilsLogger:
    """Logger of one name."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def get_child(self, name: str) -> RcutilsLogger:
        """Logger below this one.

        Raises:
            ValueError: no name.
        """
        if not name:
            raise ValueError("Child logger name must not be empty.")
        return RcutilsLogger(f"{self.name}.{name}" if self.name else name)

    def set_level(self, level: int) -> None:
        """Set this logger's level."""
        set_logger_level(self.name, level)

    def get_effective_level(self) -> LoggingSeverity:
        """Level in force."""
        return get_logger_effective_level(self.name)

    def is_enabled_for(self, severity: int) -> bool:
        """Whether a line of this severity would appear."""
        return severity >= self.get_effective_level()

    def log(self, message: Any, severity: int, *, depth: int = 1, **options: Any) -> bool:
        """Log a line; whether it appeared.

        Options: once, skip_first, throttle_duration_sec [s], throttle_time_source_type (a clock), name.
        """
        level = LoggingSeverity(severity)
        if not self.is_enabled_for(level):
            return False
        frame = inspect.currentframe()
        for _ in range(depth):
            frame = frame.f_back if frame is not None and frame.f_back is not None else frame
        if options and frame is not None and not _passes((frame.f_code.co_filename, frame.f_lineno), options):
            return False
        name = options.get("name") or self.name
        text = str(message)
        if _console:
            _print(level, name, text)
        sink_name = name
        while sink_name:
            if sink_name in _sinks:
                _sinks[sink_name](level, name, text, frame)
                break
            sink_name = sink_name.rpartition(".")[0]
        return True

    def debug(self, message: Any, **options: Any) -> bool:
        """Log at DEBUG."""
        return self.log(message, LoggingSeverity.DEBUG, depth=2, **options)

    def info(self, message: Any, **options: Any) -> bool:
        """Log at INFO."""
        return self.log(message, LoggingSeverity.INFO, depth=2, **options)

    def warning(self, message: Any, **options: Any) -> bool:
        """Log at WARN."""
        return self.log(message, LoggingSeverity.WARN, depth=2, **options)

    def warn(self, message: Any, **options: Any) -> bool:
        """Log at WARN (rclpy's older name)."""
        return self.log(message, LoggingSeverity.WARN, depth=2, **options)

    def error(self, message: Any, **options: Any) -> bool:
        """Log at ERROR."""
        return self.log(message, LoggingSeverity.ERROR, depth=2, **options)

    def fatal(self, message: Any, **options: Any) -> bool:
        """Log at FATAL."""
        return self.log(message, LoggingSeverity.FATAL, depth=2, **options)


def _passes(where: tuple[str, int], options: dict[str, Any]) -> bool:
    unknown = set(options) - {"once", "skip_first", "throttle_duration_sec", "throttle_time_source_type", "name"}
    if unknown:
        raise RuntimeError(f"unexpected parameter(s) {sorted(unknown)} of a log call")
    with _lock:
        site = _sites.setdefault(where, _Site())
        first, site.seen = not site.seen, True
        if options.get("skip_first") and first:
            return False
        if options.get("once"):
            once, site.done = not site.done, True
            if not once:
                return False
        period = options.get("throttle_duration_sec")
        if period:
            clock = options.get("throttle_time_source_type")
            now = time.monotonic() if clock is None else clock.nanoseconds() / 1e9
            if site.last is not None and 0 <= now - site.last < period:
                return False
            site.last = now
    return True


def _print(level: LoggingSeverity, name: str, text: str) -> None:
    now = time.time_ns()
    line = f"[{level.name}] [{now // 10**9}.{now % 10**9:09d}] [{name}]: {text}"
    color = os.environ.get("RCUTILS_COLORIZED_OUTPUT", "1" if sys.stderr.isatty() else "0") == "1"
    if color and level in _COLORS:
        line = f"\033[{_COLORS[level]}m{line}\033[0m"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
