"""The arm as one body: what a stop of all joints would touch, which torques it needs, how fast its tips are.

Each command is checked together with the stop from it (braking.stop of every joint), over the whole way to standstill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
import pinocchio as pin
from ruckig import ControlInterface, InputParameter, Ruckig, RuckigError, Synchronization, Trajectory

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.braking import GUARD, State, stop
from vla_ros.safety.distances import Distances
from vla_ros.safety.limits import Limits
from vla_ros.types import Array, Obstacle

ROUNDING = 1e-9
RESERVE = 1.02  # of torque
OVERSHOOT = 4.0 / 3.0  # largest travel past a turn and back, in v² / |a|


@dataclass(frozen=True)
class Verdict:
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
        full = pin.buildModelFromUrdf(str(contract.urdf))
        shapes = pin.buildGeomFromUrdf(full, str(contract.urdf), pin.GeometryType.COLLISION)
        locked = [full.getJointId(name) for name in full.names[1:] if name not in contract.joints]
        self.model, shapes = pin.buildReducedModel(full, shapes, locked, pin.neutral(full))
        if tuple(self.model.names[1:]) != contract.joints:
            found = ", ".join(self.model.names[1:])
            raise VlaRosError(f"{contract.path}: joints: expected the URDF's order, base to tip: {found}")
        self._boxes = [(name, self._frame(name, "workspace"), box) for name, box in limits.workspace.items()]
        self._tips = [self._frame(name, "tip") for name in contract.tips]
        self._carry()
        self._friction: Array = np.asarray(abs(np.array(self.model.friction)), np.float64)
        self._damping = np.array(self.model.damping)
        self._torque = np.array(limits.torque)
        self.data = self.model.createData()
        self.distances = Distances(contract, limits, self.model, shapes)
        self.tip_limit = limits.tip_speed
        self.most_torque = 1.0  # share of the limit, that the running motion must keep
        self._outside = 0.0  # m, likewise of the boxes
        self._rest: tuple[float, ...] | None = None  # pose of the last verdict at standstill
        self._new_world = True
        self._resting = Verdict("", inf, "", 0.0, 0.0)
        self._most = [a * (1.0 - GUARD) for a in limits.acceleration]
        self._jerks = [j * (1.0 - GUARD) for j in limits.jerk]
        self._most_row, self._jerk = np.array(self._most), np.array(self._jerks)
        self._none = np.zeros(self.model.nv)
        self._new_stop()
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

    def depth(self, q: Sequence[float] | Array) -> tuple[float, str]:
        """How far [m] the worst frame is outside its box at `q` [n] rad, and its name."""
        if not self._boxes:
            return 0.0, ""
        pin.forwardKinematics(self.model, self.data, np.asarray(q, np.float64))
        worst, where = 0.0, ""
        for name, frame, (x, y, z) in self._boxes:
            px, py, pz = pin.updateFramePlacement(self.model, self.data, frame).translation.tolist()
            depth = max(x[0] - px, px - x[1], y[0] - py, py - y[1], z[0] - pz, pz - z[1])
            if depth > worst:
                worst, where = depth, name
        return worst, where

    def tip_speed(self, q: Sequence[float], v: Sequence[float]) -> float:
        """Speed [m/s] of the fastest tip at `q` [n] rad and `v` [n] rad/s."""
        pin.forwardKinematics(self.model, self.data, np.array(q), np.array(v))
        return self._tip_speed()

    def _tip_speed(self) -> float:
        """The same for the state of the last forward kinematics or inverse dynamics."""
        fastest = 0.0
        for tip in self._tips:
            x, y, z = pin.getFrameVelocity(self.model, self.data, tip, pin.LOCAL).linear.tolist()
            fastest = max(fastest, x * x + y * y + z * z)
        return sqrt(fastest)

    def torques(self, q: Array, v: Array, a: Array) -> Array:
        """Inverse dynamics [n] N m of one state [n] (Featherstone 2008, ch. 5.3), without friction."""
        return np.array(pin.rnea(self.model, self.data, q, v, a))

    def friction(self) -> Array:
        """[n] N m, Coulomb friction of the joints (the URDF's)."""
        return self._friction

    def torque_share(self, *states: Sequence[Sequence[float]]) -> tuple[float, int]:
        """Largest |torque| of some states (q, v, a) [3, n], friction against the motors added, over its limit, and its
        joint."""
        loads, speeds = np.empty((2, len(states), self.model.nv))
        for load, speed, state in zip(loads, speeds, states, strict=True):
            q, v, a = np.array(state)
            load[:], speed[:] = pin.rnea(self.model, self.data, q, v, a), v
        return self._largest(loads, speeds)

    def _largest(self, loads: Array, speeds: Array) -> tuple[float, int]:
        """Of |loads| [..., n] N m with the friction at `speeds` [..., n] rad/s: its share of the limit, and its joint."""
        shares = abs(loads)
        if speeds.any():
            shares += self._friction + self._damping * abs(speeds)
        shares /= self._torque
        worst = int(shares.argmax())
        return float(shares.flat[worst]), worst % self.model.nv

    def _stop_torque(self, q: Sequence[float], v: Sequence[float], a: Sequence[float], time: float) -> tuple[float, int]:
        """Largest share over a stop that takes `time` [s], where it can matter, else that of the present; and its joint.

        While the stop lasts, each joint's acceleration stays between its present one, zero and the peak of its own stop.
        What the mass matrix makes of the worst of these bounds the torque; only where that is too much, the moments are
        looked at at which a joint begins or ends to brake hardest. RESERVE covers how the pose changes meanwhile.
        """
        pose, speeds, now = np.array(q), np.array(v), np.array(a)
        way = np.copysign(1.0, speeds + 0.5 * now * abs(now) / self._jerk)
        peaks = -way * np.minimum(self._most_row, np.sqrt(np.maximum(self._jerk * way * speeds + 0.5 * now * now, 0.0)))
        low, high = np.minimum(np.minimum(now, peaks), 0.0), np.maximum(np.maximum(now, peaks), 0.0)
        pin.crba(self.model, self.data, pose)
        mass = np.array(self.data.M)
        bias = np.array(pin.rnea(self.model, self.data, pose, speeds, self._none))
        bound, joint = self._largest(abs(bias + mass @ (0.5 * (low + high))) + abs(mass) @ (0.5 * (high - low)), speeds)
        if bound * RESERVE <= self.most_torque:
            return self._largest(bias + mass @ now, speeds)
        plans = [stop(*joint) for joint in zip(v, a, self._most, self._jerks, strict=True)]
        times = {0.0, time, max(first for _, first, _, _ in plans), *(first + hold for _, first, hold, _ in plans)}
        share, joint = self.torque_share(*map(self._trajectory.at_time, sorted(times, reverse=True)))
        return share * RESERVE, joint

    def settle(self, q: Sequence[float], anew: bool = True) -> Verdict:
        """The arm stands at `q` [n] rad: where that is beyond a limit already, motions that do not lead further are let
        go on. Not `anew`, after a stop of our own, it can be so only by the estimate in distances.py, unless the world
        has changed meanwhile."""
        clearance, nearest = self.distances.settle(q, anew or self._new_world)
        self._new_world, self._rest = False, None
        still = [0.0] * len(q)
        share = self.torque_share((q, still, still))[0]
        if anew:
            self._outside = self.depth(q)[0]
            self.most_torque = max(1.0, share + ROUNDING)
        return Verdict("", clearance, nearest, share, 0.0)

    def check(self, states: Sequence[State], tip_speed: float) -> Verdict:
        """Judges a command and the stop from it.

        Args:
            states: per joint, at the command.
            tip_speed: m/s of the command before; a speed above the limit is let go on if it falls.
        """
        q, v, a = zip(*states, strict=True)
        moving = any(v) or any(a)
        if not moving and self._rest == q:
            return self._resting
        time = self._plan_stop(q, v, a)
        if time == inf:
            return Verdict("stop", 0.0, "", 0.0, 0.0)
        share, joint = self._stop_torque(q, v, a, time) if moving else self.torque_share((q, v, a))
        speed = self._tip_speed() if moving else 0.0  # the inverse dynamics that came last were the command's own
        refused, clearance, nearest, outside = "", inf, "", self._outside
        if speed > self.tip_limit and speed >= tip_speed:
            refused = "tip_speed"
        elif moving and share > self.most_torque:
            refused = f"torque:{self._limits.joints[joint]}"
        else:
            first, last = np.array(q), np.array(self._pose(time))
            outside, where = self.depth(last)
            kept, clearance, nearest = self.distances.look(self._pose, time, first, last, self._turns(v, a))
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

    def _new_stop(self) -> None:
        """All joints' stops as one trajectory (the same as braking.stop of each), computed by ruckig."""
        n = len(self._limits.joints)
        self._planner, self._trajectory, self._start = Ruckig(n, 1.0), Trajectory(n), InputParameter(n)
        start = self._start
        start.control_interface = ControlInterface.Velocity
        start.synchronization = Synchronization.No
        start.max_velocity = [inf] * n
        start.max_acceleration = self._most
        start.max_jerk = self._jerks
        start.target_velocity = start.target_acceleration = [0.0] * n

    def _plan_stop(self, q: Sequence[float], v: Sequence[float], a: Sequence[float]) -> float:
        """Plans the stop from a state [n]; its duration [s], infinite if there is none."""
        start = self._start
        start.current_position, start.current_velocity, start.current_acceleration = q, v, a
        try:
            self._planner.calculate(start, self._trajectory)
        except RuckigError:
            return inf
        return float(self._trajectory.duration)

    def _pose(self, time: float) -> Sequence[float]:
        return self._trajectory.at_time(time)[0]  # type: ignore[no-any-return]

    def _turns(self, v: Sequence[float], a: Sequence[float]) -> Array:
        """[n] rad, at least what each joint travels more than from end to end of the stop: one that brakes harder than it
        can take back in time overshoots standstill and returns."""
        turns = self._none
        for j, (speed, change, jerk) in enumerate(zip(v, a, self._jerks, strict=True)):
            if speed * change < 0.0 and change * change > 2.0 * jerk * abs(speed):
                if turns is self._none:
                    turns = np.zeros(len(self._jerks))
                turns[j] = OVERSHOOT * speed * speed / abs(change)
        return turns
