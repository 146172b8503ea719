"""Clients of services."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.task import Future
from rclpy.waitable import Waitable
from vla_ros.embedded.service_wire import ClientWire


class Client(Waitable):
    """Calls a service."""

    def __init__(self, context: Any, wire: ClientWire, srv_type: Any, srv_name: str, callback_group: Any, executor: Any) -> None:
        self.context, self._wire = context, wire
        self.srv_type, self.srv_name, self.service_name = srv_type, srv_name, srv_name
        self.callback_group = callback_group
        self.conditions = (wire.reader.condition,)
        self._executor = executor  # () -> Executor | None
        self._pending: dict[int, Future] = {}
        self._lock = threading.Lock()

    def call(self, request: Any, timeout_sec: float | None = None) -> Any:
        """Send a request and wait for the response; needs an executor that spins in another thread.

        Raises:
            TimeoutError: no response within timeout_sec [s].
        """
        event = threading.Event()
        future = self.call_async(request)
        future.when_done(event.set)
        if not event.wait(timeout_sec):
            self.remove_pending_request(future)
            raise TimeoutError(f"no response from {self.srv_name} within {timeout_sec} s")
        return future.result()

    def call_async(self, request: Any) -> Future:
        """Send a request; the future gets the response.

        Raises:
            TypeError: not the service's request type.
        """
        if not isinstance(request, self.srv_type.Request):
            raise TypeError(f"service {self.srv_name}: found {type(request)}, expected {self.srv_type.Request}")
        future = Future(executor=self._executor())
        sequence = self._wire.next_sequence()
        with self._lock:
            self._pending[sequence] = future
        self._wire.send(request, sequence)
        return future

    def take(self) -> Callable[[], Any] | None:
        taken = self._wire.take()
        if taken is None:
            return None
        sequence, response = taken
        with self._lock:
            future = self._pending.pop(sequence, None)
        return (lambda: future.set_result(response)) if future is not None else (lambda: None)

    def remove_pending_request(self, future: Future) -> None:
        """Forget a request; its future stays undone."""
        with self._lock:
            self._pending = {number: kept for number, kept in self._pending.items() if kept is not future}

    def service_is_ready(self) -> bool:
        """Whether a server is there."""
        return self._wire.ready()

    def wait_for_service(self, timeout_sec: float | None = None) -> bool:
        """Wait for a server; False after timeout_sec [s] or at shutdown."""
        deadline = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while self.context.ok():
            if self.service_is_ready():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return False

    def destroy(self) -> None:
        """Stop calling; pending futures are cancelled."""
        with self._lock:
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.cancel()
        self._wire.close()
