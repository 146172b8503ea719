"""The arm as one body: what a stop of all joints would touch, which torques it needs, how fast its tips are.

Each command is checked together with the stop from it (laws.stop of every joint), over the whole way to standstill.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
import pinocchio as pin
from numba import float64, int64
from numba.types import Tuple

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import reduced_model
from vla_ros.safety import laws
from vla_ros.safety.compiled import compiled
from vla_ros.safety.distances import Distances
from vla_ros.safety.limits import Limits
from vla_ros.types import Array, Obstacle

ROUNDING = 1e-9
RESERVE = 1.02  # of torque


class Verdict(NamedTuple):
    """What a stop was found to do. `refused` is the constraint "kind:name" that it breaks, '' if none."""

    refused: str
    clearance: float  # m, least of the poses looked at
    nearest: str
    torque_share: float
    tip_speed: float  # m/s, before the stop begins


class Arm:
    """Geometry and dynamics of the arm. Not thread-safe (pinocchio's work space).

    Raises:
        VlaRosError: a frame that the URDF does not have, or a payload that the arm cannot hold.
    """

    def __init__(self, contract: RobotContract, limits: Limits) -> None:
        self._limits = limits
        self._contract = contract
        self.model, shapes = reduced_model(contract)
        self._boxes = [(name, self._frame(name, "workspace"), box) for name, box in limits.workspace.items()]
        self._tips = [self._frame(name, "tip") for name in contract.tips]
        self._carry()
        self.friction: Array = np.array(abs(self.model.friction))  # [n] N m, Coulomb friction (the URDF's)
        self._damping = np.array(self.model.damping)
        self._torque = np.array(limits.torque)
        self.data = self.model.createData()
        self.distances = Distances(contract, limits, self.model, shapes)
        self.tip_limit = limits.tip_speed
        self.most_torque = 1.0  # share of the limit, that the running motion must keep
        self._outside = 0.0  # m, likewise of the boxes
        self._rest: Array | None = None  # pose of the last verdict at standstill
        self._new_world = True
        self._resting = Verdict("", inf, "", 0.0, 0.0)
        self._acceleration, self._jerk = laws.guarded(limits.acceleration), laws.guarded(limits.jerk)
        self._none = np.zeros(self.model.nv)
        self._check_payload()

    def _frame(self, name: str, what: str) -> int:
        if not self.model.existFrame(name):
            known = ", ".join(frame.name for frame in self.model.frames)
            source, urdf = self._limits.source, self._contract.urdf
            raise VlaRosError(f"{source}: {what}: frame '{name}' is not in {urdf}; frames: {known}")
        return int(self.model.getFrameId(name))

    def _carry(self) -> None:
        load = self._limits.payload
        if load is None:
            return
        frame = self.model.frames[self._frame(load.frame, "payload.frame")]
        inertia = pin.Inertia(load.mass, np.array(load.centre), np.zeros((3, 3)))
        self.model.appendBodyToJoint(frame.parentJoint, inertia, frame.placement)

    def _check_payload(self) -> None:
        posture = np.array(self._contract.posture)
        holding = abs(pin.computeGeneralizedGravity(self.model, self.data, posture))
        worst = int(np.argmax(holding / self._torque))
        if holding[worst] > self._torque[worst]:
            load = self._limits.payload
            raise VlaRosError(
                f"{self._limits.source}: payload.mass: found {load.mass if load else 0.0:g} kg, which needs "
                f"{holding[worst]:.4g} N m of {self._limits.joints[worst]} to hold the posture in {self._contract.path}; "
                f"expected at most {self._torque[worst]:.4g} N m"
            )

    def set_world(self, obstacles: Sequence[Obstacle]) -> None:
        """Replaces the obstacles that move; walls and obstacles of the safety files stay."""
        self.distances.set_world(obstacles)
        self._rest, self._new_world = None, True

    def depth(self, q: Array) -> tuple[float, str]:
        """How far [m] the worst frame is outside its box at `q` [n] rad, and its name."""
        if not self._boxes:
            return 0.0, ""
        pin.forwardKinematics(self.model, self.data, q)
        worst, where = 0.0, ""
        for name, frame, (x, y, z) in self._boxes:
            px, py, pz = pin.updateFramePlacement(self.model, self.data, frame).translation.tolist()
            depth = max(x[0] - px, px - x[1], y[0] - py, py - y[1], z[0] - pz, pz - z[1])
            if depth > worst:
                worst, where = depth, name
        return worst, where

    def tip_speed(self) -> float:
        """Speed [m/s] of the fastest tip in the state that torques() or move() were last asked about."""
        fastest = 0.0
        for tip in self._tips:
            x, y, z = pin.getFrameVelocity(self.model, self.data, tip, pin.LOCAL).linear.tolist()
            fastest = max(fastest, x * x + y * y + z * z)
        return sqrt(fastest)

    def move(self, q: Array, v: Array) -> None:
        """Takes the arm to `q` [n] rad and `v` [n] rad/s (forward kinematics)."""
        pin.forwardKinematics(self.model, self.data, q, v)

    def torques(self, q: Array, v: Array, a: Array) -> Array:
        """Inverse dynamics [n] N m of one state [n] (Featherstone 2008, ch. 5.3), without friction."""
        return pin.rnea(self.model, self.data, q, v, a)

    def torque_share(self, q: Array, v: Array, a: Array) -> tuple[float, int]:
        """Largest |torque| of a state [n], friction against the motors added, over its limit, and its joint."""
        load = pin.rnea(self.model, self.data, q, v, a)
        return _largest(load, v, self.friction, self._damping, self._torque)

    def _stop_torque(self, states: Array, plans: Array, time: float) -> tuple[float, int, float]:
        """Largest share over a stop that takes `time` [s], where it can matter, else that of the present; its joint; and
        the speed [m/s] of the fastest tip at present.

        While the stop lasts, each joint's acceleration stays between its present one, zero and the peak of its own stop.
        What the mass matrix makes of the worst of these bounds the torque; only where that is too much, the moments are
        looked at at which a joint begins or ends to brake hardest. RESERVE covers how the pose changes meanwhile.
        """
        q, v, _ = states
        pin.crba(self.model, self.data, q)
        bias = pin.rnea(self.model, self.data, q, v, self._none)
        speed = self.tip_speed()
        bound, present, joint = _bound(self.data.M.T, bias, states, plans, self.friction, self._damping, self._torque)
        if bound * RESERVE <= self.most_torque:
            return present, joint, speed
        _, first, hold, _ = plans
        share, joint = 0.0, 0
        for moment in (0.0, *np.unique(np.append(first + hold, (first.max(), time))).tolist()):
            other, where = self.torque_share(*laws.during(states, plans, moment))
            if other > share:
                share, joint = other, where
            if share * RESERVE > self.most_torque:
                break  # refused, whatever comes
        return share * RESERVE, joint, speed

    def settle(self, q: Array, anew: bool = True) -> Verdict:
        """The arm stands at `q` [n] rad: where that is beyond a limit already, motions that do not lead further are let
        go on. Not `anew`, after a stop of our own, it can be so only by the estimate in distances.py, unless the world
        has changed meanwhile."""
        clearance, nearest = self.distances.settle(q, anew or self._new_world)
        self._new_world, self._rest = False, None
        share = self.torque_share(q, self._none, self._none)[0]
        if anew:
            self._outside = self.depth(q)[0]
            self.most_torque = max(1.0, share + ROUNDING)
        return Verdict("", clearance, nearest, share, 0.0)

    def check(self, states: Array, tip_speed: float) -> Verdict:
        """Judges a command and the stop from it.

        Args:
            states: [3, n] rad, rad/s, rad/s², at the command.
            tip_speed: m/s of the command before; a speed above the limit is let go on if it falls.
        """
        q = states[0]
        moving = bool(states[1:].any())
        if not moving and self._rest is not None and (self._rest == q).all():
            return self._resting
        plans, time, turns = laws.stops(states, self._acceleration, self._jerk)
        if moving:
            share, joint, speed = self._stop_torque(states, plans, time)
        else:
            (share, joint), speed = self.torque_share(*states), 0.0
        refused, clearance, nearest, outside = "", inf, "", self._outside
        if speed > self.tip_limit and speed >= tip_speed:
            refused = "tip_speed"
        elif moving and share > self.most_torque:
            refused = f"torque:{self._limits.joints[joint]}"
        else:
            last = laws.during(states, plans, time)[0]
            outside, where = self.depth(last)
            kept, clearance, nearest = self.distances.look(
                lambda moment: laws.during(states, plans, moment)[0], time, q, last, turns
            )
            if outside > self._outside + ROUNDING:
                refused = f"workspace:{where}"
            elif not kept:
                refused = f"clearance:{nearest}"
        verdict = Verdict(refused, clearance, nearest, share, speed)
        if not refused:
            self.distances.keep()
            self._outside = min(self._outside, outside)
            if not moving:
                self.most_torque = max(1.0, min(self.most_torque, share + ROUNDING))
        self._rest, self._resting = (None, verdict) if moving else (q, verdict)
        return verdict


_row, _rows = float64[::1], float64[:, ::1]


@compiled(Tuple((float64, int64))(_row, _row, _row, _row, _row))
def _largest(load: Array, v: Array, friction: Array, damping: Array, limit: Array) -> tuple[float, int]:
    """Of |load| [n] N m with friction against the motors at `v` [n] rad/s: its share of the limit, and its joint.

    Friction counts at standstill only where another joint moves: an arm that is held needs none.
    """
    moving, share, joint = v.any(), 0.0, 0
    for j in range(len(load)):
        one = abs(load[j])
        if moving:
            one += friction[j] + damping[j] * abs(v[j])
        one /= limit[j]
        if not one < inf:
            return inf, j
        if one > share:
            share, joint = one, j
    return share, joint


@compiled(Tuple((float64, float64, int64))(_rows, _row, _rows, _rows, _row, _row, _row))
def _bound(
    mass: Array, bias: Array, states: Array, plans: Array, friction: Array, damping: Array, limit: Array
) -> tuple[float, float, int]:
    """Bound of the share over stops [4, n] from states [3, n]; the share at present, and its joint.

    `mass` [n, n] and `bias` [n] N m are the matrix and the torques without acceleration, both at present.
    """
    n = len(bias)
    middle, reach = np.empty(n), np.empty(n)
    for j in range(n):
        now = states[2, j]
        peak = now + plans[0, j] * plans[1, j]
        low, high = min(now, peak, 0.0), max(now, peak, 0.0)
        middle[j], reach[j] = 0.5 * (low + high), 0.5 * (high - low)
    worst, present = np.empty(n), np.empty(n)
    for i in range(n):
        load, more, now = bias[i], 0.0, bias[i]
        for j in range(n):
            load += mass[i, j] * middle[j]
            more += abs(mass[i, j]) * reach[j]
            now += mass[i, j] * states[2, j]
        worst[i], present[i] = abs(load) + more, now
    bound, _ = _largest(worst, states[1], friction, damping, limit)
    share, joint = _largest(present, states[1], friction, damping, limit)
    return bound, share, joint
