"""iRe-VLA (arXiv 2501.16664, Algorithm 1): explore with little, consolidate with everything.

    stage 0   the policy is a stage-1 checkpoint (train sft) of the demonstrations D_e
    repeat, for one task after another (or for all together):
      stage 1   the VLM is frozen; action head and a new critic learn by PPO with a sparse reward     (ppo.py)
                episodes that succeed go to D_RL
      stage 2   LoRA and action head learn D_e and D_RL by supervision, in a fixed proportion         (absorb.py)

The paper publishes neither proportion nor lengths nor rates; ours are in config/training/ire_vla.yaml with their reasons.
`freeze: true` is its ablation iRe-VLA-freeze: stage 2 trains the head alone, so that the VLM never learns.
Stage 1 keeps the VLM's features of every observation with the episode. Stage 2 makes other features: what was kept ends with
the batch that it belongs to, and ppo.py refuses features that are not the VLM's of now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from vla_ros.errors import VlaRosError
from vla_ros.learning.absorb import Samples, absorb
from vla_ros.learning.cells import Cells, flat
from vla_ros.learning.data import Demonstrations, together
from vla_ros.learning.kept import Kept
from vla_ros.learning.ppo import Ppo, PpoConfig
from vla_ros.learning.rollout import SimulatedEpisode
from vla_ros.learning.sft import SftConfig
from vla_ros.policy.prompt import Prompt

Iteration = tuple[dict[str, list[SimulatedEpisode]], dict[str, float]]


@dataclass(frozen=True)
class IreConfig:
    batches: int = 8  # of episodes in stage 1
    one_by_one: bool = True  # a stage 1 practises one task
    freeze: bool = False  # stage 2 trains the head only
    expert_share: float = 0.5  # of stage 2's samples
    steps: int = 300  # of stage 2
    batch: int = 64
    learning_rate: float = 3e-4
    label_sigma: float = 1.0  # bins
    seed: int = 0

    def __post_init__(self) -> None:
        """
        Raises:
            VlaRosError: a value that cannot be.
        """
        for name in ("batches", "steps", "batch"):
            if getattr(self, name) < 1:
                raise VlaRosError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 < self.expert_share < 1:
            raise VlaRosError(f"expert_share is {self.expert_share}, expected more than 0 and less than 1")


class IreVla:
    """
    Args:
        cells: of a policy with LoRA in it.
        expert: D_e by task.
        ppo: of stage 1; `trained` is head.
        folder: D_RL lies there.
    """

    def __init__(
        self, cells: Cells, expert: Mapping[str, Demonstrations], config: IreConfig, ppo: PpoConfig, folder: Path
    ) -> None:  # fmt: skip
        self.cells, self.model, self.config, self._ppo_config = cells, cells.model, config, ppo
        self._expert = {task: Samples.of(self.model, data, cells.prompt) for task, data in expert.items()}  # LoRA comes after it
        self.found = Kept(folder, failures=False)  # D_RL
        self.stage, self.due, self.ppo = "", False, self._new_ppo()
        self._steps = self._algorithm(0, 0)

    @property
    def prompt(self) -> Prompt:
        return self.cells.prompt

    def iterate(self) -> Iteration:
        return next(self._steps)

    def _algorithm(self, first: int, done: int) -> Iterator[Iteration]:
        """From round `first`, of which `done` batches are done."""
        c, tasks = self.config, self.cells.config.tasks
        for k in count(first):
            self.ppo = self._new_ppo()
            for batch in range(done, c.batches):
                self.stage, self.due = "ire_vla_1", batch == c.batches - 1
                found = self.cells.batch(tasks[k % len(tasks)] if c.one_by_one else None)
                figures = self.ppo.update(flat(found))
                self.found.add(found, self.cells.episodes)
                yield {task: [e.episode for e in episodes] for task, episodes in found.items()}, figures
            done = 0
            self.stage, self.due = "ire_vla_2", False
            yield {}, self.consolidate()

    def consolidate(self) -> dict[str, float]:
        """Stage 2; D_e has `expert_share` of the samples, and on either side every task equally many."""
        c = self.config
        found = {task: Samples.of(self.model, together(sets), self.prompt) for (task, _), sets in self.found.of.items()}
        size = {"successes": float(self.found.count(success=True))}
        if not found:
            return size  # nothing new: D_e is what the policy comes from
        shares = [c.expert_share / len(self._expert)] * len(self._expert) + [(1 - c.expert_share) / len(found)] * len(found)
        settings = SftConfig(
            steps=c.steps, batch=c.batch, learning_rate=c.learning_rate, label_sigma=c.label_sigma, seed=c.seed
        )  # fmt: skip
        return size | absorb(self.model, [*self._expert.values(), *found.values()], shares, settings, head_only=c.freeze)

    def _new_ppo(self) -> Ppo:
        return Ppo(self.model, self.prompt, self._ppo_config)

    def resume(self, points: Sequence[Mapping[str, Any]]) -> None:
        self.found.load(self.cells.episodes)
        ends = [k for k, point in enumerate(points) if point["stage"] == "ire_vla_2"]
        done = len(points) - (ends[-1] + 1 if ends else 0)
        self.due = done == self.config.batches
        self._steps = self._algorithm(len(ends), done)

    def forget(self) -> None:
        self.ppo.forget()
