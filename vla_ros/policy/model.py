"""The small vision-language-action model: a `transformers` vision tower and language model, joined by a pointing connector.

    image ──► vision tower ──► map [h·w, c] ─┐
    words ──► embeddings ──► K text queries ─┴─► attention ──► K object tokens and their image points
    [words, object tokens, robot state, readouts] ──► language model ──► action head, steps-to-go head

The connector asks the image K questions that the words pose, and keeps *where* it looked: soft-argmax points reach the
heads beside the language model's readouts, which is what lets a few hundred demonstrations bind words to objects.
Two outputs of one network, as in arXiv 2509.15155 section 2.1: log p(a | o, g) over bins and log p(T - t | o, g).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, LlamaConfig, PreTrainedConfig, PreTrainedModel, ResNetConfig
from typing_extensions import Self

from vla_ros.policy.heads import TokenLearner, Units, action_head


class VlaConfig(PreTrainedConfig):
    """Shapes of the model. `vision` and `language` are configs of `transformers` models, kept as dictionaries."""

    model_type = "vla_ros"

    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        language: dict[str, Any] | None = None,
        image_size: tuple[int, int] = (64, 64),
        slots: int = 8,
        state_dim: int = 2,
        action_dim: int = 2,
        bins: int = 21,
        chunk: int = 1,
        steps_to_go_bins: int = 61,
        ground_dim: int = 4,
        robot: str = "",
        cameras: int = 1,
        head: str = "bins",
        token_learner: int = 0,
        prefix: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vision = vision or ResNetConfig(embedding_size=32, hidden_sizes=[64], depths=[1], layer_type="basic").to_dict()
        self.language = language or LlamaConfig(
            vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=None,
        ).to_dict()  # fmt: skip
        self.image_size = list(image_size)  # [H, W] px
        self.slots = slots  # K questions to the image
        self.state_dim = state_dim
        self.action_dim = action_dim
        self.bins = bins  # per action dimension
        self.chunk = chunk  # rows per inference
        self.steps_to_go_bins = steps_to_go_bins  # bin i is i steps; the last one is "that many or more"
        self.ground_dim = ground_dim  # coordinates that pre-training predicts
        self.robot = robot  # contract that the checkpoint belongs to
        self.cameras = cameras  # pictures of one observation
        self.head = head  # one of heads.HEADS
        self.token_learner = token_learner  # tokens that the action head pools all hidden states into; 0: it reads its readout
        self.prefix = prefix  # rows of the running chunk that the network may be told to continue
        super().__init__(**kwargs)


@dataclass
class Trunk:
    """What the frozen part says about an observation; practice caches it."""

    tokens: Tensor  # [B, L + K + 1, d] words, object tokens, state
    points: Tensor  # [B, 2K + state width] image points in -1..1, and the state in network units
    mask: Tensor  # [B, L + K + 1] 1 where there is a token

    def __getitem__(self, index: Any) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Trunk]) -> Self:
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class PointingConnector(nn.Module):
    """K queries, written by the words, attend to the map; each gives a pooled token and the point it looked at."""

    def __init__(self, channels: int, width: int, slots: int) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(slots, width) * 0.5)
        self.word_key = nn.Linear(width, width)
        self.word_value = nn.Linear(width, width)
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, width)
        self.point = nn.Linear(2, width)
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.scale = width**-0.5

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features [B, C, h, w], words [B, L, d], mask [B, L] -> tokens [B, K, d], points [B, K, 2], logits [B, K, h*w]."""
        _, _, height, width = features.shape
        cells = features.flatten(2).transpose(1, 2)
        asked = torch.einsum("kd,bld->bkl", self.slots, self.word_key(words)) * self.scale
        asked = asked.masked_fill(mask[:, None] == 0, -1e4).softmax(-1)
        queries = self.slots + asked @ self.word_value(words)
        logits = torch.einsum("bkd,bnd->bkn", queries, self.key(cells)) * self.scale * self.sharpness.exp()
        logits = logits.float()
        attention = logits.softmax(-1)
        ys = torch.linspace(-1, 1, height, device=features.device)
        xs = torch.linspace(-1, 1, width, device=features.device)
        grid = torch.stack([xs.repeat(height), ys.repeat_interleave(width)], -1)
        points = attention @ grid
        return attention.to(cells.dtype) @ self.value(cells) + self.point(points), points, logits


def head(inputs: int, outputs: int) -> nn.Sequential:
    """What answers from a readout."""
    return nn.Sequential(nn.Linear(inputs, 256), nn.GELU(), nn.Linear(256, outputs))


