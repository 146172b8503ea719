"""Instructions as the ids that a policy reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vla_ros.errors import VlaRosError

MAX_WORDS = 12


class Prompt(Protocol):
    """What a checkpoint makes of instructions; it is saved beside the weights."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids and mask (1 where there is a token), both [B, L] int64.

        Raises:
            VlaRosError: an instruction that the policy cannot read.
        """


WORDS = pre_tokenizers.Whitespace()


def words(text: str) -> list[str]:
    """As the closed vocabulary splits an instruction."""
    return [word for word, _ in WORDS.pre_tokenize_str(text.lower())]


class WordPrompt:
    """The closed vocabulary of the small model: one id a word."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def reading(cls, texts: Sequence[str]) -> WordPrompt:
        """That knows the words of these instructions; a punctuation mark is one."""
        return cls.of(sorted({word for text in texts for word in words(text)}))

    @classmethod
    def of(cls, vocabulary: Sequence[str]) -> WordPrompt:
        """Lower-case words; id 0 pads, id 1 is the unknown word."""
        words = ["<pad>", "<unk>", *vocabulary]
        core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        core.normalizer = normalizers.Lowercase()
        core.pre_tokenizer = WORDS
        return cls(PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>"))

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """[B, MAX_WORDS] each.

        Raises:
            VlaRosError: a text is empty, too long, or has a word that the policy never learned.
        """
        tokenizer = self.tokenizer
        out = tokenizer(list(texts), padding="max_length", max_length=MAX_WORDS, return_tensors="pt")
        ids, mask = out["input_ids"], out["attention_mask"]
        if ids.shape[1] > MAX_WORDS or (mask.sum(1) == 0).any():
            raise VlaRosError(f"instruction must have 1 to {MAX_WORDS} words, found {[t for t in texts if t is not None][:3]}")
        if (ids == tokenizer.unk_token_id).any():
            row = int((ids == tokenizer.unk_token_id).any(1).nonzero()[0, 0])
            known = tokenizer.get_vocab()
            unknown = [word for word in words(texts[row]) if word not in known]
            raise VlaRosError(f"instruction {texts[row]!r}: the policy does not know {unknown}; it knows {sorted(known)[2:]}")
        return ids, mask
