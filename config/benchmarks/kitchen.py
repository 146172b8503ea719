"""One Franka Kitchen task as a plain Gymnasium environment. Runs in .venv-kitchen, started by vla_ros/sim/worker.py."""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is first imported

from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium_robotics.envs.franka_kitchen import KitchenEnv
from numpy.typing import NDArray


class Environment(gymnasium.Env[NDArray[np.float64], NDArray[np.float64]]):
    """Observation [9]: joints [rad] and fingers [m], measured (with the environment's noise)."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's interface)

    def __init__(self, task: str, size: Sequence[int], cameras: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            task: the environment's name of its goal, `light switch`.
            size: [height, width] px of each camera's picture.
            cameras: lookat [3] m, distance m, azimuth and elevation deg, each.
        """
        self.render_mode, self._task = "rgb_array", task
        self._env = KitchenEnv(tasks_to_complete=[task], terminate_on_tasks_completed=False, remove_task_when_completed=False)
        self.action_space = self._env.action_space
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (9,), np.float64)
        model = self._env.model
        model.light_castshadow[:] = 0  # shadows and multisampling are most of the cost of a picture without a GPU
        model.vis.quality.offsamples = 0
        self._renderer = mujoco.Renderer(model, *size)
        self._cameras = [_camera(**camera) for camera in cameras]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=int(self.np_random.integers(2**31)) if seed is None else seed)
        return observation["observation"][:9], {"success": False}

    def step(self, action: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(action)
        success = self._task in info["episode_task_completions"]
        return observation["observation"][:9], float(reward), terminated, truncated, {"success": success}

    def render(self) -> NDArray[np.uint8]:
        """[height, cameras · width, 3], the cameras side by side."""
        pictures = []
        for camera in self._cameras:
            self._renderer.update_scene(self._env.data, camera)
            pictures.append(self._renderer.render())
        return np.concatenate(pictures, 1)

    def close(self) -> None:
        self._renderer.close()
        self._env.close()


def _camera(lookat: Sequence[float], distance: float, azimuth: float, elevation: float) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = lookat, distance, azimuth, elevation
    return camera
