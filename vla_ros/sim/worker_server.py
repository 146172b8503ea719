"""The worker's side of vla_ros/sim/worker.py: one Gymnasium environment, asked in JSON lines, its pictures in shared memory.

Runs in the environment's own interpreter, where this package is not installed: it imports nothing but the standard library,
numpy and gymnasium.

    {"make": {...}}                               -> what the environment is like
    {"reset": seed}                               -> {"state", "expert", "misled"}
    {"ground": seed}                              -> {"points", "places"} and as reset, where the environment has `ground`
    {"step": action [D], "repeat": n}             -> {"reward", "terminated", "truncated", "success"} and as reset
    anything that raises                          -> {"error"}, and the traceback on stderr
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
import mmap
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Worker:
    """
    Args:
        spec: as Benchmark.spec() writes it.
        memory: file descriptor of the shared memory that pictures go to.
    """

    def __init__(self, spec: dict[str, Any], memory: int) -> None:
        self._spec = spec
        self.env = _make(spec["environment"], spec["arguments"])
        box = self.env.action_space
        if not isinstance(box, spaces.Box) or len(box.shape) != 1 or not box.is_bounded():
            raise ValueError(f"action space: found {box}, expected a Box of one dimension with finite bounds")
        self._low, self._high = box.low.astype(np.float64), box.high.astype(np.float64)
        observation, _ = self.env.reset(seed=0)  # before it there may be nothing to look at
        image = self._look(observation)
        os.ftruncate(memory, image.nbytes)
        self._image = np.frombuffer(mmap.mmap(memory, image.nbytes), np.uint8).reshape(image.shape)
        self._experts = {name: getattr(self.env.unwrapped, name, None) for name in ("expert", "misled")}

    def about(self) -> dict[str, Any]:
        versions = {name: importlib.metadata.version(name) for name in self._spec["packages"]}
        return {
            "image": self._image.shape, "actions": len(self._low), **{name: bool(act) for name, act in self._experts.items()},
            "ground": hasattr(self.env.unwrapped, "ground"), "versions": {"python": sys.version.split()[0], **versions},
        }  # fmt: skip

    def reset(self, seed: int) -> dict[str, Any]:
        observation, _ = self.env.reset(seed=seed)
        return self._visible(observation)

    def ground(self, seed: int) -> dict[str, Any]:
        observation, points, places = self.env.unwrapped.ground(seed)
        return {"points": np.asarray(points).tolist(), "places": np.asarray(places).tolist(), **self._visible(observation)}

    def step(self, action: list[float], repeat: int) -> dict[str, Any]:
        """The same action `repeat` times, or until the episode ends. `action` is in -1..1, of the environment's bounds."""
        wanted = self._low + 0.5 * (np.array(action) + 1.0) * (self._high - self._low)
        wanted = wanted.clip(self._low, self._high).astype(self.env.action_space.dtype)
        reward, success, terminated, truncated = 0.0, False, False, False
        for _ in range(repeat):
            observation, gained, terminated, truncated, info = self.env.step(wanted)
            reward += float(gained)
            if self._spec["success"] not in info:
                raise KeyError(f"success: info has no {self._spec['success']!r}; it has {sorted(info)}")
            success = bool(info[self._spec["success"]])
            if success or terminated or truncated:
                break
        told = {"reward": reward, "terminated": bool(terminated), "truncated": bool(truncated), "success": success}
        return {**told, **self._visible(observation)}

    def _visible(self, observation: Any) -> dict[str, Any]:
        """State and experts' actions; the picture goes to the shared memory."""
        image = self._look(observation)
        if image.shape != self._image.shape:
            raise ValueError(f"image: found {image.shape}, expected {self._image.shape} as at the first reset")
        self._image[:] = image
        vector = np.asarray(_find(observation, self._spec["state_from"]), np.float64).ravel()
        return {"state": vector[self._spec["state"]].tolist(), **{name: self._scaled(act) for name, act in self._experts.items()}}

    def _scaled(self, act: Callable[[], Any] | None) -> list[float] | None:
        if act is None:
            return None
        action = np.clip(np.asarray(act(), np.float64), self._low, self._high)
        scaled: list[float] = (2.0 * (action - self._low) / (self._high - self._low) - 1.0).tolist()
        return scaled

    def _look(self, observation: Any) -> Any:
        source = self._spec["image_from"]
        image = np.asarray(self.env.render() if source == "render" else _find(observation, source))
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image ({source}): found {image.shape} {image.dtype}, expected [height, width, 3] uint8")
        return image


def _find(observation: Any, key: str) -> Any:
    """`pixels.top` of {"pixels": {"top": ...}}; `.` is the observation itself."""
    return functools.reduce(lambda part, name: part[name], filter(None, key.split(".")), observation)


def _make(environment: dict[str, str], arguments: dict[str, Any]) -> Any:
    if "file" in environment:
        spec = importlib.util.spec_from_file_location("benchmark_environment", environment["file"])
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Environment(**arguments)
    if "import" in environment:
        importlib.import_module(environment["import"])
    return gymnasium.make(environment["id"], **arguments)


def main() -> None:
    memory = int(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the environment prints must not get among the answers
    worker: Worker | None = None
    for line in sys.stdin:  # ends when the other side closes, or dies
        request = json.loads(line)
        try:
            if "make" in request:
                worker = Worker(request["make"], memory)
                answer = worker.about()
            elif worker is None:
                raise RuntimeError("no environment has been made")
            elif "reset" in request:
                answer = worker.reset(request["reset"])
            elif "ground" in request:
                answer = worker.ground(request["ground"])
            else:
                answer = worker.step(request["step"], request["repeat"])
        except Exception as error:  # noqa: BLE001 (an environment may raise anything; the other side tells it)
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    if worker is not None:
        worker.env.close()


if __name__ == "__main__":
    main()
