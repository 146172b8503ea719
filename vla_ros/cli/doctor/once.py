"""`vla-ros doctor`: one look at the graph, judged and printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros import embedded
from vla_ros.cli.doctor import estop, report
from vla_ros.cli.doctor.observe import look
from vla_ros.cli.doctor.words import Words
from vla_ros.cli.safety.replay_command import console
from vla_ros.doctor import commands, host
from vla_ros.doctor.examine import Asked
from vla_ros.doctor.examine import examine as judge
from vla_ros.doctor.finding import Finding, failures, ok
from vla_ros.doctor.observed import Observed
from vla_ros.robots.stop import StopSpec

if TYPE_CHECKING:
    from rclpy.node import Node


def run(node: Node, given: Words, seconds: float, try_estop: bool, as_json: bool) -> int:
    """Prints the findings; 1 when a check failed."""
    findings, observed = examine(node, given, seconds)
    if try_estop:
        spec = StopSpec.load(given.contract)
        limits, _ = commands.limits_in_force(given.contract, observed, given.safety)
        findings += commands.stop_findings(estop.trial(node, observed, spec), spec, limits)
    else:
        findings.append(ok("estop", "not tried; --estop triggers it, times every answer, and resets"))
    if as_json:
        print(json.dumps(report.as_json(findings, robot=given.contract.robot, seconds=seconds), indent=2))
    else:
        report.show(findings, f"{given.contract.robot}{given.namespace and f' in {given.namespace}'}", console())
    return 1 if failures(findings) else 0


def examine(node: Node, given: Words, seconds: float, latch: str = "") -> tuple[list[Finding], Observed]:
    """One look, judged. `latch`: the reason of a latch that is meant to be there."""
    observed = look(node, given.contract, given.namespace, seconds)
    told = observed.parameter(commands.TRAINER_NODE, "episodes_dir")
    folder = Path(told) if told and Path(told).is_dir() else Path.cwd()  # the finding names the folder that was looked at
    machine = host.read(folder, given.device or "cpu", embedded.available())
    return judge(given.contract, observed, machine, Asked(given.safety, given.device, latch)), observed
