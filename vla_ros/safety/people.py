"""Speed and separation monitoring: how fast the arm may move with a person this near.

The protective separation distance is ISO/TS 15066:2016, equation (1), with a constant deceleration a of the robot:

    S(v_r) = v_h (T_r + T_s) + v_r T_r + v_r² / 2a + C + Z        T_s = v_r / a

v_h, v_r: speeds of person and end effector towards each other; T_r: from the person's move to the first braking command;
T_s: stopping time; C: reach that the sensor does not see; Z = Z_d + Z_r: uncertainties of both positions. Solved for v_r it
gives the speed that a measured distance allows; the cap of the path speed is that speed's share of `robot_speed`.

Times are seconds on the clock of the measurements' stamps. Not thread-safe; called from safety_node's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt

from vla_ros.robots.strict import Section

NEAR, STALE, INVALID = "people:near", "people:stale", "people:invalid"
REASONS = (NEAR, STALE, INVALID)
KEYS = (
    "required", "human_speed", "robot_speed", "max_age", "response", "deceleration", "intrusion", "uncertainty",
    "resume_margin", "dwell", "rise",
)  # fmt: skip


@dataclass(frozen=True)
class Separation:
    """Section `people` of config/safety/<robot>.yaml, and the formula."""

    required: bool  # no motion before the first distance; without it, the first one switches the monitoring on
    human_speed: float  # m/s, v_h; ISO 13855 says 1.6 for walking, 2.0 for reaching closer than 0.5 m
    robot_speed: float  # m/s, of the end effector at cap 1
    max_age: float  # s, of a distance; an older one stops
    response: float  # s, from a message to the first braking command at the drives
    deceleration: float  # m/s², a: the least that the end effector brakes with
    intrusion: float  # m, C
    uncertainty: float  # m, Z
    resume_margin: float  # m beyond S(0) before a stopped arm goes on
    dwell: float  # s that this distance must last
    rise: float  # 1/s, how fast the cap grows; it falls at once

    @classmethod
    def from_section(cls, section: Section) -> Separation:
        """
        Raises:
            VlaRosError: key unknown, missing, or out of range.
        """
        section.check_keys(*KEYS)
        return cls(
            required=section.choice("required", ("always", "when_heard")) == "always",
            human_speed=section.number("human_speed", 0.1, 10.0),
            robot_speed=section.number("robot_speed", 0.01, 10.0),
            max_age=section.number("max_age", 0.001, 2.0),
            response=section.number("response", 0.0, 2.0),
            deceleration=section.number("deceleration", 0.1, 100.0),
            intrusion=section.number("intrusion", 0.0, 2.0),
            uncertainty=section.number("uncertainty", 0.0, 2.0),
            resume_margin=section.number("resume_margin", 0.0, 5.0),
            dwell=section.number("dwell", 0.0, 60.0),
            rise=section.number("rise", 0.01, 100.0),
        )

    @property
    def reaction(self) -> float:
        """T_r [s]; the age is part of it, so that the formula holds for the oldest distance that is used."""
        return self.max_age + self.response

    def required_distance(self, speed: float) -> float:
        """S [m] for an end effector at `speed` [m/s]."""
        stopping = speed / self.deceleration
        return (
            self.human_speed * (self.reaction + stopping)
            + speed * self.reaction
            + 0.5 * speed * stopping
            + self.intrusion
            + self.uncertainty
        )

    def allowed_speed(self, distance: float) -> float:
        """Largest speed [m/s] with S(speed) <= distance, at most robot_speed; 0 if there is none."""
        room = distance - self.required_distance(0.0)
        if not room > 0.0:
            return 0.0
        a = self.deceleration
        linear = self.human_speed + self.reaction * a  # v² / 2 + linear v = a room
        # 2 a room / (...) and not the difference of two near numbers; a hair less, so that rounding stays below S
        speed = 2.0 * a * room / (linear + sqrt(linear * linear + 2.0 * a * room)) * (1.0 - 1e-12)
        return min(speed, self.robot_speed)


class PeopleGuard:
    """Follows the measured distances.

    Attributes:
        cap: bound of the path speed, 0..1.
        reason: why it is below 1: `people:near`, `people:stale`, `people:invalid`, or ''.
        distance: m, the last valid one; infinite before.
    """

    def __init__(self, separation: Separation) -> None:
        self.separation = separation
        self.distance = float("inf")
        self._active = separation.required
        self.cap, self.reason = (0.0, STALE) if self._active else (1.0, "")
        self._stopped = self._active
        self._invalid = False
        self._stamp = -float("inf")  # of the newest distance
        self._clear_since: float | None = None
        self._time: float | None = None  # of the last update

    @property
    def speed(self) -> float | None:
        """m/s that the end effector may have now; None without monitoring."""
        return self.cap * self.separation.robot_speed if self._active else None

    def measured(self, distance: float, stamp: float, now: float) -> None:
        """A distance [m] to the nearest person, taken at `stamp` [s]; one older than the last one is ignored."""
        first, self._active = not self._active, True
        if stamp < self._stamp <= now + self.separation.response:
            return
        self._stamp = stamp
        self._invalid = not (isfinite(distance) and distance >= 0.0)
        if not self._invalid:
            self.distance = distance
        if first and not self._invalid and self.separation.allowed_speed(distance) > 0.0:
            self.cap = self.separation.allowed_speed(distance) / self.separation.robot_speed
        self.update(now)

    def update(self, now: float) -> None:
        """Every control tick: what was measured gets old, and a stop ends when its time is over."""
        if not self._active:
            return
        elapsed = max(0.0, now - self._time) if self._time is not None else 0.0
        self._time = now
        allowed, reason = self._allowed(now)
        if allowed <= 0.0:
            self._stopped, self._clear_since = True, None
        elif self._stopped and not self._cleared(now):
            allowed, reason = 0.0, NEAR
        self.cap = max(0.0, min(allowed, self.cap + self.separation.rise * elapsed))
        self.reason = reason or (NEAR if self.cap < 1.0 else "")

    def _allowed(self, now: float) -> tuple[float, str]:
        if not -self.separation.response <= now - self._stamp <= self.separation.max_age:
            return 0.0, STALE
        if self._invalid:
            return 0.0, INVALID
        return self.separation.allowed_speed(self.distance) / self.separation.robot_speed, ""

    def _cleared(self, now: float) -> bool:
        """Whether the person has been far enough for long enough."""
        settings = self.separation
        if self.distance < settings.required_distance(0.0) + settings.resume_margin:
            self._clear_since = None
            return False
        if self._clear_since is None or now < self._clear_since:
            self._clear_since = now
        if now - self._clear_since < settings.dwell:
            return False
        self._stopped = False
        return True
