"""The cell as an in-process environment for training: one step is one policy step; faster than real time, no ROS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.actions import ActionDecoder
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import images_of, resize, state_of
from vla_ros.sim.cell import Cell
from vla_ros.sim.physics import Physics
from vla_ros.sim.tasks import Scene, Tasks, sample_scene
from vla_ros.types import ActionChunk, Array, Image, JointState, Observation, SafeCommand

RENDER_SIZE = (128, 128)  # px, as sim_node's cameras; reduced by the same `resize` as in camera_node


class CommandFilter(Protocol):
    """What the environment needs of the safety core (safety.filter.SafetyFilter is one)."""

    def submit(self, chunk: ActionChunk, now: float) -> str: ...

    def tick(self, now: float, state: JointState) -> SafeCommand | None: ...


class TabletopEnv:
    """A tabletop cell that steps at the policy's rate; episodes end when the caller says so.

    Args:
        contract: the robot.
        seed: of scenes that reset() draws without a seed of their own.
        command_filter: makes the safety core, afresh for every episode; None moves the command linearly to targets.
        physics: of drives, load and cameras, e.g. a digital twin's; None: as modelled.
    """

    looks = 2  # observations running at which the truth must say success: passing by is none
    ended = False

    def __init__(
        self,
        contract: RobotContract,
        seed: int = 0,
        tasks: Tasks | None = None,
        command_filter: Callable[[], CommandFilter] | None = None,
        render_size: tuple[int, int] = RENDER_SIZE,
        physics: Physics | None = None,
    ) -> None:
        self.contract = contract
        self.cell = Cell(contract, tasks, physics)
        self.tasks = self.cell.tasks
        self.decoder = ActionDecoder(contract, self.cell.kinematics)
        self.scene: Scene | None = None
        self._new_filter = command_filter
        self._filter: CommandFilter | None = None
        self._rng = np.random.default_rng(seed)
        self._render_size = render_size
        self._frame = np.empty((*render_size, 3), np.uint8)
        self._home = self.cell.kinematics.home()
        self._command = self._home.copy()
        self._tick = 1 / contract.control.rate
        self.unit = contract.action.max_step  # m
        self._sent: ArrayLike = ()

    @property
    def instruction(self) -> str:
        return self._scene().instruction

    @property
    def time_limit(self) -> float:
        """s, cycle time of the present task."""
        return self.tasks.tasks[self._scene().task].time_limit

    @property
    def cycle(self) -> float:
        """The same in policy steps."""
        return self.time_limit * self.contract.observation.rate

    def reset(
        self, seed: int | None = None, split: str = "train", task: str | None = None, scene: Scene | None = None
    ) -> Observation:
        """New scene (`scene`, or drawn from seed, split and task), arm put at home."""
        rng = self._rng if seed is None else np.random.default_rng(seed)
        self.scene = scene or sample_scene(self.tasks, rng, split, task, self.contract.home_tip)
        self.cell.place_arm(self._home)
        self.cell.reset(self.scene)
        self._command = self._home.copy()
        self._filter = self._new_filter() if self._new_filter else None
        return self.observe()

    def step(self, action: ArrayLike) -> tuple[Observation, bool, dict[str, Any]]:
        """One policy step.

        Args:
            action: tokens [2] (integers) or a displacement of the tip [2] m (floats).

        Returns:
            Observation, success by the simulator's truth, and info: `distance` [m] from the goal; with a command filter
            also `rejected` (its reason, empty if the chunk was taken) and `active` (what changed a command).
        """
        info = self.advance(action)
        success, info["distance"] = self.cell.truth()
        return self.observe(), success, info

    def send(self, action: ArrayLike) -> None:
        """The first half of step()."""
        self._sent = action

    def receive(self) -> Observation:
        """The second half."""
        self.advance(self._sent)
        return self.observe()

    def success(self) -> bool:
        """By the simulator's truth."""
        return self.cell.truth()[0]

    def advance(self, action: ArrayLike) -> dict[str, Any]:
        """The physics of one policy step, without rendering.

        Like the live policy node it decodes from the measured joints.
        """
        value = np.asarray(action)
        limit = self.contract.action.max_step
        delta = self.decoder.delta(value.reshape(1, 2)) if value.dtype.kind in "iu" else value.reshape(1, 2)
        measured = self.cell.joint_state()
        tip = self.cell.kinematics.tip_xy(measured.position)
        targets = self.decoder.targets(np.clip(delta, -limit, limit), tip)
        rows = self.decoder.joints(targets, measured.position)
        if self._filter is None:
            self._move(rows[0])
            return {}
        return self._move_filtered(self._filter, rows, measured.stamp)

    def _move(self, target: Array) -> None:
        ticks = self.contract.ticks_per_step
        increment = (target - self._command) / ticks
        for _ in range(ticks):
            self._command += increment
            self.cell.set_command(self._command)
            self.cell.step(self._tick)

    def _move_filtered(self, command_filter: CommandFilter, rows: Array, now: float) -> dict[str, Any]:
        period = 1 / self.contract.observation.rate
        chunk = ActionChunk(now + period, period, self.contract.joints, rows, observation_stamp=now)
        active: set[str] = set()
        rejected = ""
        for k in range(self.contract.ticks_per_step):
            state = self.cell.joint_state()
            if k == 1:  # a filter knows the arm's state after its first tick
                rejected = command_filter.submit(chunk, state.stamp)
            answer = command_filter.tick(state.stamp, state)
            if answer is not None:
                active.update(answer.active)
                self._command = answer.command
            self.cell.set_command(self._command)
            self.cell.step(self._tick)
        return {"rejected": rejected, "active": sorted(active)}

    def observe(self) -> Observation:
        """Renders the policy's cameras; images at the contract's size."""
        images = {}
        for camera in self.contract.observation.cameras:
            self.cell.render(camera, self._render_size, out=self._frame)
            small = resize(self._frame, self.contract.observation.size)
            images[camera] = small.copy() if small is self._frame else small
        joints = self.cell.joint_state()
        return Observation(joints.stamp, images, joints)

    def image(self, observation: Observation) -> Image:
        """[(cameras,) H, W, 3] as the policy gets them."""
        return images_of(self.contract, observation)

    def state(self, observation: Observation) -> NDArray[np.float32]:
        """Proprioception [S] as the policy gets it."""
        return state_of(self.contract, self.cell.kinematics, observation.joints)

    def _scene(self) -> Scene:
        if self.scene is None:
            raise VlaRosError("the environment has no scene yet; call reset first")
        return self.scene
