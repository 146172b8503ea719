"""Supervised learning from several sources in fixed proportions, on features of the part that is never trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vla_ros.learning import sft
from vla_ros.learning.acting import action_out, features
from vla_ros.learning.data import Demonstrations
from vla_ros.policy.model import Trunk
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt


@dataclass(frozen=True)
class Samples:
    """Observations, and the action that followed each."""

    trunk: Trunk
    actions: Tensor  # [n, chunk, D] network units

    @classmethod
    def of(cls, model: Model, data: Demonstrations, prompt: Prompt) -> Samples:
        """Without the final observations, which no action followed."""
        acted = data[data.steps_to_go > 0]
        return cls(sft.encode_all(model, acted.inputs(prompt)), model.units.to_network(torch.from_numpy(acted.actions)))

    def __len__(self) -> int:
        return len(self.actions)


def plan(sizes: Sequence[int], shares: Sequence[float], count: int, generator: torch.Generator) -> Tensor:
    """[count] rows to be learned from, of all sources one after another, mixed: `shares` of it from each, whatever their sizes,
    and each source's rows equally often."""
    ends = (torch.tensor([0.0, *shares], dtype=torch.double).cumsum(0) / sum(shares) * count).round().long().tolist()
    rows, first = [], 0
    for k, size in enumerate(sizes):
        wanted = ends[k + 1] - ends[k]
        passes = [torch.randperm(size, generator=generator) for _ in range(-(-wanted // size) if wanted else 0)]
        rows.append(first + torch.cat([*passes, torch.zeros(0, dtype=torch.long)])[:wanted])
        first += size
    return torch.cat(rows)[torch.randperm(count, generator=generator)]


def pick(sources: Sequence[Samples], rows: Tensor) -> tuple[Trunk, Tensor]:
    """Trunk and actions of these rows of all sources one after another, source by source."""
    parts, first = [], 0
    for source in sources:
        own = rows[(rows >= first) & (rows < first + len(source))] - first
        if len(own):
            parts.append((source.trunk[own], source.actions[own]))
        first += len(source)
    return type(parts[0][0]).join([trunk for trunk, _ in parts]), torch.cat([actions for _, actions in parts])


def absorb(
    model: Model, sources: Sequence[Samples], shares: Sequence[float], c: sft.SftConfig, head_only: bool = False
) -> dict[str, float]:
    """-log p of the sources' actions, by LoRA and action head, or by the head alone; the mean loss in the end."""
    rows = plan([len(s) for s in sources], shares, c.steps * c.batch, torch.Generator().manual_seed(c.seed))

    def loss_of(index: Tensor) -> dict[str, Tensor]:
        trunk, actions = pick(sources, rows[index])
        with torch.autocast("cpu", torch.bfloat16, enabled=c.bf16):
            with torch.set_grad_enabled(not head_only):
                seen = features(model, trunk)
            each = model.head.loss(action_out(model, seen), actions, c.label_sigma)
        return {"absorbed_loss": each.mean()}

    last: dict[str, float] = {}
    sft.fit(model, loss_of, len(rows), c, lambda share, figures: last.update(figures))
    return {"absorbed_loss": last["absorbed_loss"]}
