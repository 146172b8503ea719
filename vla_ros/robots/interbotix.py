"""Interbotix's X-series drivers (interbotix_xs_sdk) and a contract: which joint is which, and the gripper's metres and radians.

A driver takes the positions of a joint group in the group's own order, and of the gripper's motor alone [rad]. It tells where the
fingers are [m].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros import paths
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.types import Array

ARM_MODES = ("position",)
GRIPPER_MODES = ("current_based_position", "position")  # in which its motor takes rad
METRES = "linear_position"  # in which it takes m


@dataclass(frozen=True)
class Gripper:
    """Fingers on a motor; `closed` and `open` are finger [m] and motor [rad], between which both go linearly."""

    joint: str  # of the contract, m
    motor: str
    finger: str
    closed: tuple[float, ...]
    open: tuple[float, ...]

    def motor_angle(self, finger: float) -> float:
        """rad of the motor for a finger at `finger` m."""
        share = (finger - self.closed[0]) / (self.open[0] - self.closed[0])
        return float(self.closed[1] + share * (self.open[1] - self.closed[1]))


@dataclass(frozen=True)
class Arm:
    """One driver; `joints` are the driver's names: the contract's, in the order of the group."""

    name: str
    group: str
    joints: Mapping[str, str]
    gripper: Gripper

    def objection(self, joints: Sequence[str], mode: str, gripper_mode: str) -> str:
        """'' where the driver's answers (interbotix_xs_msgs/srv/RobotInfo) fit, else what is wrong and what to do."""
        if list(joints) != list(self.joints):
            return (
                f"/{self.name}: group '{self.group}': found joints {', '.join(joints) or 'none'}, expected "
                f"{', '.join(self.joints)} in this order; correct `groups` in the driver's motor_configs, or `joints` in "
                "config/drivers"
            )
        if mode not in ARM_MODES:
            return (
                f"/{self.name}: group '{self.group}': found operating mode '{mode}', expected position: commands are rad; "
                "correct the driver's mode_configs"
            )
        if gripper_mode not in GRIPPER_MODES:
            takes = "metres, where it is sent radians" if gripper_mode == METRES else "no positions in radians"
            return (
                f"/{self.name}: '{self.gripper.motor}': found operating mode '{gripper_mode}', which takes {takes}; expected "
                f"{' or '.join(GRIPPER_MODES)}; correct the driver's mode_configs (config/drivers/aloha_modes_left.yaml)"
            )
        return ""


@dataclass(frozen=True)
class Interbotix:
    """The drivers of one robot."""

    joints: tuple[str, ...]  # the contract's
    arms: tuple[Arm, ...]

    @classmethod
    def load(cls, contract: RobotContract, path: str | Path = "") -> Interbotix:
        """From config/drivers/<robot>.yaml, or a file.

        Raises:
            VlaRosError: a key unknown, missing or of the wrong type; a joint of the contract missing, twice, or with the wrong
                unit.
        """
        file = paths.resolve(path) if path else paths.share() / "config" / "drivers" / f"{contract.robot}.yaml"
        top = load_yaml(file).check_keys("robot", "arms")
        if top.text("robot") != contract.robot:
            raise top.wrong("robot", f"'{contract.robot}' as in {contract.path}")
        section = top.section("arms")
        arms = tuple(_arm(section.section(name), name, contract) for name in section.keys())  # noqa: SIM118 (Section is no dict)
        used = [joint for arm in arms for joint in (*arm.joints.values(), arm.gripper.joint)]
        if sorted(used) != sorted(contract.joints):
            missing = [joint for joint in contract.joints if joint not in used]
            found = f"'{missing[0]}' is missing" if missing else "a joint is there twice"
            raise VlaRosError(f"{file}: arms: {found}, expected each joint of {contract.path} once")
        return cls(contract.joints, arms)

    def split(self, command: Array) -> list[tuple[Arm, Array, float]]:
        """For each driver: positions [k] rad of its group, and rad of its gripper's motor. `command` [n] rad, m."""
        at = dict(zip(self.joints, command, strict=True))
        return [
            (arm, np.array([at[joint] for joint in arm.joints.values()]), arm.gripper.motor_angle(float(at[arm.gripper.joint])))
            for arm in self.arms
        ]

    def merge(self, states: Mapping[str, tuple[Sequence[str], Array, Array]]) -> tuple[Array, Array]:
        """Position [n] rad, m and velocity [n] in the contract's order, of the drivers' joint states: names, positions,
        velocities by arm, in any order.

        Raises:
            VlaRosError: a joint is missing, or numbers and names do not match.
        """
        position, velocity = {}, {}
        for arm in self.arms:
            names, q, v = states[arm.name]
            if not len(names) == len(q) == len(v):
                found = f"{len(q)} positions and {len(v)} velocities for {len(names)} names"
                raise VlaRosError(f"/{arm.name}/joint_states: found {found}, expected one each")
            for theirs, ours in {**arm.joints, arm.gripper.finger: arm.gripper.joint}.items():
                if theirs not in names:
                    raise VlaRosError(f"/{arm.name}/joint_states: found {', '.join(names) or 'no joints'}; '{theirs}' is missing")
                k = list(names).index(theirs)
                position[ours], velocity[ours] = float(q[k]), float(v[k])
        return np.array([position[j] for j in self.joints]), np.array([velocity[j] for j in self.joints])


def _arm(section: Section, name: str, contract: RobotContract) -> Arm:
    section.check_keys("group", "joints", "gripper")
    prismatic = dict(zip(contract.joints, contract.limits.prismatic, strict=True))
    pairs = section.section("joints")
    joints = {theirs: pairs.text(theirs) for theirs in pairs.keys()}  # noqa: SIM118
    for theirs, ours in joints.items():
        if ours not in prismatic:
            raise pairs.wrong(theirs, f"a joint of {contract.path}")
        if prismatic[ours]:
            raise pairs.wrong(theirs, f"a joint in rad: '{ours}' is one in m ({contract.urdf.name}) and belongs under `gripper`")
    entry = section.section("gripper").check_keys("joint", "motor", "finger", "closed", "open")
    gripper = Gripper(
        entry.text("joint"), entry.text("motor"), entry.text("finger"), entry.numbers("closed", 2), entry.numbers("open", 2)
    )
    if not prismatic.get(gripper.joint, False):
        raise entry.wrong("joint", f"a joint in m (prismatic) of {contract.path}")
    k = contract.joints.index(gripper.joint)
    for key, (finger, _) in (("closed", gripper.closed), ("open", gripper.open)):
        if not 0.0 <= finger <= 2 * contract.limits.upper[k]:
            raise entry.wrong(key, f"[finger m, motor rad], with the finger within 0..{2 * contract.limits.upper[k]:g} m")
    if not gripper.closed[0] < gripper.open[0]:
        raise entry.wrong("open", f"a finger further out than closed ({gripper.closed[0]:g} m)")
    return Arm(name, section.text("group"), joints, gripper)
