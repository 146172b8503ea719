"""Messages to CDR bytes and back."""

from __future__ import annotations

from typing import Any

from vla_ros.embedded import messages


def serialize_message(message: Any) -> bytes:
    """CDR bytes with encapsulation header."""
    return bytes(messages.serialize(message))


def deserialize_message(serialized_message: bytes, message_type: Any) -> Any:
    """Message from CDR bytes."""
    return messages.deserialize(serialized_message, message_type)
