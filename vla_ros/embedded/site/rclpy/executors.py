"""Executors: wait for everything that the nodes have, and call their callbacks.

The waiting thread blocks in a DDS wait set. A single-threaded executor calls back in that same thread, so that nothing
but the receive thread's wake-up lies between a message and its callback.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.exceptions import TimeoutException
from rclpy.task import Future, Task
from rclpy.timer import Timer
from rclpy.utilities import opened
from rclpy.waitable import Waitable
from vla_ros.embedded import dds

_PATIENCE = 2.0  # [s] for a woken thread to notice
_WAKE = 0  # number of the executor's own condition in the wait set
Work = tuple[Any, Callable[[], Any]]  # an entity (None for a task) and the call that handles its event


class ExternalShutdownException(Exception):
    """The context was shut down while spinning."""

    def __init__(self, *args: object) -> None:
        super().__init__("The context was externally shut down", *args)


class ShutdownException(Exception):
    """The executor was shut down while spinning."""

    def __init__(self, *args: object) -> None:
        super().__init__("Executor.shutdown() was called", *args)


class Executor:
    """Base of executors; use one of those below."""

    def __init__(self, *, context: Any = None) -> None:
        self.context = opened(context)
        self._nodes: set[Any] = set()
        self._lock = threading.RLock()
        self._spinning = threading.Lock()
        participant = self.context.participant
        self._waitset = dds.WaitSet(participant)
        self._wake = dds.Trigger(participant)
        self._waitset.attach(self._wake.condition, _WAKE)
        self._entities: dict[int, Waitable] = {}
        self._numbers: dict[Waitable, int] = {}
        self._next_number = 1
        self._timers: list[Timer] = []
        self._ready: deque[Waitable] = deque()
        self._tasks: deque[Task] = deque()
        self._blocked: set[Waitable] = set()  # their callback group is busy
        self._changed = True
        self._shut_down = False
        self.context.track(executor=self)

    def add_node(self, node: Any) -> bool:
        """Serve a node; False if it is served already."""
        with self._lock:
            if node in self._nodes:
                return False
            self._nodes.add(node)
        node.executor = self
        self.entities_changed()
        return True

    def remove_node(self, node: Any) -> None:
        """Stop serving a node."""
        with self._lock:
            self._nodes.discard(node)
        if node.executor is self:
            node.executor = None
        self.entities_changed()

    def get_nodes(self) -> list[Any]:
        """Nodes that are served."""
        with self._lock:
            return list(self._nodes)

    def wake(self) -> None:
        """Make the waiting thread look again; from any thread."""
        if not self._shut_down:
            self._wake.set()

    def entities_changed(self) -> None:
        """A node has a new entity, or one less."""
        self._changed = True
        self.wake()

    def create_task(self, callback: Any, *args: Any, **kwargs: Any) -> Task:
        """Run a function or coroutine in this executor."""
        task = Task(callback, args, kwargs, executor=self)
        self._queue(task)
        return task

    def _queue(self, task: Task) -> None:
        self._tasks.append(task)
        self.wake()

    def spin(self) -> None:
        """Call callbacks until the context or the executor shuts down."""
        while self.context.ok() and not self._shut_down:
            self.spin_once()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait at most timeout_sec [s] (None: forever) for one callback and call it."""
        raise NotImplementedError

    def spin_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Call callbacks until `future` is done, or for timeout_sec [s]."""
        future.when_done(self.wake)
        deadline = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while self.context.ok() and not future.done() and not self._shut_down:
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                return
            self._spin_once(rest, until=future)

    def spin_once_until_future_complete(self, future: Future, timeout_sec: float | None = None) -> None:
        """Like spin_once, and return at once when `future` is done."""
        future.when_done(self.wake)
        self._spin_once(timeout_sec, until=future)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop spinning and let go of all nodes."""
        if self._shut_down:
            return True
        self._shut_down = True
        self._wake.set()
        if self._spinning.acquire(timeout=-1 if timeout_sec is None else max(0.0, timeout_sec)):
            self._spinning.release()
        else:
            return False
        for node in self.get_nodes():
            self.remove_node(node)
        self._waitset.close()
        self._wake.close()
        return True

    def abandon(self) -> None:
        """The context deletes its participant: wait for the spinning thread to leave DDS, and touch it no more."""
        if not self._shut_down:
            self._wake.set()
            left = self._spinning.acquire(timeout=_PATIENCE)
            self._shut_down = True
            if left:
                self._spinning.release()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _spin_once(self, timeout_sec: float | None, until: Future | None = None) -> None:
        raise NotImplementedError

    def _rebuild(self) -> None:
        """Attach new entities to the wait set and forget the ones that are gone."""
        self._changed = False
        current: set[Waitable] = set()
        for node in self.get_nodes():
            node._rcl_report_unused_overrides()
            current.update(node.waitables)
        for entity in list(self._numbers):
            if entity not in current:
                del self._entities[self._numbers.pop(entity)]
                self._detach(entity)
                self._blocked.discard(entity)
        for entity in current:
            if entity not in self._numbers:
                self._numbers[entity] = self._next_number
                self._entities[self._next_number] = entity
                self._next_number += 1
            if entity not in self._blocked:
                self._attach(entity)  # also of known ones: /clock wakes nobody until somebody waits for a time
        self._timers = [entity for entity in current if isinstance(entity, Timer)]

    def _attach(self, entity: Waitable) -> None:
        for condition in entity.conditions:
            self._waitset.attach(condition, self._numbers[entity])

    def _detach(self, entity: Waitable) -> None:
        for condition in entity.conditions:
            self._waitset.detach(condition)

    def _next(self, timeout_sec: float | None, until: Future | None) -> Work:
        """The next callback to call.

        Raises:
            TimeoutException: nothing came in time.
            ShutdownException, ExternalShutdownException: executor or context are shut down.
        """
        deadline = None if timeout_sec is None or timeout_sec < 0 else time.monotonic_ns() + int(timeout_sec * 1e9)
        while True:
            if self._shut_down:
                raise ShutdownException
            if not self.context.ok():
                raise ExternalShutdownException
            if until is not None and until.done():
                raise TimeoutException
            if self._changed:
                self._rebuild()
            if self._tasks:
                return None, self._tasks.popleft()
            while self._ready:
                entity = self._ready.popleft()
                call = self._claim(entity)
                if call is not None:
                    return entity, call
            due = self._due_timers()
            if self._ready:
                continue
            rest = dds.INFINITE if deadline is None else max(0, deadline - time.monotonic_ns())
            found = self._waitset.wait(min(rest, due))
            for number in found:
                if number == _WAKE:
                    self._wake.clear()
                elif number in self._entities:
                    self._ready.append(self._entities[number])
            if not found and rest <= due:
                raise TimeoutException

    def _due_timers(self) -> int:
        """Queue the timers that are due; [ns] until the next one."""
        soonest = dds.INFINITE
        for timer in self._timers:
            if timer in self._blocked:
                continue
            if timer.is_ready():
                self._ready.append(timer)
            else:
                wait = timer.steady_wait()
                if wait is not None and wait < soonest:
                    soonest = wait
        return soonest

    def _claim(self, entity: Waitable) -> Callable[[], Any] | None:
        """Take the entity's event, if its group lets it run now."""
        with self._lock:
            if entity not in self._numbers or entity in self._blocked:
                return None
            if not entity.callback_group.beginning_execution(entity):
                # Its event would wake the wait set at once again; it is looked at when the group is free.
                self._blocked.add(entity)
                self._detach(entity)
                return None
        call = entity.take()
        if call is None:
            self._release(entity)
        return call

    def _release(self, entity: Waitable) -> None:
        """The entity's callback is over: whoever waited for its group may be looked at again."""
        with self._lock:
            entity.callback_group.ending_execution(entity)
            free = [other for other in self._blocked if other.callback_group is entity.callback_group]
            self._blocked.difference_update(free)
            for other in free:
                self._attach(other)
        if free:
            self.wake()

    def _run(self, entity: Waitable | None, call: Callable[[], Any]) -> None:
        if entity is None:
            self._step(call)  # type: ignore[arg-type]
            return
        pending = False
        try:
            result = call()
            if inspect.iscoroutine(result):
                pending = True
                task = Task(result, executor=self)
                task.when_done(lambda: self._release(entity))
                self._step(task)
        finally:
            if not pending:
                self._release(entity)

    def _step(self, task: Task) -> None:
        """Run a task up to its next await, and come back to it when what it waits for is done."""
        waits_for = task()
        if waits_for is task:
            self._queue(task)
        elif waits_for is not None:
            waits_for.when_done(lambda: self._queue(task))
        elif task.done():
            task.result()  # an exception leaves spin, as one of a plain callback does


