"""Gymnasium adapter of the tabletop cell, for learning code from elsewhere."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import Tasks
from vla_ros.types import Observation


class TabletopGym(gymnasium.Env[dict[str, Any], Any]):
    """Reward 1 and the end at the simulator's truth, else 0; truncated at the contract's time limit.

    Observations: `image` [H, W, 3] uint8, `state` [S] in about -1..1, `instruction` text.
    Actions: tokens [2], bin per axis of the tip's displacement.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's interface)

    def __init__(self, robot: str = "panda", split: str = "train", task: str | None = None) -> None:
        contract = RobotContract.load(robot)
        self.render_mode = "rgb_array"
        self._env = TabletopEnv(contract)
        self._split, self._task = split, task
        self._limit = round(contract.time_limit * contract.observation.rate)
        self._steps = 0
        letters = "".join(sorted({letter for word in Tasks.load().vocabulary for letter in word} | {" "}))
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (*contract.observation.size, 3), np.uint8),
                "state": spaces.Box(-1.1, 1.1, (len(contract.observation.state),), np.float32),
                "instruction": spaces.Text(80, charset=letters),
            }
        )
        self.action_space = spaces.MultiDiscrete([contract.action.bins] * 2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """`options` may hold `split` and `task`."""
        super().reset(seed=seed)
        chosen = {"split": self._split, "task": self._task, **(options or {})}
        self._steps = 0
        observation = self._env.reset(int(self.np_random.integers(2**31)), **chosen)
        return self._visible(observation), {}

    def step(self, action: ArrayLike) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        observation, success, info = self._env.step(action)
        return self._visible(observation), float(success), success, self._steps >= self._limit, info

    def render(self) -> Any:
        """[480, 640, 3] uint8 of the spectators' camera."""
        return self._env.cell.render("overview", (480, 640))

    def _visible(self, observation: Observation) -> dict[str, Any]:
        env = self._env
        return {
            "image": env.image(observation),
            "state": env.state(observation),
            "instruction": env.instruction,
        }
