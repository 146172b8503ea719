"""Bimanual tasks: scenes of objects on ALOHA's table with an instruction; data in config/tasks/bimanual.yaml."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.paths import resolve
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.sim.tasks import SPLITS

OBJECTS = {"transfer": ("bar",), "insertion": ("peg", "socket")}  # of each task; the first one is what its instruction names
PLACE = ("x", "y", "yaw")
Range = tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Objects on the table and what to do with them."""

    task: str  # transfer | insertion
    instruction: str
    objects: dict[str, tuple[float, float, float]]  # name -> x, y m, yaw rad


@dataclass(frozen=True)
class TaskSpec:
    share: float
    time_limit: float  # s, cycle time; an episode that takes longer has failed
    instructions: tuple[str, ...]
    objects: dict[str, tuple[Range, ...]]  # name -> ranges of PLACE, m, m, rad


@dataclass(frozen=True)
class BimanualTasks:
    held_out: float
    tasks: dict[str, TaskSpec]

    @staticmethod
    def load(path: str | Path = "config/tasks/bimanual.yaml") -> BimanualTasks:
        """Raises VlaRosError on any key unknown, missing, or of a wrong kind."""
        return _load(str(resolve(path)))

    def sample(self, rng: np.random.Generator | int, split: str = "train", task: str | None = None) -> Scene:
        """Draws a scene; the same seed, split and task give the same one.

        Args:
            split: `train` lays nothing on the patch in the middle of an object's area, `held_out` everything.
            task: None (or empty) for the mixture.

        Raises:
            VlaRosError: unknown split or task.
        """
        if split not in SPLITS:
            raise VlaRosError(f"split: found '{split}', expected {' or '.join(SPLITS)}")
        if task and task not in self.tasks:
            raise VlaRosError(f"task: found '{task}', expected {', '.join(self.tasks)} or empty")
        rng = np.random.default_rng(rng)
        if not task:
            shares = np.array([spec.share for spec in self.tasks.values()])
            task = str(rng.choice(list(self.tasks), p=shares / shares.sum()))
        spec = self.tasks[task]
        instruction = spec.instructions[int(rng.integers(len(spec.instructions)))]
        return Scene(task, instruction, {name: self._place(ranges, rng, split) for name, ranges in spec.objects.items()})

    def _place(self, ranges: tuple[Range, ...], rng: np.random.Generator, split: str) -> tuple[float, float, float]:
        low, high = np.array(ranges).T
        while True:
            share = rng.random(3)
            middle = bool((abs(share[:2] - 0.5) < self.held_out / 2).all())
            if middle == (split == "held_out"):
                x, y, yaw = (low + share * (high - low)).tolist()
                return x, y, yaw


@functools.cache
def _load(path: str) -> BimanualTasks:
    top = load_yaml(Path(path)).check_keys("held_out", "tasks")
    section = top.section("tasks").check_keys(*OBJECTS)
    tasks = {name: _spec(section.section(name), OBJECTS[name]) for name in OBJECTS}
    if sum(spec.share for spec in tasks.values()) <= 0:
        raise section.section("transfer").wrong("share", "shares that do not all vanish")
    return BimanualTasks(top.number("held_out", 0.05, 0.95), tasks)


def _spec(section: Section, names: tuple[str, ...]) -> TaskSpec:
    section.check_keys("share", "time_limit", "instructions", "objects")
    objects = section.section("objects").check_keys(*names)
    places = {name: _ranges(objects.section(name).check_keys(*PLACE)) for name in names}
    return TaskSpec(section.number("share", 0, 1), section.number("time_limit", 0.1, 3600), section.texts("instructions"), places)


def _ranges(section: Section) -> tuple[Range, ...]:
    ranges = []
    for key in PLACE:
        low, high = section.numbers(key, 2)
        if not low <= high:
            raise section.wrong(key, "[low, high] with low <= high")
        ranges.append((low, high))
    return tuple(ranges)
