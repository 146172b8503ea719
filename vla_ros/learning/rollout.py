"""Episodes in simulated cells, several at once, with one batched network pass a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vla_ros.learning.self_improvement import PracticeEpisode
from vla_ros.policy.model import steps_to_go_moments
from vla_ros.policy.policy import Model, draw
from vla_ros.policy.prompt import Prompt
from vla_ros.progress.calibration import Calibration, Detector


class Environment(Protocol):
    """A simulated cell: the tabletop (sim/env.py), or somebody else's benchmark in another interpreter (sim/benchmark_env.py)."""

    unit: float  # what `send` takes for 1 of a continuous action
    looks: int  # observations running at which the truth must say success

    @property
    def instruction(self) -> str: ...

    @property
    def cycle(self) -> float:
        """Policy steps of the present task's time limit."""

    @property
    def ended(self) -> bool:
        """It will not step further, whatever the time limit is."""

    def reset(self, seed: int, split: str, task: str | None) -> Any:
        """The first observation of a scene."""

    def send(self, action: ArrayLike) -> None:
        """Begins a policy step: tokens [D] (integers) or actions [D] in `unit`s (floats)."""

    def receive(self) -> Any:
        """Ends it; the observation. All are sent to before the first is waited for, as cells may be processes."""

    def success(self) -> bool:
        """The simulator's truth about the present."""

    def image(self, observation: Any) -> NDArray[np.uint8]: ...

    def state(self, observation: Any) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class SimulatedEpisode:
    """A practice episode with what only a simulator knows."""

    practice: PracticeEpisode
    detected: bool  # the judge ended it, or, where there was none, the truth
    true_success: bool  # at its end; evaluation only
    truth: NDArray[np.bool_]  # [T + 1] the same at every observation
    distribution: NDArray[np.float32]  # [T + 1, K] the judge's p(steps-to-go)


@torch.inference_mode()
def run(
    envs: Sequence[Environment],
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
    until_true: bool = False,
) -> list[SimulatedEpisode]:
    """One episode a seed; ends when the judge detects success or at the task's time limit, as on the live graph.

    Args:
        calibration: None for evaluation: every episode lasts until its time limit.
        patience: of the time limit, in units of the task's.
        until_true: without a calibration, the truth ends an episode.
    """
    out: list[SimulatedEpisode] = []
    for start in range(0, len(seeds), len(envs)):
        group = seeds[start : start + len(envs)]
        how = greedy, temperature, patience, until_true
        out += _group(envs[: len(group)], group, policy, judge, calibration, prompt, split, task, *how)
    return out


def _group(
    envs: Sequence[Environment], seeds: list[int], policy: Model, judge: Model, calibration: Calibration | None,
    prompt: Prompt, split: str, task: str | None, greedy: bool, temperature: float, patience: float, until_true: bool,
) -> list[SimulatedEpisode]:  # fmt: skip
    random = np.random.default_rng(seeds[0])
    observations = [env.reset(seed, split, task) for env, seed in zip(envs, seeds, strict=True)]
    texts = [env.instruction for env in envs]
    limits = [round(patience * env.cycle) for env in envs]
    ids, mask = prompt(texts)
    count = len(envs)
    images: list[list[NDArray[np.uint8]]] = [[] for _ in envs]
    states: list[list[NDArray[np.float32]]] = [[] for _ in envs]
    tokens: list[list[NDArray[np.int16]]] = [[] for _ in envs]
    log_p: list[list[float]] = [[] for _ in envs]
    togo: list[list[float]] = [[] for _ in envs]
    distribution: list[list[NDArray[np.float32]]] = [[] for _ in envs]
    truth = [[env.success()] for env in envs]
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
            if detectors:
                detected[i] = detectors[i].step(togo[i][-1]) and step > 0
            elif until_true:
                detected[i] = all(truth[i][-envs[i].looks :]) and step >= max(1, envs[i].looks - 1)
            if detected[i] or step == limits[i] or (envs[i].ended and step > 0):
                continue
            tokens[i].append(drawn[row])
            log_p[i].append(float(chosen[row]))
            envs[i].send(tokens[i][-1][0])
            going.append(i)
        running = going
        for i in running:
            observations[i] = envs[i].receive()
            truth[i].append(envs[i].success())
        if not running:
            break
    return [
        SimulatedEpisode(
            PracticeEpisode(
                texts[i], np.stack(images[i]), np.stack(states[i]), np.stack(tokens[i]),
                np.array(log_p[i], np.float32), np.array(togo[i], np.float32), np.ones(len(tokens[i]), bool),
            ),
            bool(detected[i]), bool(detected[i]) if until_true else truth[i][-1], np.array(truth[i]), np.stack(distribution[i]),
        )
        for i in range(count)
    ]  # fmt: skip
