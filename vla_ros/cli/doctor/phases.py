"""`vla-ros doctor phases`: the guide (vla_ros/doctor/phases.py) on the live graph.

What holds the arm is what the package has anyway. Dry run: the latch of /safety/estop, under which the filter sends the same
command over and over and the driver is stopped, too; a policy publishes its chunks all the same. Reduced speed:
/safety/reduced_speed. The speed cap of people (/safety/human_distance) is left to the sensor that it belongs to: a second
publisher there would contradict it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros.cli import graph
from vla_ros.cli.doctor import report
from vla_ros.cli.doctor.estop import LATCH, Safety
from vla_ros.cli.doctor.once import examine
from vla_ros.cli.doctor.words import Words
from vla_ros.cli.safety.replay_command import console
from vla_ros.doctor import acting, commands
from vla_ros.doctor.finding import Finding
from vla_ros.doctor.observed import Observed
from vla_ros.doctor.phases import Phase, guide
from vla_ros.errors import VlaRosError
from vla_ros.robots.stop import StopSpec
from vla_ros.types import JointState, SafetyMode

if TYPE_CHECKING:
    from rclpy.node import Node

REST = 3.0  # s beyond the last row of a chunk, for the arm to come to rest on a busy machine
QUESTION = {
    Phase.DRY: "Dry run: the e-stop is triggered and stays, the policy is told what to do, nothing moves.",
    Phase.REDUCED: "Reduced speed: a reset, and THE ARM MOVES, its tips up to {reduced:g} m/s. Stand at the hardware e-stop.",
    Phase.FULL: "Full speed: THE ARM MOVES, its tips up to {full:g} m/s. Stand at the hardware e-stop.",
}


class LiveCell:
    """A Cell of the guide. One thread; each wait spins the node."""

    def __init__(self, node: Node, given: Words, seconds: float) -> None:
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import JointState as JointStateMsg

        from vla_ros.msg import ActionChunk, Instruction
        from vla_ros.nodes import qos

        self.node, self.given, self.seconds = node, given, seconds
        self.names = Observed(namespace=given.namespace)
        self.spec = StopSpec.load(given.contract)
        self.limits, _ = commands.limits_in_force(given.contract, self.names, given.safety)
        self.files: list[str] = list(given.safety)
        self.safety = Safety(node, self.names, self.spec)
        self.asked: list[acting.Asked] = []
        self._state: JointState | None = None
        self._instruction = Instruction
        self._instructions = node.create_publisher(Instruction, self.names.name("instruction"), qos.STATUS)
        lossy = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        topic = self.names.name(given.contract.control.state_topic)
        node.create_subscription(JointStateMsg, topic, self._on_joints, lossy)
        node.create_subscription(ActionChunk, self.names.name(commands.CHUNK), self._on_chunk, lossy)

    def _on_joints(self, message: Any) -> None:
        from vla_ros.nodes import convert

        self._state = convert.joint_state(message)

    def _on_chunk(self, message: Any) -> None:
        from vla_ros.nodes import convert

        if self._state is not None:
            self.asked.append(acting.Asked(convert.chunk(message), self._state))

    def examine(self, phase: Phase | None) -> list[Finding]:
        findings, observed = examine(self.node, self.given, self.seconds, LATCH if phase is Phase.DRY else "")
        self.limits, _ = commands.limits_in_force(self.given.contract, observed, self.given.safety)
        self.files = commands.files_in_force(observed, self.given.safety)
        return findings

    def enter(self, phase: Phase) -> list[Finding]:
        if phase is Phase.DRY:
            return commands.stop_findings(self.safety.stop(), self.spec, self.limits)
        self.safety.reduced_speed(phase is Phase.REDUCED)  # before the reset, so that there is no moment without
        if phase is Phase.REDUCED and (refused := self.safety.reset()):
            raise VlaRosError(f"{self.names.name('safety/reset')}: refused: {refused}")
        return []

    def watch(self, phase: Phase) -> list[Finding]:
        self.safety.await_state()
        self.safety.clear()
        self.asked.clear()
        self._instruct(self.given.instruction)
        try:
            watched = SafetyMode.LATCHED if phase is not Phase.DRY else None
            graph.spin_until(self.node, lambda: self.safety.states[-1].state == watched, self.seconds)
        finally:
            self._instruct("")
        if phase is not Phase.DRY:
            self._await_rest()
        moments = [_moment(message) for message in self.safety.states]
        if phase is Phase.DRY:
            return acting.dry_run(self.given.contract, self.files, moments, self.asked)
        name = "reduced_speed" if phase is Phase.REDUCED else "tip_speed"
        return acting.moved(moments, getattr(self.limits, name), name)

    def _await_rest(self) -> None:
        """The arm goes on to the end of the last chunk; who instructs by himself decides by himself when it stands."""
        action = self.given.contract.action
        patience = action.chunk / action.rate + self.limits.max_lag + self.limits.policy_silence + REST
        standing = (SafetyMode.HELD, SafetyMode.LATCHED)
        rested = graph.spin_until(self.node, lambda: self.safety.states[-1].state in standing, patience)
        if self.given.instruction and not rested:
            chunk = self.names.name(commands.CHUNK)
            raise VlaRosError(f"the arm still runs {patience:.1f} s after the instruction was withdrawn; who else sends {chunk}?")

    def retreat(self, phase: Phase) -> None:
        self._instruct("")
        if phase is Phase.REDUCED:
            self.safety.reduced_speed(True)
        elif not self.safety.latched and self.safety.stop().latched is None:
            raise VlaRosError("the e-stop was called, and no latch was seen")

    def _instruct(self, text: str) -> None:
        """Without an instruction of the doctor's, whoever gives them goes on."""
        if self.given.instruction:
            self._instructions.publish(self._instruction(text=text))


def _moment(message: Any) -> acting.Moment:
    command = np.array(message.command, np.float64)
    return acting.Moment(
        SafetyMode(message.state), message.reason, command, float(message.tip_speed), tuple(message.active_constraints),
        int(message.rejected_chunks),
    )  # fmt: skip


def run(node: Node, given: Words, seconds: float, yes: bool) -> int:
    """`vla-ros doctor phases`; 0 when all went well."""
    if not yes and not sys.stdin.isatty():
        raise VlaRosError("stdin is not a terminal, so nobody can confirm; with a person at the hardware e-stop: --yes")
    cell, to = LiveCell(node, given, seconds), console()

    def tell(headline: str, findings: Sequence[Finding] = (), brief: bool = False) -> None:
        if findings:
            report.show(findings, headline, to, brief)
        else:
            to.print(headline, markup=False)

    def confirm(phase: Phase) -> bool:
        limits = cell.limits
        to.print(QUESTION[phase].format(reduced=limits.reduced_speed, full=limits.tip_speed), style="bold")
        return yes or input("yes, or anything else to end: ").strip().lower() == "yes"

    return 0 if guide(cell, confirm, tell) else 1
