"""What every simulated cell has: a robot behind position servos, cameras, the clock; and what it must say of its scenes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

import mujoco
import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.sim import render
from vla_ros.sim.model import lead
from vla_ros.sim.physics import DelayLine
from vla_ros.types import Array, Image, JointState

MIRROR = "_mirror"  # suffix of a finger that copies another one


class AnyScene(Protocol):
    """What can be said of any cell's scene."""

    @property
    def task(self) -> str: ...

    @property
    def instruction(self) -> str: ...


S = TypeVar("S", bound=AnyScene)


class RobotCell(ABC, Generic[S]):
    """One cell in MuJoCo. Many may live in one process; each belongs to one thread.

    Args:
        contract: the robot; its control rate must be a divisor of 1 / the model's timestep.
        spec: the whole cell. Actuator k drives joint k of the contract; each further one is named after the
            joint whose command it copies and MIRROR, as the second finger of a gripper.
        lag: s, damping over stiffness of the servos.
    """

    def __init__(self, contract: RobotContract, spec: mujoco.MjSpec, lag: float) -> None:
        self.contract = contract
        self.kinematics = Kinematics(contract)
        self.model: mujoco.MjModel = spec.compile()
        self.data = mujoco.MjData(self.model)
        m = self.model
        joints = m.actuator_trnid[:, 0]
        names = [m.actuator(k).name.removesuffix(MIRROR) for k in range(m.nu)]
        self._drives = np.array([contract.joints.index(name) for name in names])
        self._driven, self._driven_dofs = m.jnt_qposadr[joints], m.jnt_dofadr[joints]
        self._lag = lag
        self._late: DelayLine | None = None
        self._steps = 0
        self._cameras: dict[str, mujoco.MjvCamera] = {}
        self.scene: S | None = None

    # -- what a cell says about its scenes ------------------------------------------------------------------------

    @abstractmethod
    def sample(self, seed: int, split: str = "train", task: str | None = None) -> S:
        """A scene: the same one for the same seed, split and task. Raises VlaRosError for an unknown split or task."""

    @abstractmethod
    def reset(self, scene: S) -> None:
        """Lays it out; the arm stays as it is. Raises VlaRosError where the cell cannot hold it."""

    @abstractmethod
    def in_the_way(self, scene: S) -> str:
        """Why a scene cannot be laid out under the arm as it stands; empty: it can."""

    @abstractmethod
    def time_limit(self, scene: S) -> float:
        """s, cycle time of its task."""

    @abstractmethod
    def truth(self) -> tuple[bool, float]:
        """Success of the scene's task, and how far [m] it is from there. Raises VlaRosError without a scene."""

    @abstractmethod
    def fallen(self) -> list[str]:
        """Objects of the scene that are off the table, where only a person gets them."""

    @abstractmethod
    def throw(self) -> str:
        """Throws the object that the instruction names off the table; its name."""

    def laid_out(self) -> S:
        """The scene. Raises VlaRosError: no scene yet."""
        if self.scene is None:
            raise VlaRosError("the cell has no scene yet; call reset first")
        return self.scene

    # -- the robot ------------------------------------------------------------------------------------------------

    @property
    def time(self) -> float:
        """Simulated seconds since construction."""
        return float(self._steps * self.model.opt.timestep)

    def place_arm(self, q: Array) -> None:
        """Puts the arm at `q` [n], at rest: for construction and in-process training; a live arm is not teleported."""
        self._set_arm(q)
        mujoco.mj_forward(self.model, self.data)

    def _set_arm(self, q: Array) -> None:
        self.data.qpos[self._driven] = self.data.ctrl[:] = q[self._drives]
        self.data.qvel[self._driven_dofs] = 0
        self._command, self._previous = np.array(q, np.float64), np.array(q, np.float64)
        if self._late:
            self._late.reset(self._command)
        self.data.qacc_warmstart[:] = 0

    def set_command(self, q: Array) -> None:
        """Joint positions [n] rad for the controller to reach by the end of the next step; checked by the caller."""
        self._command[:] = q

    @property
    def commanded(self) -> Array:
        """[n] rad, the last command."""
        return self._command.copy()

    def step(self, dt: float) -> None:
        """Advances by `dt` seconds, a multiple of the timestep.

        Raises:
            VlaRosError: the simulation became unstable.
        """
        timestep = self.model.opt.timestep
        count = round(dt / timestep)
        limit = self.contract.limits.velocity
        command = self._late.pass_on(self._command, dt) if self._late else self._command
        velocity = np.clip((command - self._previous) / dt, -limit, limit)
        self._previous[:] = command
        self.data.ctrl[:] = (command + lead(dt, self._lag, timestep) * velocity)[self._drives]
        mujoco.mj_step(self.model, self.data, nstep=count)
        self._steps += count
        if self.data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number:
            raise VlaRosError(f"simulation unstable at {self.time:.3f} s: accelerations are not finite")

    def joint_state(self) -> JointState:
        """Measured joints at the present simulated time."""
        n = len(self.contract.joints)
        position, velocity = self.data.qpos[self._driven[:n]], self.data.qvel[self._driven_dofs[:n]]
        return JointState(self.time, self.contract.joints, position, velocity)

    # -- cameras --------------------------------------------------------------------------------------------------

    def render(self, camera: str, size: tuple[int, int] = (128, 128), out: Image | None = None) -> Image:
        """[H, W, 3] uint8 RGB of a camera of the contract, or of `overview`.

        Raises:
            VlaRosError: no such camera, or no working OpenGL (the message names the packages).
        """
        if camera not in self._cameras:
            self._cameras[camera] = render.fixed_camera(self.model, camera)
        return render.draw(self.model, self.data, self._cameras[camera], size, out)

    def project(self, camera: str, points: Array) -> Array:
        """Image points [n, 2] (x right, y down, -1..1 from edge to edge of a square picture) of points [n, 3] m."""
        index = self.model.camera(camera).id
        local = (points - self.data.cam_xpos[index]) @ self.data.cam_xmat[index].reshape(3, 3)
        focal = 1 / np.tan(np.radians(self.model.cam_fovy[index]) / 2)
        return np.asarray(focal * local[:, :2] / -local[:, 2:] * (1.0, -1.0))

    def focal_length(self, camera: str, height: int) -> float:
        """[px] of `camera` in a picture `height` px high."""
        return float(height / 2 / math.tan(math.radians(self.model.cam_fovy[self.model.camera(camera).id]) / 2))
