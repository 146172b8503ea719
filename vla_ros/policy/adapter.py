"""What practice trains: LoRA on the language model (peft) and the action head. Everything else stays frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from vla_ros.errors import VlaRosError

if TYPE_CHECKING:
    from vla_ros.policy.policy import Model

M = TypeVar("M", bound="Model")
# attention and MLP of the language model, as Llama, Gemma, Qwen and OPT name them; never of a vision tower
TARGETS = r"(.*\.)?(language_model|text_model)\..*\.(q_proj|k_proj|v_proj|o_proj|out_proj|gate_proj|up_proj|down_proj|fc1|fc2)"


def add(model: M, rank: int = 8, alpha: int = 16, targets: str = TARGETS) -> M:
    """Put LoRA into the modules that the pattern `targets` matches, in place, and freeze all but LoRA and action head (with
    its token learner).

    Raises:
        VlaRosError: no module matches.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, which only those pay who add LoRA

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets)
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise VlaRosError(f"LoRA targets: found no module that matches {targets!r}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(("action_head.", "token_learner.")))
    return model


def state(model: Model) -> dict[str, Tensor]:
    """Name -> live tensor of everything that a version holds."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def check(model: Model, weights: dict[str, Tensor], source: str) -> None:
    """Refuse weights that do not belong into this model.

    Raises:
        VlaRosError: missing or unknown names, other shapes, non-finite values; names file, key, found and expected.
    """
    expected = state(model)
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        raise VlaRosError(
            f"{source}: not weights of this policy: {len(missing)} tensors missing (first: {missing[:1]}), "
            f"{len(unknown)} unknown (first: {unknown[:1]}); expected the {len(expected)} tensors of LoRA and action head"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise VlaRosError(f"{source}: {name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}")
        if not torch.isfinite(tensor).all():
            raise VlaRosError(f"{source}: {name} holds non-finite values")


@torch.no_grad()
def swap(model: Model, weights: dict[str, Tensor]) -> None:
    """Copy checked weights into the live tensors; called between two inferences by the thread that infers."""
    live = state(model)
    names = list(weights)
    if not names:
        return  # a frozen model has none, and torch wants at least one
    torch._foreach_copy_([live[n] for n in names], [weights[n] for n in names])


@torch.no_grad()
def merged(model: Model) -> dict[str, Tensor]:
    """The model's tensors with LoRA added into the weights that it adapts: what a checkpoint of its own holds."""
    from peft.tuners.lora import LoraLayer

    out = {}
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, tensor in model.state_dict().items():
        owner = next((layer for layer in layers if name.startswith(f"{layer}.")), "")
        if not owner:
            out[name] = tensor
        elif ".base_layer." in name:
            delta = layers[owner].get_delta_weight("default") if name.endswith(".weight") else 0.0
            out[name.replace(".base_layer.", ".")] = tensor + delta
    return out
