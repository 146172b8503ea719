"""Where a policy is trained for: a robot of ours (--robot) in simulated tabletop cells, or somebody else's benchmark (--env)."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.learning.data import Demonstrations
from vla_ros.learning.rollout import Environment
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.shapes import check_shapes, model_shapes, picture_shape
from vla_ros.sim.benchmark import Benchmark
from vla_ros.sim.benchmark_env import BenchmarkEnv
from vla_ros.sim.tasks import Tasks
from vla_ros.twin.cells import environments

BINS = 256  # per dimension where the contract sets none, as in RT-2


@dataclass(frozen=True)
class Place:
    """What training needs to know of it."""

    name: str  # that checkpoints carry as their robot
    path: Path  # of the file that says all this, for messages
    shapes: dict[str, Any]  # of a model's config
    bins: int
    horizon: int  # policy steps of the longest episode
    scaled: bool  # states and actions are about -1..1 as they are
    tasks: dict[str, tuple[str, ...]]  # what an instruction of each begins with
    benchmark: Benchmark | None = None
    contract: RobotContract | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Place:
        """
        Raises:
            VlaRosError: the file is missing or wrong.
        """
        if args.env:
            b = Benchmark.load(args.env)
            told: dict[str, tuple[str, ...]] = {name: (task.instruction,) for name, task in b.tasks.items()}
            return cls(b.name, b.path, b.model_shapes(), b.bins, b.horizon, True, told, benchmark=b)
        return cls.robot(RobotContract.load(args.robot))

    @classmethod
    def robot(cls, c: RobotContract) -> Place:
        plane = c.action.tip_plane
        verbs = {name: tuple(f"{verb} " for verb in spec.verbs) for name, spec in Tasks.load().tasks.items()}
        horizon = round(c.time_limit * c.observation.rate)
        return cls(c.robot, c.path, model_shapes(c), plane.bins if plane else BINS, horizon, plane is not None, verbs, contract=c)

    @property
    def calibration(self) -> dict[str, int]:
        """How evidence.calibrate is asked for a judge of here. A benchmark says at which decision it has succeeded, and an
        expert's episode lasts half a second: of a judge that may be four decisions early, episodes end without success. Its
        margin of two leaves one, and a frame more of debounce takes that away."""
        return {"margin": 2, "debounce": 3} if self.benchmark else {}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """[(cameras,) H, W, 3] of one observation's pictures."""
        return picture_shape(self.shapes["cameras"], self.shapes["image_size"])

    def check_model(self, config: Any, folder: Path, acts: bool = True) -> None:
        """Raises VlaRosError where a checkpoint of the folder does not see, or (`acts`) act, as this place wants."""
        bins = {"bins": self.bins} if self.benchmark and config.head == "bins" else {}
        check_shapes(self.shapes | bins, config, folder, self.path, acts)

    def task_of(self, instruction: str, practised: Sequence[str] = ()) -> str:
        """The task that an instruction is of; of several with the same words the one that is practised. Empty: of none.

        Raises:
            VlaRosError: it is of several.
        """
        said = {
            task: max((s for s in starts if instruction.startswith(s)), key=len, default="")
            for task, starts in self.tasks.items()
        }
        longest = max(map(len, said.values()))
        found = [task for task, start in said.items() if start and len(start) == longest]
        found = [task for task in found if task in practised] or found
        if len(found) > 1:
            raise VlaRosError(f"instruction {instruction!r} is of several tasks: {', '.join(found)}; choose with --tasks")
        return found[0] if found else ""

    def chosen(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        """These of its tasks; all without any. Raises VlaRosError: one that it has not."""
        if unknown := set(tasks or ()) - set(self.tasks):
            raise VlaRosError(f"--tasks: found '{min(unknown)}', expected some of {', '.join(self.tasks)}")
        return tuple(tasks or self.tasks)

    @contextlib.contextmanager
    def cells(self, count: int, twin: Path | None = None) -> Iterator[Sequence[Environment]]:
        """So many cells side by side."""
        if self.contract:
            yield environments(self.contract, count, twin)
            return
        assert self.benchmark
        made = [BenchmarkEnv(self.benchmark) for _ in range(count)]
        try:
            yield made
        finally:
            for env in made:
                env.close()


def by_task(place: Place, data: Demonstrations, practised: Sequence[str] = ()) -> dict[str, Demonstrations]:
    """The successful episodes by task, which the instruction tells; each until its success, what an expert showed after it is
    for judges.

    Raises:
        VlaRosError: none is successful, or an instruction is of no task, or of several and not one of them is `practised`.
    """
    tasks = [place.task_of(text, practised) for text in data.instructions]
    if "" in tasks:
        found, starts = data.instructions[tasks.index("")], sorted(start for starts in place.tasks.values() for start in starts)
        raise VlaRosError(f"--expert-data: instruction {found!r} is of no task, expected it to begin with one of {starts}")
    over = data.steps_to_go == 0
    successful = np.isin(data.episode, data.episode[over])
    if not successful.any():
        raise VlaRosError("--expert-data: found no episode that ends in success (steps_to_go 0), expected demonstrations")
    after = over & np.append(False, over[:-1] & (np.diff(data.episode) == 0))
    of_frame = np.array(tasks)[data.instruction]
    return {task: data[successful & ~after & (of_frame == task)] for task in sorted(set(of_frame[successful]))}
