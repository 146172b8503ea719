"""What the action head's numbers mean: a distribution over chunks of actions, and the units in which the network sees them.

    bins        p(bin) per row and dimension, actions as tokens           RT-2's way, as in arXiv 2509.15155
    gaussian    mean and log standard deviation; with `token_learner`     iRe-VLA's way, arXiv 2501.16664
    laplace     mean and log scale: L1 regression of whole chunks that knows its error   ACT's loss, arXiv 2304.13705

Arrays are [..., chunk, D]; in network units an action is about -1..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from vla_ros.errors import VlaRosError

LOG_SCALE = (-5.0, 1.0)  # of what a network unit may be uncertain by
QUANTILES = (0.01, 0.99)  # of the data, that become -1 and 1


Array = NDArray[np.float32]


class Drawn(NamedTuple):
    actions: Array  # [..., chunk, D] network units
    tokens: NDArray[np.int16]  # [..., chunk, D]; [..., chunk, 0] where there are none
    log_probability: Array  # [...]
    entropy: Array  # [...] nat, mean over rows and dimensions


class ActionHead(Protocol):
    """A distribution over [chunk, D] from the head's output [..., chunk, D, outputs]."""

    outputs: int

    def loss(self, out: Tensor, actions: Tensor, sigma: float) -> Tensor:
        """-log p of actions [..., chunk, D], for each element; `sigma` [bins] softens labels."""

    def log_probability(self, out: Tensor, actions: Tensor) -> Tensor:
        """[...] of whole chunks."""

    def draw(self, out: Array, greedy: bool, temperature: float, random: np.random.Generator) -> Drawn:
        """The most probable chunk, or a sample. In numpy: torch takes three times as long for a few small arrays."""

    def error(self, out: Tensor, actions: Tensor) -> Tensor:
        """Of the most probable chunk, [..., chunk, D], in network units."""


def soft_labels(target: Tensor, bins: int, sigma: float) -> Tensor:
    """Gaussian around the target bin, normalised: [..., bins]."""
    if sigma <= 0:
        return one_hot(target, bins).float()
    distance = torch.arange(bins, device=target.device) - target[..., None]
    return (-0.5 * (distance / sigma) ** 2).softmax(-1)


class Bins:
    """Each dimension in `bins` equal steps from -1 to 1; what lies beyond is the outermost bin."""

    def __init__(self, bins: int) -> None:
        self.outputs = bins

    def tokens(self, actions: Tensor) -> Tensor:
        return ((actions.clamp(-1, 1) + 1) * (0.5 * (self.outputs - 1))).round().long()

    def loss(self, out: Tensor, actions: Tensor, sigma: float) -> Tensor:
        wanted = soft_labels(self.tokens(actions), self.outputs, sigma)
        return cross_entropy(out.flatten(0, -2), wanted.flatten(0, -2), reduction="none").view(out.shape[:-1])

    def log_probability(self, out: Tensor, actions: Tensor) -> Tensor:
        return out.log_softmax(-1).gather(-1, self.tokens(actions)[..., None])[..., 0].sum((-1, -2))

    def draw(self, out: Array, greedy: bool, temperature: float, random: np.random.Generator) -> Drawn:
        scaled = (out - out.max(-1, keepdims=True)) / np.float32(temperature)
        p = np.exp(scaled)
        total = p.sum(-1, keepdims=True)
        p /= total
        log_p = scaled - np.log(total)
        if greedy:
            tokens = out.argmax(-1)
        else:
            below = p.cumsum(-1) < random.random((*out.shape[:-1], 1), np.float32)
            tokens = np.minimum(below.sum(-1), self.outputs - 1)  # a sum that ends at 1 - 1e-7
        chosen = np.asarray(np.take_along_axis(log_p, tokens[..., None], -1)[..., 0].sum((-1, -2)), np.float32)
        actions = (tokens * (2.0 / (self.outputs - 1)) - 1.0).astype(np.float32)
        return Drawn(actions, tokens.astype(np.int16), chosen, -(p * log_p).sum(-1).mean((-1, -2)))

    def error(self, out: Tensor, actions: Tensor) -> Tensor:
        return (out.argmax(-1) * (2.0 / (self.outputs - 1)) - 1.0 - actions).abs()


