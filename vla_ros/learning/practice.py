"""Practice in simulated cells (arXiv 2509.15155, Algorithm 1): what trainer_node does with an arm. The cells are this process's
and share one forward pass, or those of workers (workers.py).

    repeat: whole batches of whole episodes with the running version, ended by the judge's word or the cycle time
            one update on them (self_improvement.py), after which they are used up
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.learning import rollout
from vla_ros.learning.critic import method
from vla_ros.learning.rollout import Environment, SimulatedEpisode
from vla_ros.learning.self_improvement import ImproveConfig, stack
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.progress.calibration import Calibration

Episodes = dict[str, list[SimulatedEpisode]]  # of each task
Collect = Callable[[Model, dict[str, list[int]]], Episodes]
"""(policy, seeds of each task) -> an episode a seed, in their order, with the policy's weights as they are now."""


@dataclass(frozen=True)
class PracticeConfig:
    per_update: int = 48  # whole episodes
    tasks: tuple[str, ...] = ("reach", "push")
    floor: float = 0.25  # least share of a task, in units of an equal one
    memory: int = 64  # episodes of a task that its share follows
    seed: int = 300_000  # of the first scene; the next ones follow
    split: str = "train"


class Curriculum:
    """How many episodes of each task come next: most of those that now succeed and now fail, p (1 - p), because a task that
    always does one of the two teaches nothing; each keeps a floor, so that its p is known."""

    def __init__(self, tasks: Sequence[str], floor: float, memory: int) -> None:
        if not tasks:
            raise VlaRosError("practice: found no task, expected at least one")
        self._floor = floor / len(tasks)
        self._recent: dict[str, deque[bool]] = {task: deque(maxlen=memory) for task in tasks}

    def record(self, task: str, success: bool) -> None:
        self._recent[task].append(success)

    def shares(self) -> dict[str, float]:
        """Of each task, their sum is 1. A task without episodes counts as one at p = 1/2."""
        p = {task: (sum(r) + 1) / (len(r) + 2) for task, r in self._recent.items()}
        spread = {task: v * (1 - v) for task, v in p.items()}
        rest = 1 - self._floor * len(p)
        return {task: self._floor + rest * v / sum(spread.values()) for task, v in spread.items()}

    def counts(self, episodes: int) -> dict[str, int]:
        """The shares of so many episodes, whole, by largest remainders."""
        wanted = {task: share * episodes for task, share in self.shares().items()}
        out = {task: int(v) for task, v in wanted.items()}
        for task in sorted(wanted, key=lambda t: out[t] - wanted[t])[: episodes - sum(out.values())]:
            out[task] += 1
        return out


class Scenes:
    """Which scenes come next, of which tasks."""

    def __init__(self, config: PracticeConfig) -> None:
        self.config, self.curriculum = config, Curriculum(config.tasks, config.floor, config.memory)
        self.episodes, self._seed = 0, config.seed

    def skip(self, episodes: int) -> None:
        """Episodes that were practised before: their scenes do not come again."""
        self.episodes += episodes
        self._seed += episodes

    def draw(self, only: str | None = None) -> dict[str, list[int]]:
        """Seeds of `per_update` scenes by task: of one, or in the curriculum's mixture."""
        counts = {only: self.config.per_update} if only else self.curriculum.counts(self.config.per_update)
        seeds = {}
        for task, count in counts.items():
            seeds[task] = list(range(self._seed, self._seed + count))
            self.skip(count)
        return seeds


class SimulatedPractice(Scenes):
    """Stage 2 on simulated cells.

    Args:
        policy: trained in place, with LoRA in it already (adapter.add).
        judge: frozen; its calibration ends episodes.
        envs: as many episodes run side by side.
        collect: who runs the episodes in place of `envs` (workers.Crew).
        taught: instructions of the policy's demonstrations (policy.taught).
    """

    def __init__(
        self, policy: Model, judge: Model, calibration: Calibration, prompt: Prompt, envs: Sequence[Environment],
        config: PracticeConfig, improve: ImproveConfig, collect: Collect | None = None, taught: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(config)
        calibration.check_range(judge.config.steps_to_go_bins)
        self.policy, self.judge, self.calibration, self.prompt, self.envs = policy, judge.eval(), calibration, prompt, envs
        self.method, self._collect = method(policy, improve, prompt, taught), collect or self._here

    def forget(self) -> None:
        """The policy's weights are others now."""
        self.method.forget()

    def _here(self, policy: Model, seeds: dict[str, list[int]]) -> Episodes:
        judged = self.judge, self.calibration, self.prompt, self.config.split
        return {task: rollout.run(self.envs, own, policy, *judged, task) for task, own in seeds.items()}

    def iterate(self) -> tuple[Episodes, dict[str, float]]:
        """One batch of episodes per task and one update on all; returns the episodes and the update's figures."""
        found = self._collect(self.policy, self.draw())
        for task, episodes in found.items():
            for episode in episodes:
                self.curriculum.record(task, episode.detected)
        practised = [e.practice for episodes in found.values() for e in episodes]
        return found, self.method.update(practised, stack(practised, self.prompt))


def rates(found: Mapping[str, Sequence[SimulatedEpisode]]) -> dict[str, float]:
    """Per task: what the judge detected, what was true then, and the mean length [policy steps]."""
    out: dict[str, float] = {}
    for task, episodes in found.items():
        if episodes:
            out[f"{task}_detected"] = float(np.mean([e.detected for e in episodes]))
            out[f"{task}_true"] = float(np.mean([e.true_success for e in episodes]))
            out[f"{task}_length"] = float(np.mean([len(e.practice.tokens) for e in episodes]))
    return out
