"""Joint states of others (leader arms, an exoskeleton, a second robot) as positions of all joints of a contract.

Joints are known by their names, in any order. A leader does not lead before it is where the arm is: it is off while a joint
differs by more than `near`, on when all are near and the person begins as `begin` says, and off again when it runs further
ahead than its follower could come after, falls silent, or the person lets go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.robots.teleoperation import AHEAD
from vla_ros.types import Array, JointState

BEGIN = ("near", "grippers")
OVERSHOOT = 0.3  # rad, or share of a gripper's way: what a leader's joint may go beyond the follower's; more is another unit
METRES = 0.07  # m, that no finger goes beyond
CLOSED, OPEN = 0.15, 0.5  # share of a gripper's way


@dataclass(frozen=True)
class Grip:
    """Two points, between which a gripper goes linearly: (the device's [rad], the contract's finger [m])."""

    closed: tuple[float, ...]
    open: tuple[float, ...]

    def share(self, raw: float) -> float:
        """0 closed, 1 open."""
        return (raw - self.closed[0]) / (self.open[0] - self.closed[0])

    def finger(self, raw: float) -> float:
        """m."""
        return self.closed[1] + self.share(raw) * (self.open[1] - self.closed[1])


@dataclass(frozen=True)
class Source:
    """One joint of a device: the contract's joint that it leads, in the same unit or by a gripper's two points."""

    joint: str
    grip: Grip | None = None

    def value(self, raw: float) -> float:
        """rad or m of the contract's joint."""
        return self.grip.finger(raw) if self.grip else raw


