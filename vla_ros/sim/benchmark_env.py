"""A benchmark of somebody else's as cells that policies practise in: what learning/rollout.py takes, of worker processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_ros.errors import VlaRosError
from vla_ros.sim.benchmark import Benchmark
from vla_ros.sim.worker import WorkerEnv

SPLIT = "train"  # the only one


class BenchmarkEnv:
    """One cell: a worker process for each task that was ever asked of it. close() ends them.

    An episode goes on after success, until its judge, the environment itself, or the horizon ends it.
    """

    unit = 1.0  # actions are in -1..1
    looks = 1  # a benchmark's success counts at any decision

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.ended = False
        self._workers: dict[str, WorkerEnv] = {}
        self._task, self._success = "", False
        self._still = (benchmark.bins - 1) / 2

    @property
    def instruction(self) -> str:
        return self._now().instruction

    @property
    def cycle(self) -> float:
        """Decisions of an episode at most."""
        return float(self.benchmark.horizon)

    def reset(self, seed: int, split: str = SPLIT, task: str | None = None) -> dict[str, Any]:
        """
        Args:
            task: of the benchmark; None: the first one.

        Raises:
            VlaRosError: no such task or split; the worker's, as WorkerEnv.
        """
        if split != SPLIT:
            raise VlaRosError(f"{self.benchmark.path}: split: found {split}, expected {SPLIT}: a benchmark has no other")
        self._task = task or next(iter(self.benchmark.tasks))
        if self._task not in self._workers:
            self._workers[self._task] = WorkerEnv(self.benchmark, self._task, ends_at_success=False)
        observation, info = self._now().reset(seed=seed)
        self.ended, self._success = False, info["success"]
        return observation

    def send(self, action: ArrayLike) -> None:
        """Tokens (integers) are bins of -1..1."""
        value = np.asarray(action)
        if value.dtype.kind in "iu":
            value = value / self._still - 1.0
        self._now().send(np.clip(value, -1.0, 1.0))

    def receive(self) -> dict[str, Any]:
        observation, _, terminated, truncated, info = self._now().receive()
        self.ended, self._success = terminated or truncated, info["success"]
        return observation

    def success(self) -> bool:
        return self._success

    def image(self, observation: dict[str, Any]) -> NDArray[np.uint8]:
        return np.asarray(observation["image"], np.uint8)

    def state(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        return np.asarray(observation["state"], np.float32)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def _now(self) -> WorkerEnv:
        if not self._task:
            raise VlaRosError("the environment has no scene yet; call reset first")
        return self._workers[self._task]
