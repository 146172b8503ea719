"""Arrays that supervised learning reads: every frame of every demonstration, the final observation included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.episodes.trajectory import Trajectory
from vla_ros.errors import VlaRosError
from vla_ros.policy.prompt import Prompt


@dataclass(frozen=True)
class Demonstrations:
    """N frames. `steps_to_go` is 0 at the final observation (of a benchmark's expert: several), whose action does not count."""

    images: NDArray[np.uint8]  # [N, (cameras,) H, W, 3] RGB
    states: NDArray[np.float32]  # [N, S] in the contract's units
    actions: NDArray[np.float32]  # [N, chunk, D] in the contract's units; a row beyond the end does not count
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

    @property
    def taught(self) -> tuple[str, ...]:
        """The instructions that occur."""
        return tuple(self.instructions[k] for k in np.unique(self.instruction))

    def inputs(self, prompt: Prompt) -> Inputs:
        """What a model takes of every frame."""
        return Inputs.of(self.images, self.instruction, self.instructions, self.states, prompt)

    def __getitem__(self, index: NDArray[np.bool_]) -> Demonstrations:
        return Demonstrations(
            self.images[index], self.states[index], self.actions[index], self.steps_to_go[index],
            self.instruction[index], self.instructions, self.episode[index],
        )  # fmt: skip


def of_episodes(episodes: Sequence[Trajectory]) -> Demonstrations:
    """Recorded episodes as demonstrations: what the arm was made to do, not what was asked of it, is cloned.

    Raises:
        VlaRosError: no episodes.
    """
    if not episodes:
        raise VlaRosError("demonstrations: found no episode that ended in success")
    texts = tuple(dict.fromkeys(e.instruction for e in episodes))
    lengths = [len(e.images) for e in episodes]
    return Demonstrations(
        images=np.concatenate([e.images for e in episodes]),
        states=np.concatenate([e.states for e in episodes]),
        actions=np.concatenate([e.actions for e in episodes]),
        steps_to_go=np.concatenate([np.arange(n - 1, -1, -1) for n in lengths]).astype(np.int32),
        instruction=np.repeat([texts.index(e.instruction) for e in episodes], lengths).astype(np.int32),
        instructions=texts,
        episode=np.repeat(np.arange(len(episodes)), lengths).astype(np.int32),
    )


def together(sets: Sequence[Demonstrations]) -> Demonstrations:
    """Sets one after another, their episodes apart."""
    texts = tuple(dict.fromkeys(text for d in sets for text in d.instructions))
    places = [np.array([texts.index(text) for text in d.instructions], np.int32) for d in sets]
    firsts = np.cumsum([0, *(int(d.episode.max()) + 1 for d in sets)])
    joined = {name: np.concatenate([getattr(d, name) for d in sets]) for name in ("images", "states", "actions", "steps_to_go")}
    return Demonstrations(
        **joined,
        instruction=np.concatenate([place[d.instruction] for place, d in zip(places, sets, strict=True)]),
        instructions=texts,
        episode=np.concatenate([d.episode + first for d, first in zip(sets, firsts[:-1], strict=True)]).astype(np.int32),
    )


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
