"""Data for learning from the in-process environment: expert episodes, and scenes with phrases for grounding."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import normalise, proprio_state, resize
from vla_ros.sim.cell import Cell
from vla_ros.sim.env import RENDER_SIZE, TabletopEnv
from vla_ros.sim.expert import ASTRAY, Expert, Manner, stray
from vla_ros.sim.model import HEIGHT
from vla_ros.sim.tasks import Tasks, sample_scene
from vla_ros.types import Observation

Progress = Callable[[int, int], None]
"""(episodes done, episodes wanted)."""


@dataclass(frozen=True)
class ExpertData:
    """N frames of complete expert episodes, each with its final observation (steps_to_go 0, action: no motion)."""

    images: NDArray[np.uint8]  # [N, H, W, 3] first policy camera
    states: NDArray[np.float32]  # [N, S] -1..1
    actions: NDArray[np.float32]  # [N, chunk, 2] clean expert action and the ones after it, in units of max_step
    executed: NDArray[np.float32]  # [N, 2] what was carried out, with noise and pauses
    steps_to_go: NDArray[np.int32]  # [N]
    instruction: NDArray[np.int32]  # [N] index into `instructions`
    instructions: tuple[str, ...]
    episode: NDArray[np.int32]  # [N] 0, 1, ...
    attempts: int  # episodes begun, including the ones that were given up and left out


def collect(
    robot: str,
    episodes: int,
    seed: int,
    split: str = "train",
    task: str | None = None,
    noises: Sequence[float] = (),
    manner: Manner | None = None,
    max_steps: int = 120,
    workers: int = 2,
    progress: Progress | None = None,
) -> ExpertData:
    """Runs the expert until `episodes` of them have succeeded; the same arguments give the same data.

    Args:
        noises: each episode draws its execution noise out of these; none: the manner's own.
        max_steps: an episode is given up, and left out, after so many policy steps.
        workers: processes (spawned); 1 runs in this one.

    Raises:
        VlaRosError: more than half of the episodes fail.
    """
    manner = manner or Manner()
    job = _Job(robot, split, task, tuple(noises) or (manner.noise,), manner, max_steps)
    parts: dict[int, list[_Episode]] = {}
    batch = 8
    starts = [(first, min(batch, episodes - first)) for first in range(0, episodes, batch)]
    done = attempts = 0

    def take(first: int, result: tuple[list[_Episode], int]) -> None:
        nonlocal done, attempts
        parts[first] = result[0]
        done, attempts = done + len(result[0]), attempts + result[1]
        if progress:
            progress(done, episodes)

    if workers == 1:
        _start(job)
        for first, count in starts:
            take(first, _run(seed, first, count))
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _start, (job,)) as pool:
            futures = {pool.submit(_run, seed, first, count): first for first, count in starts}
            for future in as_completed(futures):
                take(futures[future], future.result())
    contract = RobotContract.load(robot)
    return _stack([e for first in sorted(parts) for e in parts[first]], Tasks.load(), contract, attempts)


@dataclass(frozen=True)
class _Job:
    robot: str
    split: str
    task: str | None
    noises: tuple[float, ...]
    manner: Manner
    max_steps: int


@dataclass(frozen=True)
class _Episode:
    images: NDArray[np.uint8]  # [T + 1, H, W, 3]
    states: NDArray[np.float32]
    tokens: NDArray[np.int16]  # [T, 2]
    executed: NDArray[np.int16]  # [T, 2]
    instruction: str


_worker: tuple[_Job, TabletopEnv] | None = None


def _start(job: _Job) -> None:
    global _worker
    if _worker is not None and _worker[0].robot == job.robot:
        _worker = (job, _worker[1])
        return
    _worker = (job, TabletopEnv(RobotContract.load(job.robot)))


def _run(seed: int, first: int, count: int) -> tuple[list[_Episode], int]:
    """`count` successful episodes; the draws depend on seed and `first` only, not on the worker."""
    if _worker is None:
        raise VlaRosError("collect: worker without environment")
    job, env = _worker
    rng = np.random.default_rng([seed, first])
    episodes: list[_Episode] = []
    attempts = 0
    while len(episodes) < count:
        attempts += 1
        if attempts > 2 * count + 10:
            raise VlaRosError(f"collect: the expert succeeded in {len(episodes)} of {attempts} episodes; less noise?")
        episode = _demonstrate(env, job, rng)
        if episode is not None:
            episodes.append(episode)
    return episodes, attempts


def _demonstrate(env: TabletopEnv, job: _Job, rng: np.random.Generator) -> _Episode | None:
    observation = env.reset(int(rng.integers(2**31)), job.split, job.task)
    noise = job.noises[int(rng.integers(len(job.noises)))]
    scene = env.scene
    if scene is None:
        raise VlaRosError("collect: reset left no scene")
    expert = Expert(env.contract, scene, rng, replace(job.manner, noise=noise))
    if job.manner.astray:
        observation = _go_astray(env, scene.target, int(rng.integers(job.manner.astray + 1)), rng) or observation
    images, states, clean, executed = [env.image(observation)], [env.state(observation)], [], []
    for _ in range(job.max_steps):
        tip, blocks = env.cell.tip(), env.cell.blocks()
        if expert.done(tip, blocks):
            break
        label, action = (env.decoder.encode(a) for a in expert.step(tip, blocks))
        observation, _, _ = env.step(action)
        clean.append(label)
        executed.append(action)
        images.append(env.image(observation))
        states.append(env.state(observation))
    if not clean or not expert.done(env.cell.tip(), env.cell.blocks()) or not env.cell.truth()[0]:
        return None
    return _Episode(np.stack(images), np.stack(states), np.stack(clean), np.stack(executed), scene.instruction)


def _go_astray(env: TabletopEnv, target: int, steps: int, rng: np.random.Generator) -> Observation | None:
    """Steps that are not recorded, at any speed, to points near the named block; the last observation."""
    observation = None
    for k in range(steps):
        if k % ASTRAY == 0:
            goal = stray(env.contract, env.cell.blocks()[target], rng)
            speed = rng.uniform(0.3, 1.0) * env.contract.action.max_step
        way = np.array(goal) - env.cell.tip()[:2]
        observation, _, _ = env.step(way * min(1.0, speed / max(float(np.hypot(*way)), 1e-9)))
    return observation


def _stack(episodes: list[_Episode], tasks: Tasks, contract: RobotContract, attempts: int) -> ExpertData:
    instructions = tasks.instructions("all")
    index = {text: k for k, text in enumerate(instructions)}
    still = (contract.action.bins - 1) // 2
    chunk = contract.action.chunk
    unit = lambda tokens: (tokens.astype(np.float32) - still) / still  # noqa: E731
    tokens, executed, togo = [], [], []
    for e in episodes:
        length = len(e.tokens)
        padded = np.concatenate([e.tokens, np.full((chunk, 2), still, np.int16)])
        tokens.append(np.stack([padded[np.minimum(np.arange(t, t + chunk), length)] for t in range(length + 1)]))
        executed.append(np.concatenate([e.executed, np.full((1, 2), still, np.int16)]))
        togo.append(np.arange(length, -1, -1, dtype=np.int32))
    lengths = [len(e.images) for e in episodes]
    return ExpertData(
        images=np.concatenate([e.images for e in episodes]),
        states=np.concatenate([e.states for e in episodes]),
        actions=unit(np.concatenate(tokens)),
        executed=unit(np.concatenate(executed)),
        steps_to_go=np.concatenate(togo),
        instruction=np.repeat(np.array([index[e.instruction] for e in episodes], np.int32), lengths),
        instructions=instructions,
        episode=np.repeat(np.arange(len(episodes), dtype=np.int32), lengths),
        attempts=attempts,
    )


@dataclass(frozen=True)
class GroundingData:
    """n rendered scenes with a phrase each, and where the things are that it names."""

    images: NDArray[np.uint8]  # [n, H, W, 3] first policy camera; of a benchmark [n, (cameras,) H, W, 3]
    states: NDArray[np.float32]  # [n, S]
    instruction: NDArray[np.int32]  # [n] index into `instructions`
    instructions: tuple[str, ...]
    # [n, 2, 2] named object and goal in the picture, x right, y down, -1..1 edge to edge; of a benchmark [n, cameras, 2], the
    # object in each camera's part of all pictures side by side
    points: NDArray[np.float32]
    positions: NDArray[np.float32]  # [n, 6] x, y of named object, goal (of a reach: the object), tip; -1..1


def grounding_samples(robot: str, n: int, seed: int, split: str = "train", progress: Progress | None = None) -> GroundingData:
    """Random scenes with the tip anywhere; only kinematics, no physics. The same arguments give the same data."""
    contract = RobotContract.load(robot)
    cell = Cell(contract)
    rng = np.random.default_rng(seed)
    low, high = np.array(contract.action.low), np.array(contract.action.high)
    instructions = cell.tasks.instructions("all")
    index = {text: k for k, text in enumerate(instructions)}
    size = contract.observation.size
    images = np.empty((n, *size, 3), np.uint8)
    states = np.empty((n, len(contract.observation.state)), np.float32)
    chosen = np.empty(n, np.int32)
    positions = np.empty((n, 6), np.float32)
    points = np.empty((n, 2, 2), np.float32)
    frame = np.empty((*RENDER_SIZE, 3), np.uint8)
    q = cell.kinematics.home()
    camera = contract.observation.cameras[0]
    for k in range(n):
        tip = rng.uniform(low, high)
        scene = sample_scene(cell.tasks, rng, split, None, (float(tip[0]), float(tip[1])))
        q = cell.kinematics.ik(q, np.array([*tip, contract.action.height]))
        cell.pose(scene, q)
        cell.render(camera, RENDER_SIZE, out=frame)
        images[k] = resize(frame, size)
        states[k] = proprio_state(contract, tip)
        target = scene.blocks[scene.target]
        thing = np.array([target.x, target.y])
        goal = thing if math.isnan(scene.goal[0]) else np.array(scene.goal)
        points[k] = cell.project(camera, np.array([[*thing, HEIGHT / 2], [*goal, 0.0]]))
        positions[k] = normalise(contract, np.array([thing, goal, tip])).ravel()
        chosen[k] = index[scene.instruction]
        if progress and (k + 1) % 256 == 0:
            progress(k + 1, n)
    return GroundingData(images, states, chosen, instructions, points, positions)
