"""rclpy's interface on pip's Cyclone DDS, for machines without ROS 2. See vla_ros/embedded/__init__.py."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any

from rclpy.context import Context
from rclpy.signals import SignalHandlerOptions, install_signal_handlers, uninstall_signal_handlers
from rclpy.task import Future
from rclpy.utilities import get_default_context, get_rmw_implementation_identifier, ok

if TYPE_CHECKING:
    from rclpy.executors import Executor
    from rclpy.node import Node

__all__ = [
    "Context", "Future", "create_node", "get_default_context", "get_global_executor",
    "get_rmw_implementation_identifier", "init", "ok", "shutdown", "spin", "spin_once", "spin_until_future_complete",
    "try_shutdown",
]  # fmt: skip

_executor: Executor | None = None


class InitContextManager:
    """What init() returns: `with rclpy.init(): ...` shuts down at the end."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def __enter__(self) -> Context:
        return self.context

    def __exit__(self, *_: object) -> None:
        try_shutdown(context=self.context)


def init(
    *, args: list[str] | None = None, context: Context | None = None, domain_id: int | None = None,
    signal_handler_options: SignalHandlerOptions | None = None,
) -> InitContextManager:  # fmt: skip
    """Parse ROS arguments (sys.argv if `args` is None), open a context and take over SIGINT and SIGTERM.

    Raises:
        RuntimeError: the context is open already.
        VlaRosError: a ROS argument that is wrong.
    """
    opened = context or get_default_context()
    opened.init(args, domain_id=domain_id)
    if signal_handler_options is None:
        signal_handler_options = SignalHandlerOptions.ALL if context is None else SignalHandlerOptions.NO
    if signal_handler_options != SignalHandlerOptions.NO:
        install_signal_handlers(signal_handler_options)
    return InitContextManager(opened)


def get_global_executor() -> Executor:
    """Executor of spin() and its kin when they are given none.

    Raises:
        ExternalShutdownException: the context is closed.
    """
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    global _executor
    if not ok():
        raise ExternalShutdownException
    if _executor is None:
        _executor = SingleThreadedExecutor()
        get_default_context().on_shutdown(_drop_executor)
    return _executor


def _drop_executor() -> None:
    global _executor
    if _executor is not None:
        _executor.wake()
        _executor = None


def shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Close the context.

    Raises:
        RCLError: it is closed already, for instance by SIGINT; see try_shutdown().
    """
    closing = context or get_default_context()
    closing.shutdown()
    _closed(context is None if uninstall_handlers is None else uninstall_handlers)


def try_shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Close the context if it is open."""
    closing = context or get_default_context()
    closing.try_shutdown()
    _closed(context is None if uninstall_handlers is None else uninstall_handlers)


def _closed(uninstall: bool) -> None:
    if uninstall:
        uninstall_signal_handlers()


def create_node(node_name: str, **options: Any) -> Node:
    """Node with the same options as Node()."""
    from rclpy.node import Node

    return Node(node_name, **options)


def spin_once(node: Node, *, executor: Executor | None = None, timeout_sec: float | None = None) -> None:
    """Wait for one callback of `node` and call it."""
    executor = executor or get_global_executor()
    try:
        executor.add_node(node)
        executor.spin_once(timeout_sec=timeout_sec)
    finally:
        executor.remove_node(node)


def spin(node: Node, executor: Executor | None = None) -> None:
    """Call the callbacks of `node` until shutdown.

    Raises:
        ExternalShutdownException: SIGTERM or another thread closed the context (SIGINT: KeyboardInterrupt).
    """
    executor = executor or get_global_executor()
    try:
        executor.add_node(node)
        while executor.context.ok():
            executor.spin_once()
    finally:
        executor.remove_node(node)


def spin_until_future_complete(
    node: Node, future: Future, executor: Executor | None = None, timeout_sec: float | None = None
) -> None:
    """Call the callbacks of `node` until `future` is done, or for timeout_sec [s]."""
    executor = executor or get_global_executor()
    try:
        executor.add_node(node)
        executor.spin_until_future_complete(future, timeout_sec)
    finally:
        executor.remove_node(node)


@atexit.register
def _at_exit() -> None:
    try_shutdown()
    get_default_context().release()
