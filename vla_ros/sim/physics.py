"""What differs from one real cell to the next, and can be set in a simulated one: drives, load and cameras.

    torque of joint j = gain kp (command - q) - (gain kv + damping) q' - friction sign q'        kp, kv as in model.py
    command           = what was sent `delay` s ago
    payload           = a point mass at the tip that the arm's gravity compensation does not know of
    camera            = its mount, moved and turned in the camera's own frame: x right, y up, z backwards
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import mujoco
import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.sim import model as cell_model
from vla_ros.types import Array

PAYLOAD = "payload"  # body
LEAST_MASS = 1e-9  # kg; MuJoCo wants some
RADIUS = 0.02  # m, of gyration, so that the point mass has an inertia


@dataclass(frozen=True)
class Physics:
    """The model with other values; joints in the contract's order."""

    friction: Array  # [n] N m, Coulomb friction
    damping: Array  # [n] N m s/rad, all viscous torque beside the drive's own
    gain: Array  # [n] of the drive, stiffness and damping alike, in units of the model's
    delay: float = 0.0  # s, from command to drive
    payload: float = 0.0  # kg
    cameras: Mapping[str, Array] = field(default_factory=dict)  # name -> [6] m, m, m, rad, rad, rad; missing: as modelled

    @staticmethod
    def nominal(contract: RobotContract) -> Physics:
        """What a cell without other physics has."""
        m = arm(contract)
        dofs = [m.jnt_dofadr[m.joint(name).id] for name in contract.joints]
        return Physics(m.dof_frictionloss[dofs], m.dof_damping[dofs], np.ones(len(dofs)))

    def apply(self, model: mujoco.MjModel, contract: RobotContract) -> None:
        """Sets a freshly built model with a payload's body (add_payload) to these values.

        Raises:
            VlaRosError: another number of joints, or a camera that the model has not.
        """
        self.check(contract)
        dofs = [model.jnt_dofadr[model.joint(name).id] for name in contract.joints]
        drives = [model.actuator(name).id for name in contract.joints]
        model.dof_frictionloss[dofs] = self.friction
        model.dof_damping[dofs] = self.damping
        model.actuator_gainprm[drives, 0] *= self.gain
        model.actuator_biasprm[drives, 1:3] *= self.gain[:, None]
        body = model.body(PAYLOAD).id
        model.body_mass[body] = max(self.payload, LEAST_MASS)
        model.body_inertia[body] = model.body_mass[body] * RADIUS**2
        for name, offset in self.cameras.items():
            move_camera(model, name, offset)
        mujoco.mj_setConst(model, mujoco.MjData(model))  # masses as the solver knows them

    def check(self, contract: RobotContract) -> None:
        """Raises VlaRosError on another number of joints, or a value that no cell can have."""
        for name in ("friction", "damping", "gain"):
            found = getattr(self, name)
            if found.shape != (len(contract.joints),) or not (found >= 0).all():
                expected = f"{len(contract.joints)} values of at least 0"
                raise VlaRosError(f"physics: {name}: found {found.tolist()}, expected {expected}")
        if not (self.delay >= 0 and self.payload >= 0):
            raise VlaRosError(f"physics: found delay {self.delay}, payload {self.payload}, expected at least 0")


def arm(contract: RobotContract) -> mujoco.MjModel:
    """The cell's arm alone, with a payload's body: for replaying commands quickly. Nothing can touch it."""
    spec = cell_model.arm_spec(contract)
    add_payload(spec, contract)
    for geom in list(spec.geoms):
        spec.delete(geom)  # links have inertias of their own
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    return spec.compile()


def add_payload(spec: mujoco.MjSpec, contract: RobotContract) -> None:
    """A body at the tip; its mass comes with Physics.apply."""
    tip = next(body for body in spec.bodies if body.name == contract.tip)
    body = tip.add_body(name=PAYLOAD)
    body.mass, body.ipos, body.inertia = LEAST_MASS, [0, 0, 0], [LEAST_MASS * RADIUS**2] * 3
    body.explicitinertial = True


def move_camera(model: mujoco.MjModel, name: str, offset: Array) -> None:
    """Moves a camera by `offset` [6] in its own frame: translation m, then rotation vector rad.

    Raises:
        VlaRosError: no such camera.
    """
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
    if index < 0:
        known = ", ".join(model.camera(k).name for k in range(model.ncam))
        raise VlaRosError(f"physics: cameras: found '{name}', expected one of {known}")
    way, turn, quat = np.empty(3), np.array([1.0, 0, 0, 0]), np.empty(4)
    mujoco.mju_rotVecQuat(way, np.array(offset[:3], np.float64), model.cam_quat[index])
    if angle := float(np.linalg.norm(offset[3:])):
        mujoco.mju_axisAngle2Quat(turn, np.array(offset[3:], np.float64) / angle, angle)
    mujoco.mju_mulQuat(quat, model.cam_quat[index].copy(), turn)
    model.cam_pos[index] += way
    model.cam_quat[index] = quat


class DelayLine:
    """Commands as they reach the drives `delay` s late; linear between those that were sent."""

    def __init__(self, delay: float, q: Array) -> None:
        self._delay = delay
        self._sent: deque[tuple[float, Array]] = deque([(0.0, np.array(q))])  # (when to be there, command)

    def reset(self, q: Array) -> None:
        """As if `q` [n] had been commanded for ever."""
        self._sent = deque([(self._sent[-1][0], np.array(q))])

    def pass_on(self, q: Array, dt: float) -> Array:
        """`q` [n], to be reached in `dt` s, goes in; what is to be reached in `dt` s instead comes out."""
        now = self._sent[-1][0] + dt
        self._sent.append((now, np.array(q)))
        due = now - self._delay
        while len(self._sent) > 2 and self._sent[1][0] <= due:
            self._sent.popleft()
        (start, a), (end, b) = self._sent[0], self._sent[1]
        share = min(max((due - start) / (end - start), 0.0), 1.0)
        return np.asarray(a + share * (b - a))
