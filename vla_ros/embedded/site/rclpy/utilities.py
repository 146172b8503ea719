"""The default context and helpers around it."""

from __future__ import annotations

import sys
import threading

from rclpy.context import Context
from rclpy.exceptions import NotInitializedException
from vla_ros.embedded import arguments

_default: Context | None = None
_lock = threading.Lock()


def get_default_context(*, shutting_down: bool = False) -> Context:
    """The context that init() opens when it is given none; a closed one can be opened again."""
    global _default
    with _lock:
        if _default is None:
            _default = Context()
        return _default


def ok(*, context: Context | None = None) -> bool:
    """Whether the context is open."""
    return (context or get_default_context()).ok()


def shutdown(*, context: Context | None = None) -> None:
    """Close the context."""
    (context or get_default_context()).shutdown()


def try_shutdown(*, context: Context | None = None) -> None:
    """Close the context if it is open."""
    (context or get_default_context()).try_shutdown()


def get_rmw_implementation_identifier() -> str:
    """Name of the middleware."""
    return "rmw_cyclonedds_cpp"


def remove_ros_args(args: list[str] | None = None) -> list[str]:
    """Arguments without what stands between --ros-args and --."""
    return arguments.parse(sys.argv if args is None else args).remaining


def timeout_sec_to_nsec(timeout_sec: float | None) -> int:
    """Seconds to nanoseconds; None and negative values mean forever, -1."""
    return -1 if timeout_sec is None or timeout_sec < 0 else int(timeout_sec * 1e9)


def opened(context: Context | None) -> Context:
    """The given or default context.

    Raises:
        NotInitializedException: it is not open.
    """
    result = context or get_default_context()
    if not result.ok():
        raise NotInitializedException("the given context is not valid")
    return result
