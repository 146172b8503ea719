"""Clocks: system, steady, and ROS time, which follows /clock when sim time is on."""

from __future__ import annotations

import threading
import time as _time
from collections.abc import Callable
from enum import IntEnum

from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.time import Time


class ClockChange(IntEnum):
    """What happened in a time jump."""

    ROS_TIME_NO_CHANGE = 1
    ROS_TIME_ACTIVATED = 2
    ROS_TIME_DEACTIVATED = 3
    SYSTEM_TIME_NO_CHANGE = 4


class JumpThreshold:
    """From which jump on a callback is called."""

    def __init__(self, *, min_forward: Duration | None, min_backward: Duration | None, on_clock_change: bool = True) -> None:
        if min_forward is not None and min_forward.nanoseconds <= 0:
            raise ValueError("min_forward must be a positive non-zero duration")
        if min_backward is not None and min_backward.nanoseconds >= 0:
            raise ValueError("min_backward must be a negative non-zero duration")
        self.min_forward, self.min_backward, self.on_clock_change = min_forward, min_backward, on_clock_change

    def passed(self, jump: TimeJump) -> bool:
        """Whether `jump` is beyond the threshold."""
        if jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED):
            return self.on_clock_change
        forward = self.min_forward is not None and jump.delta >= self.min_forward
        return forward or (self.min_backward is not None and jump.delta <= self.min_backward)


class TimeJump:
    """A jump of ROS time."""

    def __init__(self, clock_change: ClockChange, delta: Duration) -> None:
        self.clock_change, self.delta = clock_change, delta


class JumpHandle:
    """Keeps a jump callback registered until unregister()."""

    def __init__(self, clock: Clock, threshold: JumpThreshold, pre: Callable | None, post: Callable | None) -> None:
        self._clock, self.threshold, self.pre, self.post = clock, threshold, pre, post

    def unregister(self) -> None:
        """Forget the callbacks."""
        self._clock._jump_handles.discard(self)

    def __enter__(self) -> JumpHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()


class Clock:
    """A clock of one kind; ROS time makes a ROSClock."""

    def __new__(cls, *, clock_type: ClockType = ClockType.SYSTEM_TIME):
        if not isinstance(clock_type, ClockType):
            raise TypeError("Clock type must be a ClockType enum")
        return super().__new__(ROSClock if clock_type == ClockType.ROS_TIME else cls)

    def __init__(self, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> None:
        self._clock_type = clock_type
        self._jump_handles: set[JumpHandle] = set()

    @property
    def clock_type(self) -> ClockType:
        """Kind of clock."""
        return self._clock_type

    def nanoseconds(self) -> int:
        """Now [ns]."""
        return _time.monotonic_ns() if self._clock_type == ClockType.STEADY_TIME else _time.time_ns()

    def now(self) -> Time:
        """Now."""
        return Time(nanoseconds=self.nanoseconds(), clock_type=self._clock_type)

    def create_jump_callback(
        self, threshold: JumpThreshold, *, pre_callback: Callable | None = None, post_callback: Callable | None = None
    ) -> JumpHandle:
        """Call back before and after jumps of ROS time beyond `threshold`."""
        if pre_callback is None and post_callback is None:
            raise ValueError("One of pre_callback or post_callback must be callable")
        handle = JumpHandle(self, threshold, pre_callback, post_callback)
        self._jump_handles.add(handle)
        return handle

    def sleep_until(self, until: Time, context=None) -> bool:
        """Sleep until a time of this clock; False if the context shut down before."""
        from rclpy.utilities import get_default_context

        context = context or get_default_context()
        if until.clock_type != self._clock_type:
            raise ValueError("until's clock type does not match this clock's type")
        while context.ok():
            rest = until.nanoseconds - self.nanoseconds()
            if rest <= 0:
                return True
            self._pause(rest)
        return False

    def _pause(self, rest: int) -> None:
        _time.sleep(min(rest / 1e9, 0.1))  # shutdown is noticed within 0.1 s

    def sleep_for(self, rel_time: Duration, context=None) -> bool:
        """Sleep for a span of this clock; False if the context shut down before."""
        return self.sleep_until(self.now() + rel_time, context=context)


class ROSClock(Clock):
    """System time, or what /clock says while sim time is active."""

    def __new__(cls) -> ROSClock:
        return object.__new__(cls)

    def __init__(self, **_: object) -> None:
        super().__init__(clock_type=ClockType.ROS_TIME)
        self._override: int | None = None
        self._moved = threading.Condition()
        self._read: Callable[[], None] | None = None  # sets sim time, while nobody waits for one
        self._wake: Callable[[], None] | None = None  # from now on it is set as it comes

    @property
    def ros_time_is_active(self) -> bool:
        """Whether sim time is on."""
        return self._override is not None

    def nanoseconds(self) -> int:
        """Now [ns]; 0 while sim time is on and no /clock has come."""
        if (read := self._read) is not None:
            read()
        override = self._override
        return _time.time_ns() if override is None else override

    def follow(self, read: Callable[[], None] | None, wake: Callable[[], None] | None) -> bool:
        """Not in rclpy: sim time is what `read` sets, until somebody waits for a time; False if somebody does already."""
        waited_for = bool(self._jump_handles)
        self._read, self._wake = (None, None) if waited_for else (read, wake)
        return not waited_for

    def _awaited(self) -> None:
        wake, self._read, self._wake = self._wake, None, None
        if wake is not None:
            wake()

    def create_jump_callback(
        self, threshold: JumpThreshold, *, pre_callback: Callable | None = None, post_callback: Callable | None = None
    ) -> JumpHandle:
        handle = super().create_jump_callback(threshold, pre_callback=pre_callback, post_callback=post_callback)
        self._awaited()
        return handle

    def set_ros_time_override(self, time: Time) -> None:
        """Set sim time."""
        self.override(time.nanoseconds)

    def override(self, nanoseconds: int | None) -> None:
        """Set sim time [ns], or go back to system time with None; calls the jump callbacks."""
        was = self._override
        before = _time.time_ns() if was is None else was
        after = _time.time_ns() if nanoseconds is None else nanoseconds
        change = ClockChange.ROS_TIME_NO_CHANGE
        if (was is None) != (nanoseconds is None):
            change = ClockChange.ROS_TIME_ACTIVATED if was is None else ClockChange.ROS_TIME_DEACTIVATED
        jump = TimeJump(change, Duration(nanoseconds=after - before))
        called = [handle for handle in list(self._jump_handles) if handle.threshold.passed(jump)]
        for handle in called:
            if handle.pre:
                handle.pre()
        with self._moved:
            self._override = nanoseconds
            self._moved.notify_all()
        for handle in called:
            if handle.post:
                handle.post(jump)

    def _pause(self, rest: int) -> None:
        if self._override is None:
            super()._pause(rest)
            return
        self._awaited()
        with self._moved:
            self._moved.wait(0.1)
