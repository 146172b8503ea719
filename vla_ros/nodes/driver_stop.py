"""A latched stop carried down to the driver, step by step, each with its acknowledgement and the time it took.

Runs on safety_node's executor thread: tick() sends and looks, nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from action_msgs.srv import CancelGoal
from builtin_interfaces.msg import Duration
from rclpy.node import Node
from rclpy.task import Future

from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.interfaces import service_class
from vla_ros.robots.stop import StopSpec

FAULT = "driver_stop"
GIVEN_UP = "reset given up: latched again"
INACTIVE = "driver_inactive"  # reason of chunks that come before the driver is active again, and of a failed reset


class Stage(Enum):
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    RESUMING = "resuming"


@dataclass
class _Step:
    """One service of the driver, with the request that stops and the one that takes it back."""

    service: str
    client: Any
    stop: Any
    resume: Any  # None: there is nothing to take back
    accepted: Callable[[Any], bool]
    sent: bool = False  # the stop was requested, acknowledged or not


class DriverStop:
    """The procedure of one robot.

    Attributes:
        stage: where it is.
    """

    def __init__(self, node: Node, spec: StopSpec, diagnostics: Diagnostics) -> None:
        self.stage = Stage.READY
        self._node, self._spec, self._diagnostics = node, spec, diagnostics
        self._steps = self._make(spec)
        self._todo: list[_Step] = []
        self._failed: list[str] = []
        self._call: Future | None = None
        self._started = self._answered = 0.0
        self._waiting: list[Future] = []

    def _make(self, spec: StopSpec) -> list[_Step]:
        """Raises VlaRosError when a service's package is not installed."""
        steps = []
        for action in spec.cancel:  # a request without goal and time cancels every goal
            service = f"{action}/_action/cancel_goal"
            steps.append(self._step(CancelGoal, service, CancelGoal.Request(), None, lambda _: True))
        if spec.switch:
            kind = service_class("controller_manager_msgs/srv/SwitchController")
            seconds, names = spec.timeout, list(spec.controllers)
            limit = Duration(sec=int(seconds), nanosec=round(seconds % 1.0 * 1e9))
            off = kind.Request(deactivate_controllers=names, strictness=kind.Request.BEST_EFFORT, timeout=limit)
            on = kind.Request(activate_controllers=names, strictness=kind.Request.STRICT, timeout=limit)
            steps.append(self._step(kind, spec.switch, off, on, lambda response: bool(response.ok)))
        for group in spec.torque:
            kind = service_class("interbotix_xs_msgs/srv/TorqueEnable")
            off, on = (kind.Request(cmd_type="group", name=group.group, enable=enable) for enable in (False, True))
            steps.append(self._step(kind, group.service, off, on, lambda _: True))
        return steps

    def _step(self, kind: Any, service: str, stop: Any, resume: Any, accepted: Callable[[Any], bool]) -> _Step:
        return _Step(service, self._node.create_client(kind, service), stop, resume, accepted)

    def settled(self) -> Future:
        """Done when no answer is awaited any more; gets '' or what failed."""
        future = Future(executor=self._node.executor)
        self._waiting.append(future)
        if not self._todo:
            self._settle()
        return future

    def tick(self, rest: bool) -> None:
        """Every control tick, and more often does no harm. `rest`: latched, and the arm stands still."""
        if rest and self.stage is Stage.RESUMING:  # latched again: nothing more is switched on
            if GIVEN_UP not in self._failed:
                self._failed.append(GIVEN_UP)
            self._todo = self._todo[:1] if self._call is not None else []  # what is under way is still answered
            if not self._todo:
                self._end()
        if self.stage is Stage.READY and rest and self._steps:
            self.stage, self._failed = Stage.STOPPING, []
            self._begin(self._steps)
        elif self._todo:
            self._advance(self._todo[0])

    def resume(self) -> Future:
        """Takes back, last first, what was stopped; the future gets '' or what failed."""
        steps = [step for step in reversed(self._steps) if step.sent and step.resume is not None]
        self.stage, self._failed = Stage.RESUMING, []
        self._diagnostics.clear(FAULT)
        self._begin(steps)
        return self.settled()

    def _begin(self, steps: list[_Step]) -> None:
        self._todo = list(steps)
        self._start()

    def _start(self) -> None:
        """The next step's clock starts; its request goes out as soon as its server is there."""
        self._call, self._started = None, time.perf_counter()
        if self._todo:
            self._advance(self._todo[0])
        else:
            self._end()

    def _advance(self, step: _Step) -> None:
        if self._call is None and step.client.service_is_ready():
            resuming = self.stage is Stage.RESUMING
            self._started, step.sent = time.perf_counter(), True
            self._call = step.client.call_async(step.resume if resuming else step.stop)
            self._call.add_done_callback(self._note)
        elif self._call is not None and self._call.done():
            self._judge(step, self._call.result())
        elif time.perf_counter() - self._started > self._spec.timeout:
            if self._call is not None:
                step.client.remove_pending_request(self._call)
            what = "no server" if self._call is None else "no answer"
            self._fail(step, f"{what} within {self._spec.timeout:g} s")

    def _note(self, _: Future) -> None:
        self._answered = time.perf_counter()

    def _judge(self, step: _Step, response: Any) -> None:
        if not step.accepted(response):
            self._fail(step, "refused")
            return
        took = (self._answered - self._started) * 1e3
        verb = "stop" if self.stage is Stage.STOPPING else "reset"
        self._diagnostics.set(f"{verb}_{step.service}", f"acknowledged in {took:.1f} ms")
        self._node.get_logger().info(f"{verb} acknowledged by {step.service} in {took:.1f} ms")
        if self.stage is Stage.RESUMING:
            step.sent = False
        self._todo.pop(0)
        self._start()

    def _fail(self, step: _Step, why: str) -> None:
        verb = "stop" if self.stage is Stage.STOPPING else "reset"
        text = f"{verb} not acknowledged by {step.service}: {why}"
        self._failed.append(text)
        self._diagnostics.set(f"{verb}_{step.service}", f"not acknowledged: {why}")
        self._diagnostics.fault(FAULT, "; ".join(self._failed))
        self._node.get_logger().error(text)
        if self.stage is Stage.RESUMING:
            self._todo = []  # what lies before it stays stopped
        else:
            self._todo.pop(0)
        self._start()

    def _end(self) -> None:
        again = self.stage is Stage.RESUMING and not self._failed
        self.stage = Stage.READY if again or GIVEN_UP in self._failed else Stage.STOPPED  # everything is stopped once more
        self._settle()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.set_result("; ".join(self._failed))
