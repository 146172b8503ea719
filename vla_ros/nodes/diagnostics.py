"""/diagnostics at 1 Hz, one status per node: counters, rates, latency percentiles, faults.

Called from any of the node's threads: each call is one append or one assignment, which Python makes atomic.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

PERIOD = 1.0  # s, steady: diagnostics go on while simulated time stands still
SAMPLES = 2000  # of a latency, for its percentiles
SHOW_ERROR = 5  # publications, so that no one who looks once a second misses it


class Diagnostics:
    """One node's status. The level is that of the worst present fault, or ERROR shortly after error()."""

    def __init__(self, node: Node, name: str, hardware: str = "") -> None:
        self._node = node
        self._name = f"{node.get_namespace().rstrip('/')}/{name}".removeprefix("/")  # a cell's namespace tells it from others
        self._hardware = hardware
        self._counts: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._rates: set[str] = set()
        self._values: dict[str, str] = {}
        self._samples: dict[str, deque[float]] = {}
        self._faults: dict[str, tuple[int, str]] = {}
        self._error, self._show = "", 0
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._last = self._steady.now().nanoseconds
        self._timer = node.create_timer(PERIOD, self.publish, clock=self._steady)

    def count(self, key: str, number: int = 1, rate: bool = False) -> None:
        """Adds to a counter; `rate` publishes `<key>_hz` as well."""
        self._counts[key] = self._counts.get(key, 0) + number
        if rate:
            self._rates.add(key)

    def sample(self, key: str, seconds: float) -> None:
        """One measurement of a duration; published as p50 and p99 in ms over the last SAMPLES."""
        if key not in self._samples:
            self._samples[key] = deque(maxlen=SAMPLES)
        self._samples[key].append(seconds)

    def set(self, key: str, value: object) -> None:
        self._values[key] = str(value)

    def error(self, message: str) -> None:
        """An event; counted, and shown as the status for a few seconds."""
        self.count("errors")
        self._error, self._show = message, SHOW_ERROR

    def fault(self, key: str, message: str, level: int = 2) -> None:
        """A condition that lasts until clear(key). level: 1 WARN, 2 ERROR, 3 STALE."""
        self._faults[key] = (level, message)

    def clear(self, key: str) -> None:
        self._faults.pop(key, None)

    def publish(self) -> None:
        now = self._steady.now().nanoseconds
        elapsed, self._last = max(1e-9, (now - self._last) * 1e-9), now
        values = {**self._values, **{key: str(count) for key, count in self._counts.items()}}
        for key in sorted(self._rates):
            values[f"{key}_hz"] = f"{(self._counts[key] - self._before.get(key, 0)) / elapsed:.1f}"
        self._before = dict(self._counts)
        for key, samples in list(self._samples.items()):
            p50, p99 = np.percentile(np.array(samples) * 1e3, [50, 99])
            values[f"{key}_p50_ms"], values[f"{key}_p99_ms"] = f"{p50:.3f}", f"{p99:.3f}"
        faults = list(self._faults.values())
        if self._show:
            self._show -= 1
            faults.append((2, self._error))
        level = max((level for level, _ in faults), default=0)
        message = "; ".join(text for its, text in faults if its == level) or "ok"
        status = DiagnosticStatus(
            level=bytes([level]),
            name=f"vla_ros: {self._name}",
            message=message,
            hardware_id=self._hardware,
            values=[KeyValue(key=key, value=value) for key, value in sorted(values.items())],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
