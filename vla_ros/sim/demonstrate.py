"""Records the scripted demonstrator of the bimanual cell: every command goes through the safety filter, as live.

A recording is a demonstration (metadata `kind`): /policy/chunk holds what the demonstrator meant, which is cloned, and
/safety/state what its trembling hands and the filter made of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_ros.episodes.check import DEMONSTRATION
from vla_ros.episodes.messages import chunk, observation, safety_state, write
from vla_ros.episodes.tensors import CHUNK, OBSERVATION, SAFETY
from vla_ros.episodes.writer import EpisodeWriter
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.safety.filter import SafetyFilter
from vla_ros.sim.bimanual_cell import BimanualCell
from vla_ros.sim.bimanual_expert import BimanualExpert, Manner
from vla_ros.sim.bimanual_model import GRASP
from vla_ros.sim.collect import GroundingData
from vla_ros.sim.env import RENDER_SIZE
from vla_ros.types import ActionChunk

STATES = 25.0  # Hz, of /safety/state, as nodes.launch.yaml has it
SETTLE = 0.2  # s in which the filter comes to know the arm
LOOKS = 3  # observations running at which the truth must say success: then the episode is over


class Demonstrator:
    """
    Args:
        contract: its action must be joint positions at the rate of observations.

    Raises:
        VlaRosError: a robot without a bimanual cell, or other rates.
    """

    def __init__(self, contract: RobotContract, manner: Manner | None = None) -> None:
        if contract.action.rate != contract.observation.rate:
            found = f"action.rate: found {contract.action.rate:g} Hz"
            raise VlaRosError(f"{contract.path}: {found}, expected observation.rate ({contract.observation.rate:g} Hz)")
        self.contract, self.manner = contract, manner or Manner()
        self.cell = BimanualCell(contract)
        self._period = 1.0 / contract.observation.rate

    def record(self, folder: Path, seed: int, task: str | None = None, split: str = "train") -> tuple[Path, bool]:
        """Demonstrates the scene of a seed into <folder>/<task>-<seed>.mcap; whether it succeeded, by the simulator's truth.

        Raises:
            VlaRosError: unknown task or split, or the file exists.
        """
        cell, contract = self.cell, self.contract
        scene = cell.sample(seed, split, task)
        cell.place_arm(cell.kinematics.home())
        cell.reset(scene)
        rng = np.random.default_rng(seed)
        expert = BimanualExpert(contract, cell.kinematics, scene, rng, self.manner)
        safety = SafetyFilter.for_robot(contract)
        name = f"{scene.task}-{seed:06d}"
        metadata = {
            "episode_id": name, "robot": contract.robot, "instruction": scene.instruction, "kind": DEMONSTRATION,
            "seed": str(seed), "split": split,
        }  # fmt: skip
        with EpisodeWriter(folder / f"{name}.mcap", metadata) as writer:
            self._move(safety, writer, round(SETTLE * contract.control.rate))
            looks, step = 0, 0
            while True:
                stamp = self._observe(writer)
                row = expert.row((step + 1) * self._period)
                write(writer, CHUNK, "vla_ros/msg/ActionChunk", stamp, chunk(stamp, self._period, row, contract, name))
                looks = looks + 1 if cell.truth()[0] else 0
                if looks == LOOKS or step * self._period > expert.duration + 1.0:
                    break
                made = ActionChunk(
                    stamp + self._period, self._period, contract.joints, expert.execute(row)[None], observation_stamp=stamp
                )
                if reason := safety.submit(made, stamp):
                    raise VlaRosError(f"{name}: the safety filter refused the demonstrator at {stamp:.2f} s: {reason}")
                self._move(safety, writer, contract.ticks_per_step)
                step += 1
            success = looks == LOOKS
            writer.annotate(outcome="success" if success else "failure", steps=str(step))
        return folder / f"{name}.mcap", success

    def _move(self, safety: SafetyFilter, writer: EpisodeWriter, ticks: int) -> None:
        cell, rate = self.cell, self.contract.control.rate
        for tick in range(ticks):
            state = cell.joint_state()
            answer = safety.tick(state.stamp, state)
            if answer is not None:
                cell.set_command(answer.command)
                if tick % round(rate / STATES) == 0:
                    said = safety_state(state.stamp, answer, self.contract, safety.counters.ticks)
                    write(writer, SAFETY, "vla_ros/msg/SafetyState", state.stamp, said)
            cell.step(1 / rate)

    def _observe(self, writer: EpisodeWriter) -> float:
        """Records what the policy sees; its stamp [s]."""
        cell, spec = self.cell, self.contract.observation
        joints = cell.joint_state()
        images = {name: resize(cell.render(name, RENDER_SIZE), spec.size) for name in spec.cameras}
        fields = observation(joints.stamp, images, joints.position, self.contract, joints.velocity)
        write(writer, OBSERVATION, "vla_ros/msg/Observation", joints.stamp, fields)
        return joints.stamp


def grounding_pictures(contract: RobotContract, n: int, seed: int) -> GroundingData:
    """Scenes of the hand-over before the bar is gripped, with the arms anywhere on their way: both places where hands take the
    bar, in the first policy camera's picture and on the table. The same arguments give the same data."""
    cell, rng = BimanualCell(contract), np.random.default_rng(seed)
    size, camera = contract.observation.size, contract.observation.cameras[0]
    instructions = cell.tasks.tasks["transfer"].instructions
    (x, y, _) = (np.array(ends) for ends in cell.tasks.tasks["transfer"].objects["bar"])
    centre, half = np.array([x.mean(), y.mean()]), np.array([np.ptp(x), np.ptp(y)]) / 2 + GRASP["bar"]["right"]
    images, states = np.empty((n, *size, 3), np.uint8), np.empty((n, len(contract.joints)), np.float32)
    points, positions = np.empty((n, 2, 2), np.float32), np.empty((n, 4), np.float32)
    said = np.empty(n, np.int32)
    for k in range(n):
        scene = cell.tasks.sample(rng, "train", "transfer")
        expert = BimanualExpert(contract, cell.kinematics, scene, rng)
        q = expert.row(rng.uniform(0.0, 0.3 * expert.duration))
        cell.place_arm(np.clip(q + rng.normal(0, 0.05, len(q)), contract.limits.lower, contract.limits.upper))
        cell.reset(scene)
        images[k] = resize(cell.render(camera, RENDER_SIZE), size)
        states[k] = cell.joint_state().position
        place, axes = cell.pose("bar")
        ends = np.array([place + axes[:, 0] * GRASP["bar"][side] for side in ("right", "left")])
        points[k] = cell.project(camera, ends)
        positions[k] = ((ends[:, :2] - centre) / half).ravel()
        said[k] = instructions.index(scene.instruction)
    return GroundingData(images, states, said, instructions, points, positions)
