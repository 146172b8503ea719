"""Simulated cells as the methods with a sparse reward use them: batches of whole episodes, each ended at its success.

Success is the judge's word where a judge is given, which is all that a real cell has; else the simulator's truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.learning import rollout
from vla_ros.learning.acting import Actor, Features
from vla_ros.learning.data import Demonstrations
from vla_ros.learning.practice import PracticeConfig, Scenes
from vla_ros.learning.rollout import Environment, SimulatedEpisode
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.progress.calibration import Calibration


@dataclass(frozen=True)
class Practised:
    """An episode of T steps that the policy drew."""

    episode: SimulatedEpisode  # `detected`: it succeeded, by the judge or by the truth
    actions: NDArray[np.float32]  # [T, chunk, D] drawn, in the contract's units
    features: Features  # [T + 1] when it acted

    def demonstration(self) -> Demonstrations:
        """As supervised learning takes it."""
        practice, steps = self.episode.practice, len(self.actions)
        at_end = np.zeros_like(self.actions[:1])  # does not count
        return Demonstrations(
            practice.images, practice.states, np.concatenate([self.actions, at_end]),
            np.arange(steps, -1, -1, dtype=np.int32), np.zeros(steps + 1, np.int32), (practice.instruction,),
            np.zeros(steps + 1, np.int32),
        )  # fmt: skip


class Cells(Scenes):
    """
    Args:
        model: acts; its weights may change between batches.
        envs: as many episodes run side by side.
        judge: frozen, with its calibration; None: episodes end at the simulator's truth.

    Raises:
        VlaRosError: chunks of several rows, of which a cell executes only the first; a threshold out of the judge's range.
    """

    def __init__(
        self, model: Model, prompt: Prompt, envs: Sequence[Environment], config: PracticeConfig,
        judge: tuple[Model, Calibration] | None = None,
    ) -> None:  # fmt: skip
        if model.config.chunk != 1:
            raise VlaRosError(f"practice with a sparse reward: found chunks of {model.config.chunk} rows, expected 1")
        if judge:
            judge[1].check_range(judge[0].config.steps_to_go_bins)
        super().__init__(config)
        self.model, self.prompt, self.envs, self.judge = model.eval(), prompt, envs, judge
        self.actor = Actor(model, envs[0].unit)

    def batch(self, only: str | None = None) -> dict[str, list[Practised]]:
        """`per_update` whole episodes, of one task or in the curriculum's mixture."""
        actor = cast(Model, self.actor)
        judge, calibration = self.judge or (actor, None)
        found: dict[str, list[Practised]] = {}
        for task, seeds in self.draw(only).items():
            judged = judge, calibration, self.prompt, self.config.split
            episodes = rollout.run(self.envs, seeds, actor, *judged, task, until_true=not calibration)
            lengths = [len(e.practice.images) for e in episodes]
            remembered = self.actor.remembered(lengths, len(self.envs))
            found[task] = [self._practised(e, seen) for e, seen in zip(episodes, remembered, strict=True)]
            for practised in found[task]:
                self.curriculum.record(task, practised.episode.detected)
        return found

    def _practised(self, episode: SimulatedEpisode, seen: Features) -> Practised:
        return Practised(episode, self.actor.actions(episode.practice.tokens), seen)


def flat(found: dict[str, list[Practised]]) -> list[Practised]:
    return [practised for episodes in found.values() for practised in episodes]
