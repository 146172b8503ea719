"""How fast simulated time runs: at a multiple of the wall clock, or in lock step with the graph.

Runs on sim_node's only thread; the waits serve its callbacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.executors import Executor
from rclpy.node import Node

MOST_BEHIND = 0.02  # s of wall time; more is forgotten: no driver sends its missed joint states in a burst


class Pace:
    """Waits between control ticks.

    Args:
        factor: simulated seconds per second; 0 is lock step, as fast as the graph answers.
        timeout: wall seconds that a lock-step wait may take before it is given up.
    """

    def __init__(self, node: Node, executor: Executor, factor: float, timeout: float) -> None:
        self.factor = factor
        self.timeout = timeout
        self.timeouts = 0
        self._node = node
        self._executor = executor
        self._due = time.monotonic()

    def until_due(self, period: float) -> None:
        """Serves callbacks until the next tick, `period` simulated seconds after the last one, is due."""
        self._due += period / (self.factor or 1.0)
        now = time.monotonic()
        if now - self._due > MOST_BEHIND:
            self._due = now
        self._executor.spin_once(timeout_sec=max(0.0, self._due - now))
        while (rest := self._due - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=rest)

    def until(self, arrived: Callable[[], bool], what: Callable[[], str]) -> bool:
        """Serves callbacks until `arrived`; False, logged and counted after the timeout. `what` names the missing."""
        deadline = time.monotonic() + self.timeout
        while not arrived():
            rest = deadline - time.monotonic()
            if rest <= 0:
                self.timeouts += 1
                self._node.get_logger().warning(
                    f"lock step: no {what()} within {self.timeout:g} s; going on ({self.timeouts} so far)",
                    throttle_duration_sec=5.0,
                )
                self._due = time.monotonic()
                return False
            self._executor.spin_once(timeout_sec=rest)
        self._due = time.monotonic()
        return True
