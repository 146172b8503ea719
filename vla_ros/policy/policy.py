"""A policy at run time: words and frames in, an action chunk out."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from vla_ros.errors import VlaRosError
from vla_ros.files import sha256
from vla_ros.policy.engines import Eager, image_shape
from vla_ros.policy.heads import ActionHead, Drawn
from vla_ros.policy.model import VlaConfig, VlaModel
from vla_ros.policy.prompt import Prompt, WordPrompt
from vla_ros.policy.vlm import VlmConfig, VlmModel, VlmPrompt

logging.disable_progress_bar()  # of loading a few megabytes, in a robot's log


Model = VlaModel | VlmModel
MODELS: dict[str, type[Model]] = {VlaConfig.model_type: VlaModel, VlmConfig.model_type: VlmModel}

# What damaged files make json, safetensors, tokenizers and transformers raise.
DAMAGE = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError)


@dataclass(frozen=True)
class Decision:
    """Answer to one observation: raw action, and its log-probability under the sampling distribution."""

    action: NDArray[np.float32]  # [chunk, action_dim] in the contract's units
    tokens: NDArray[np.int16]  # [chunk, action_dim]; [chunk, 0] of a head that has none
    log_probability: float
    entropy: float  # nat, mean over rows and dimensions
    preprocess: float  # s from frame and words to tensors
    model: float  # s in the engine
    post: float  # s from the head's output to actions


def save(
    folder: Path, model: Model, prompt: Prompt, record: Mapping[str, object], weights: dict[str, Tensor] | None = None
) -> None:
    """Write a checkpoint: config.json, model.safetensors (`weights`; default the model's own), tokenizer, and
    `training.json` with how it came about."""
    model.save_pretrained(folder, state_dict=weights)
    prompt.tokenizer.save_pretrained(folder)
    (Path(folder) / "training.json").write_text(json.dumps(record, indent=1))


def taught(folder: Path) -> tuple[str, ...]:
    """Instructions of the demonstrations that a checkpoint was trained on; none where its `training.json` does not tell."""
    record = json.loads((Path(folder) / "training.json").read_text()) if (Path(folder) / "training.json").is_file() else {}
    return tuple(record.get("instructions", ()))


def fingerprint(folder: Path) -> str:
    """Hash of a checkpoint's network, weights and words: the same for copies on different machines.

    Raises:
        VlaRosError: it is incomplete.
    """
    weights = sorted(Path(folder).glob("*.safetensors"))
    parts = [Path(folder) / "config.json", Path(folder) / "tokenizer.json", *weights]
    for part in parts:
        if not weights or not part.is_file():
            raise VlaRosError(f"checkpoint {folder}: found no {part.name if weights else '*.safetensors'}")
    return hashlib.sha256("".join(f"{part.name} {sha256(part)}\n" for part in parts).encode()).hexdigest()


def load(folder: Path, robot: str = "", device: str = "cpu", half: bool = False) -> tuple[Model, Prompt]:
    """Read a checkpoint folder.

    Args:
        device: as torch names it; "auto" spreads a large model over the GPUs that are there (accelerate's device_map).
        half: the pretrained base in bfloat16; our own heads stay in float32.

    Raises:
        VlaRosError: not a checkpoint, a corrupt one, or one of another robot.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise VlaRosError(f"checkpoint {folder}: {name} is missing; expected a folder written by `vla-ros train`")
    try:
        place: dict[str, Any] = {} if device == "cpu" else {"device_map": device}
        loaded: Any = MODELS[_kind(folder)].from_pretrained(folder, output_loading_info=True, **place)
        model, report = cast(tuple[Model, dict[str, Any]], loaded)
        if half and isinstance(model, VlmModel):
            model.base.bfloat16()
    except DAMAGE as error:
        raise VlaRosError(f"checkpoint {folder}: cannot be read: {error}") from error
    prompt = load_prompt(folder)
    if missing := sorted(report["missing_keys"]):  # transformers fills them with random numbers and goes on
        raise VlaRosError(f"{folder}/model.safetensors: {len(missing)} tensors are missing (first: {missing[0]})")
    if robot and model.config.robot and model.config.robot != robot:
        raise VlaRosError(f"{folder}/config.json: checkpoint is for robot {model.config.robot!r}, running {robot!r}")
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise VlaRosError(f"{folder}/model.safetensors: {name} holds non-finite values")
    return model.eval(), prompt


def _kind(folder: Path) -> str:
    """The checkpoint's model type, one of MODELS."""
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind not in MODELS:
        raise VlaRosError(f"{folder}/config.json: model_type is {kind!r}, expected {' or '.join(map(repr, MODELS))}")
    return str(kind)


def load_prompt(folder: Path) -> Prompt:
    """How a checkpoint reads instructions, without its weights.

    Raises:
        VlaRosError: missing or unreadable.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise VlaRosError(f"checkpoint {folder}: tokenizer.json is missing; expected a folder written by `vla-ros train`")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        if _kind(Path(folder)) == VlaConfig.model_type:
            return WordPrompt(tokenizer)
        config = VlmConfig.from_pretrained(folder)
        return VlmPrompt(tokenizer, config.base_config(), config.cameras)
    except DAMAGE as error:
        raise VlaRosError(f"checkpoint {folder}: {path.name} cannot be read: {error}") from error


class Words:
    """Ids of an instruction, kept while the instruction stays the same."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        if text not in self._kept:
            self._kept = {text: self._prompt([text])}
        return self._kept[text]


def inputs(image: NDArray[np.uint8], model: Model) -> Tensor:
    """[1, (cameras,) H, W, 3] uint8; refuses another size than the checkpoint's."""
    expected = image_shape(model)
    if image.shape != expected or image.dtype != np.uint8:
        raise VlaRosError(f"image is {image.shape} {image.dtype}, the policy expects {expected} uint8")
    return torch.from_numpy(image.copy())[None]  # a view on a received message is read-only, which torch warns about


class VlaPolicy:
    """Input transforms → model → output transforms. `engine` runs the model; engines.build makes others than eager."""

    def __init__(self, model: Model, prompt: Prompt, engine: Eager | None = None) -> None:
        self.model = model.eval()
        self.engine = engine or Eager(model)
        self._words = Words(prompt)
        self._random = np.random.default_rng()

    def seed(self, seed: int) -> None:
        """The same seed and observations give the same actions."""
        self._random = np.random.default_rng(seed)

    @torch.inference_mode()
    def infer(
        self,
        image: NDArray[np.uint8],
        text: str,
        state: NDArray[np.float32],
        greedy: bool,
        temperature: float = 1.0,
        running: NDArray[np.float32] | None = None,
    ) -> Decision:
        """One observation ([(cameras,) H, W, 3] RGB, [S] state in the contract's units) to an action chunk.

        Args:
            running: [n, D] what will be executed in this chunk's first n rows anyway, because it takes that long to answer:
                these rows are kept (as many as the checkpoint was trained for), and the others continue them.

        Raises:
            VlaRosError: wrong image or state size, unknown words, or a network that answers with NaN.
        """
        start = time.perf_counter()
        pixels = inputs(image, self.model)
        ids, mask = self._words(text)
        units = self.model.units
        row = units.row(state, () if running is None else running)
        ready = time.perf_counter()
        out, _ = self.engine(pixels, ids, mask, row)
        answered = time.perf_counter()
        drawn = draw(self.model.head, out[0].numpy(), greedy, temperature, self._random)
        action = units.to_contract(drawn.actions)
        if running is not None:
            kept = running[: units.prefix]
            action[: len(kept)] = kept
        return Decision(
            action, drawn.tokens, float(drawn.log_probability), float(drawn.entropy),
            ready - start, answered - ready, time.perf_counter() - answered,
        )  # fmt: skip


def draw(
    head: ActionHead, out: NDArray[np.float32], greedy: bool, temperature: float, random: np.random.Generator
) -> Drawn:
    """
    Raises:
        VlaRosError: the network's numbers are not finite, or the temperature is none to sample at.
    """
    if not 0 < temperature < math.inf:
        raise VlaRosError(f"temperature is {temperature}, expected a finite number above 0")
    if not np.isfinite(out).all():
        raise VlaRosError("the policy's action logits are not finite; the running weights are broken, roll back")
    return head.draw(out, greedy, temperature, random)
