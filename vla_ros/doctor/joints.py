"""Joint states against the contract's joints and the URDF's limits."""

from __future__ import annotations

import math

import numpy as np

from vla_ros.doctor import timing
from vla_ros.doctor.finding import Finding, failure, ok, warning
from vla_ros.doctor.observed import Observed
from vla_ros.robots.contract import LARGEST_ANGLE, RobotContract
from vla_ros.safety.limits import Limits
from vla_ros.types import Array, JointState

BEYOND = 0.02  # of a joint's range that a sound arm may read outside it: zero offsets, a gripper on its stop
SMALL = 0.2  # m; no finger goes further
DRIVER = "start the arm's driver (ros2_control: joint_state_broadcaster)"


def check(contract: RobotContract, limits: Limits, observed: Observed) -> list[Finding]:
    """Presence, rate, stamps, names, order, units and velocities."""
    topic = observed.name(contract.control.state_topic)
    joints = observed.joints
    publishers = sorted(endpoint.node for endpoint in observed.publishers.get(topic, ()))
    if not joints.samples:
        who = f"published by {', '.join(publishers)}, but none came" if publishers else "nobody publishes it"
        fix = f"{DRIVER}; `vla-ros topic info {topic} -v` tells who is there"
        return [failure("joint_states", f"{topic}: {who}", f"sensor_msgs/JointState at {contract.control.rate:g} Hz", fix)]
    last = joints.samples[-1]
    slow = "raise the driver's rate (ros2_control: update_rate, joint_state_broadcaster), or relieve the machine"
    findings = [
        ok("joint_states", f"{topic}: {len(joints.samples)} in {observed.seconds:.1f} s"),
        timing.rate("joint_rate", topic, joints.timing, observed, contract.control.rate, slow),
        timing.stamps("joint_stamps", topic, joints.timing, observed, limits.state_age, "state_age of the safety file"),
    ]
    if len(publishers) > 1:
        fix = "end all but the arm's driver, or merge them into one message (joint_state_publisher: source_list)"
        findings.append(failure("joint_publisher", f"{topic}: {', '.join(publishers)}", "one: every message has all joints", fix))
    poorest = min(joints.samples, key=lambda sample: len(set(contract.joints) & set(sample.names)))
    missing = [name for name in contract.joints if name not in poorest.names]
    if missing or len(last.position) != len(last.names):
        return [*findings, _names(contract, topic, poorest if missing else last, missing)]
    order = [last.names.index(name) for name in contract.joints]
    return [
        *findings,
        ok("joint_names", f"all {len(order)} of the contract"),
        _order(contract, topic, observed, last),
        *_values(contract, topic, joints.samples, order),
        _velocity(topic, last),
    ]


def _names(contract: RobotContract, topic: str, last: JointState, missing: list[str]) -> Finding:
    if not missing:
        found = f"{topic}: {len(last.position)} positions for {len(last.names)} names"
        return failure("joint_names", found, "one each", "correct the driver")
    names = ", ".join(last.names) or "no names"
    fix = f"name the driver's joints as {contract.path.name} does (its `joints`), or correct the contract and the URDF"
    return failure("joint_names", f"{topic}: {', '.join(missing)} missing; found {names}", ", ".join(contract.joints), fix)


def _order(contract: RobotContract, topic: str, observed: Observed, last: JointState) -> Finding:
    """Joint states are taken by name everywhere, so their order is free. Commands carry no names: what takes them must have the
    contract's order, which a ros2_control controller tells in its parameter `joints`."""
    controller = observed.name(contract.control.command_topic.lstrip("/").split("/")[0])
    told = observed.parameter(contract.control.command_topic.lstrip("/").split("/")[0], "joints")
    expected = f"commands in the contract's order: {', '.join(contract.joints)}"
    if told is not None:
        if tuple(told) == contract.joints:
            return ok("joint_order", f"{controller} takes commands in the contract's order", expected)
        fix = f"give {controller} the parameter joints: [{', '.join(contract.joints)}]; commands carry no names"
        return failure("joint_order", f"{controller}: joints: {', '.join(told)}", expected, fix)
    arm = tuple(name for name in last.names if name in contract.joints)
    if arm == contract.joints:
        return ok("joint_order", f"{topic}: the contract's order", expected)
    fix = (
        f"harmless for the joint states, which are read by name; but make sure that whatever takes "
        f"{contract.control.command_topic} has the contract's order, for commands carry no names"
    )
    return warning("joint_order", f"{topic}: another order: {', '.join(arm)}", expected, fix)


def _values(contract: RobotContract, topic: str, samples: tuple[JointState, ...], order: list[int]) -> list[Finding]:
    """One finding for each joint that cannot be where it says it is."""
    wrong = []
    sound = [s for s in samples if len(s.position) == len(samples[-1].names) and s.names == samples[-1].names]
    positions: Array = np.array([sample.position[order] for sample in sound])  # [n, joints] rad, m
    bounds = contract.limits
    for j, name in enumerate(contract.joints):
        column, low, high = positions[:, j], float(bounds.lower[j]), float(bounds.upper[j])
        unit = "m" if bounds.prismatic[j] else "rad"
        if not np.isfinite(column).all():
            found = f"{topic}: {name} is not finite in {int((~np.isfinite(column)).sum())} of {len(column)} messages"
            wrong.append(failure(f"joint_value:{name}", found, f"a number [{unit}]", "correct the driver; the filter refuses it"))
            continue
        slack = BEYOND * (high - low)
        worst = float(column[np.argmax(np.maximum(low - column, column - high))])
        if not low - slack <= worst <= high + slack:
            found = f"{topic}: {name} at {worst:.4g}"
            expected = f"{low:.4g} .. {high:.4g} {unit} ({contract.urdf.name})"
            wrong.append(failure(f"joint_value:{name}", found, expected, _remedy(worst, low, high, bool(bounds.prismatic[j]))))
    return wrong or [ok("joint_values", f"all inside the limits of {contract.urdf.name}")]


def _remedy(value: float, low: float, high: float, prismatic: bool) -> str:
    """Which unit the driver probably uses, and what to do."""
    if prismatic and low <= value / 1000.0 <= high:
        return "these are millimetres: have the driver publish metres"
    if prismatic and abs(value) <= LARGEST_ANGLE:
        return (
            "these are radians of the gripper's motor, or a share 0..1, where metres are due: publish the finger's travel "
            "(Interbotix: the joint left_finger in place of gripper)"
        )
    if not prismatic and 0.0 <= value < min(SMALL, low):  # a gripper's angles that are all above it
        return "these are metres where radians are due: publish the joint's angle, or make it prismatic in the URDF"
    if not prismatic and low <= math.radians(value) <= high:
        return "these are degrees: have the driver publish radians"
    return "calibrate the joint's zero, and compare the URDF's <limit> with the data sheet"


def _velocity(topic: str, last: JointState) -> Finding:
    """StateCheck refuses a state without velocities; convert.joint_state makes them NaN."""
    if len(last.velocity) == len(last.names) and np.isfinite(last.velocity).all():
        return ok("joint_velocity", "present")
    found = "none" if not np.isfinite(last.velocity).any() else f"{len(last.velocity)} for {len(last.names)} names, or not finite"
    fix = "have the driver publish velocities (ros2_control: state_interfaces position, velocity); the filter needs them"
    return failure("joint_velocity", f"{topic}: {found}", "one per joint [rad/s]", fix)
