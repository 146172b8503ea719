"""A model that computes on a GPU for callers that keep their tensors in main memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from vla_ros.errors import VlaRosError

if TYPE_CHECKING:
    from vla_ros.policy.policy import Model

M = TypeVar("M", bound="Model")


def put(model: M, device: str) -> M:
    """Move a model, in place. What rollout and practice call of it (encode, read, action_logits, steps_to_go_head) takes and
    gives tensors in main memory, gradients included; what is drawn, rewarded and kept stays there.

    Args:
        device: as torch names it; "cpu" changes nothing.

    Raises:
        VlaRosError: there is no such device.
    """
    if device == "cpu":
        return model
    try:
        cast(torch.nn.Module, model).to(device)  # transformers' annotation of `to` is its wrapper's
    except (RuntimeError, AssertionError) as error:  # not compiled for it, no driver, no such number
        raise VlaRosError(f"device {device!r}: {str(error).splitlines()[0]}; expected cpu, or a GPU of this machine") from error
    return bridge(model, torch.device(device))


def bridge(model: M, device: torch.device) -> M:
    """Of a model that is there already."""
    for name in ("encode", "read", "action_logits"):
        setattr(model, name, _crossing(getattr(model, name), device))
    head = model.steps_to_go_head
    head.register_forward_pre_hook(lambda _, given: _moved(given, device))
    head.register_forward_hook(lambda _, given, out: out.cpu())
    return model


def _crossing(method: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    return lambda *given: _moved(method(*_moved(given, device)), torch.device("cpu"))


def _moved(value: Any, device: torch.device) -> Any:
    """A tensor, a tuple of such, or a Trunk."""
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(_moved(getattr(value, field.name), device) for field in fields(value)))
    return tuple(_moved(part, device) for part in value)
