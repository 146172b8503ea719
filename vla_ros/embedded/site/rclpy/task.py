"""Futures and tasks that an executor runs."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Generator
from typing import Any


class Future:
    """A result that comes later; await it in a coroutine that an executor runs."""

    def __init__(self, *, executor: Any = None) -> None:
        self._done = self._cancelled = False
        self._result: Any = None
        self._exception: BaseException | None = None
        self._fetched = False
        self._callbacks: list[Callable[[Future], Any]] = []
        self._observers: list[Callable[[], Any]] = []
        self._lock = threading.RLock()
        self._executor = executor

    def __del__(self) -> None:
        if self._exception is not None and not self._fetched:
            warnings.warn(f"The following exception was never retrieved: {self._exception}", stacklevel=1)

    def __await__(self) -> Generator[Future, None, Any]:
        while not self._done and not self._cancelled:
            yield self
        return self.result()

    def done(self) -> bool:
        """Whether a result or an exception is there, or it was cancelled."""
        return self._done or self._cancelled

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancel, if not done."""
        with self._lock:
            if self._done:
                return
            self._cancelled = True
        self._run_callbacks()

    def result(self) -> Any:
        """The result, None while there is none; raises the exception that was set."""
        if self._exception is not None:
            self._fetched = True
            raise self._exception
        return self._result

    def exception(self) -> BaseException | None:
        """The exception that was set, if any."""
        self._fetched = True
        return self._exception

    def set_result(self, result: Any) -> None:
        """Finish with a result."""
        with self._lock:
            self._result, self._done, self._cancelled = result, True, False
        self._run_callbacks()

    def set_exception(self, exception: BaseException) -> None:
        """Finish with an exception."""
        with self._lock:
            self._exception, self._fetched, self._done, self._cancelled = exception, False, True, False
        self._run_callbacks()

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Call `callback(self)` when done, in the executor if there is one; at once if it is done already."""
        with self._lock:
            if not self.done():
                self._callbacks.append(callback)
                return
        self._call(callback)

    def remove_done_callback(self, callback: Callable[[Future], Any]) -> bool:
        """Forget a callback; whether there was one."""
        with self._lock:
            before = len(self._callbacks)
            self._callbacks = [kept for kept in self._callbacks if kept != callback]
            return len(self._callbacks) < before

    def when_done(self, observer: Callable[[], Any]) -> None:
        """Not in rclpy: call `observer()` from the thread that finishes the future; at once if it is done already."""
        with self._lock:
            if not self.done():
                self._observers.append(observer)
                return
        observer()

    def _run_callbacks(self) -> None:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
            observers, self._observers = self._observers, []
        for observer in observers:
            observer()
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[Future], Any]) -> None:
        if self._executor is None:
            callback(self)
        else:
            self._executor.create_task(callback, self)


class Task(Future):
    """A function or coroutine that an executor runs, and the future of its result."""

    def __init__(self, handler: Any, args: tuple = (), kwargs: dict | None = None, executor: Any = None) -> None:
        super().__init__(executor=executor)
        self._handler, self._args, self._kwargs = handler, args, kwargs or {}
        if inspect.iscoroutine(handler):
            self._coroutine: Any = handler
        elif inspect.iscoroutinefunction(handler):
            self._coroutine = handler(*args, **self._kwargs)
        else:
            self._coroutine = None
        self._running = threading.Lock()

    def __call__(self) -> Future | None:
        """Run until the end or the next await; returns the future that it waits for, or None."""
        if self.done() or not self._running.acquire(blocking=False):
            return None
        try:
            if self._coroutine is None:
                self.set_result(self._handler(*self._args, **self._kwargs))
                return None
            waits_for = self._coroutine.send(None)
        except StopIteration as stop:
            self.set_result(stop.value)
            return None
        except Exception as error:  # noqa: BLE001  (kept in the future, raised by whoever asks for the result)
            self.set_exception(error)
            return None
        finally:
            self._running.release()
        return waits_for if isinstance(waits_for, Future) else self
