"""The tabletop cell: the arm behind a joint position controller, blocks on a table, cameras, and the truth."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.sim import model as cell_model
from vla_ros.sim.physics import DelayLine, Physics, add_payload
from vla_ros.sim.robot_cell import RobotCell
from vla_ros.sim.tasks import SHAPES, Scene, Tasks, sample_scene
from vla_ros.types import Array

CLEARANCE = 0.055  # m, rod to block centre: a block laid out closer would overlap the rod
TABLE = ((-0.25, 0.95), (-0.6, 0.6))  # m, x and y of its edges (sim/model.py)
THROW = (3.0, 0.0, 1.5)  # m/s: over the other blocks, and past the table's far edge half a metre away


class Cell(RobotCell[Scene]):
    """
    Args:
        contract: the robot; its control rate must be a divisor of 1 / model.TIMESTEP.
        tasks: what can lie on the table; the default is config/tasks/tabletop.yaml.
        physics: of drives, load and cameras, e.g. a digital twin's; None: as modelled.

    Raises:
        VlaRosError: physics of another robot, or of cameras that this cell has not.
    """

    def __init__(self, contract: RobotContract, tasks: Tasks | None = None, physics: Physics | None = None) -> None:
        self.tasks = tasks or Tasks.load()
        spec = cell_model.build(contract, self.tasks)
        if physics:
            add_payload(spec, contract)
        super().__init__(contract, spec, cell_model.LAG)
        if physics:
            physics.apply(self.model, contract)
            self._late = DelayLine(physics.delay, self.kinematics.home()) if physics.delay else None
        m = self.model
        self._blocks = np.array([m.jnt_qposadr[m.joint(f"block{k}").id] for k in range(cell_model.SLOTS)])
        self._block_dofs = np.array([m.jnt_dofadr[m.joint(f"block{k}").id] for k in range(cell_model.SLOTS)])
        self._bodies = np.array([m.body(f"block{k}").id for k in range(cell_model.SLOTS)])
        self._tip = m.body(contract.tip).id
        self._parts = {
            (k, shape): np.array([m.geom(cell_model.part_name(k, shape, i)).id for i in range(len(parts))])
            for k in range(cell_model.SLOTS)
            for shape, parts in cell_model.PARTS.items()
        }
        self.place_arm(self.kinematics.home())

    def pose(self, scene: Scene, q: Array) -> None:
        """Blocks as in `scene` and arm at `q` [n] for rendering only: kinematics without physics."""
        self._set_arm(q)
        self._set_blocks(scene)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def sample(self, seed: int, split: str = "train", task: str | None = None) -> Scene:
        return sample_scene(self.tasks, seed, split, task, self.contract.home_tip)

    def reset(self, scene: Scene) -> None:
        """Raises VlaRosError: more blocks than the cell has."""
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

    def in_the_way(self, scene: Scene) -> str:
        x, y = self.tip()[:2]
        if any(math.dist((block.x, block.y), (x, y)) < CLEARANCE for block in scene.blocks):
            return f"a block would lie under the rod at [{x:.3f}, {y:.3f}] m; home the arm first"
        return ""

    def time_limit(self, scene: Scene) -> float:
        return self.tasks.tasks[scene.task].time_limit

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
        return self.tasks.outcome(self.laid_out(), self.blocks(), self.tip())

    def fallen(self) -> list[str]:
        placed = zip(self.laid_out().blocks, self.blocks(), strict=True)
        return [
            block.name
            for block, (x, y, _) in placed
            if not all(low <= value <= high for value, (low, high) in zip((x, y), TABLE, strict=True))
        ]

    def throw(self) -> str:
        scene = self.laid_out()
        self.data.joint(f"block{scene.target}").qvel[:3] = THROW
        return scene.blocks[scene.target].name
