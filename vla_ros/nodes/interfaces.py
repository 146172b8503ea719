"""Message classes by name, for topics that are named in parameters."""

from __future__ import annotations

import importlib

from vla_ros.errors import VlaRosError


def message_class(name: str) -> type:
    """Class of `package/msg/Type` (or `package/Type`).

    Raises:
        VlaRosError: no such message.
    """
    parts = name.strip().split("/")
    try:
        return getattr(importlib.import_module(f"{parts[0]}.msg"), parts[-1])  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError) as error:
        raise VlaRosError(f"message type {name!r} not found ({error}); expected package/msg/Type") from error
