"""A pretrained image-text model of `transformers` as a policy: SmolVLM and Idefics3, PaliGemma, BLIP-2, Qwen2.5-VL, Qwen3-VL.

    pictures ──► the model's own vision tower and projector ─┐
    prompt ──► its own embeddings ───────────────────────────┴─► language model ──► h_act ──► action head
    robot state ──► linear ──► one token ┐ at the prompt's end                      h_togo ─► steps-to-go head
    two readouts ────────────────────────┘

The base model runs as its authors wrote it, from ids and pixels. Ours are the last three tokens of each prompt, whose
embeddings are put in place by a hook; and the heads, the same as the small model's (model.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vla_ros.errors import VlaRosError
from vla_ros.policy.heads import TokenLearner, Units, action_head
from vla_ros.policy.model import Trunk, head

OWN = 3  # tokens at the end of a prompt: state, act, steps-to-go
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Family:
    """What sets one family of image-text models apart from the next. This one: SmolVLM and Idefics3, pictures unsplit.

    Attributes:
        mean, std: of the pixels (0..1) that the vision tower was trained with.
    """

    mean, std = HALF, HALF

    def __init__(self, base: PreTrainedConfig) -> None:
        self.base = base

    @property
    def size(self) -> tuple[int, int]:
        """[px] height, width of a picture."""
        edge = self.base.vision_config.image_size
        return edge, edge

    @property
    def tokens(self) -> int:
        """Ids that one picture takes."""
        vision = self.base.vision_config
        return int((vision.image_size // vision.patch_size) ** 2 / self.base.scale_factor**2)

    @property
    def image_token(self) -> int:
        return int(self.base.image_token_id)

    def text(self, pictures: Sequence[str], instruction: str) -> str:
        """The prompt; `pictures` are the image tokens of each picture, joined."""
        seen = "".join(f"<fake_token_around_image><global-img>{p}<fake_token_around_image>" for p in pictures)
        return f"<|im_start|>User:{seen}{instruction}<end_of_utterance>\nAssistant:"

    def pixels(self, images: Tensor) -> dict[str, Tensor]:
        """What forward() takes for normalised images [B, cameras, 3, H, W]."""
        return {"pixel_values": images}

    def more(self, ids: Tensor) -> dict[str, Tensor]:
        """What else it takes for ids [B, L]."""
        return {}

    def hidden(self, output: Any) -> Tensor:
        """Last hidden states [B, L, d] of what forward() returned."""
        return output.last_hidden_state


class PaliGemma(Family):
    """Image tokens first; the whole prompt is a prefix, which attends both ways."""

    @property
    def tokens(self) -> int:
        vision = self.base.vision_config
        return int((vision.image_size // vision.patch_size) ** 2)

    def text(self, pictures: Sequence[str], instruction: str) -> str:
        return f"{''.join(pictures)}<bos>{instruction}\n"

    def pixels(self, images: Tensor) -> dict[str, Tensor]:
        return {"pixel_values": images.flatten(0, 1)}

    def more(self, ids: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": torch.zeros_like(ids)}


class Blip2(Family):
    """The Q-Former's queries stand for a picture; the language model comes with its own head."""

    mean, std = CLIP_MEAN, CLIP_STD

    @property
    def tokens(self) -> int:
        return int(self.base.num_query_tokens)

    @property
    def image_token(self) -> int:
        return int(self.base.image_token_index)

    def text(self, pictures: Sequence[str], instruction: str) -> str:
        return f"{''.join(pictures)}</s>{instruction}"

    def pixels(self, images: Tensor) -> dict[str, Tensor]:
        return {"pixel_values": images.flatten(0, 1)}

    def more(self, ids: Tensor) -> dict[str, Tensor]:
        return {"output_hidden_states": True}  # type: ignore[dict-item]

    def hidden(self, output: Any) -> Tensor:
        return output.language_model_outputs.hidden_states[-1]


