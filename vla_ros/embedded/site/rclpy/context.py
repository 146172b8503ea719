"""Context: one DDS participant, the parsed command line, and whoever waits."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from rclpy.exceptions import NotInitializedException, RCLError
from vla_ros.embedded import arguments


class Context:
    """State between init() and shutdown()."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._ok = False
        self._participant: Any = None
        self._graph: Any = None
        self._on_shutdown: list[Callable[[], None]] = []
        self._nodes: weakref.WeakSet[Any] = weakref.WeakSet()
        self._executors: weakref.WeakSet[Any] = weakref.WeakSet()
        self.arguments = arguments.Arguments()
        self.domain_id: int | None = None

    def init(self, args: list[str] | None = None, *, initialize_logging: bool = True, domain_id: int | None = None) -> None:
        """Parse ROS arguments (sys.argv if None) and open the context.

        Raises:
            RuntimeError: init() was called before.
        """
        from rclpy import logging

        with self._lock:
            if self._ok:
                raise RuntimeError("Context.init() must only be called once")
            self.release()  # nodes of an earlier life that nobody destroyed
            self.arguments = arguments.parse(sys.argv[1:] if args is None else args)
            self.domain_id = domain_id
            if initialize_logging:
                logging.configure(self.arguments)
            self._ok = True

    def ok(self) -> bool:
        """Whether the context is open."""
        return self._ok

    @property
    def participant(self) -> Any:
        """The DDS participant, created when it is first needed."""
        from vla_ros.embedded import dds

        with self._lock:
            if not self._ok and self._participant is None:
                raise NotInitializedException
            if self._participant is None:
                self._participant = dds.create_participant(self.domain_id)
            return self._participant

    @property
    def graph(self) -> Any:
        """What discovery knows."""
        from vla_ros.embedded.graph import Graph

        with self._lock:
            if self._graph is None:
                self._graph = Graph(self.participant)
            return self._graph

    def get_domain_id(self) -> int:
        """Number of the DDS domain."""
        return int(self.participant.domain_id)

    def on_shutdown(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the context shuts down."""
        self._on_shutdown.append(callback)

    def track(self, *, node: Any = None, executor: Any = None) -> None:
        """Remember a node or executor, to be woken at shutdown."""
        if node is not None:
            self._nodes.add(node)
        if executor is not None:
            self._executors.add(executor)

    def executors(self) -> Iterable[Any]:
        """Executors that are alive."""
        return list(self._executors)

    def shutdown(self) -> None:
        """Close the context; whoever spins is woken and returns.

        Raises:
            RCLError: not open.
        """
        if not self._ok:
            raise RCLError("failed to shutdown: rcl_shutdown already called on the given context")
        self.try_shutdown()

    def try_shutdown(self) -> None:
        """Close the context if it is open."""
        with self._lock:
            if not self._ok:
                return
            self._ok = False
            callbacks, self._on_shutdown = self._on_shutdown, []
        for callback in callbacks:
            callback()
        for executor in self.executors():
            executor.wake()
        self.release_if_unused()

    def release_if_unused(self) -> None:
        """Delete the DDS participant once the context is closed and its last node destroyed, as rmw does."""
        if not self._ok and not any(not node._rcl_is_destroyed for node in self._nodes):
            self.release()

    def release(self) -> None:
        """Delete the DDS participant with all its entities."""
        from vla_ros.embedded import dds

        with self._lock:
            if self._participant is None:
                return
            for node in list(self._nodes):
                node._rcl_destroy_node()  # the node's own override is for its user to call
            for executor in self.executors():
                executor.abandon()
            self._executors.clear()
            if self._graph is not None:
                self._graph.close()
            dds.delete_participant(self._participant)
            self._participant = self._graph = None

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.try_shutdown()
