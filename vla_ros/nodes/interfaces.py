"""Message and service classes by name, for topics that are named in parameters and for packages that may be absent."""

from __future__ import annotations

import importlib
from typing import Any

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


def service_class(name: str) -> Any:
    """Class of `package/srv/Type`.

    Raises:
        VlaRosError: its package is not installed.
    """
    package, _, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.srv"), kind)
    except (ImportError, AttributeError) as error:
        raise VlaRosError(f"service type {name!r} not found ({error}); install the package {package}") from error
