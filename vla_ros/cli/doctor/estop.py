"""The e-stop on trial, and the other calls to the safety node that the guided phases make.

A reset lets a policy that runs move the arm again: the trial, which ends with one, is refused while a policy sends chunks.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from vla_ros.cli import graph
from vla_ros.cli.doctor.observe import statuses
from vla_ros.doctor.commands import StopTrial, stop_services
from vla_ros.doctor.observed import Observed, Status
from vla_ros.errors import VlaRosError
from vla_ros.robots.stop import StopSpec
from vla_ros.types import SafetyMode

if TYPE_CHECKING:
    from rclpy.node import Node

LATCH = "estop_service"  # safety_node's reason of a latch by its service
HEAR = 3.0  # s for the last state, which is transient local, to arrive
SEEN = 2.0  # s for the latch to be seen
REST = 3.5  # s, beyond the driver's own time limits, for the arm to rest and for /diagnostics, which comes once a second
RESET = 6.0  # s that a refused reset is tried again: cool-down, joint states that jump
RETRY = 0.2  # s between two tries


class Safety:
    """One cell's safety node: what it says, and its services. Used on one thread, which spins the node in every wait."""

    def __init__(self, node: Node, names: Observed, stop: StopSpec) -> None:
        from diagnostic_msgs.msg import DiagnosticArray

        from vla_ros.msg import SafetyState
        from vla_ros.nodes import qos

        self.node, self.names, self.stop_spec = node, names, stop
        self.states: list[Any] = []  # since the last clear()
        self.latched_at = math.nan  # s, monotonic, of the first latched one among them
        self.status = Status(0, "")
        self.status_at = 0.0  # s, monotonic
        self._subscriptions = [
            node.create_subscription(SafetyState, names.name("safety/state"), self._on_state, qos.STATUS),
            node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10),
        ]

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self.node.destroy_subscription(subscription)

    def _on_state(self, message: Any) -> None:
        self.states.append(message)
        if message.state == SafetyMode.LATCHED and math.isnan(self.latched_at):
            self.latched_at = time.monotonic()

    def _on_diagnostics(self, message: Any) -> None:
        found = statuses(message, self.names.namespace).get("safety")
        if found is not None:
            self.status, self.status_at = found, time.monotonic()

    def await_state(self) -> None:
        """Raises VlaRosError when no state comes."""
        if not graph.spin_until(self.node, lambda: bool(self.states), HEAR):
            raise VlaRosError(f"{self.names.name('safety/state')}: none came; is safety_node running?")

    @property
    def latched(self) -> bool:
        """As far as is known."""
        return bool(self.states) and self.states[-1].state == SafetyMode.LATCHED

    def clear(self) -> None:
        """Forgets the states but the last one."""
        self.states, self.latched_at = self.states[-1:], math.nan

    def wait(self, seconds: float) -> None:
        graph.spin_until(self.node, lambda: False, seconds)

    def stop(self) -> StopTrial:
        """Triggers the e-stop and waits for everybody's answer; the arm stays latched.

        Raises:
            VlaRosError: the safety node does not answer.
        """
        from std_srvs.srv import Trigger

        self.clear()
        asked = time.monotonic()
        graph.call(self.node, Trigger, self.names.name("safety/estop"), Trigger.Request())
        graph.spin_until(self.node, lambda: not math.isnan(self.latched_at), SEEN)
        if math.isnan(self.latched_at):
            return StopTrial()
        services = stop_services(self.stop_spec)
        patience = REST + self.stop_spec.timeout * len(services)
        graph.spin_until(self.node, lambda: self.status_at > self.latched_at and self._answered(bool(services)), patience)
        told = {name: self.status.values[f"stop_{name}"] for name in services if f"stop_{name}" in self.status.values}
        commanded = self.status.values.get("estop_to_command_p50_ms")
        return StopTrial(max(0.0, self.latched_at - asked), float(commanded) if commanded else None, told)

    def _answered(self, awaited: bool) -> bool:
        values = self.status.values
        return values.get("mode") == SafetyMode.LATCHED.name and (not awaited or values.get("driver") == "stopped")

    def reset(self) -> str:
        """'' when the latch is released, else why not; a cool-down is waited for."""
        from std_srvs.srv import Trigger

        deadline = time.monotonic() + RESET
        while True:
            answer = graph.call(self.node, Trigger, self.names.name("safety/reset"), Trigger.Request())
            if answer.success:
                self.wait(RETRY)  # for the state that tells
                self.clear()
                return ""
            if time.monotonic() > deadline:
                return str(answer.message)
            self.wait(RETRY)

    def reduced_speed(self, on: bool) -> None:
        """Raises VlaRosError when the safety node does not answer or refuses."""
        from std_srvs.srv import SetBool

        name = self.names.name("safety/reduced_speed")
        answer = graph.call(self.node, SetBool, name, SetBool.Request(data=on))
        if not answer.success:
            raise VlaRosError(f"{name}: refused: {answer.message}")


def trial(node: Node, observed: Observed, stop: StopSpec) -> StopTrial:
    """Triggers the e-stop of an arm that stands, times the answers, resets.

    Args:
        observed: what was just seen of the graph.
    """
    if observed.safety is None:
        return StopTrial(skipped="no safety state")
    if observed.safety.mode is not SafetyMode.HELD:
        return StopTrial(skipped=f"mode {observed.safety.mode.name}: {observed.safety.reason or 'the arm is being moved'}")
    if observed.chunks:
        return StopTrial(skipped=f"a policy is sending chunks ({observed.chunks} heard): the reset would let it move the arm")
    safety = Safety(node, observed, stop)
    try:
        done = safety.stop()
        refused = safety.reset() if done.latched is not None else ""
    except VlaRosError as error:
        return StopTrial(skipped=str(error))
    finally:
        safety.destroy()
    return StopTrial(done.latched, done.commanded_ms, done.told, refused)