class JointSources:
    """Times are s on the clock of the stamps.

    Args:
        path: a file in config/teleop.

    Raises:
        VlaRosError: a key unknown, missing or wrong; a joint of the contract that no topic leads, or two; a contract whose
            action is no joint position.
    """

    def __init__(self, contract: RobotContract, path: Path) -> None:
        top = load_yaml(path).check_keys("robot", "begin", "near", "timeout", "topics")
        if top.text("robot") != contract.robot:
            raise top.wrong("robot", f"'{contract.robot}' as in {contract.path}")
        if contract.action.tip_plane is not None:
            raise VlaRosError(
                f"{contract.path}: action.semantics: found {contract.action.semantics}, expected joint_position: this arm is led "
                "by its tip; use `keyboard` or `gamepad`"
            )
        self.contract, self.path = contract, path
        self._begin, self._near = top.choice("begin", BEGIN), top.number("near", 0.001, 1.0)
        self._timeout = top.number("timeout", 0.01, 2.0)
        topics = top.section("topics")
        self.topics = {t: _sources(topics.section(t), contract) for t in topics.keys()}  # noqa: SIM118 (Section is no dict)
        led = [source.joint for sources in self.topics.values() for source in sources.values()]
        if sorted(led) != sorted(contract.joints):
            missing = [joint for joint in contract.joints if joint not in led]
            found = f"'{missing[0]}' is missing" if missing else "a joint is there twice"
            raise VlaRosError(f"{path}: topics: {found}, expected each joint of {contract.path} once")
        self._grips = {s.joint: s.grip for sources in self.topics.values() for s in sources.values() if s.grip}
        if self._begin == "grippers" and not self._grips:
            raise top.wrong("begin", "near: no joint of this file has `closed` and `open`")
        self._heard: dict[str, tuple[float, dict[str, float]]] = {}  # topic -> stamp, raw values by the contract's joints
        self.seen: dict[tuple[str, str], tuple[float, float]] = {}  # (topic, the device's joint) of grippers: least, greatest
        self.leads = False
        self._let_go, self._opened = False, False
        self.state = "silent"  # why it does not lead, or that it does

    def hear(self, topic: str, joints: JointState) -> None:
        """A message of one of `topics`; velocities are not looked at.

        Raises:
            VlaRosError: a joint is missing, has no position, or one that cannot be in its unit. What was heard before stays, and
                grows old.
        """
        names, found = list(joints.names), joints.position
        if len(found) != len(names):
            raise VlaRosError(f"{topic}: found {len(found)} positions for {len(names)} names, expected one each")
        values = {}
        for theirs, source in self.topics[topic].items():
            if theirs not in names:
                raise VlaRosError(f"{topic}: found {', '.join(names) or 'no names'}; '{theirs}' is missing ({self.path})")
            raw = float(found[names.index(theirs)])
            if not math.isfinite(raw):
                raise VlaRosError(f"{topic}: '{theirs}': found {raw}, expected a finite number")
            if source.grip:
                low, high = self.seen.get((topic, theirs), (raw, raw))
                self.seen[topic, theirs] = min(low, raw), max(high, raw)
            self._check(topic, theirs, source, raw)
            values[source.joint] = raw
        self._heard[topic] = joints.stamp, values

    def _check(self, topic: str, theirs: str, source: Source, raw: float) -> None:
        if source.grip:
            if not -OVERSHOOT <= source.grip.share(raw) <= 1 + OVERSHOOT:
                low, high = sorted((source.grip.closed[0], source.grip.open[0]))
                expected = f"expected {low:g} to {high:g}, as {self.path} says"
                raise VlaRosError(
                    f"{topic}: '{theirs}', which leads '{source.joint}': found {raw:g}, {expected}: is it another joint, or in "
                    "metres where radians are due? Or calibrate: vla-ros teleop --calibrate"
                )
            return
        k = self.contract.joints.index(source.joint)
        limits, unit = self.contract.limits, "m" if self.contract.limits.prismatic[k] else "rad"
        beyond = OVERSHOOT * (limits.upper[k] - limits.lower[k] if unit == "m" else 1.0)
        if not limits.lower[k] - beyond <= raw <= limits.upper[k] + beyond:
            remedy = "give it `closed` and `open`" if unit == "m" else "are these degrees, or is it another joint?"
            raise VlaRosError(
                f"{topic}: '{theirs}', which leads '{source.joint}': found {raw:g}, expected {limits.lower[k]:g} to "
                f"{limits.upper[k]:g} {unit}; {remedy} ({self.path})"
            )

    def let_go(self) -> None:
        """The person takes the hand off; with `begin: near`, until `take`."""
        self.leads, self._let_go, self._opened = False, True, False

    def take(self) -> None:
        self._let_go = False

    def command(self, now: float, measured: Array | None) -> JointState | None:
        """Where every joint shall be, within its limits, in the contract's order; None while nobody leads, and `state` says why.

        Args:
            measured: [n] rad, m, the arm's joints; None: not known.
        """
        old = [t for t in self.topics if t not in self._heard or now - self._heard[t][0] > self._timeout]
        if old or measured is None:
            self.leads, self._opened = False, False
            self.state = f"silent: {', '.join(old)}" if old else f"silent: {self.contract.control.state_topic}"
            return None
        raw = {joint: value for _, values in self._heard.values() for joint, value in values.items()}
        of = {source.joint: source for sources in self.topics.values() for source in sources.values()}
        limits = self.contract.limits
        wanted = np.clip([of[joint].value(raw[joint]) for joint in self.contract.joints], limits.lower, limits.upper)
        self._decide(wanted, measured, [grip.share(raw[joint]) for joint, grip in self._grips.items()])
        if not self.leads:
            return None
        return JointState(min(stamp for stamp, _ in self._heard.values()), self.contract.joints, wanted, np.zeros(0))

    def _decide(self, wanted: Array, measured: Array, shares: Sequence[float]) -> None:
        """Leads from here on, or not; grippers need not be where the arm's are, they are slow and hold things."""
        arms = ~self.contract.limits.prismatic
        away = np.where(arms, abs(wanted - measured), 0.0)
        if self.leads and (ahead := away - AHEAD * self.contract.limits.velocity).max() > 0:
            self.leads, self._opened = False, False
            self.state = f"lost: {self._told([int(ahead.argmax())], wanted, measured)}; bring the leader back to the arm"
            return
        if self.leads:
            self.state = "leads"
            return
        self._opened = self._opened or (bool(shares) and min(shares) > OPEN)
        if (far := np.flatnonzero(away > self._near)).size:
            far = far[np.argsort(-away[far])][:3]
            self.state = f"apart: {self._told(far.tolist(), wanted, measured)}"
        elif self._begin == "grippers" and self._in_metres():
            ranges = ", ".join(f"{low:.3f} to {high:.3f}" for low, high in self.seen.values())
            self.state = f"units: the grippers were only seen at {ranges}: are these metres, where {self.path} expects radians?"
        elif self._begin == "grippers" and not (self._opened and max(shares) < CLOSED):
            self.state = f"near: {'' if self._opened else 'open, then '}close the grippers to begin"
        elif self._begin == "near" and self._let_go:
            self.state = "let go"
        else:
            self.leads, self._let_go, self.state = True, False, "leads"

    def _in_metres(self) -> bool:
        """What has been seen of the grippers could be their fingers' metres, and the radians that are expected are far more."""
        large = max(abs(end[0]) for grip in self._grips.values() for end in (grip.closed, grip.open))
        return large > 4 * METRES and all(low >= 0.0 and high <= METRES for low, high in self.seen.values())

    def _told(self, at: Sequence[int], wanted: Array, measured: Array) -> str:
        joints = self.contract.joints
        return ", ".join(f"'{joints[k]}' leader {wanted[k]:.2f}, arm {measured[k]:.2f} rad" for k in at)

    def calibration(self) -> str:
        """What the grippers have been seen to do, as lines for the file."""
        lines = []
        for (topic, theirs), (low, high) in self.seen.items():
            source = self.topics[topic][theirs]
            assert source.grip  # only these are kept
            closed, opened = source.grip.closed, source.grip.open
            ends = (low, high) if closed[0] < opened[0] else (high, low)
            points = f"closed: [{ends[0]:.4f}, {closed[1]:g}], open: [{ends[1]:.4f}, {opened[1]:g}]"
            lines.append(f"{topic}: {theirs}: {{joint: {source.joint}, {points}}}")
        return "\n".join(lines) or "no gripper was heard"


def _sources(section: Section, contract: RobotContract) -> dict[str, Source]:
    sources = {}
    for theirs in section.keys():  # noqa: SIM118
        grip, where, key = None, section, theirs
        if isinstance(section.raw(theirs), dict):
            where, key = section.section(theirs).check_keys("joint", "closed", "open"), "joint"
            grip = Grip(where.numbers("closed", 2), where.numbers("open", 2))
            if grip.closed[0] == grip.open[0] or grip.closed[1] >= grip.open[1]:
                raise where.wrong("open", f"another place, and a finger further out than closed ({grip.closed[1]:g} m)")
        joint = where.text(key)
        if joint not in contract.joints:
            raise where.wrong(key, f"a joint of {contract.path}: {', '.join(contract.joints)}")
        if grip and joint not in contract.grippers:
            raise where.wrong(key, f"a gripper (prismatic joint) of {contract.path}: {', '.join(contract.grippers)}")
        sources[theirs] = Source(joint, grip)
    return sources