class Gaussian:
    """Independent normal distributions."""

    outputs = 2
    _constant = 0.5 * math.log(2 * math.pi)
    _entropy = 0.5 + _constant

    def _split(self, out: Tensor) -> tuple[Tensor, Tensor]:
        return out[..., 0], out[..., 1].clamp(*LOG_SCALE)

    def _minus_log(self, distance: Any) -> Any:
        """-log p at `distance` scales from the mean, but for the scale."""
        return 0.5 * distance * distance + self._constant

    def _noise(self, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        return random.standard_normal(shape, np.float32)

    def loss(self, out: Tensor, actions: Tensor, sigma: float) -> Tensor:
        mean, log_scale = self._split(out)
        return self._minus_log((actions - mean) * (-log_scale).exp()) + log_scale

    def log_probability(self, out: Tensor, actions: Tensor) -> Tensor:
        return -self.loss(out, actions, 0.0).sum((-1, -2))

    def draw(self, out: Array, greedy: bool, temperature: float, random: np.random.Generator) -> Drawn:
        mean = out[..., 0]
        log_scale = out[..., 1].clip(*LOG_SCALE) + np.float32(math.log(temperature))
        noise = np.zeros_like(mean) if greedy else self._noise(mean.shape, random)
        log_p = -(self._minus_log(noise) + log_scale).sum((-1, -2))
        empty = np.zeros((*mean.shape[:-1], 0), np.int16)
        actions = np.asarray(mean + np.exp(log_scale) * noise, np.float32)
        return Drawn(actions, empty, log_p, (self._entropy + log_scale).mean((-1, -2)))

    def error(self, out: Tensor, actions: Tensor) -> Tensor:
        return (self._split(out)[0] - actions).abs()


class Laplace(Gaussian):
    """Independent Laplace distributions: the mean is the one of L1 regression."""

    _constant = math.log(2.0)
    _entropy = 1.0 + _constant

    def _minus_log(self, distance: Any) -> Any:
        return abs(distance) + self._constant

    def _noise(self, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        return random.laplace(size=shape).astype(np.float32)


HEADS = ("bins", "gaussian", "laplace")


def action_head(name: str, bins: int) -> ActionHead:
    """
    Raises:
        VlaRosError: unknown name.
    """
    if name not in HEADS:
        raise VlaRosError(f"head: found {name!r}, expected one of {', '.join(HEADS)}")
    return Bins(bins) if name == "bins" else Gaussian() if name == "gaussian" else Laplace()


class TokenLearner(nn.Module):
    """Hidden states [B, L, d] pooled into `tokens` by learned attention maps, [B, tokens * d] (arXiv 2106.11297)."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.maps = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, tokens))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`mask` [B, L] is 1 where there is a token."""
        states = self.norm(hidden)
        maps = self.maps(states).masked_fill(mask[..., None] == 0, -1e4).softmax(1)
        return torch.einsum("blk,bld->bkd", maps, states).flatten(1)


class Units(nn.Module):
    """Between the contract's units and the network's: stored with the checkpoint, the same live and in training.

    A state row [S] may be followed by the rows of the running chunk that will be executed anyway, [prefix * D], and a mask
    of them [prefix]: the network then continues that chunk (training-time conditioning for real-time chunking, arXiv 2512.05964).
    """

    def __init__(self, state_dim: int, action_dim: int, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.register_buffer("state", torch.stack([torch.zeros(state_dim), torch.ones(state_dim)]))  # centre, half of the span
        self.register_buffer("action", torch.stack([torch.zeros(action_dim), torch.ones(action_dim)]))

    state: Tensor
    action: Tensor

    @property
    def width(self) -> int:
        """Of a state row with its prefix."""
        return int(self.state.shape[1]) + self.prefix * (int(self.action.shape[1]) + 1)

    def fit(self, states: NDArray[np.float32], actions: NDArray[np.float32]) -> None:
        """Quantiles of data [N, S] and [N, chunk, D] become -1 and 1; a dimension that does not move keeps its size."""
        for buffer, values in ((self.state, states), (self.action, actions.reshape(-1, actions.shape[-1]))):
            low, high = np.quantile(values, QUANTILES, axis=0)
            half = np.where(high - low > 1e-6, 0.5 * (high - low), 1.0)
            buffer.copy_(torch.from_numpy(np.stack([0.5 * (low + high), half])))

    def to_state(self, rows: Tensor) -> Tensor:
        """[B, S] or [B, width] in contract units to [B, width] in network units."""
        count, dim = self.state.shape[1], self.action.shape[1]
        state = (rows[:, :count] - self.state[0]) / self.state[1]
        if not self.prefix:
            return state
        if rows.shape[1] == count:
            return torch.cat([state, state.new_zeros(len(state), self.width - count)], 1)
        running, mask = rows[:, count:].split([self.prefix * dim, self.prefix], 1)
        running = self.to_network(running.view(-1, self.prefix, dim)) * mask[..., None]
        return torch.cat([state, running.flatten(1), mask], 1)

    def to_network(self, actions: Tensor) -> Tensor:
        return (actions - self.action[0]) / self.action[1]

    def to_contract(self, actions: Array) -> Array:
        centre, half = self.action.numpy(force=True)
        return np.asarray(actions * half + centre, np.float32)

    def row(self, state: NDArray[np.float32], running: Sequence[NDArray[np.float32]] | NDArray[np.float32] = ()) -> Tensor:
        """One observation's [1, width] from its state [S] and the running chunk's next rows [n <= prefix, D].

        Raises:
            VlaRosError: another number of values than the checkpoint's.
        """
        count, dim = self.state.shape[1], self.action.shape[1]
        if state.shape != (count,):
            raise VlaRosError(f"state is {state.shape}, the policy expects ({count},)")
        rows = np.asarray(running, np.float32).reshape(-1, dim)[: self.prefix]
        filled = np.zeros((1, self.prefix, dim), np.float32)
        filled[0, : len(rows)] = rows
        return self.pack(torch.from_numpy(state)[None], torch.from_numpy(filled), torch.tensor([len(rows)]))

    def pack(self, states: Tensor, running: Tensor, known: Tensor) -> Tensor:
        """[B, width] of states [B, S] and the first `known` [B] of the running chunks' rows [B, prefix, D]."""
        if not self.prefix:
            return states
        mask = torch.arange(self.prefix) < known[:, None]
        return torch.cat([states, (running * mask[..., None]).flatten(1), mask.float()], 1)
