"""Episodes of a simulated cell, recorded as the graph records those of a real one: for showing what a fit finds out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.episodes.messages import header, observation, safety_state, write
from vla_ros.episodes.tensors import OBSERVATION, SAFETY
from vla_ros.episodes.writer import EpisodeWriter
from vla_ros.errors import VlaRosError
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert, Manner
from vla_ros.twin.excitation import excitation
from vla_ros.types import Array, Image, SafeCommand, SafetyMode

JOINT_STATE = "sensor_msgs/msg/JointState"


@dataclass(frozen=True)
class Senses:
    """How a cell is measured and recorded."""

    position: float = 1e-4  # rad, noise's standard deviation
    velocity: float = 2e-3  # rad/s
    pixel: float = 2.0  # levels of 255
    every_tick: bool = True  # joint states and commands at the control rate; else as nodes.launch.yaml has it
    state_rate: float = 25.0  # Hz, of /safety/state where not every tick is recorded


class Recorder:
    """Runs a cell and writes one episode a call.

    Args:
        env: the cell, with whatever physics it has.
        seed: of the noise.
    """

    def __init__(self, env: TabletopEnv, senses: Senses, seed: int = 0) -> None:
        self.env, self.senses = env, senses
        self._rng = np.random.default_rng(seed)
        self._writer: EpisodeWriter | None = None
        self._tick = 0

    def practice(self, path: Path, seed: int, task: str = "reach", manner: Manner | None = None, steps: int = 40) -> Path:
        """The scripted expert at a task of the table, until it has succeeded or `steps` policy steps are over."""
        env = self.env
        env.reset(seed, task=task)
        scene = env.scene
        if scene is None:
            raise VlaRosError("rehearsal: reset left no scene")
        expert = Expert(env.contract, scene, np.random.default_rng(seed), manner)

        def run() -> None:
            for _ in range(steps):
                self._observe()
                if expert.done(env.cell.tip(), env.cell.blocks()):
                    return
                env.advance(expert.step(env.cell.tip(), env.cell.blocks())[1])
            self._observe()

        return self._record(path, env.instruction, run)

    def excitation(self, path: Path, seed: int, seconds: float = 8.0) -> Path:
        """The excitation motion from home, over a table with a scene on it."""
        env, home = self.env, self.env.cell.kinematics.home()
        env.reset(seed)
        period = 1.0 / env.contract.control.rate

        def run() -> None:
            for k, command in enumerate(excitation(env.contract, seconds, seed, home)):
                if k % env.contract.ticks_per_step == 0:
                    self._observe()
                env.cell.set_command(command)
                env.cell.step(period)
            self._observe()

        return self._record(path, "excite the joints", run)

    def _record(self, path: Path, instruction: str, run: Any) -> Path:
        contract, cell = self.env.contract, self.env.cell
        metadata = {"episode_id": path.stem, "robot": contract.robot, "instruction": instruction, "kind": "rehearsal"}
        step, self._tick = cell.step, 0
        with EpisodeWriter(path, metadata) as self._writer:

            def recorded(dt: float) -> None:
                self._tell(cell.commanded)
                step(dt)

            cell.step = recorded  # type: ignore[method-assign]
            try:
                run()
            finally:
                del cell.step  # the class's again
        return path

    def _measured(self) -> tuple[float, Array, Array]:
        joints, n = self.env.cell.joint_state(), len(self.env.contract.joints)
        position = joints.position + self._rng.normal(0.0, self.senses.position, n)
        return joints.stamp + 1.0, position, joints.velocity + self._rng.normal(0.0, self.senses.velocity, n)

    def _observe(self) -> None:
        assert self._writer
        stamp, position, velocity = self._measured()
        images = {name: self._noisy(pixels) for name, pixels in self.env.observe().images.items()}
        fields = observation(stamp, images, position, self.env.contract, velocity)
        write(self._writer, OBSERVATION, "vla_ros/msg/Observation", stamp, fields)

    def _noisy(self, pixels: Image) -> Image:
        noisy = pixels + self._rng.normal(0.0, self.senses.pixel, pixels.shape)
        return noisy.round().clip(0, 255).astype(np.uint8)

    def _tell(self, command: Array) -> None:
        """What the safety filter sends at this tick, and the joint state that it answers."""
        assert self._writer
        contract, senses = self.env.contract, self.senses
        stamp, position, velocity = self._measured()
        due, self._tick = self._tick % max(1, round(contract.control.rate / senses.state_rate)) == 0, self._tick + 1
        if senses.every_tick:
            names = list(contract.joints)
            fields = {"header": header(stamp), "name": names, "position": position, "velocity": velocity, "effort": np.zeros(0)}
            write(self._writer, contract.control.state_topic, JOINT_STATE, stamp, fields)
        if due or senses.every_tick:
            said = SafeCommand(stamp, SafetyMode.RUN, "", 1.0, (), command, command, np.zeros(len(command)))
            write(self._writer, SAFETY, "vla_ros/msg/SafetyState", stamp, safety_state(stamp, said, contract))
