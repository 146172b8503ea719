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
from vla_ros.progress.calibration import Calibration, Detector
from vla_ros.sim.env import TabletopEnv


@dataclass(frozen=True)
class SimulatedEpisode:
    """A practice episode with what only a simulator knows."""

    practice: PracticeEpisode
    detected: bool  # the judge ended it
    true_success: bool  # at its end; evaluation only
    truth: NDArray[np.bool_]  # [T + 1] the same at every observation
    distribution: NDArray[np.float32]  # [T + 1, K] the judge's p(steps-to-go)


@torch.inference_mode()
def run(
    envs: list[TabletopEnv],
    seeds: list[int],
    policy: Model,
    judge: Model,
    calibration: Calibration | None,
    prompt: Prompt,
    split: str = "train",
    task: str | None = None,
    greedy: bool = False,
    temperature: float = 1.0,
    patience: float = 1.0,
) -> list[SimulatedEpisode]:
    """One episode a seed; ends when the judge detects success or at the task's time limit, as on the live graph.

    Args:
        calibration: None for evaluation: every episode lasts until its time limit.
        patience: of the time limit, in units of the task's.
    """
    out: list[SimulatedEpisode] = []
    for start in range(0, len(seeds), len(envs)):
        group = seeds[start : start + len(envs)]
        out += _group(envs[: len(group)], group, policy, judge, calibration, prompt, split, task, greedy, temperature, patience)
    return out


def _group(
    envs: list[TabletopEnv], seeds: list[int], policy: Model, judge: Model, calibration: Calibration | None,
    prompt: Prompt, split: str, task: str | None, greedy: bool, temperature: float, patience: float,
) -> list[SimulatedEpisode]:  # fmt: skip
    contract = envs[0].contract
    random = np.random.default_rng(seeds[0])
    observations = [env.reset(seed, split, task) for env, seed in zip(envs, seeds, strict=True)]
    texts = [env.instruction for env in envs]
    limits = [round(patience * env.time_limit * contract.observation.rate) for env in envs]
    ids, mask = prompt(texts)
    count = len(envs)
    images: list[list[NDArray[np.uint8]]] = [[] for _ in envs]
    states: list[list[NDArray[np.float32]]] = [[] for _ in envs]
    tokens: list[list[NDArray[np.int16]]] = [[] for _ in envs]
    log_p: list[list[float]] = [[] for _ in envs]
    togo: list[list[float]] = [[] for _ in envs]
    distribution: list[list[NDArray[np.float32]]] = [[] for _ in envs]
    truth = [[env.cell.truth()[0]] for env in envs]
    detectors = [Detector(calibration) for _ in envs] if calibration else []
    detected = np.zeros(count, bool)
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
        act, togo_in = policy.read(policy.encode(*batch))
        if judge is not policy:
            togo_in = judge.read(judge.encode(*batch))[1]
        logits = judge.steps_to_go_head(togo_in).float()
        p, d = logits.softmax(-1).numpy(), steps_to_go_moments(logits)[0]
        _, drawn, chosen, _ = draw(policy.head, policy.action_logits(act).numpy(), greedy, temperature, random)
        going = []
        for row, i in enumerate(running):
            togo[i].append(float(d[row]))
            distribution[i].append(p[row])
            detected[i] = bool(detectors) and detectors[i].step(togo[i][-1]) and step > 0
            if detected[i] or step == limits[i]:
                continue
            tokens[i].append(drawn[row])
            log_p[i].append(float(chosen[row]))
            observations[i], success, _ = envs[i].step(tokens[i][-1][0])
            truth[i].append(success)
            going.append(i)
        running = going
        if not running:
            break
    return [
        SimulatedEpisode(
            PracticeEpisode(
                texts[i], np.stack(images[i]), np.stack(states[i]), np.stack(tokens[i]),
                np.array(log_p[i], np.float32), np.array(togo[i], np.float32), np.ones(len(tokens[i]), bool),
            ),
            bool(detected[i]), truth[i][-1], np.array(truth[i]), np.stack(distribution[i]),
        )
        for i in range(count)
    ]  # fmt: skip
