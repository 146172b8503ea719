"""A Gymnasium environment whose simulator runs in another interpreter, with that one's packages.

Third-party benchmarks exclude each other's versions and ours, so each has a virtual environment of its own. Here is a child
process started with its python (worker_server.py), JSON lines over its pipes, and pictures through shared memory: an anonymous
file handed over as a descriptor, which needs no name and vanishes with the two processes, however they end.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import selectors
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from vla_ros.errors import VlaRosError
from vla_ros.sim.benchmark import Benchmark

SERVER = Path(__file__).with_name("worker_server.py")
TAIL = 2000  # characters of the worker's own messages that an error shows


class WorkerEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """One task of a benchmark. Many of them step side by side: send() to all, then receive() from all.

    Observations: `image` [(cameras,) H, W, 3] uint8 RGB, `state` [S] float32 in about -1..1, `instruction` text.
    Actions: [D] in -1..1, stretched to the environment's bounds; held for the benchmark's `repeat` simulator steps.
    Reward: the environment's own, summed over those. Terminated at success, too; truncated at the benchmark's horizon.
    info: `success`; `expert`: the action [D] that a scripted expert takes at this observation, and `misled`: what it would take
    if it were wrong about where things are. None where there is none.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's interface)

    def __init__(self, benchmark: Benchmark, task: str, timeout: float = 120.0, ends_at_success: bool = True) -> None:
        """
        Args:
            timeout: s that the worker may take for one answer; making an environment takes it seconds.
            ends_at_success: False: it goes on until the environment ends it, or the horizon.

        Raises:
            VlaRosError: no such task, its interpreter has not been made, or the environment is not what the YAML says.
        """
        if task not in benchmark.tasks:
            raise VlaRosError(f"{benchmark.path}: tasks: found no '{task}', expected one of {', '.join(benchmark.tasks)}")
        if not benchmark.python.is_file():
            raise VlaRosError(
                f"{benchmark.path}: python: {benchmark.python} does not exist; make it: make bench-{benchmark.name}"
            )
        self.benchmark, self.task, self.render_mode = benchmark, task, "rgb_array"
        self.instruction = benchmark.tasks[task].instruction
        self._name, self._timeout, self._ends_at_success = f"{benchmark.name} {task}", timeout, ends_at_success
        self._low = np.array([m.low for m in benchmark.state])
        self._high = np.array([m.high for m in benchmark.state])
        self._steps, self._running, self._waiting = 0, False, False
        self._shared: NDArray[np.uint8] | None = None
        self._last: NDArray[np.uint8] | None = None
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        memory = os.memfd_create(f"vla_ros {self._name}")
        try:
            self._process = subprocess.Popen(
                # -I: neither PYTHONPATH nor the folder of the script, whose gym.py and types.py would shadow others; -B: no
                # __pycache__ beside the YAML
                [str(benchmark.python), "-IB", str(SERVER), str(memory)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages, pass_fds=[memory],
                start_new_session=True,  # Ctrl-C is for this process, which then ends the worker
                env={"MUJOCO_GL": "egl", **os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            assert self._process.stdout
            self._answers = selectors.DefaultSelector()
            self._answers.register(self._process.stdout, selectors.EVENT_READ)
            self.about = self._start(memory)
        except OSError as error:
            self.close()
            raise VlaRosError(f"{benchmark.path}: python: {benchmark.python} cannot be started: {error.strerror}") from error
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)  # a mapping keeps it
        charset = "".join(sorted({letter for t in benchmark.tasks.values() for letter in t.instruction}))
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, benchmark.image_shape, np.uint8),
                "state": spaces.Box(-math.inf, math.inf, self._low.shape, np.float32),
                "instruction": spaces.Text(max(len(t.instruction) for t in benchmark.tasks.values()), charset=charset),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (benchmark.actions,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The scene of `seed`; without one, the next of those that the last seed began."""
        super().reset(seed=seed)
        answer = self._ask({"reset": int(self.np_random.integers(2**31)) if seed is None else seed})
        self._steps, self._running = 0, True
        return self._observation(answer), {"success": False, **_experts(answer)}

    def ground(self, seed: int) -> tuple[dict[str, Any], NDArray[np.float32], NDArray[np.float32]]:
        """A random situation of `seed`, for stage 0; no episode begins. Its observation; where in each camera's picture the
        object of the instruction is [cameras, 2], x right, y down, -1..1 edge to edge; and its places [D], about -1..1.

        Raises:
            VlaRosError: the environment does not tell them (a method `ground(seed)`), or in another shape, or not finite.
        """
        if not self.about["ground"]:
            raise VlaRosError(
                f"{self.benchmark.path}: its environment does not tell where things are (a method `ground(seed) -> observation, "
                "points [cameras, 2], places`); train without stage 0, from --policy small"
            )
        answer = self._ask({"ground": seed})
        self._running = False
        points, places = (np.array(answer[key], np.float32) for key in ("points", "places"))
        expected = self.benchmark.cameras, 2
        if points.shape != expected or places.ndim != 1 or not (np.isfinite(points).all() and np.isfinite(places).all()):
            raise VlaRosError(
                f"{self._name}: ground({seed}): found points {points.tolist()}, places {places.tolist()}, expected finite points "
                f"{list(expected)} and a vector of finite places"
            )
        return self._observation(answer), points, places

    def step(self, action: ArrayLike) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """
        Raises:
            VlaRosError: an action of another shape, not finite or outside -1..1, no episode running, or a dead worker.
        """
        self.send(action)
        return self.receive()

    def send(self, action: ArrayLike) -> None:
        """The first half of step(): the worker begins. Raises as step()."""
        row = np.asarray(action, np.float64)
        if row.shape != self.action_space.shape:
            raise VlaRosError(f"{self._name}: action: found shape {row.shape}, expected {self.action_space.shape}")
        if not (np.abs(row) <= 1.0 + 1e-6).all():  # false for NaN, too
            raise VlaRosError(f"{self._name}: action: found {row.tolist()}, expected values in -1..1")
        if not self._running:
            raise VlaRosError(f"{self._name}: the episode has ended or none has begun; reset first")
        self._send({"step": row.tolist(), "repeat": self.benchmark.repeat})

    def receive(self) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """The second half of step()."""
        answer = self._receive()
        self._steps += 1
        terminated = answer["terminated"] or (answer["success"] and self._ends_at_success)
        truncated = answer["truncated"] or self._steps >= self.benchmark.horizon
        self._running = not (terminated or truncated)
        info = {"success": answer["success"], **_experts(answer)}
        return self._observation(answer), answer["reward"], terminated, truncated, info

    @property
    def pid(self) -> int:
        """Of the worker's process."""
        return self._process.pid

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """[H, cameras · W, 3] of the last observation; None before the first."""
        return self._last

    def close(self) -> None:
        """Ends the worker; again and after its death without effect."""
        if not hasattr(self, "_process"):
            self._messages.close()
            return
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # of a request that a dead worker never took
            self._process.stdin.close()  # which ends its loop
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._answers.close()
        self._messages.close()
        self._shared, self._running = None, False

    def _start(self, memory: int) -> dict[str, Any]:
        """Makes the environment, and looks into the memory that its pictures come through."""
        b = self.benchmark
        spec = {
            "environment": b.environment, "arguments": b.tasks[self.task].arguments, "packages": b.packages,
            "image_from": b.image_from, "state_from": b.state_from, "state": [m.index for m in b.state], "success": b.success,
        }  # fmt: skip
        about = self._ask({"make": spec})
        shape = (b.image_size[0], b.cameras * b.image_size[1], 3)
        if tuple(about["image"]) != shape:
            raise VlaRosError(
                f"{b.path}: image: the environment's picture is {about['image']}, expected {list(shape)} of size and cameras"
            )
        if about["actions"] != b.actions:
            raise VlaRosError(f"{b.path}: action.size: found {b.actions}, expected {about['actions']} as the environment takes")
        self._shared = np.frombuffer(mmap.mmap(memory, math.prod(shape), prot=mmap.PROT_READ), np.uint8).reshape(shape)
        return about

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._send(request)
        return self._receive()

    def _send(self, request: dict[str, Any]) -> None:
        if self._waiting:
            raise VlaRosError(f"{self._name}: an answer is still to be received")
        assert self._process.stdin
        if self._process.stdin.closed:
            raise VlaRosError(f"{self._name}: this environment was closed")
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._dead() from error
        self._waiting = True

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        if not self._waiting:
            raise VlaRosError(f"{self._name}: nothing was sent that an answer could come to")
        if not self._answers.select(self._timeout):
            self._process.kill()
            self._waiting = False
            raise VlaRosError(f"{self._name}: the worker did not answer within {self._timeout:g} s and was ended{self._tail()}")
        line = self._process.stdout.readline()
        self._waiting = False
        if not line:
            raise self._dead()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise VlaRosError(f"{self._name}: the environment failed: {answer['error']}{self._tail()}")
        return answer

    def _dead(self) -> VlaRosError:
        return VlaRosError(f"{self._name}: the worker has ended (exit status {self._process.wait(5)}){self._tail()}")

    def _tail(self) -> str:
        if self._messages.closed:
            return ""
        self._messages.seek(0)
        text = self._messages.read().decode(errors="replace").strip()
        return f"; its last messages:\n{text[-TAIL:]}" if text else ""

    def _observation(self, answer: dict[str, Any]) -> dict[str, Any]:
        state = 2.0 * (np.array(answer["state"]) - self._low) / (self._high - self._low) - 1.0
        if not np.isfinite(state).all():
            raise VlaRosError(f"{self._name}: state: found {answer['state']}, expected finite values")
        assert self._shared is not None
        self._last = self._shared.copy()  # the worker writes the next one over it
        height, width = self.benchmark.image_size
        views = self._last.reshape(height, -1, width, 3).swapaxes(0, 1).reshape(self.benchmark.image_shape)
        return {"image": views, "state": state.astype(np.float32), "instruction": self.instruction}


def _experts(answer: dict[str, Any]) -> dict[str, NDArray[np.float32] | None]:
    return {name: answer[name] and np.array(answer[name], np.float32) for name in ("expert", "misled")}