class VlaModel(PreTrainedModel):
    """p(action bins | observation, words) and p(steps-to-go | observation, words)."""

    config_class = VlaConfig
    base_model_prefix = "vla"

    def __init__(self, config: VlaConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(_auto(config.vision))
        self.language_model = AutoModel.from_config(_auto(config.language))
        width = config.language["hidden_size"]
        channels = config.vision["hidden_sizes"][-1]
        self.connector = PointingConnector(channels, width, config.slots)
        self.word_position = nn.Parameter(torch.randn(32, width) * 0.1)
        self.slot_embedding = nn.Parameter(torch.randn(config.slots, width) * 0.1)
        self.units = Units(config.state_dim, config.action_dim, config.prefix)
        self.state_in = nn.Linear(self.units.width, width)
        self.readout = nn.Parameter(torch.randn(2, width) * 0.1)  # [act, steps-to-go]
        self.head = action_head(config.head, config.bins)
        self.token_learner = TokenLearner(width, config.token_learner) if config.token_learner else None
        more = 2 * config.slots + self.units.width
        inputs = width * max(config.token_learner, 1) + more
        self.action_head = head(inputs, config.chunk * config.action_dim * self.head.outputs)
        self.steps_to_go_head = head(width + more, config.steps_to_go_bins)
        self.ground_head = head(inputs, config.ground_dim)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every part initialises itself; `from_config` has already done the two towers."""

    def point(self, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words [B, L, d], object tokens [B, K, d], their image points [B, K, 2] and attention logits [B, K, h*w]."""
        batch, *_, height, width, _ = images.shape
        pixels = images.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
        features = self.vision_tower(pixels).last_hidden_state
        if len(features) != batch:  # several cameras: their maps side by side, as one
            features = features.unflatten(0, (batch, -1)).permute(0, 2, 3, 1, 4).flatten(3)
        words = self.language_model.get_input_embeddings()(tokens) + self.word_position[: tokens.shape[1]]
        return words, *self.connector(features, words, mask)

    def encode(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> Trunk:
        """The part that practice freezes.

        Args:
            images: [B, (cameras,) H, W, 3] uint8 RGB.
            tokens: [B, L] word ids; mask [B, L] 1 where there is a word.
            state: [B, state_dim] in the contract's units, or [B, units.width] with the rows to continue.
        """
        words, objects, points, _ = self.point(images, tokens, mask)
        return self._trunk(words, objects, points, mask, state)

    def _trunk(self, words: Tensor, objects: Tensor, points: Tensor, mask: Tensor, state: Tensor) -> Trunk:
        state = self.units.to_state(state)
        sequence = torch.cat([words, objects + self.slot_embedding, self.state_in(state)[:, None]], 1)
        ones = mask.new_ones(mask.shape[0], objects.shape[1] + 1)
        return Trunk(sequence.float(), torch.cat([points.flatten(1).float(), state], 1), torch.cat([mask, ones], 1))

    def read(self, trunk: Trunk) -> tuple[Tensor, Tensor]:
        """Language model over the trunk's tokens -> inputs of the two heads (act, steps-to-go): [B, d + 2K + state width], with
        a token learner d times its tokens for act."""
        batch = trunk.tokens.shape[0]
        sequence = torch.cat([trunk.tokens, self.readout.expand(batch, -1, -1)], 1)
        mask = torch.cat([trunk.mask, trunk.mask.new_ones(batch, 2)], 1)
        hidden = self.language_model(inputs_embeds=sequence, attention_mask=mask, use_cache=False).last_hidden_state
        act, togo = hidden[:, -2].float(), hidden[:, -1].float()
        if self.token_learner is not None:
            act = self.token_learner(hidden.float(), mask)
        return torch.cat([act, trunk.points], 1), torch.cat([togo, trunk.points], 1)

    def action_logits(self, act: Tensor) -> Tensor:
        """[B, chunk, action_dim, head.outputs], what `head` makes a distribution of."""
        c = self.config
        return self.action_head(act).float().view(-1, c.chunk, c.action_dim, self.head.outputs)

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> dict[str, Tensor]:
        act, togo = self.read(self.encode(images, tokens, mask, state))
        return {
            "action": self.action_logits(act),
            "steps_to_go": self.steps_to_go_head(togo).float(),
        }

    def ground(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-training's two answers: where in the picture (logits [B, K, h*w]) and where on the table [B, ground_dim]."""
        words, objects, points, logits = self.point(images, tokens, mask)
        act, _ = self.read(self._trunk(words, objects, points, mask, state))
        return logits, self.ground_head(act).float()


def _auto(config: dict[str, Any]) -> PreTrainedConfig:
    kind = config["model_type"]
    return AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"})


def steps_to_go_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Expectation d(o, g) and standard deviation [policy steps] of the steps-to-go distribution; logits [B, bins]."""
    probabilities = logits.softmax(-1)
    steps = torch.arange(logits.shape[-1], device=logits.device, dtype=probabilities.dtype)
    mean = (probabilities * steps).sum(-1)  # a matrix product would be rounded to bf16 under autocast
    return mean, ((probabilities * steps.square()).sum(-1) - mean.square()).clamp_min(0).sqrt()


def steps_to_go_quantiles(logits: Tensor, shares: Sequence[float]) -> Tensor:
    """Steps [..., len(shares)] at or under which these shares of the distribution lie; logits [..., bins]."""
    below = logits.softmax(-1).cumsum(-1)
    return torch.stack([(below < share).sum(-1) for share in shares], -1)
