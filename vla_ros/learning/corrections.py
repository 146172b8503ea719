"""What people did when they took over from the policy, as demonstrations for practice.

    loss = -log p(a_h | o, g)  +  keep * KL(pi_before || pi)        after each update of practice, on the weights that it left

a_h is what the arm executed of the person's action, with soft labels as in stage 1 (sft.py), drawn from all corrections so far.
The second term is over the states of the batch that was just practised, where the policy acted and nobody was about to take
over: a few corrected frames must not change what it does elsewhere. Half of each step's samples are the person's, however few
there are, as in intervention weighted regression (arXiv 2012.06733); its other half clones the policy's actions, ours keeps their
whole distribution, which is the same on average and less noisy. What came shortly before a person took over is in neither half,
as in arXiv 2211.08416: it was what he saw going wrong.

A few corrections are learned by heart within some ten passes, and what they say of other states then gets worse (docs/methods.md
has the curve). So what is new is gone through `passes` times, and what was learned before `again` times, lest practice forgets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import kl_div

from vla_ros.episodes.data import ROUNDING, EpisodeData
from vla_ros.errors import VlaRosError
from vla_ros.learning.data import Inputs
from vla_ros.learning.sft import encode_all
from vla_ros.policy.model import Trunk
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt

KEPT = 2000  # states in which the policy stays as it is: enough, and a second to compute
DOUBT = 1.0  # s; a person sees that it goes wrong before he takes over


@dataclass(frozen=True)
class CorrectionConfig:
    """Section `corrections` of config/training/*.yaml."""

    passes: int = 6  # over new corrections, after an update of practice; 0, and `again` too: recorded, but not learned from
    again: int = 1  # passes over earlier ones
    batch: int = 64  # corrected steps in an optimiser step, and as many of the policy's
    keep: float = 1.0  # weight of what the policy did where nobody took over
    learning_rate: float = 5e-4
    grad_clip: float = 1.0  # gradient norm
    label_sigma: float = 1.0  # bins
    memory: int = 10_000  # last corrected steps
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("passes", 0), ("again", 0), ("batch", 1), ("memory", 1)):
            if (found := getattr(self, name)) < least:
                raise VlaRosError(f"{name} is {found}, expected at least {least}")
        for name in ("keep", "label_sigma"):
            if not 0 <= (found := getattr(self, name)) < math.inf:
                raise VlaRosError(f"{name} is {found}, expected a number of at least 0")
        for name in ("learning_rate", "grad_clip"):
            if not 0 < (found := getattr(self, name)) < math.inf:
                raise VlaRosError(f"{name} is {found}, expected a number above 0")


@dataclass(frozen=True)
class Steps:
    """Steps in which a person acted."""

    trunk: Trunk  # frozen features, that no version changes
    actions: Tensor  # [n, chunk, D] network units
    counted: Tensor  # [n, chunk] rows that are the person's

    def __len__(self) -> int:
        return len(self.counted)

    @classmethod
    def join(cls, parts: Sequence[Steps]) -> Steps:
        trunk = type(parts[0].trunk).join([p.trunk for p in parts])
        return cls(trunk, torch.cat([p.actions for p in parts]), torch.cat([p.counted for p in parts]))


def rows_of_the_person(data: EpisodeData) -> NDArray[np.bool_]:
    """[T, rows] of `executed`: those that fell due while the person went on acting. A latched arm follows nobody."""
    acting = np.append(data.corrected & ~data.latched, False)
    during = np.searchsorted(data.stamps, data.due - ROUNDING) - 1  # step in which a row fell due; T is past the end
    going_on = np.logical_and.accumulate(acting[during], axis=1) & acting[:-1, None]
    return np.asarray(going_on & np.isfinite(data.executed).all(-1), np.bool_)


def undoubted(data: EpisodeData) -> NDArray[np.bool_]:
    """[T] steps of the policy after which nobody took over within DOUBT s."""
    begun = data.stamps[:-1]
    by_hand = np.append(begun[data.corrected], np.inf)
    left = by_hand[np.searchsorted(by_hand, begun)] - begun  # s until a person acts; 0 where one does
    return np.asarray((left > DOUBT) & ~data.latched, np.bool_)


class Corrections:
    """All corrections so far, of a policy whose trunk is frozen.

    Args:
        model: trained in place, with LoRA in it already (adapter.add); its head is `bins`, as practice asks for.
    """

    def __init__(self, model: Model, prompt: Prompt, config: CorrectionConfig) -> None:
        self.model, self.prompt, self.config = model, prompt, config
        self._memory: deque[Steps] = deque()  # of one episode each
        self._new = 0  # of these episodes the last ones, which the present weights have not learned from

    def __len__(self) -> int:
        """Steps in memory."""
        return sum(map(len, self._memory))

    def add(self, data: EpisodeData) -> int:
        """What a person did in a recorded episode, however it ended; returns the number of steps.

        Raises:
            VlaRosError: an instruction that the policy cannot read.
        """
        rows = rows_of_the_person(data)
        by_hand = rows.any(1)
        if not by_hand.any():
            return 0
        texts = np.zeros(int(by_hand.sum()), np.int32)
        images, states = data.images[:-1][by_hand], data.states[:-1][by_hand].astype(np.float32)
        try:
            inputs = Inputs.of(images, texts, (data.instruction,), states, self.prompt)
        except VlaRosError as error:
            raise VlaRosError(f"{data.path}: a person's correction: {error}; it belongs to another policy: move it") from error
        trunk = encode_all(self.model, inputs)
        counted = torch.from_numpy(rows[by_hand])
        known = torch.where(counted[..., None], torch.from_numpy(data.executed[by_hand]), 0.0)  # a NaN would reach all gradients
        self._new += 1
        self._memory.append(Steps(trunk, self.model.units.to_network(known), counted))
        while len(self) > self.config.memory and len(self._memory) > 1:
            self._memory.popleft()
        self._new = min(self._new, len(self._memory))
        return len(counted)

    def forget(self) -> None:
        """The model's weights are others now: all corrections are new to them."""
        self._new = len(self._memory)

    def learn(self, practised: Sequence[EpisodeData]) -> dict[str, float]:
        """Supervised steps on all corrections; where the policy practised and nobody doubted it, it stays as it is.

        Returns:
            `corrected_steps` that were learned from; with any, `correction_loss` of the last ten optimiser steps, and `kept`,
            the KL divergence then [nat a row and dimension].
        """
        c, random = self.config, torch.Generator().manual_seed(self.config.seed)
        order = self._order(random)
        if not len(order):
            return {"corrected_steps": 0}
        steps, self._new = Steps.join(self._memory), 0
        keep = self._before(practised, random) if c.keep else None
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=c.learning_rate, weight_decay=0.0)
        taught, moved = deque[float](maxlen=10), deque[float](maxlen=10)
        for index in order.split(c.batch):
            each = self.model.head.loss(self._logits(steps.trunk[index]), steps.actions[index], c.label_sigma)
            loss = each[steps.counted[index]].mean()
            taught.append(loss.item())
            if keep is not None:
                trunk, before = keep
                chosen = torch.randint(len(before), (c.batch,), generator=random)
                now = self._logits(trunk[chosen]).log_softmax(-1)
                divergence = kl_div(now, before[chosen], reduction="none", log_target=True).sum(-1).mean()
                loss = loss + c.keep * divergence
                moved.append(divergence.item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, c.grad_clip)
            optimizer.step()
        kept = {"kept": float(np.mean(moved))} if moved else {}
        return {"corrected_steps": len(order.unique()), "correction_loss": float(np.mean(taught)), **kept}

    def _order(self, random: torch.Generator) -> Tensor:
        """Steps in memory as they are gone through, the new ones and the earlier ones mixed."""
        lengths = torch.tensor([len(steps) for steps in self._memory], dtype=torch.long)
        episode = torch.arange(len(lengths)).repeat_interleave(lengths)
        passes = torch.where(episode < len(lengths) - self._new, self.config.again, self.config.passes)
        every = torch.arange(len(episode)).repeat_interleave(passes)
        return every[torch.randperm(len(every), generator=random)]

    @torch.no_grad()
    def _before(self, practised: Sequence[EpisodeData], random: torch.Generator) -> tuple[Trunk, Tensor] | None:
        """States in which nobody doubted the policy, and its log-probabilities [n, chunk, D, bins] there as they are now."""
        good = [undoubted(data) for data in practised]
        count = [int(steps.sum()) for steps in good]
        if not sum(count):
            return None
        inputs = Inputs.of(
            np.concatenate([data.images[:-1][steps] for data, steps in zip(practised, good, strict=True)]),
            np.repeat(np.arange(len(practised)), count).astype(np.int32), tuple(data.instruction for data in practised),
            np.concatenate([data.states[:-1][steps] for data, steps in zip(practised, good, strict=True)]), self.prompt,
        )  # fmt: skip
        chosen = torch.randperm(sum(count), generator=random)[:KEPT]
        trunk = encode_all(self.model, Inputs(*inputs[chosen]))
        return trunk, torch.cat([self._logits(trunk[i]).log_softmax(-1) for i in torch.arange(len(chosen)).split(256)])

    def _logits(self, trunk: Trunk) -> Tensor:
        return self.model.action_logits(self.model.read(trunk)[0])
