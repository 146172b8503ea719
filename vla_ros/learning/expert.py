"""A benchmark's scripted expert as demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.learning.data import Demonstrations
from vla_ros.sim.worker import WorkerEnv

STAYS = 3  # decisions after its first success: a judge to whom no success was shown ends episodes just before one


def demonstrate(env: WorkerEnv, seeds: Sequence[int], noise: float, advance: Callable[[], None]) -> tuple[Demonstrations, int]:
    """The expert's successful episodes, labelled with what it would do, and how many it failed.

    Steps-to-go are 0 from the success on that lasts: the episode goes on for STAYS decisions, if the environment lets it.

    Args:
        env: that goes on after success.
        seeds: of scenes.
        noise: standard deviation of what is added to executed actions, of -1..1: the labels stay the expert's.
        advance: called after each episode.

    Raises:
        VlaRosError: the benchmark has no expert, or it failed in all scenes.
    """
    if not env.about["expert"]:
        raise VlaRosError(
            f"{env.benchmark.path}: its environment has no scripted expert (a method `expert() -> action`); give demonstrations"
        )
    images, states, actions, togo, episode, failed = [], [], [], list[int](), list[int](), 0
    for k, seed in enumerate(seeds):
        random = np.random.default_rng(seed)
        observation, info = env.reset(seed=seed)
        rows, ended, held = [(observation, info["expert"])], False, 0
        while not ended:
            executed = info["expert"] + noise * random.standard_normal(len(info["expert"]))
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
