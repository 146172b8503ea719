"""The bimanual cell: two arms with grippers, a table, the tasks' objects, cameras, and the truth."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.sim import bimanual_model as cell_model
from vla_ros.sim.arena import LAG, stiffnesses
from vla_ros.sim.bimanual_tasks import OBJECTS, BimanualTasks, Scene
from vla_ros.sim.robot_cell import RobotCell
from vla_ros.types import Array

THROW = (0.0, 2.5, 1.0)  # m/s: past the table's edge, between the arms
NEAR = 0.12  # m, a tool and an object's centre: closer, it would be laid out inside the hand


class BimanualCell(RobotCell[Scene]):
    """
    Args:
        contract: a robot of two arms with grippers, as ALOHA; its control rate must be a divisor of 1 / TIMESTEP.
        tasks: the default is config/tasks/bimanual.yaml.

    Raises:
        VlaRosError: another kind of robot.
    """

    def __init__(self, contract: RobotContract, tasks: BimanualTasks | None = None) -> None:
        if len(contract.tips) != 2 or len(contract.grippers) != 2:
            found = f"{len(contract.tips)} tips and {len(contract.grippers)} grippers"
            raise VlaRosError(f"{contract.path}: found {found}, expected two arms with a gripper each, as ALOHA has")
        self.tasks = tasks or BimanualTasks.load()
        super().__init__(contract, cell_model.build(contract), LAG)
        m, n = self.model, len(contract.joints)
        stiffness = stiffnesses(m, self.data, contract, self._driven[:n], self._driven_dofs[:n])[self._drives]
        m.actuator_gainprm[:, 0] = stiffness
        m.actuator_biasprm[:, 1], m.actuator_biasprm[:, 2] = -stiffness, -LAG * stiffness
        mujoco.mj_resetData(m, self.data)
        self._bodies = {name: m.body(name).id for name in cell_model.PARTS}
        sides = ("left", "right")
        self._fingers = {m.body(f"{side}_{finger}_finger_link").id: (side, finger) for side in sides for finger in sides}
        self._tips = {tip.partition("_")[0]: m.body(tip).id for tip in contract.tips}
        self.place_arm(self.kinematics.home())

    def sample(self, seed: int, split: str = "train", task: str | None = None) -> Scene:
        return self.tasks.sample(seed, split, task)

    def reset(self, scene: Scene) -> None:
        m, d = self.model, self.data
        for k, (name, body) in enumerate(self._bodies.items()):
            used = name in scene.objects
            m.body_gravcomp[body] = 0.0 if used else 1.0
            joint = d.joint(name)
            x, y, yaw = scene.objects.get(name, (0.0, 0.0, 0.0))
            place = (x, y, cell_model.HIGH) if used else cell_model.parked(k)
            joint.qpos[:] = [*place, math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
            joint.qvel[:] = 0
        d.qacc_warmstart[:] = 0
        self.scene = scene
        mujoco.mj_forward(m, d)

    def in_the_way(self, scene: Scene) -> str:
        for name, (x, y, _) in scene.objects.items():
            for side, body in self._tips.items():
                if math.dist((x, y, cell_model.HIGH), self.data.xpos[body]) < NEAR:
                    return f"the {name} would lie in the {side} hand; home the arms first"
        return ""

    def time_limit(self, scene: Scene) -> float:
        return self.tasks.tasks[scene.task].time_limit

    def pose(self, name: str) -> tuple[Array, Array]:
        """An object's place [3] m and axes [3, 3] (columns), base frame, as of the last physics step's start."""
        body = self._bodies[name]
        return self.data.xpos[body].copy(), self.data.xmat[body].reshape(3, 3).copy()

    def tip(self, side: str) -> Array:
        """[3] m, measured, between the finger tips; as of the last physics step's start."""
        return self.data.xpos[self._tips[side]].copy()

    def touching(self, name: str) -> set[str]:
        """What an object touches: `left` and `right`, where both fingers of that hand hold it, `left_finger` and
        `right_finger`, where one does, `table`, `floor`, or other objects by name."""
        found: set[tuple[str, str] | str] = set()
        m, body = self.model, self._bodies[name]
        for a, b in self.data.contact.geom[: self.data.ncon].tolist():
            bodies = m.geom_bodyid[a], m.geom_bodyid[b]
            if body in bodies:
                geom, other = (b, bodies[1]) if bodies[0] == body else (a, bodies[0])
                found.add(self._fingers.get(other) or m.geom(geom).name or m.body(other).name)
        out = {entry for entry in found if isinstance(entry, str)}
        for side in ("left", "right"):
            count = sum(isinstance(entry, tuple) and entry[0] == side for entry in found)
            out |= {f"{side}_finger"} if count == 1 else {side} if count == 2 else set()
        return out

    def truth(self) -> tuple[bool, float]:
        """Success; and the way [m] that is left: of the bar to the left hand, of the peg's end to its place in the socket."""
        return {"transfer": self._transferred, "insertion": self._inserted}[self.laid_out().task]()

    def _transferred(self) -> tuple[bool, float]:
        touched = self.touching("bar")
        held = "left" in touched and not touched & {"right", "right_finger", "table", "floor"}
        place, axes = self.pose("bar")
        return held, 0.0 if held else math.dist(place + axes[:, 0] * cell_model.GRASP["bar"]["left"], self.tip("left"))

    def _inserted(self) -> tuple[bool, float]:
        peg, peg_axes = self.pose("peg")
        socket, axes = self.pose("socket")
        deep, *aside = axes.T @ (peg + peg_axes[:, 0] * cell_model.PEG_TIP - socket)
        inside = deep <= cell_model.SOCKET_SEAT and max(map(abs, aside)) < cell_model.HOLE
        lying = {"table", "floor"} & (self.touching("peg") | self.touching("socket"))
        return bool(inside and not lying), float(np.hypot(max(deep - cell_model.SOCKET_SEAT, 0.0), np.hypot(*aside)))

    def fallen(self) -> list[str]:
        scene = self.laid_out()
        return [name for name in scene.objects if (abs(self.pose(name)[0][:2]) > cell_model.TABLE_SIZE).any()]

    def throw(self) -> str:
        name = OBJECTS[self.laid_out().task][0]
        self.data.joint(name).qvel[:3] = THROW
        return name
