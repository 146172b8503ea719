"""Timers on any clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.waitable import Waitable, required_parameters


class TimerInfo:
    """When a timer's call was due and when it was made [ns]."""

    def __init__(self, expected_call_time: int, actual_call_time: int) -> None:
        self.expected_call_time, self.actual_call_time = expected_call_time, actual_call_time


class Timer(Waitable):
    """Calls `callback` every `timer_period_ns` of its clock. Missed periods are skipped, the phase is kept."""

    def __init__(
        self, callback: Callable[..., Any] | None, callback_group: Any, timer_period_ns: int, clock: Clock, *,
        context: Any = None, autostart: bool = True, changed: Callable[[], None] = lambda: None,
        driven: bool = False,
    ) -> None:  # fmt: skip
        if timer_period_ns < 0:
            raise ValueError(f"timer period: found {timer_period_ns} ns, expected 0 or more")
        self.callback, self.callback_group, self.clock = callback, callback_group, clock
        self._period = timer_period_ns
        self._changed = changed
        self._wants_info = callback is not None and required_parameters(callback) == 1
        self._canceled = not autostart
        self._last = clock.nanoseconds()
        self._next = self._last + timer_period_ns
        self._jump = None
        if clock.clock_type == ClockType.ROS_TIME:
            # The node's own time source wakes its executor at each tick; on another's clock the timer does.
            forward = None if driven else Duration(nanoseconds=1)
            threshold = JumpThreshold(min_forward=forward, min_backward=Duration(nanoseconds=-1))
            self._jump = clock.create_jump_callback(threshold, post_callback=self._jumped)

    def _jumped(self, jump: TimeJump) -> None:
        # Time that starts anew, or goes back, makes the old due time meaningless.
        now = self.clock.nanoseconds()
        if jump.clock_change in (2, 3) or jump.delta.nanoseconds < 0:
            self._last, self._next = now, now + self._period
        self._changed()

    @property
    def timer_period_ns(self) -> int:
        """Period [ns]."""
        return self._period

    @timer_period_ns.setter
    def timer_period_ns(self, value: int) -> None:
        self._period = int(value)
        self._changed()

    def steady_wait(self) -> int | None:
        """[ns] of real time until the timer is due, or None if only an event (/clock, reset) can make it due."""
        if self._canceled or getattr(self.clock, "ros_time_is_active", False):
            return None
        return max(0, self._next - self.clock.nanoseconds())

    def is_ready(self) -> bool:
        """Whether it is due."""
        return not self._canceled and self.clock.nanoseconds() >= self._next

    def is_canceled(self) -> bool:
        """Whether it stands still."""
        return self._canceled

    def cancel(self) -> None:
        """Stop until reset()."""
        self._canceled = True

    def reset(self) -> None:
        """Start a new period now."""
        self._canceled = False
        self._last = self.clock.nanoseconds()
        self._next = self._last + self._period
        self._changed()

    def time_since_last_call(self) -> int:
        """[ns]"""
        return self.clock.nanoseconds() - self._last

    def time_until_next_call(self) -> int | None:
        """[ns], None if canceled."""
        return None if self._canceled else self._next - self.clock.nanoseconds()

    def take(self) -> Callable[[], Any] | None:
        now = self.clock.nanoseconds()
        if self._canceled or now < self._next:
            return None
        info = TimerInfo(self._next, now)
        self._last = now
        self._next += self._period
        if self._next <= now:
            self._next = now if not self._period else self._next + ((now - self._next) // self._period + 1) * self._period
        callback = self.callback
        if callback is None:
            return None
        return (lambda: callback(info)) if self._wants_info else callback

    def destroy(self) -> None:
        """Stop for good."""
        self._canceled = True
        if self._jump is not None:
            self._jump.unregister()
            self._jump = None


class Rate:
    """sleep() returns once per period; wants an executor that spins in another thread."""

    def __init__(self, timer: Timer, *, context: Any) -> None:
        self._timer, self._context = timer, context
        self._next = timer.clock.now() + Duration(nanoseconds=timer.timer_period_ns)

    def sleep(self) -> None:
        """Wait for the end of the period."""
        period = Duration(nanoseconds=self._timer.timer_period_ns)
        self._timer.clock.sleep_until(self._next, context=self._context)
        now = self._timer.clock.now()
        while self._next <= now:
            self._next = self._next + period

    def destroy(self) -> None:
        """Stop."""
        self._timer.destroy()
