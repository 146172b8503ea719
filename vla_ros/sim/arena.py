"""Any contract's robot on a table in MuJoCo, for replaying joint commands and counting what they touch."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.srdf import disabled_pairs
from vla_ros.types import Array

TABLE = "table"
LONGEST_STEP = 0.0025  # s; with 5 ms one pose in ten of the Panda swings on for ever
# Of every motor. Nobody publishes the servos' rotors; this one damps the light wrists and costs little of their effort.
ARMATURE = 0.05  # kg m² (kg for a prismatic joint)
BANDWIDTH = 60.0  # rad/s of the servos, at the largest inertia that a joint meets; 100 swings where that is smallest
LAG = 2 / BANDWIDTH  # s, damping over stiffness
POSES = 200  # sampled for that inertia


class Arena:
    """The robot of a contract, its table, and position servos; no cameras. Belongs to one thread.

    Every collision cylinder is the capsule of same radius and length, as in the distance code, so that a contact here
    is a contact there. Pairs of the SRDF do not meet; all others do: a link and the table, one arm and itself, both
    arms. Servos are critically damped, fed forward with the command's velocity, gravity-compensated, and limited to the
    URDF's effort. Joint vectors are [n] rad (m for a prismatic joint) in the contract's order.
    """

    def __init__(self, contract: RobotContract) -> None:
        self.contract = contract
        period = 1 / contract.control.rate
        self._substeps = math.ceil(period / LONGEST_STEP - 1e-9)
        self.model = _build(contract, period / self._substeps)
        self.data = mujoco.MjData(self.model)
        joints = [self.model.joint(name) for name in contract.joints]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._qvel = np.array([joint.dofadr[0] for joint in joints])
        self._fastest = contract.limits.velocity
        self._rate = contract.control.rate
        self._lag = _tune(self.model, self.data, contract, self._qpos, self._qvel)
        self._names = [_name(self.model, k) for k in range(self.model.ngeom)]
        self._command = np.array(contract.posture)
        self.reset(self._command)

    def reset(self, q: Array) -> None:
        """The robot at `q` [n], at rest, commanded to stay. Raises VlaRosError on a wrong length or number."""
        q = self._checked(q)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._qpos] = q
        self.data.ctrl[:] = self._command = q
        mujoco.mj_step1(self.model, self.data)

    def step(self, command: Array) -> None:
        """One control period towards `command` [n]. Raises VlaRosError on a wrong length or number."""
        command = self._checked(command)
        speed = (command - self._command) * self._rate
        self.data.ctrl[:] = command + self._lag * np.minimum(np.maximum(speed, -self._fastest), self._fastest)
        self._command = command
        for _ in range(self._substeps):
            # In this order, contacts are those of the new positions.
            mujoco.mj_step2(self.model, self.data)
            mujoco.mj_step1(self.model, self.data)

    def position(self) -> Array:
        return self.data.qpos[self._qpos]

    def velocity(self) -> Array:
        return self.data.qvel[self._qvel]

    def contacts(self) -> list[tuple[str, str]]:
        """What touches now: pairs of body names, or a body and "table"; each pair once, in order."""
        count = self.data.ncon
        if not count:
            return []
        geoms = self.data.contact.geom[:count].tolist()
        found = {(self._names[a], self._names[b]) for a, b in geoms}
        return sorted({(a, b) if a < b else (b, a) for a, b in found})

    def _checked(self, q: Array) -> Array:
        q = np.array(q, np.float64)
        if q.shape != self._qpos.shape or not np.isfinite(q).all():
            raise VlaRosError(f"{self.contract.robot}: joints: found {q.tolist()}, expected {len(self._qpos)} finite numbers")
        return q


def _build(contract: RobotContract, timestep: float) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(str(contract.urdf))
    spec.option.timestep = timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for geom in spec.geoms:
        if geom.contype == 0:
            spec.delete(geom)  # visual
    spec.worldbody.add_geom(name=TABLE, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    prepare(spec, contract)
    for name in contract.joints:
        spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT).set_to_position(kp=1.0, kv=0.0)
    return spec.compile()


def prepare(spec: mujoco.MjSpec, contract: RobotContract) -> None:
    """The URDF's links as the safety filter sees them: cylinders are capsules, pairs of the SRDF do not meet; gravity is
    compensated, and the motors have rotors."""
    for geom in spec.geoms:
        if geom.contype and geom.type == mujoco.mjtGeom.mjGEOM_CYLINDER:
            geom.type = mujoco.mjtGeom.mjGEOM_CAPSULE
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0
    for joint in spec.joints:
        joint.actgravcomp = 1  # counts against the motors' effort, as on the real arm
        joint.armature = ARMATURE
        joint.frictionloss = 0.0  # costs a solver iteration per step, and the real controllers compensate it
    bodies = {body.name for body in spec.bodies}
    for a, b in (sorted(pair) for pair in disabled_pairs(contract.srdf)):
        first, second = ("world" if name == TABLE else name for name in (a, b))
        if unknown := {first, second} - bodies:
            raise VlaRosError(
                f"{contract.srdf}: disable_collisions: found '{unknown.pop()}', expected a link of {contract.urdf} or '{TABLE}'"
            )
        spec.add_exclude(bodyname1=first, bodyname2=second)


def _tune(model: mujoco.MjModel, data: mujoco.MjData, contract: RobotContract, qpos: Array, qvel: Array) -> float:
    """Sets the servos' gains for the largest inertia that each joint meets; returns damping over stiffness [s]."""
    stiffness = stiffnesses(model, data, contract, qpos, qvel)
    model.actuator_gainprm[:, 0] = stiffness
    model.actuator_biasprm[:, 1] = -stiffness
    model.actuator_biasprm[:, 2] = -LAG * stiffness
    return LAG


def stiffnesses(model: mujoco.MjModel, data: mujoco.MjData, contract: RobotContract, qpos: Array, qvel: Array) -> Array:
    """[n] N m/rad of critically damped servos of BANDWIDTH, at the largest inertia that each joint meets; moves `data`.

    Args:
        qpos, qvel: [n] addresses of the contract's joints.
    """
    rng = np.random.default_rng(0)
    largest = np.zeros(len(qpos))
    full = np.empty((model.nv, model.nv))
    for q in rng.uniform(contract.limits.lower, contract.limits.upper, (POSES, len(qpos))):
        data.qpos[qpos] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_crb(model, data)
        mujoco.mj_fullM(model, data, full)
        largest = np.maximum(largest, np.diag(full)[qvel])
    return largest * BANDWIDTH**2


def _name(model: mujoco.MjModel, geom: int) -> str:
    body = int(model.geom_bodyid[geom])
    return TABLE if body == 0 else str(model.body(body).name)
