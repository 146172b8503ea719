"""Episodes in the in-process simulator, several at once, with one batched network pass a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vla_ros.learning.self_improvement import PracticeEpisode
from vla_ros.policy.model import steps_to_go_moments
from vla_ros.policy.policy import Model, draw
from vla_ros.policy.prompt import Prompt
from vla_ros.progress.judge import Calibration
from vla_ros.sim.env import TabletopEnv


@dataclass(frozen=True)
class SimulatedEpisode:
    """A practice episode with what only a simulator knows."""

    practice: PracticeEpisode
    detected: bool  # the judge ended it
    true_success: bool  # at its end; evaluation only


@torch.inference_mode()
def run(
    envs: list[TabletopEnv],
    seeds: list[int],
    policy: Model,
    judge: Model,
    calibration: Calibration,
    prompt: Prompt,
    split: str = "train",
    task: str | None = None,
    greedy: bool = False,
    temperature: float = 1.0,
) -> list[SimulatedEpisode]:
    """One episode a seed; ends when the judge detects success or at the contract's time limit, as on the live graph."""
    out: list[SimulatedEpisode] = []
    for start in range(0, len(seeds), len(envs)):
        group = seeds[start : start + len(envs)]
        out += _group(envs[: len(group)], group, policy, judge, calibration, prompt, split, task, greedy, temperature)
    return out


def _group(
    envs: list[TabletopEnv], seeds: list[int], policy: Model, judge: Model, calibration: Calibration,
    prompt: Prompt, split: str, task: str | None, greedy: bool, temperature: float,
) -> list[SimulatedEpisode]:  # fmt: skip
    contract = envs[0].contract
    random = torch.Generator().manual_seed(seeds[0])
    observations = [env.reset(seed, split, task) for env, seed in zip(envs, seeds, strict=True)]
    texts = [env.instruction for env in envs]
    limits = [round(env.time_limit * contract.observation.rate) for env in envs]
    ids, mask = prompt(texts)
    count = len(envs)
    images: list[list[NDArray[np.uint8]]] = [[] for _ in envs]
    states: list[list[NDArray[np.float32]]] = [[] for _ in envs]
    tokens: list[list[NDArray[np.int16]]] = [[] for _ in envs]
    log_p: list[list[float]] = [[] for _ in envs]
    togo: list[list[float]] = [[] for _ in envs]
    hits, detected, success = np.zeros(count, int), np.zeros(count, bool), np.zeros(count, bool)
    running = list(range(count))
    for step in range(max(limits) + 1):
        for i in running:
            images[i].append(envs[i].image(observations[i]))
            states[i].append(envs[i].state(observations[i]))
        index = torch.tensor(running)
        batch = (
            torch.from_numpy(np.stack([images[i][-1] for i in running])), ids[index], mask[index],
            torch.from_numpy(np.stack([states[i][-1] for i in running])),
        )  # fmt: skip
        d, _ = steps_to_go_moments(judge.steps_to_go_head(judge.read(judge.encode(*batch))[1]).float())
        drawn, chosen, _ = draw(policy.action_logits(policy.read(policy.encode(*batch))[0]), greedy, temperature, random)
        going = []
        for row, i in enumerate(running):
            togo[i].append(float(d[row]))
            hits[i] = hits[i] + 1 if togo[i][-1] <= calibration.threshold else 0
            detected[i] = hits[i] >= calibration.debounce and step > 0
            if detected[i] or step == limits[i]:
                continue
            tokens[i].append(drawn[row].numpy().astype(np.int16))
            log_p[i].append(float(chosen[row]))
            observations[i], success[i], _ = envs[i].step(tokens[i][-1][0])
            going.append(i)
        running = going
        if not running:
            break
    return [
        SimulatedEpisode(
            PracticeEpisode(
                texts[i], np.stack(images[i][:-1]), np.stack(states[i][:-1]), np.stack(tokens[i]),
                np.array(log_p[i], np.float32), np.array(togo[i], np.float32), np.ones(len(tokens[i]), bool),
            ),
            bool(detected[i]), bool(success[i]),
        )
        for i in range(count)
    ]  # fmt: skip
