"""Who is there, and do publishers and subscriptions understand each other?"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import yaml

from vla_ros.doctor.finding import Finding, Level, failure, ok, warning
from vla_ros.doctor.observed import Endpoint, Observed
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract

NEEDED = ("safety_node", "camera_node", "policy_node")  # without them nothing moves; the others record, judge and learn


@functools.cache
def expected_nodes() -> tuple[str, ...]:
    """Names of the nodes that the launch files start beside the arm's drivers."""
    file = share() / "launch" / "include" / "nodes.launch.yaml"
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))["launch"]
    return tuple(str(entry["node"]["exec"]) for entry in entries if "node" in entry)


def nodes(contract: RobotContract, observed: Observed, domain: str) -> list[Finding]:
    """The package's own nodes; and the robot that each of them was told."""
    findings = []
    start = f"vla-ros launch hardware robot:={contract.robot} policy:=DIR judge:=DIR"
    if not observed.nodes:
        fix = f"start it (`{start}`), or set ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE as the graph has them"
        findings.append(failure("graph", f"no node at all in {domain}", "a running graph", fix))
    for name in expected_nodes():
        full = observed.name(name)
        if full not in observed.nodes:
            level = Level.FAILURE if name in NEEDED else Level.WARNING
            fix = f"`{start}` starts all, `vla-ros exec {name}` this one; its output tells why it has ended"
            findings.append(Finding(name, level, f"{full} is not in the graph", "running", fix))
        elif (robot := observed.parameter(name, "robot")) is not None and not _same(robot, contract):
            fix = f"start it with robot:={contract.robot}, or the doctor with robot:={robot}"
            findings.append(failure(name, f"{full}: robot is {robot}", str(contract.path), fix))
        else:
            findings.append(ok(name, "running"))
    return findings


def _same(robot: str, contract: RobotContract) -> bool:
    if not robot.endswith((".yaml", ".yml")):
        return robot in RobotContract.known() and RobotContract.load(robot).path == contract.path
    return robot.rpartition("/")[2] == contract.path.name  # on another machine it may lie elsewhere


def agreement(contract: RobotContract, observed: Observed) -> list[Finding]:
    """One type per topic, and no publisher that offers less than a subscription asks for."""
    wrong = [_types(topic, types) for topic, types in sorted(observed.types.items()) if len(types) > 1]
    cell = {observed.name(name) for name in expected_nodes()}
    ours = {observed.name(topic) for topic in _topics(contract)}
    for topic, offered in sorted(observed.publishers.items()):
        for publisher in offered:
            for subscription in observed.subscriptions.get(topic, ()):
                if misfits := mismatch(publisher, subscription):
                    counts = topic in ours or not cell.isdisjoint((publisher.node, subscription.node))
                    wrong.append(_qos(topic, publisher, subscription, misfits, counts))
    return wrong or [ok("qos", f"{len(observed.publishers)} topics agree in type and QoS")]


def _topics(contract: RobotContract) -> list[str]:
    cameras = [topic for camera in contract.cameras.values() for topic in (camera.topic, camera.info)]
    return [contract.control.state_topic, contract.control.command_topic, *cameras]


def _types(topic: str, types: Sequence[str]) -> Finding:
    fix = f"`vla-ros topic info {topic} -v` tells who has which; remap or rebuild the odd one"
    return failure("types", f"{topic}: {', '.join(types)}", "one type", fix)


def mismatch(publisher: Endpoint, subscription: Endpoint) -> list[str]:
    """What the publisher offers less of than the subscription asks for; DDS then passes no message between them."""
    found = []
    if subscription.reliable and not publisher.reliable:
        found.append("reliability: best effort offered, reliable asked for")
    if subscription.kept and not publisher.kept:
        found.append("durability: volatile offered, transient local asked for")
    if subscription.deadline < publisher.deadline:
        found.append(f"deadline: {publisher.deadline:g} s offered, {subscription.deadline:g} s asked for")
    if subscription.lease < publisher.lease:
        found.append(f"liveliness lease: {publisher.lease:g} s offered, {subscription.lease:g} s asked for")
    if subscription.manual and not publisher.manual:
        found.append("liveliness: automatic offered, manual by topic asked for")
    return found


def _qos(topic: str, publisher: Endpoint, subscription: Endpoint, misfits: list[str], counts: bool) -> Finding:
    found = f"{topic}: {publisher.node} to {subscription.node}: {'; '.join(misfits)}"
    fix = f"have {publisher.node} offer it, or {subscription.node} ask for less (parameters reliable, state_deadline of ours)"
    return (failure if counts else warning)("qos", found, "compatible QoS: no message passes otherwise", fix)


def diagnostics(observed: Observed) -> list[Finding]:
    """What the nodes say of themselves, less what the checks of the safety state say better."""
    findings = []
    for name, status in sorted(observed.status.items()):
        said = [part for part in status.message.split("; ") if not (name == "safety" and part.startswith(("LATCHED", "BRAKE")))]
        if status.level and said:
            level = Level.WARNING if status.level == 1 else Level.FAILURE
            fix = "as the message says; `vla-ros topic echo /diagnostics` shows all its figures"
            findings.append(Finding(f"diagnostics:{name}", level, "; ".join(said), "ok", fix))
    heard = ", ".join(sorted(observed.status)) or "none"
    return findings or [ok("diagnostics", f"nothing to report by: {heard}")]
