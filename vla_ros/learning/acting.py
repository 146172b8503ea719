"""A policy that acts in simulated cells, and what a learner keeps of it. rollout.py collects the episodes.

The policy remembers what its frozen part made of each observation, so that the VLM runs once per observation, when it acts
(arXiv 2501.16664, section V-D: the latent lies in the buffer); and a continuous head's actions become what a cell takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_ros.policy.heads import Array, Drawn
from vla_ros.policy.model import Trunk
from vla_ros.policy.policy import Model


class Features(Trunk):
    """What the heads read of n observations.

    tokens  [n, L, d] hidden states that a token learner pools; [n, 0, 1] where there is none
    points  [n, f] readouts: what the action head reads (beside the pooled tokens), then what the steps-to-go head reads
    mask    [n, L] 1 where there is a hidden state
    """


def features(model: Model, trunk: Trunk) -> Features:
    """Runs the language model."""
    if model.token_learner is None:
        act, togo = model.read(trunk)
        nothing = act.new_zeros(len(act), 0, 1)
        return Features(nothing, torch.cat([act, togo], 1), nothing[..., 0])
    pooled: list[tuple[Tensor, Tensor]] = []  # the model pools inside `read`; what it pools is asked for where it comes by
    hook = model.token_learner.register_forward_pre_hook(lambda module, given: pooled.append(given))
    try:
        act, togo = model.read(trunk)
    finally:
        hook.remove()
    hidden, mask = pooled[0]
    beside = act[:, model.config.token_learner * hidden.shape[-1] :]
    return Features(hidden, torch.cat([beside, togo], 1), mask)


def action_out(model: Model, seen: Features) -> Tensor:
    """Output of the action head (with its token learner), [n, chunk, D, outputs]."""
    read = width(model.action_head)
    if model.token_learner is None:
        return model.action_logits(seen.points[:, :read])
    pooled = model.token_learner(seen.tokens, seen.mask)
    return model.action_logits(torch.cat([pooled, seen.points[:, : read - pooled.shape[1]]], 1))


def width(answer: nn.Module) -> int:
    """Numbers that a head reads."""
    return int(cast(nn.Linear, cast(nn.Sequential, answer)[0]).in_features)


class Continuous:
    """A continuous head in a cell: what rollout.py keeps as tokens, and hands to the cell, are actions in the cell's unit."""

    def __init__(self, model: Model, unit: float) -> None:
        self._head, self._units, self._unit = model.head, model.units, unit

    def draw(self, out: Array, greedy: bool, temperature: float, random: np.random.Generator) -> Drawn:
        drawn = self._head.draw(out, greedy, temperature, random)
        actions = self._units.to_contract(drawn.actions) * np.float32(self._unit)
        return drawn._replace(tokens=cast(NDArray[np.int16], actions))


class Actor:
    """A model as rollout.run takes it.

    Args:
        unit: rollout.Environment's.
    """

    def __init__(self, model: Model, unit: float) -> None:
        self.model, self._unit = model, unit
        self.encode, self.steps_to_go_head = model.encode, model.steps_to_go_head
        self.head = model.head if model.config.head == "bins" else Continuous(model, unit)
        self._seen: list[Features] = []

    def read(self, trunk: Trunk) -> tuple[Features, Tensor]:
        seen = features(self.model, trunk)
        self._seen.append(seen)
        return seen, seen.points[:, -width(self.steps_to_go_head) :]

    def action_logits(self, seen: Features) -> Tensor:
        return action_out(self.model, seen)

    def actions(self, drawn: NDArray[np.int16]) -> NDArray[np.float32]:
        """In the contract's units, of what rollout.py kept as tokens [..., D]."""
        if self.model.config.head == "bins":
            return self.model.units.to_contract((drawn * (2.0 / (self.model.config.bins - 1)) - 1.0).astype(np.float32))
        return np.asarray(drawn / self._unit, np.float32)

    def remembered(self, lengths: Sequence[int], at_once: int) -> list[Features]:
        """What was seen since the last call, episode by episode.

        Args:
            lengths: observations of each episode.
            at_once: episodes that shared a pass. Pass t of a group saw those that have an observation t, in their order.
        """
        seen, self._seen, out = self._seen, [], list[Features]()
        for start in range(0, len(lengths), at_once):
            group = np.array(lengths[start : start + at_once])
            alive = np.arange(group.max())[:, None] < group
            row = alive.cumsum().reshape(alive.shape) - 1  # of all rows of the group's passes
            passes, seen = Features.join(seen[: len(alive)]), seen[len(alive) :]
            out += [passes[torch.from_numpy(row[alive[:, i], i])] for i in range(len(group))]
        return out
