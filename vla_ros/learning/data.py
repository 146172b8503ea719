"""Arrays that supervised learning reads: every frame of every demonstration, the final observation included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.policy.prompt import Prompt


@dataclass(frozen=True)
class Demonstrations:
    """N frames. `steps_to_go` is 0 at the final observation, whose action does not count."""

    images: NDArray[np.uint8]  # [N, H, W, 3] RGB
    states: NDArray[np.float32]  # [N, S] in -1..1
    tokens: NDArray[np.int16]  # [N, chunk, D] action bins
    steps_to_go: NDArray[np.int32]  # [N] policy steps
    instruction: NDArray[np.int32]  # [N] index into `instructions`
    instructions: tuple[str, ...]
    episode: NDArray[np.int32]  # [N]

    def split(self, held_out: float, seed: int) -> tuple[Demonstrations, Demonstrations]:
        """Split by episode, never by frame."""
        episodes = np.unique(self.episode)
        chosen = np.random.default_rng(seed).permutation(episodes)[: max(1, round(held_out * len(episodes)))]
        out = np.isin(self.episode, chosen)
        return self[~out], self[out]

    def __getitem__(self, index: NDArray[np.bool_]) -> Demonstrations:
        return Demonstrations(
            self.images[index], self.states[index], self.tokens[index], self.steps_to_go[index],
            self.instruction[index], self.instructions, self.episode[index],
        )  # fmt: skip


@dataclass
class Inputs:
    """What the model takes, ready as tensors; index it to get a batch."""

    images: Tensor
    words: Tensor
    mask: Tensor
    state: Tensor

    @classmethod
    def of(
        cls,
        images: NDArray[np.uint8],
        instruction: NDArray[np.int32],
        instructions: tuple[str, ...],
        states: NDArray[np.float32],
        prompt: Prompt,
    ) -> Inputs:
        ids, mask = prompt(instructions)
        index = torch.from_numpy(np.asarray(instruction, np.int64))
        return cls(torch.from_numpy(images), ids[index], mask[index], torch.from_numpy(np.asarray(states, np.float32)))

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.images[index], self.words[index], self.mask[index], self.state[index]


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless index batches, each epoch in a new order and without replacement."""
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, max(count - size, 0) + 1, size):
            yield order[start : start + size]
