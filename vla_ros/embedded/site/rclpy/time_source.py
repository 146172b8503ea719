"""Sim time: feeds a node's clock from /clock while the parameter use_sim_time is true.

As long as nobody waits for a time (no timer on the clock, no jump callback, no sleep), it is read where it is asked for, and a
tick wakes nobody: /clock ticks at the control rate, and each wake-up costs more than most nodes' own work.
"""

from __future__ import annotations

import threading
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rosgraph_msgs.msg import Clock as ClockMsg

from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from vla_ros.embedded.messages import deserialize
from vla_ros.errors import VlaRosError

AT_ONCE = 8  # ticks of several simulations, of each the newest

USE_SIM_TIME = "use_sim_time"


class TimeSource:
    """Drives one node's ROS clock."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._subscription: Any = None
        self._reading = threading.Lock()  # else an older tick may overtake a newer one
        if not node.has_parameter(USE_SIM_TIME):
            node.declare_parameter(USE_SIM_TIME, False)
        node.add_on_set_parameters_callback(self._asked)
        node.add_post_set_parameters_callback(self._changed)
        self._switch(bool(node.get_parameter(USE_SIM_TIME).value))

    def _asked(self, parameters: list[Parameter]) -> Any:
        for parameter in parameters:
            if parameter.name == USE_SIM_TIME and parameter.type_ != Parameter.Type.BOOL:
                return SetParametersResult(successful=False, reason=f"{USE_SIM_TIME} must be of type BOOL")
        return SetParametersResult(successful=True)

    def _changed(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == USE_SIM_TIME:
                self._switch(bool(parameter.value))

    def _switch(self, active: bool) -> None:
        clock = self._node.get_clock()
        if active and self._subscription is None:
            clock.override(0)
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._subscription = self._node.create_subscription(ClockMsg, "/clock", self._tick, qos)
            if clock.follow(self._read, self._wake):
                self._subscription.conditions = ()
        elif not active and self._subscription is not None:
            clock.follow(None, None)
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            clock.override(None)

    def _read(self) -> None:
        """The newest tick, if there is one since the last."""
        with self._reading:
            try:
                samples = self._subscription._reader.take(AT_ONCE)
            except VlaRosError:  # the context was shut down, and time stands still
                self._node.get_clock().follow(None, None)
                return
            if samples:
                self._set(deserialize(samples[-1][0], ClockMsg))

    def _wake(self) -> None:
        """Somebody waits for a time: from now on each tick calls back."""
        self._subscription.conditions = (self._subscription._reader.condition,)
        if self._node.executor is not None:
            self._node.executor.entities_changed()

    def _tick(self, message: Any) -> None:
        self._set(message)
        self._node._rcl_timers_changed()

    def _set(self, message: Any) -> None:
        stamp = message.clock
        self._node.get_clock().override(stamp.sec * 10**9 + stamp.nanosec)
