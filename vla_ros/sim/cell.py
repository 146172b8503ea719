"""A simulated cell: the arm behind a joint position controller, blocks on a table, cameras, and the truth."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.sim import model as cell_model
from vla_ros.sim import render
from vla_ros.sim.physics import DelayLine, Physics, add_payload
from vla_ros.sim.tasks import SHAPES, Scene, Tasks
from vla_ros.types import Array, Image, JointState


class Cell:
    """One cell in MuJoCo. Many may live in one process; each belongs to one thread.

    Args:
        contract: the robot; its control rate must be a divisor of 1 / model.TIMESTEP.
        tasks: what can lie on the table; the default is config/tasks/tabletop.yaml.
        physics: of drives, load and cameras, e.g. a digital twin's; None: as modelled.

    Raises:
        VlaRosError: physics of another robot, or of cameras that this cell has not.
    """

    def __init__(self, contract: RobotContract, tasks: Tasks | None = None, physics: Physics | None = None) -> None:
        self.contract = contract
        self.tasks = tasks or Tasks.load()
        self.kinematics = Kinematics(contract)
        spec = cell_model.build(contract, self.tasks)
        if physics:
            add_payload(spec, contract)
        self.model = spec.compile()
        self._late: DelayLine | None = None
        if physics:
            physics.apply(self.model, contract)
            self._late = DelayLine(physics.delay, self.kinematics.home()) if physics.delay else None
        self.data = mujoco.MjData(self.model)
        m = self.model
        self._qpos = np.array([m.jnt_qposadr[m.joint(name).id] for name in contract.joints])
        self._qvel = np.array([m.jnt_dofadr[m.joint(name).id] for name in contract.joints])
        self._blocks = np.array([m.jnt_qposadr[m.joint(f"block{k}").id] for k in range(cell_model.SLOTS)])
        self._block_dofs = np.array([m.jnt_dofadr[m.joint(f"block{k}").id] for k in range(cell_model.SLOTS)])
        self._bodies = np.array([m.body(f"block{k}").id for k in range(cell_model.SLOTS)])
        self._tip = m.body(contract.tip).id
        self._parts = {
            (k, shape): np.array([m.geom(cell_model.part_name(k, shape, i)).id for i in range(len(parts))])
            for k in range(cell_model.SLOTS)
            for shape, parts in cell_model.PARTS.items()
        }
        self._steps = 0
        self._cameras: dict[str, mujoco.MjvCamera] = {}
        self.scene: Scene | None = None
        self.place_arm(self.kinematics.home())

    @property
    def time(self) -> float:
        """Simulated seconds since construction."""
        return self._steps * cell_model.TIMESTEP

    def place_arm(self, q: Array) -> None:
        """Puts the arm at `q` [n], at rest: for construction and in-process training; a live arm is not teleported."""
        self._set_arm(q)
        mujoco.mj_forward(self.model, self.data)

    def pose(self, scene: Scene, q: Array) -> None:
        """Blocks as in `scene` and arm at `q` [n] for rendering only: kinematics without physics."""
        self._set_arm(q)
        self._set_blocks(scene)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _set_arm(self, q: Array) -> None:
        self.data.qpos[self._qpos] = q
        self.data.qvel[self._qvel] = 0
        self.data.ctrl[:] = q
        self._command, self._previous = np.array(q, np.float64), np.array(q, np.float64)
        if self._late:
            self._late.reset(self._command)
        self.data.qacc_warmstart[:] = 0

    def reset(self, scene: Scene) -> None:
        """Lays out the blocks of `scene`; the arm stays as it is.

        Raises:
            VlaRosError: more blocks than the cell has.
        """
        self._set_blocks(scene)
        mujoco.mj_forward(self.model, self.data)

    def _set_blocks(self, scene: Scene) -> None:
        if len(scene.blocks) > cell_model.SLOTS:
            raise VlaRosError(f"scene: found {len(scene.blocks)} blocks, this cell holds at most {cell_model.SLOTS}")
        m, d = self.model, self.data
        for slot in range(cell_model.SLOTS):
            for shape in SHAPES:
                m.geom_contype[self._parts[slot, shape]] = 0
                m.geom_conaffinity[self._parts[slot, shape]] = 0
                m.geom_rgba[self._parts[slot, shape], 3] = 0
            used = slot < len(scene.blocks)
            m.body_gravcomp[self._bodies[slot]] = 0.0 if used else 1.0
            address = self._blocks[slot]
            d.qvel[self._block_dofs[slot] : self._block_dofs[slot] + 6] = 0
            if not used:
                d.qpos[address : address + 7] = [*cell_model.PARKED, 1.0 + 0.1 * slot, 1, 0, 0, 0]
                continue
            block = scene.blocks[slot]
            parts = self._parts[slot, block.shape]
            m.geom_contype[parts] = cell_model.BLOCK
            m.geom_conaffinity[parts] = cell_model.ARM | cell_model.BLOCK
            m.geom_rgba[parts] = (*self.tasks.colours[block.colour], 1.0)
            w, z = math.cos(block.yaw / 2), math.sin(block.yaw / 2)
            d.qpos[address : address + 7] = [block.x, block.y, cell_model.HEIGHT / 2, w, 0, 0, z]
        d.qacc_warmstart[:] = 0
        self.scene = scene

    def set_command(self, q: Array) -> None:
        """Joint positions [n] rad for the controller to reach by the end of the next step; checked by the caller."""
        self._command[:] = q

    @property
    def commanded(self) -> Array:
        """[n] rad, the last command."""
        return self._command.copy()

    def step(self, dt: float) -> None:
        """Advances by `dt` seconds, a multiple of model.TIMESTEP.

        Raises:
            VlaRosError: the simulation became unstable.
        """
        count = round(dt / cell_model.TIMESTEP)
        limit = self.contract.limits.velocity
        command = self._late.pass_on(self._command, dt) if self._late else self._command
        velocity = np.clip((command - self._previous) / dt, -limit, limit)
        self._previous[:] = command
        self.data.ctrl[:] = command + cell_model.lead(dt) * velocity
        mujoco.mj_step(self.model, self.data, nstep=count)
        self._steps += count
        if self.data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number:
            raise VlaRosError(f"simulation unstable at {self.time:.3f} s: accelerations are not finite")

    def joint_state(self) -> JointState:
        """Measured joints at the present simulated time."""
        return JointState(self.time, self.contract.joints, self.data.qpos[self._qpos], self.data.qvel[self._qvel])

    def tip(self) -> Array:
        """[3] m, measured tip in the base frame, as of the last physics step's start."""
        return self.data.xpos[self._tip].copy()

    def blocks(self) -> Array:
        """[n, 3] m, m, rad: x, y, yaw of the scene's blocks."""
        count = len(self.scene.blocks) if self.scene else 0
        poses = np.empty((count, 3))
        for k in range(count):
            x, y, _, w, qx, qy, z = self.data.qpos[self._blocks[k] : self._blocks[k] + 7]
            poses[k] = x, y, math.atan2(2 * (w * z + qx * qy), 1 - 2 * (qy * qy + z * z))
        return poses

    def truth(self) -> tuple[bool, float]:
        """Success of the scene's task and distance [m] from its goal.

        Raises:
            VlaRosError: no scene yet.
        """
        if self.scene is None:
            raise VlaRosError("the cell has no scene yet; call reset first")
        return self.tasks.outcome(self.scene, self.blocks(), self.tip())

    def render(self, camera: str, size: tuple[int, int] = (128, 128), out: Image | None = None) -> Image:
        """[H, W, 3] uint8 RGB of `front`, `wrist` or `overview`.

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
