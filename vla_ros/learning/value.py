"""RECAP's value (arXiv 2511.14759, eq. 1 and 5): a distribution over how an episode will go on, failures included, and what a
step was worth by it.

    r_t = -1, at the end 0 on success and -C_fail on failure          targets, over L + C_fail: -1..0, per task
    p(V | o, g) over 201 bins by cross-entropy, V = E[V]
    A_t = sum_{i < N} r_{t+i} + V(o_{t+N}) - V(o_t), where the episode ends before: R_t - V(o_t)

The value is a small network on the frozen features of the stage-1 checkpoint. It learns episodes by heart (re-implementations
report 93 % right bins in training, 18 % on others), so what a frame is worth is always said by a network that has not seen its
episode.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BINS, HIDDEN, DROPOUT = 201, 64, 0.3
RATE, DECAY, BATCH = 1e-3, 0.05, 256


def cost_of_failure(successes: Sequence[int], failures: Sequence[int]) -> tuple[int, int]:
    """L and C_fail [steps] of a task from its episodes' lengths: no failure, however early, is above any success."""
    longest = max([*successes, *failures])
    return longest, max(longest, max(successes, default=0) - min(failures, default=0) + 1)


def returns(steps: int, success: bool, longest: int, failure: int) -> NDArray[np.float32]:
    """R of each observation of an episode of T steps, [T + 1], -1..0."""
    left = np.arange(steps, -1, -1) + (0 if success else failure)
    return (-left / (longest + failure)).astype(np.float32)


def two_hot(values: Tensor) -> Tensor:
    """Values [n] in -1..0 as distributions [n, BINS] with that mean."""
    place = (values.clamp(-1, 0) + 1) * (BINS - 1)
    low = place.floor().long().clamp(max=BINS - 2)
    share = place - low
    out = torch.zeros(len(values), BINS)
    out.scatter_(1, low[:, None], (1 - share)[:, None])
    return out.scatter_(1, low[:, None] + 1, share[:, None])


class Value(nn.Module):
    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(seen.shape[1], HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, BINS))
        self.mean, self.scale = seen.mean(0), seen.std(0, correction=0) + 1e-3

    def forward(self, seen: Tensor) -> Tensor:
        """Logits [n, BINS]. What never varied in training must not drown the rest where it does."""
        out: Tensor = self.layers(((seen - self.mean) / self.scale).clamp(-5, 5))
        return out

    @torch.no_grad()
    def expect(self, seen: Tensor) -> Tensor:
        """V [n]."""
        self.eval()
        return self(seen).softmax(-1) @ torch.linspace(-1, 0, BINS)


def fit(seen: Tensor, targets: Tensor, steps: int, generator: torch.Generator) -> Value:
    """A value of features [n, f] and returns [n]."""
    value = Value(seen)
    optimizer, wanted = torch.optim.AdamW(value.parameters(), lr=RATE, weight_decay=DECAY), two_hot(targets)
    for _ in range(steps):
        index = torch.randint(len(seen), (BATCH,), generator=generator)
        loss = cross_entropy(value(seen[index]), wanted[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return value


def out_of_fold(seen: Tensor, targets: Tensor, episode: Tensor, folds: int, steps: int, seed: int) -> Tensor:
    """V [n] of features [n, f], each by a network that has not seen its `episode` [n] (0, 1, ...)."""
    generator, out = torch.Generator().manual_seed(seed), torch.empty(len(seen))
    fold = torch.randperm(int(episode.max()) + 1, generator=generator)[episode] % folds
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for k in range(folds):
            own = fold == k
            if own.any():
                known = ~own if not own.all() else own  # a single episode has nobody else
                out[own] = fit(seen[known], targets[known], steps, generator).expect(seen[own])
    return out


def advantages(values: NDArray[np.float32], returns: NDArray[np.float32], horizon: int) -> NDArray[np.float32]:
    """A_t of one episode, [T], from V and R [T + 1]. What the steps cost is the returns' difference; a last observation's V is
    its return."""
    last = len(values) - 1
    later = np.minimum(np.arange(last) + horizon, last)
    value = np.append(values[:-1], returns[-1])
    return np.asarray(returns[:-1] - returns[later] + value[later] - value[:-1], np.float32)


def indicators(
    advantage: NDArray[np.float32], task: NDArray[np.int32], autonomous: NDArray[np.bool_], corrected: NDArray[np.bool_],
    positive: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """I_t [n]: of a task's own autonomous steps, the share `positive` with the highest advantage; any other step of the task
    above the same threshold; and whatever a person did who took over.

    The threshold is a quantile of advantages, task by task: one of values is constant, one for all tasks tells the task."""
    out = corrected.copy()
    for k in np.unique(task):
        own = task == k
        known = advantage[own & autonomous] if (own & autonomous).any() else advantage[own]
        out |= own & (advantage > np.quantile(known, 1 - positive))
    return out
