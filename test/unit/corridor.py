"""A cell small enough to learn in within seconds: a corridor of five places, the goal at the end that the word names."""

from __future__ import annotations

from typing import Any

import checkpoints
import numpy as np
import torch
from numpy.typing import NDArray

from vla_ros.learning.cells import Cells
from vla_ros.learning.data import Demonstrations, together
from vla_ros.learning.practice import PracticeConfig
from vla_ros.policy.model import VlaModel
from vla_ros.progress.calibration import Calibration

TEXTS = {"reach": "touch the red cube", "push": "push the red cube to the left"}  # the goal is right, left
MIDDLE, MOST, SIDE = 2, 8, 16  # place at the start, steps, px


class Corridor:
    """A step of -1..1 moves that far (rounded); the end is reached on the goal's side of the corridor."""

    cycle, unit, looks, ended = float(MOST), 0.04, 2, False

    def __init__(self) -> None:
        self.place, self.task = MIDDLE, "reach"

    @property
    def instruction(self) -> str:
        return TEXTS[self.task]

    def success(self) -> bool:
        return self.place == (4 if self.task == "reach" else 0)

    def reset(self, seed: int, split: str, task: str | None) -> int:
        self.place, self.task = MIDDLE + seed % 3 - 1, task or "reach"
        return self.place

    def send(self, action: Any) -> None:
        """Tokens 0, 1, 2 are a step left, none, right; so are metres."""
        value = np.asarray(action)
        move = int(value[0]) - 1 if value.dtype.kind in "iu" else round(float(np.clip(value[0] / self.unit, -1, 1)))
        self.place = min(max(self.place + move, 0), 4)

    def receive(self) -> int:
        return self.place

    def image(self, observation: int) -> NDArray[np.uint8]:
        picture = np.full((SIDE, SIDE, 3), 40, np.uint8)
        picture[:, 3 * observation : 3 * observation + 4] = 220
        return picture

    def state(self, observation: int) -> NDArray[np.float32]:
        return np.array([observation / 2 - 1, 0], np.float32)


def model(seed: int = 0, **config: object) -> VlaModel:
    """An untrained one that tells words apart, as one does that has been grounded."""
    out = checkpoints.model(seed, **{"image_size": (SIDE, SIDE), "bins": 3, "action_dim": 1, **config})
    with torch.no_grad():
        out.language_model.get_input_embeddings().weight.mul_(30)
    return out


def cells(
    acting: VlaModel, per_update: int = 24, tasks: tuple[str, ...] = ("reach", "push"), seed: int = 0,
    judge: tuple[VlaModel, Calibration] | None = None,
) -> Cells:  # fmt: skip
    envs = [Corridor() for _ in range(12)]
    return Cells(acting, checkpoints.prompt(), envs, PracticeConfig(per_update=per_update, tasks=tasks, seed=seed), judge)


def success(acting: VlaModel, task: str = "reach", seed: int = 10_000) -> float:
    """Of 48 sampled episodes."""
    return float(np.mean([p.episode.detected for p in cells(acting, 48, (task,), seed).batch(task)[task]]))


def demonstrations(task: str, episodes: int, seed: int = 0) -> Demonstrations:
    """An expert that goes straight to the goal, and stays for one step."""
    sets = []
    for k in range(episodes):
        env = Corridor()
        places = [env.reset(seed + k, "train", task)]
        way = 1 if task == "reach" else -1
        while not env.success():
            env.send(np.array([1 + way]))
            places.append(env.receive())
        places.append(places[-1])
        count, none = len(places), np.zeros(len(places), np.int32)
        actions = np.full((count, 1, 1), way, np.float32)
        actions[-2:] = 0
        images, states = np.stack([env.image(p) for p in places]), np.stack([env.state(p) for p in places])
        togo = np.arange(count - 1, -1, -1, dtype=np.int32)
        sets.append(Demonstrations(images, states, actions, togo, none, (TEXTS[task],), none))
    return together(sets)