class Qwen(Family):
    """Pictures as patches in merge order, with their grid; positions in three dimensions."""

    mean, std = CLIP_MEAN, CLIP_STD
    edge = 224  # px; any multiple of patch times merge would do

    @property
    def _cell(self) -> int:
        return int(self.base.vision_config.patch_size * self.base.vision_config.spatial_merge_size)

    @property
    def size(self) -> tuple[int, int]:
        edge = max(round(self.edge / self._cell), 1) * self._cell
        return edge, edge

    @property
    def tokens(self) -> int:
        return (self.size[0] // self._cell) * (self.size[1] // self._cell)

    def text(self, pictures: Sequence[str], instruction: str) -> str:
        seen = "".join(f"<|vision_start|>{p}<|vision_end|>" for p in pictures)
        return f"<|im_start|>user\n{seen}{instruction}<|im_end|>\n<|im_start|>assistant\n"

    def pixels(self, images: Tensor) -> dict[str, Tensor]:
        vision = self.base.vision_config
        p, m, t = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        pictures = images.flatten(0, 1)
        count, channels, height, width = pictures.shape
        grid = torch.tensor([[1, height // p, width // p]]).repeat(count, 1)
        cells = pictures.reshape(count, channels, height // (m * p), m, p, width // (m * p), m, p)
        cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [picture, rows, columns, merged row, column, channel, patch row, column]
        patches = cells[..., None, :, :].expand(*cells.shape[:6], t, p, p)
        return {"pixel_values": patches.reshape(-1, channels * t * p * p), "image_grid_thw": grid.to(images.device)}

    def more(self, ids: Tensor) -> dict[str, Tensor]:
        return {"mm_token_type_ids": (ids == self.image_token).long()}


class Qwen3(Qwen):
    mean, std = HALF, HALF
    edge = 256


FAMILIES: dict[str, type[Family]] = {
    "smolvlm": Family, "idefics3": Family, "paligemma": PaliGemma, "blip-2": Blip2,
    "qwen2_5_vl": Qwen, "qwen3_vl": Qwen3,
}  # fmt: skip


def family(base: PreTrainedConfig) -> Family:
    """
    Raises:
        VlaRosError: a model type that is not known here.
    """
    if base.model_type not in FAMILIES:
        raise VlaRosError(f"model_type: found '{base.model_type}', expected one of {', '.join(FAMILIES)}")
    return FAMILIES[base.model_type](base)


class VlmPrompt:
    """The family's prompt with every camera's picture, padded on the left, so that our own tokens are always the last."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, base: PreTrainedConfig, cameras: int) -> None:
        self.tokenizer = tokenizer
        self._family, self._cameras = family(base), cameras
        name = tokenizer.convert_ids_to_tokens(self._family.image_token)
        if not isinstance(name, str) or tokenizer.convert_tokens_to_ids(name) != self._family.image_token:
            raise VlaRosError(f"tokenizer: id {self._family.image_token} (the model's image token): found {name!r}")
        self._pictures = [name * self._family.tokens] * cameras

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """
        Raises:
            VlaRosError: an empty instruction, or one that holds the model's own control tokens.
        """
        for text in texts:
            if not text.strip():
                raise VlaRosError("instruction is empty")
            if bad := [token for token in self.tokenizer.all_special_tokens if token in text]:
                raise VlaRosError(f"instruction {text!r} holds the model's control token {bad[0]!r}")
        rows = [self.tokenizer(self._family.text(self._pictures, t), add_special_tokens=False)["input_ids"] for t in texts]
        for row in rows:
            if (found := row.count(self._family.image_token)) != (wanted := self._cameras * self._family.tokens):
                raise VlaRosError(f"tokenizer: prompt has {found} image tokens, expected {wanted}; is it of another model?")
        pad = self.tokenizer.pad_token_id or 0
        length = max(map(len, rows)) + OWN
        ids, mask = torch.full((len(rows), length), pad), torch.zeros((len(rows), length), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, length - OWN - len(row) : length - OWN] = torch.tensor(row)
            mask[i, length - OWN - len(row) :] = 1
        return ids, mask


class VlmConfig(PreTrainedConfig):
    """A base model's config, the robot's shapes, and the heads' (model.VlaConfig names the same things)."""

    model_type = "vla_ros_vlm"

    def __init__(
        self,
        base: dict[str, Any] | None = None,
        image_size: tuple[int, int] = (224, 224),
        cameras: int = 1,
        state_dim: int = 2,
        action_dim: int = 2,
        bins: int = 21,
        chunk: int = 1,
        steps_to_go_bins: int = 61,
        robot: str = "",
        head: str = "bins",
        token_learner: int = 0,
        prefix: int = 0,
        **kwargs: Any,
    ) -> None:
        self.base = base or {"model_type": "smolvlm"}
        self.image_size = list(image_size)  # [H, W] px that come; the family's own size is what the tower sees
        self.cameras = cameras
        self.state_dim = state_dim
        self.action_dim = action_dim
        self.bins = bins
        self.chunk = chunk
        self.steps_to_go_bins = steps_to_go_bins
        self.robot = robot
        self.head = head
        self.token_learner = token_learner
        self.prefix = prefix
        super().__init__(**kwargs)

    def base_config(self) -> PreTrainedConfig:
        return AutoConfig.for_model(**self.base)


@dataclass
class Frames(Trunk):
    """Observations as they came, as all of the model may learn. `tokens` are ids [B, L], `points` the state."""

    images: Tensor  # [B, (cameras,) H, W, 3] uint8


class VlmModel(PreTrainedModel):
    """p(action bins | observation, instruction) and p(steps-to-go | observation, instruction)."""

    config_class = VlmConfig
    base_model_prefix = "vlm"
    supports_gradient_checkpointing = True

    def __init__(self, config: VlmConfig, base: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        base_config = config.base_config()
        self.base = AutoModel.from_config(base_config) if base is None else base
        self.family = family(base_config)
        width = base_config.get_text_config().hidden_size
        self.units = Units(config.state_dim, config.action_dim, config.prefix)
        self.state_in = nn.Linear(self.units.width, width)
        self.readout = nn.Parameter(torch.randn(2, width) * 0.02)  # [act, steps-to-go]
        self.head = action_head(config.head, config.bins)
        self.token_learner = TokenLearner(width, config.token_learner) if config.token_learner else None
        inputs = width * max(config.token_learner, 1)
        self.action_head = head(inputs, config.chunk * config.action_dim * self.head.outputs)
        self.steps_to_go_head = head(width, config.steps_to_go_bins)
        self._own: Tensor | None = None  # [B, OWN, d] of the running forward()
        self.base.get_input_embeddings().register_forward_hook(self._put_own)
        self.post_init()

    @classmethod
    def on(cls, source: str, robot: dict[str, Any], **options: Any) -> VlmModel:
        """A policy on a pretrained base; `source` is a folder or a hub name, `robot` holds the config's other fields,
        `options` go to from_pretrained (dtype, device_map, ...)."""
        base = AutoModel.from_pretrained(source, **options)
        return cls(VlmConfig(base=base.config.to_dict(), **robot), base)

    def _init_weights(self, module: nn.Module) -> None:
        """Every part initialises itself; `from_config` has already done the base."""

    def _put_own(self, module: nn.Module, given: Any, embeddings: Tensor) -> Tensor:
        if self._own is None:
            return embeddings
        return torch.cat([embeddings[:, :-OWN], self._own.to(embeddings)], 1)

    def pixels(self, images: Tensor) -> Tensor:
        """[B, cameras, 3, h, w] normalised, in the tower's size, of [B, (cameras,) H, W, 3] uint8."""
        if images.ndim == 4:
            images = images[:, None]
        batch, cameras, *_ = images.shape
        if cameras != self.config.cameras:
            raise VlaRosError(f"images: found {cameras} cameras, the policy expects {self.config.cameras}")
        pictures = images.flatten(0, 1).permute(0, 3, 1, 2).float() / 255.0
        if tuple(pictures.shape[-2:]) != self.family.size:
            pictures = interpolate(pictures, self.family.size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (pictures.new_tensor(row).view(3, 1, 1) for row in (self.family.mean, self.family.std))
        return ((pictures - mean) / std).unflatten(0, (batch, cameras))

    def encode(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> Frames:
        """The interface of model.VlaModel; nothing is computed ahead."""
        return Frames(tokens, self.units.to_state(state), mask, images)

    def read(self, frames: Trunk) -> tuple[Tensor, Tensor]:
        """Inputs of the heads (act, steps-to-go), [B, d] each; with a token learner d times its tokens for act."""
        assert isinstance(frames, Frames)
        batch = len(frames.tokens)
        self._own = torch.cat([self.state_in(frames.points)[:, None], self.readout.expand(batch, -1, -1)], 1)
        try:
            pixels = self.family.pixels(self.pixels(frames.images).to(self.base.dtype))
            output = self.base(
                input_ids=frames.tokens, attention_mask=frames.mask, **pixels, **self.family.more(frames.tokens)
            )
        finally:
            self._own = None
        hidden = self.family.hidden(output)
        act, togo = hidden[:, -2].float(), hidden[:, -1].float()
        return (act if self.token_learner is None else self.token_learner(hidden.float(), frames.mask)), togo

    def action_logits(self, act: Tensor) -> Tensor:
        """[B, chunk, action_dim, head.outputs], what `head` makes a distribution of."""
        c = self.config
        return self.action_head(act).float().view(-1, c.chunk, c.action_dim, self.head.outputs)

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> dict[str, Tensor]:
        act, togo = self.read(self.encode(images, tokens, mask, state))
        return {"action": self.action_logits(act), "steps_to_go": self.steps_to_go_head(togo).float()}


def memory(model: nn.Module) -> int:
    """Bytes that training takes without activations: weights, and gradient and two moments of what is trained."""
    return sum(p.numel() * (p.element_size() + (12 if p.requires_grad else 0)) for p in model.parameters())
