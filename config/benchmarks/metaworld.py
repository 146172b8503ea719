"""One MetaWorld task as a plain Gymnasium environment. Runs in .venv-metaworld, started by vla_ros/sim/worker.py.

Every seed is a scene of its own: object and goal are drawn anew, where MetaWorld's own benchmarks have 50 fixed ones.
"""

from __future__ import annotations

import math
import os

os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is first imported

from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

HIDDEN = 5  # a group of geometries that is not drawn
ROOM = np.array([[-0.4, 0.4, 0.05], [0.4, 0.95, 0.4]])  # m, that the hand wanders in
HAND = np.array([1, 1, 1, 0])  # what of an action moves it
MISSES = 0.04, 0.12  # m, beside things
TABLE, HALF = np.array([0.0, 0.75, 0.0]), np.array([0.15, 0.25])  # m, middle and half the size of where objects are


class Environment(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """Observation [39]: MetaWorld's own, which its experts need. A policy gets the picture and the robot's part of it."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's interface)

    def __init__(self, task: str, size: Sequence[int], cameras: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            task: name as in MetaWorld, `reach-v3`.
            size: [height, width] px of each camera's picture.
            cameras: lookat [3] m, distance m, azimuth and elevation deg, each.
        """
        self.render_mode = "rgb_array"
        self._env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"](seed=0)
        self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True  # a new scene at every reset, from the seed
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self._policy = ENV_POLICY_MAP[task]()
        self._observation = np.zeros(0)
        self._off = np.zeros(3)  # m, by which a misled expert is wrong
        model = self._env.model
        model.light_castshadow[:] = 0  # shadows and multisampling are most of the cost of a picture without a GPU
        model.vis.quality.offsamples = 0
        self._renderer = mujoco.Renderer(model, *size)
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0  # draws everything once more
        self._cameras = [_camera(**camera) for camera in cameras]
        self._groups = model.geom_group.copy()
        self._half = math.atan(math.tan(math.radians(model.vis.global_.fovy) / 2) * math.hypot(1, size[1] / size[0]))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self._env.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._observation, info = self._env.reset()
        angle, far = self.np_random.uniform(0, 2 * math.pi), self.np_random.uniform(*MISSES)
        self._off = np.array([far * math.cos(angle), far * math.sin(angle), self.np_random.uniform(-0.03, 0.03)])
        return self._observation, info

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self._observation, reward, terminated, truncated, info = self._env.step(action)
        return self._observation, float(reward), terminated, truncated, info

    def expert(self) -> NDArray[np.float64]:
        """[4] what MetaWorld's scripted policy would do now; may exceed the action space."""
        return np.asarray(self._policy.get_action(self._observation))

    def misled(self) -> NDArray[np.float64]:
        """[4] as expert(), of one that is wrong about where its hand is, in each episode otherwise: its motions miss things."""
        observation = self._observation.copy()
        observation[:3] -= self._off
        return np.asarray(self._policy.get_action(observation))

    def ground(self, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """A scene with the hand anywhere, or somewhere on the expert's way with noise: the observation; where each camera sees
        the object [cameras, 2], x right, y down, -1..1 edge to edge; its x, y on the table and from the hand, about -1..1."""
        random = np.random.default_rng(seed)
        o, _ = self.reset(seed=seed)
        goal, grip, noise = random.uniform(*ROOM), random.choice([-1.0, 1.0]), random.uniform(0, 0.6)
        wanders = random.random() < 0.5
        for _ in range(random.integers(12 if wanders else 26)):
            action = np.append(10 * (goal - o[:3]), grip) if wanders else self.expert() + random.normal(0, noise, 4) * HAND
            for _ in range(4):
                o, *_ = self.step(action.clip(-1, 1).astype(np.float32))
        hand, thing = o[:3], o[4:7]
        place = np.concatenate([(thing - TABLE)[:2] / HALF, (thing - hand)[:2] / 0.4])
        return o, np.array([self._seen(camera, thing) for camera in self._cameras]), place

    def _seen(self, camera: mujoco.MjvCamera, point: NDArray[np.float64]) -> NDArray[np.float64]:
        ahead = _ahead(camera)
        right = np.cross(ahead, [0, 0, 1])
        right /= np.linalg.norm(right)
        to = point - camera.lookat + camera.distance * ahead
        half = math.tan(math.radians(self._env.model.vis.global_.fovy) / 2)  # of the height
        height, width = self._renderer.height, self._renderer.width
        across, up = to @ right * height / width, to @ np.cross(right, ahead)
        return np.array([across, -up]) / (to @ ahead * half)

    def render(self) -> NDArray[np.uint8]:
        """[height, cameras · width, 3], the cameras side by side."""
        pictures, group = [], self._env.model.geom_group
        for camera in self._cameras:
            group[self._outside(camera)] = HIDDEN
            self._renderer.update_scene(self._env.data, camera)
            pictures.append(self._renderer.render())
            group[:] = self._groups
        return np.concatenate(pictures, 1)

    def _outside(self, camera: mujoco.MjvCamera) -> NDArray[np.bool_]:
        """Geometries that cannot be in the picture: their bounding spheres are outside the cone around it. MuJoCo draws them all
        the same, which without a GPU is a seventh of a picture's cost (the arm's base and shoulder)."""
        ahead = _ahead(camera)
        to, radius = self._env.data.geom_xpos - camera.lookat + camera.distance * ahead, self._env.model.geom_rbound
        away = np.linalg.norm(to, axis=1)
        angle = np.arccos(np.clip(to @ ahead / away, -1, 1)) - np.arcsin(np.clip(radius / away, 0, 1))
        bounded = (radius > 0) & (away > radius)  # a plane has no bounding sphere
        return np.asarray(bounded & (angle > self._half))

    def close(self) -> None:
        self._renderer.close()
        self._env.close()


def _ahead(camera: mujoco.MjvCamera) -> NDArray[np.float64]:
    azimuth, elevation = math.radians(camera.azimuth), math.radians(camera.elevation)
    across = math.cos(elevation)
    return np.array([across * math.cos(azimuth), across * math.sin(azimuth), math.sin(elevation)])


def _camera(lookat: Sequence[float], distance: float, azimuth: float, elevation: float) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = lookat, distance, azimuth, elevation
    return camera
