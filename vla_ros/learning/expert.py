"""What a benchmark's environment knows, to learn from: its scripted expert as demonstrations, where things are as grounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.learning.data import Demonstrations
from vla_ros.sim.collect import GroundingData
from vla_ros.sim.worker import WorkerEnv

STAYS = 3  # decisions after its first success: a judge to whom no success was shown ends episodes just before one


def demonstrate(
    env: WorkerEnv, seeds: Sequence[int], noise: float, advance: Callable[[], None], miss: float = 0.0
) -> tuple[Demonstrations, int]:
    """The expert's successful episodes, labelled with what it would do, and how many it failed.

    Steps-to-go are 0 from the success on that lasts: the episode goes on for STAYS decisions, if the environment lets it.

    Args:
        env: that goes on after success.
        seeds: of scenes.
        noise: standard deviation of what is added to executed actions, of -1..1: the labels stay the expert's.
        advance: called after each episode.
        miss: probability that an episode begins with up to half its horizon of an expert that is wrong about where things are,
            before the one that is right takes over. To one who saw no miss the motion alone is success.

    Raises:
        VlaRosError: the benchmark has no expert, or none that can be misled, or it failed in all scenes.
    """
    if not env.about["expert"]:
        raise VlaRosError(
            f"{env.benchmark.path}: its environment has no scripted expert (a method `expert() -> action`); give demonstrations"
        )
    if miss and not env.about["misled"]:
        raise VlaRosError(
            f"{env.benchmark.path}: miss: found {miss}, expected 0: its environment has no expert to mislead (a method "
            "`misled() -> action`)"
        )
    images, states, actions, togo, episode, failed = [], [], [], list[int](), list[int](), 0
    for k, seed in enumerate(seeds):
        random, missing = np.random.default_rng(seed), 0
        if miss and random.random() < miss:
            missing = int(random.integers(1, env.benchmark.horizon // 2 + 1))
        observation, info = env.reset(seed=seed)
        rows, ended, held = [(observation, info["expert"])], False, 0
        while not ended:
            acting = info["misled" if len(rows) <= missing else "expert"]
            executed = acting + noise * random.standard_normal(len(acting))
            observation, _, terminated, truncated, info = env.step(executed.clip(-1, 1))
            rows.append((observation, info["expert"]))
            held = held + 1 if info["success"] else 0
            ended = terminated or truncated or held > STAYS
        advance()
        if not held:
            failed += 1
            continue
        images += [o["image"] for o, _ in rows]
        states += [o["state"] for o, _ in rows]
        actions += [a for _, a in rows]
        togo += [max(0, len(rows) - held - k) for k in range(len(rows))]
        episode += [k] * len(rows)
    if not images:
        raise VlaRosError(f"{env.task}: the expert failed all {len(seeds)} scenes; there is nothing to clone")
    data = Demonstrations(
        np.stack(images), np.stack(states), np.stack(actions)[:, None], np.array(togo, np.int32),
        np.zeros(len(togo), np.int32), (env.instruction,), np.array(episode, np.int32),
    )  # fmt: skip
    return data, failed


def ground(envs: Sequence[WorkerEnv], seeds: Sequence[int], advance: Callable[[], None]) -> GroundingData:
    """The situations of `seeds` in each task, with the object of its instruction as the thing that is named. Pictures of several
    cameras lie side by side, as the policy's network sees them.

    Raises:
        VlaRosError: an environment does not tell where things are.
    """
    def of(env: WorkerEnv) -> list[tuple[dict[str, Any], NDArray[np.float32], NDArray[np.float32]]]:
        found = []
        for seed in seeds:
            found.append(env.ground(seed))
            advance()
        return found

    with ThreadPoolExecutor(len(envs)) as pool:  # each waits for a worker process
        seen = [one for found in pool.map(of, envs) for one in found]
    points = np.stack([points for _, points, _ in seen])
    cameras = points.shape[1]
    points[..., 0] = (points[..., 0] + 2 * np.arange(cameras) + 1 - cameras) / cameras
    return GroundingData(
        np.stack([o["image"] for o, _, _ in seen]), np.stack([o["state"] for o, _, _ in seen]),
        np.repeat(np.arange(len(envs), dtype=np.int32), len(seeds)), tuple(env.instruction for env in envs), points,
        np.stack([places for *_, places in seen]),
    )  # fmt: skip
