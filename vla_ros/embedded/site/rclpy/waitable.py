"""What an executor waits for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class Waitable:
    """An entity with a callback; `conditions` are the DDS entities that wake the executor for it."""

    callback_group: Any
    conditions: tuple[Any, ...] = ()

    def take(self) -> Callable[[], Any] | None:
        """Fetch one event; returns the call that handles it, or None if there is nothing.

        Runs in the executor's waiting thread; the call it returns may run in a worker.
        """
        raise NotImplementedError


def required_parameters(callback: Callable[..., Any]) -> int:
    """Number of positional arguments that a callback must be given; 0 if it does not tell (some builtins)."""
    try:
        parameters = inspect.signature(callback).parameters.values()
    except ValueError:
        return 0
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)
