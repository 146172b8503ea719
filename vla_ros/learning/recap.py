"""RECAP (arXiv 2511.14759, Algorithm 1), advantage-conditioned training: supervised only, on everything that was practised.

    D = D_e and all practised episodes, failures too
    repeat:
      collect episodes with the running policy, told that its advantage is positive; add them to D
      V       on D: distribution over steps-to-go, from the stage-1 checkpoint's features     (value.py)
      I_t   = A_t > eps_task, eps so that `positive` of the task's own steps are; a person's corrections always are
      policy  from the stage-1 checkpoint, never from the last iterate:
              -log p(a_t | o_t, g, "advantage positive" or "negative") and, the share `drop`, -log p(a_t | o_t, g)

The stage-1 checkpoint has not learned the words, so the first batch is practised without them. Where the words are, their
embeddings and how they reach the deployed checkpoint: indicator.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.errors import VlaRosError
from vla_ros.learning.absorb import Samples, absorb
from vla_ros.learning.acting import features
from vla_ros.learning.cells import Cells
from vla_ros.learning.data import Demonstrations
from vla_ros.learning.indicator import NEGATIVE, POSITIVE, Guided, Unaware, behind
from vla_ros.learning.kept import Kept
from vla_ros.learning.rollout import SimulatedEpisode
from vla_ros.learning.sft import SftConfig, encode_all
from vla_ros.learning.value import advantages, cost_of_failure, indicators, out_of_fold, returns
from vla_ros.policy import adapter
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import WordPrompt
from vla_ros.progress.evidence import spearman


@dataclass(frozen=True)
class RecapConfig:
    horizon: int = 5  # N, policy steps
    positive: float = 0.4  # share of a task's own steps with a positive advantage
    drop: float = 0.3  # share of samples without the indicator
    guidance: float = 1.0  # beta; 1: none
    folds: int = 4
    value_steps: int = 400  # of a fold's value
    expert_share: float = 0.5  # of the policy's samples
    steps: int = 600
    batch: int = 64
    learning_rate: float = 5e-4
    label_sigma: float = 1.0  # bins
    seed: int = 0

    def __post_init__(self) -> None:
        """
        Raises:
            VlaRosError: a value that cannot be.
        """
        for name in ("positive", "drop", "expert_share"):
            if not 0 < getattr(self, name) < 1:
                raise VlaRosError(f"{name} is {getattr(self, name)}, expected more than 0 and less than 1")
        for name, least in (("horizon", 1), ("folds", 2)):
            if getattr(self, name) < least:
                raise VlaRosError(f"{name} is {getattr(self, name)}, expected at least {least}")


@dataclass(frozen=True)
class Source:
    """Episodes of one task and one outcome, and what the stage-1 checkpoint's frozen parts made of them."""

    task: str
    autonomous: bool
    success: bool
    data: Demonstrations  # of N observations
    plain: Samples  # without the indicator
    seen: Tensor  # [N, f] that the value reads

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Observations of each episode, one more than its steps."""
        return np.unique(self.data.episode, return_counts=True)[1]


class Recap:
    """
    Args:
        cells: of a policy with LoRA in it, whose prompt knows the indicator's words.
        expert: D_e by task.
        folder: what was practised lies there.
    """

    stage, due = "recap", False

    def __init__(self, cells: Cells, expert: Mapping[str, Demonstrations], config: RecapConfig, folder: Path) -> None:
        self.cells, self.model, self.config = cells, cells.model, config
        self._plain = cast(WordPrompt, cells.prompt)
        self._positive, self._negative = behind(self._plain, POSITIVE), behind(self._plain, NEGATIVE)
        self._first = {name: tensor.detach().clone() for name, tensor in adapter.state(self.model).items()}
        if cells.judge:
            cells.judge = cast(Model, Unaware(cells.judge[0], self._plain)), cells.judge[1]
        if config.guidance != 1.0:
            cells.actor = Guided(self.model, self._plain, cells.envs[0].unit, config.guidance)
        self._sources = [self._source(task, False, True, data) for task, data in expert.items()]
        self._kept = Kept(folder, failures=True)

    @property
    def prompt(self) -> WordPrompt:
        """With the positive indicator, but for the stage-1 checkpoint, which does not know it."""
        first = all(torch.equal(tensor, self._first[name]) for name, tensor in adapter.state(self.model).items())
        return self._plain if first else self._positive

    def iterate(self) -> tuple[dict[str, list[SimulatedEpisode]], dict[str, float]]:
        self.cells.prompt = self.prompt
        found = self.cells.batch()
        self._kept.add(found, self.cells.episodes)
        return {task: [e.episode for e in episodes] for task, episodes in found.items()}, self.learn()

    def learn(self) -> dict[str, float]:
        """Value, advantages, indicators, policy: all of it anew, on all of D."""
        c = self.config
        adapter.swap(self.model, self._first)
        self._take_in()
        task = np.concatenate([np.full(len(s.plain), self._tasks.index(s.task), np.int32) for s in self._sources])
        autonomous, success = (
            np.concatenate([np.full(len(s.plain), getattr(s, name)) for s in self._sources]) for name in ("autonomous", "success")
        )
        advantage, figures = self._advantages()
        nobody = np.zeros(len(task), bool)  # took over: in these cells there is none
        positive = indicators(advantage, task, autonomous, nobody, c.positive)
        for name, own in (("successes", success), ("failures", ~success)):  # neither may be all of one kind
            if (autonomous & own).any():
                figures[f"positive_of_{name}"] = float(positive[autonomous & own].mean())
        sources, shares = self._samples(np.split(positive, np.cumsum([len(s.plain) for s in self._sources])[:-1]))
        settings = SftConfig(
            steps=c.steps, batch=c.batch, learning_rate=c.learning_rate, label_sigma=c.label_sigma, seed=c.seed
        )  # fmt: skip
        return figures | absorb(self.model, sources, shares, settings)

    def _advantages(self) -> tuple[NDArray[np.float32], dict[str, float]]:
        """A of all steps, source by source; and how well the value ranks observations of episodes that it has not seen."""
        scales = {}
        for task in self._tasks:
            steps = {ok: [n - 1 for s in self._sources if s.task == task and s.success == ok for n in s.lengths.tolist()]
                     for ok in (True, False)}  # fmt: skip
            scales[task] = cost_of_failure(steps[True], steps[False])
        wanted = [returns(n - 1, s.success, *scales[s.task]) for s in self._sources for n in s.lengths.tolist()]
        lengths, flat = [len(w) for w in wanted], np.concatenate(wanted)
        episode = torch.from_numpy(np.repeat(np.arange(len(wanted)), lengths))
        seen, c = torch.cat([s.seen for s in self._sources]), self.config
        value = out_of_fold(seen, torch.from_numpy(flat), episode, c.folds, c.value_steps, c.seed).numpy()
        each = np.split(value, np.cumsum(lengths)[:-1])
        practised = np.concatenate([np.full(len(s.seen), s.autonomous) for s in self._sources])
        figures = {"value_rank": spearman(value[practised].astype(np.float64), flat[practised])}
        return np.concatenate([advantages(v, w, c.horizon) for v, w in zip(each, wanted, strict=True)]), figures

    def _samples(self, positive: Sequence[NDArray[np.bool_]]) -> tuple[list[Samples], list[float]]:
        """What the policy learns from and its shares: expert and practised as `expert_share` has it, on either side every task
        equally, in each the share `drop` without the indicator. `positive`: of each source's steps."""
        c, parts = self.config, list[tuple[Samples, float]]()
        for autonomous, side in ((False, c.expert_share), (True, 1 - c.expert_share)):
            tasks = {s.task for s in self._sources if s.autonomous == autonomous}
            for source, own in zip(self._sources, positive, strict=True):
                if source.autonomous != autonomous:
                    continue
                of_task = sum(len(s.plain) for s in self._sources if (s.autonomous, s.task) == (autonomous, source.task))
                weight = side / len(tasks) / of_task  # of one step
                parts.append((source.plain, weight * c.drop * len(own)))
                acted = source.data[source.data.steps_to_go > 0]
                for chosen, prompt in ((own, self._positive), (~own, self._negative)):
                    if chosen.any():
                        told = Samples.of(self.model, acted[chosen], prompt)
                        parts.append((told, weight * (1 - c.drop) * int(chosen.sum())))
        return [samples for samples, _ in parts], [share for _, share in parts]

    def _source(self, task: str, autonomous: bool, success: bool, data: Demonstrations) -> Source:
        """While the model is the stage-1 checkpoint."""
        trunk = encode_all(self.model, data.inputs(self._plain))
        acted = torch.from_numpy(data.steps_to_go > 0)
        actions = self.model.units.to_network(torch.from_numpy(data.actions))
        with torch.no_grad():
            seen = torch.cat([features(self.model, trunk[i]).points for i in torch.arange(len(actions)).split(256)])
        return Source(task, autonomous, success, data, Samples(trunk[acted], actions[acted]), seen)

    def _take_in(self) -> None:
        """What was kept since."""
        for (task, success), sets in self._kept.of.items():
            known = sum(s.autonomous and (s.task, s.success) == (task, success) for s in self._sources)
            self._sources += [self._source(task, True, success, data) for data in sets[known:]]
        self._sources.sort(key=lambda s: (s.autonomous, s.task, s.success))  # a restart finds the same order

    @property
    def _tasks(self) -> list[str]:
        return sorted({s.task for s in self._sources})

    def resume(self, points: Sequence[Mapping[str, Any]]) -> None:
        self._kept.load(self.cells.episodes)

    def forget(self) -> None:
        """Every iteration begins with the stage-1 checkpoint."""