class SingleThreadedExecutor(Executor):
    """Calls all callbacks in the thread that spins."""

    def spin_once(self, timeout_sec: float | None = None) -> None:
        self._spin_once(timeout_sec)

    def _spin_once(self, timeout_sec: float | None, until: Future | None = None) -> None:
        try:
            with self._spinning:
                work = self._next(timeout_sec, until)
        except (TimeoutException, ShutdownException):
            return
        self._run(*work)


class MultiThreadedExecutor(Executor):
    """Calls callbacks in a pool of threads."""

    def __init__(self, num_threads: int | None = None, *, context: Any = None) -> None:
        super().__init__(context=context)
        self._pool = ThreadPoolExecutor(num_threads or len(os.sched_getaffinity(0)), thread_name_prefix="executor")
        self._errors: deque[BaseException] = deque()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        self._spin_once(timeout_sec)

    def _spin_once(self, timeout_sec: float | None, until: Future | None = None) -> None:
        try:
            with self._spinning:
                work = self._next(timeout_sec, until)
        except (TimeoutException, ShutdownException):
            return
        finally:
            if self._errors:
                raise self._errors.popleft()
        self._pool.submit(self._guarded, *work)

    def _guarded(self, entity: Waitable | None, call: Callable[[], Any]) -> None:
        try:
            self._run(entity, call)
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that spins)
            self._errors.append(error)
            self.wake()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        done = super().shutdown(timeout_sec)
        self._pool.shutdown(wait=done)
        return done
