"""Scripted demonstrator of the bimanual tasks: way points of both hands from the true scene, near minimum jerk between them.

It is open-loop, as ACT's scripted policy is: where a demonstrator's hand trembles (`noise`), the next command still leads to
the way, so that what is cloned knows how to come back (arXiv 1703.09327).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.sim.bimanual_model import GRASP, PEG_TIP, SOCKET_SEAT
from vla_ros.sim.bimanual_tasks import Scene
from vla_ros.types import Array

PITCH = math.radians(25)  # of the hands, down: steeper, the wrists get straight, where they turn over, and their cameras meet
GRIP = 0.037  # m, height of the tool when it grips; under 3.5 cm the safety filter's distance to the table stops it
OVER = 0.085  # m, the same when it misses
ABOVE = 0.11  # m, height over an object
OPEN, CLOSED = 0.05, 0.021  # m, of the gripper's joint; 5 cm leaves 13 mm on either side of a bar
# Share of constant speed in the motion between way points; the rest is minimum jerk. From rest, minimum jerk alone goes 4 mrad in
# the first 0.1 s: a policy that clones it stays at every way point for ever.
FLOW = 0.6
MIDDLE = -0.019  # m, y of both bases
MEET = 0.13  # m, height at which the hands meet
WAY = 0.09  # m, along x, from which a hand comes to what the other one holds
STEADY = 0.4  # share of the noise that is left where a pin of 16 mm has to meet a hole of 30 mm
DEEPER = 0.005  # m, that the peg is meant to go in beyond what counts


@dataclass(frozen=True)
class Manner:
    """How the demonstrator moves; drawn for each episode."""

    pace: tuple[float, float] = (0.9, 1.2)  # factor on the durations of all motions
    noise: float = 0.006  # rad, standard deviation of the executed joint commands around the meant ones
    memory: float = 0.8  # correlation of that noise from one step to the next: a hand is off for a while
    aim: float = 0.002  # m, standard deviation of where it grips, along the object
    miss: float = 0.0  # probability that the right hand first grips over the bar, and goes through the motions with nothing in it


@dataclass
class _Hand:
    """Way points of one arm: times s, and its joints [7] rad, the gripper m last."""

    times: list[float]
    rows: list[Array]

    def go(self, seconds: float, row: Array) -> float:
        """Is there `seconds` after the way point before; when."""
        self.times.append(self.times[-1] + seconds)
        self.rows.append(row)
        return self.times[-1]

    def grip(self, seconds: float, gripper: float) -> float:
        """Opens or closes at once, and stands still so long; when that is over."""
        self.go(0.0, np.append(self.rows[-1][:-1], gripper))
        return self.go(seconds, self.rows[-1])

    def wait(self, until: float) -> None:
        self.go(max(until - self.times[-1], 0.0), self.rows[-1])

    def at(self, time: float) -> Array:
        k = int(np.searchsorted(self.times, time, side="right"))
        if k == len(self.times):
            return self.rows[-1]
        s = (time - self.times[k - 1]) / (self.times[k] - self.times[k - 1])
        s = FLOW * s + (1 - FLOW) * s**3 * (10 - 15 * s + 6 * s * s)
        return self.rows[k - 1] * (1 - s) + self.rows[k] * s


class BimanualExpert:
    """Demonstrates one scene, beginning at home.

    Args:
        rng: draws pace and noise of this episode.

    Raises:
        VlaRosError: a place that an arm does not reach.
    """

    def __init__(
        self, contract: RobotContract, kinematics: Kinematics, scene: Scene, rng: np.random.Generator,
        manner: Manner | None = None,
    ) -> None:  # fmt: skip
        self.manner = manner or Manner()
        self._contract, self._kinematics, self._rng = contract, kinematics, rng
        self._pace = rng.uniform(*self.manner.pace)
        home = kinematics.home()
        self._joints = {side: np.flatnonzero([name.startswith(side) for name in contract.joints]) for side in ("left", "right")}
        self._grippers = [contract.joints.index(name) for name in contract.grippers]
        self._left, self._right = (_Hand([0.0], [home[joints]]) for joints in self._joints.values())
        self._aside = np.zeros(len(home))  # of the noise
        self._noise = self.manner.noise * (STEADY if scene.task == "insertion" else 1.0)
        self._bent = home  # where inverse kinematics begins: with the wrist bent the way that all places need
        self._bent[[contract.joints.index(f"{side}_wrist_angle") for side in self._joints]] = -0.6
        if scene.task == "transfer":
            self._transfer(**scene.objects)
        else:
            self._insertion(**scene.objects)
        self.duration = max(self._left.times[-1], self._right.times[-1])  # s

    def _at(self, side: str, x: float, y: float, z: float, gripper: float) -> Array:
        """[7] of an arm with its tool there, m."""
        q = self._kinematics.reach(self._bent, f"{side}_tool", np.array([x, y, z]), _turned(side))
        return np.append(q[self._joints[side][:-1]], gripper)

    def _pick(self, side: str, name: str, place: tuple[float, float, float], height: float = GRIP) -> None:
        """Closes the hand over an object that lies on the table."""
        x, y, yaw = place
        along = GRASP[name][side] + self._rng.normal(0, self.manner.aim)
        x, y = x + along * math.cos(yaw), y + along * math.sin(yaw)
        hand = self._left if side == "left" else self._right
        hand.go(1.4 * self._pace, self._at(side, x, y, ABOVE, OPEN))
        hand.go(0.8 * self._pace, self._at(side, x, y, height, OPEN))
        hand.grip(0.4, CLOSED)

    def _transfer(self, bar: tuple[float, float, float]) -> None:
        if self._rng.random() < self.manner.miss:
            self._pick("right", "bar", bar, OVER)
            if self._rng.random() < 0.5:
                self._hand_over()
                self._left.grip(0.3, OPEN)
                self._right.wait(self._left.go(0.8 * self._pace, self._at_meeting("left", WAY, OPEN)))
            else:
                self._right.grip(0.3, OPEN)
        self._pick("right", "bar", bar)
        self._hand_over()

    def _hand_over(self) -> None:
        left, right, pace = self._left, self._right, self._pace
        there = right.go(1.5 * pace, self._at_meeting("right", 0.0, CLOSED))
        left.go(1.4 * pace, self._at_meeting("left", WAY, OPEN))
        left.wait(there)
        left.go(0.8 * pace, self._at_meeting("left", 0.0, OPEN))
        right.wait(left.grip(0.4, CLOSED))
        right.grip(0.3, OPEN)
        left.wait(right.go(0.8 * pace, self._at_meeting("right", WAY, OPEN)))

    def _at_meeting(self, side: str, away: float, gripper: float) -> Array:
        """[7] of an arm `away` m from where it holds the bar in the middle."""
        x = GRASP["bar"][side]
        return self._at(side, x + math.copysign(away, x), MIDDLE, MEET, gripper)

    def _insertion(self, peg: tuple[float, float, float], socket: tuple[float, float, float]) -> None:
        left, right, pace = self._left, self._right, self._pace
        self._pick("right", "peg", peg)
        self._pick("left", "socket", socket)
        held = -0.09  # m, x of the left hand
        seat = held - GRASP["socket"]["left"] + SOCKET_SEAT - PEG_TIP + GRASP["peg"]["right"] - DEEPER  # m, x of the right one
        there = left.go(1.3 * pace, self._at("left", held, MIDDLE, MEET, CLOSED))
        there = max(there, right.go(1.5 * pace, self._at("right", seat + WAY, MIDDLE, MEET, CLOSED)))
        right.wait(there)
        left.wait(right.go(1.5 * pace, self._at("right", seat, MIDDLE, MEET, CLOSED)))

    def row(self, time: float) -> Array:
        """[n] rad, m: where it means the arms to be at `time` s after the start."""
        row = np.empty(len(self._aside))
        for joints, hand in zip(self._joints.values(), (self._left, self._right), strict=True):
            row[joints] = hand.at(time)
        return row

    def execute(self, row: Array) -> Array:
        """[n] rad, m: what its hands make of a row that it meant."""
        own = math.sqrt(1 - self.manner.memory**2) * self._noise
        self._aside = self.manner.memory * self._aside + self._rng.normal(0, own, len(row))
        aside = self._aside.copy()
        aside[self._grippers] = 0.0
        return np.clip(row + aside, self._contract.limits.lower, self._contract.limits.upper)


def _turned(side: str) -> Array:
    """[3, 3] axes of a tool that points to the other arm and down by PITCH."""
    c, s = math.cos(PITCH), math.sin(PITCH)
    own = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return own if side == "left" else np.diag([-1.0, -1.0, 1.0]) @ own
