"""RECAP's indicator (arXiv 2511.14759): words behind the instruction that say whether what follows was better than usual.

The small model's vocabulary is closed, so the words are added to it when a checkpoint is prepared. Which of them are read is
part of the tokenizer (its post-processor): a checkpoint that is saved with the positive prompt reads every instruction so,
wherever it is launched.
"""

from __future__ import annotations

from typing import cast

import torch
from tokenizers import Tokenizer, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vla_ros.errors import VlaRosError
from vla_ros.learning.acting import Actor, Features, features
from vla_ros.policy.model import Trunk, VlaModel
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt, WordPrompt

POSITIVE, NEGATIVE = ("advantage", "positive"), ("advantage", "negative")
WORDS = (*POSITIVE, NEGATIVE[1])


def learn_words(model: Model, prompt: Prompt, seed: int) -> WordPrompt:
    """Puts the words into the model, in place, as rows of its embedding's mean and spread; the prompt that knows them.

    Only the same seed makes the same rows: versions, which hold LoRA and head, are of one of them.

    Raises:
        VlaRosError: not the small model, the only one whose vocabulary is known.
    """
    if not isinstance(model, VlaModel):
        raise VlaRosError(f"recap: found a policy of type {model.config.model_type}, expected {VlaModel.config_class.model_type}")
    own, vocabulary = cast(WordPrompt, prompt), prompt.tokenizer.get_vocab()
    known = sorted(vocabulary, key=lambda word: vocabulary[word])
    if not (new := [word for word in WORDS if word not in vocabulary]):
        return own
    old = model.language_model.get_input_embeddings()
    random = torch.Generator().manual_seed(seed)
    rows = old.weight.mean(0) + old.weight.std(0) * torch.randn((len(new), old.embedding_dim), generator=random)
    grown = torch.nn.Embedding(len(known) + len(new), old.embedding_dim, padding_idx=old.padding_idx)
    grown.weight.data = torch.cat([old.weight.data, rows.detach()])
    model.language_model.set_input_embeddings(grown)
    model.language_model.config.vocab_size = model.config.language["vocab_size"] = grown.num_embeddings
    return WordPrompt.of([*known[2:], *new])


def behind(prompt: WordPrompt, words: tuple[str, ...]) -> WordPrompt:
    """Reads every instruction with these words behind it."""
    own = prompt.tokenizer
    core = Tokenizer.from_str(cast(PreTrainedTokenizerFast, own).backend_tokenizer.to_str())
    ids = cast(list[int], own.convert_tokens_to_ids(list(words)))
    core.post_processor = processors.TemplateProcessing(
        single=" ".join(["$A", *words]), special_tokens=list(zip(words, ids, strict=True))
    )
    return WordPrompt(PreTrainedTokenizerFast(tokenizer_object=core, pad_token=own.pad_token, unk_token=own.unk_token))


class _Without:
    """ids and mask [B, L] without the indicator's words. They stand last, so that the plain prompt's are left."""

    def __init__(self, prompt: WordPrompt) -> None:
        self._words = torch.tensor(prompt.tokenizer.convert_tokens_to_ids(list(WORDS)))
        self._pad = int(cast(int, prompt.tokenizer.pad_token_id))

    def __call__(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        said = torch.isin(tokens, self._words)
        return tokens.masked_fill(said, self._pad), mask.masked_fill(said, 0)


class Unaware:
    """A judge among policies that are told the indicator: its own vocabulary ends before these words."""

    def __init__(self, judge: Model, prompt: WordPrompt) -> None:
        self._judge, self._without = judge, _Without(prompt)
        self.read, self.steps_to_go_head = judge.read, judge.steps_to_go_head

    def encode(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> Trunk:
        return self._judge.encode(images, *self._without(tokens, mask), state)


class Guided(Actor):
    """Goes further from what the policy would do without the indicator towards what it does with it:
    l = l_u + beta (l_c - l_u), classifier-free guidance on a head's logits.

    Raises:
        VlaRosError: a continuous head.
    """

    def __init__(self, model: Model, prompt: WordPrompt, unit: float, beta: float) -> None:
        if model.config.head != "bins":
            raise VlaRosError(f"guidance is {beta:g} and head '{model.config.head}', expected head bins: it is about tokens")
        super().__init__(model, unit)
        self._beta, self._without = beta, _Without(prompt)
        self.encode = self._both  # type: ignore[assignment]

    def _both(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> tuple[Trunk, Trunk]:
        plain = self.model.encode(images, *self._without(tokens, mask), state)
        return self.model.encode(images, tokens, mask, state), plain

    def read(self, trunk: tuple[Trunk, Trunk]) -> tuple[tuple[Features, Features], Tensor]:  # type: ignore[override]
        seen, togo = super().read(trunk[0])
        return (seen, features(self.model, trunk[1])), togo

    def action_logits(self, seen: tuple[Features, Features]) -> Tensor:  # type: ignore[override]
        with_it, without = (super(Guided, self).action_logits(part) for part in seen)
        return without + self._beta * (with_it - without)
