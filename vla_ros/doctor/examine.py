"""All checks of one look at a graph, in the order in which faults are best mended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros.doctor import cameras, commands, endpoints, host, joints
from vla_ros.doctor.finding import Finding, failure
from vla_ros.doctor.host import Host
from vla_ros.doctor.observed import Observed
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.stop import StopSpec


@dataclass(frozen=True)
class Asked:
    """What the person who calls says of the cell.

    Attributes:
        safety: files that safety_node must have; none: those that it has.
        device: that the policy must run on; '': whatever policy_node has.
        latch: reason of a latch that is meant to be there.
    """

    safety: Sequence[str] = ()
    device: str = ""
    latch: str = ""


def examine(contract: RobotContract, observed: Observed, machine: Host, asked: Asked) -> list[Finding]:
    """Every finding, good ones as well.

    Raises:
        VlaRosError: a safety file is wrong.
    """
    limits, in_force = commands.limits_in_force(contract, observed, asked.safety)
    return [
        *host.check(machine),
        *endpoints.nodes(contract, observed, host.domain(machine)),
        *_device(observed, asked.device),
        *joints.check(contract, limits, observed),
        *cameras.check(contract, observed),
        *commands.check(contract, observed, StopSpec.load(contract), asked.latch),
        in_force,
        *endpoints.agreement(contract, observed),
        *endpoints.diagnostics(observed),
    ]


def _device(observed: Observed, device: str) -> list[Finding]:
    """Does the policy run where it was meant to?"""
    told = observed.parameter(commands.POLICY_NODE, "device")
    if not device or told in (None, device):
        return []
    fix = f"start policy_node with device:={device}"
    return [failure("policy_device", f"policy_node runs on {told}", device, fix)]
