"""A gym-aloha task as a plain Gymnasium environment. Runs in .venv-gym_aloha, started by vla_ros/sim/worker.py."""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is first imported

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gym_aloha.env import AlohaEnv
from gymnasium import spaces
from numpy.typing import NDArray

ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")


class Environment(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """Observation [14]: joints [rad] and grippers (0 closed, 1 open). Action [14]: their positions, within the joints' ranges."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's interface)

    def __init__(self, task: str, size: Sequence[int], cameras: Sequence[str]) -> None:
        """
        Args:
            task: transfer_cube or insertion.
            size: [height, width] px of each camera's picture.
            cameras: of the scene.
        """
        self.render_mode = "rgb_array"
        self._env, self._size, self._cameras = AlohaEnv(task, obs_type="pixels_agent_pos"), size, cameras
        self._physics = self._env._env.physics
        model = self._physics.model
        model.light_castshadow[:] = 0  # shadows and multisampling are most of the cost of a picture without a GPU
        model.vis.quality.offsamples = 0
        inner = self._env._env.task
        nothing = {"top": np.zeros((1, 1, 3), np.uint8)}  # render() draws what is wanted
        inner.get_observation = lambda physics: {"qpos": inner.get_qpos(physics), "images": nothing}
        ranges = [model.joint(f"vx300s_{side}/{joint}").range for side in ("left", "right") for joint in ARM]
        low, high = (np.array([r[k] for r in ranges], np.float32).reshape(2, 6) for k in (0, 1))
        gripper = np.array([[0.0], [1.0]], np.float32)
        self.action_space = spaces.Box(
            np.hstack([low, gripper[[0, 0]]]).ravel(), np.hstack([high, gripper[[1, 1]]]).ravel(), dtype=np.float32
        )
        self.observation_space = spaces.Box(-np.inf, np.inf, (14,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        observation, info = self._env.reset(seed=seed)
        return observation["agent_pos"], info

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(np.asarray(action, np.float64))
        return observation["agent_pos"], float(reward), bool(terminated), truncated, info

    def render(self) -> NDArray[np.uint8]:
        """[height, cameras · width, 3], the cameras side by side."""
        height, width = self._size
        pictures = [self._physics.render(height=height, width=width, camera_id=camera) for camera in self._cameras]
        return np.concatenate(pictures, 1)

    def close(self) -> None:
        self._env.close()
