"""Messages to YAML and back, in the ros2 command line's format."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from vla_ros.cli.graph import interface
from vla_ros.errors import VlaRosError

TRUNCATE = 128  # elements of an array, characters of a string
FIXED_ARRAY = re.compile(r"(?P<element>.+)\[(?P<length>\d+)\]")


def to_yaml(message: Any, *, no_arr: bool = False, no_str: bool = False, truncate: int | None = TRUNCATE) -> str:
    """A message, or a single field's value, as `ros2 topic echo` prints it (without `---`)."""
    plain = to_plain(message, no_arr=no_arr, no_str=no_str, truncate=truncate)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n")


def to_plain(message: Any, *, no_arr: bool = False, no_str: bool = False, truncate: int | None = TRUNCATE) -> Any:
    """Dictionaries, lists and scalars that hold the same values."""
    options: dict[str, Any] = {"no_arr": no_arr, "no_str": no_str, "truncate": truncate}
    if hasattr(message, "get_fields_and_field_types"):
        result = {}
        for name, kind in message.get_fields_and_field_types().items():
            value = getattr(message, name)
            if no_arr and _is_array(value):
                fixed = FIXED_ARRAY.fullmatch(kind)
                element = _element(kind)
                result[name] = f"<array type: {kind}>" if fixed else f"<sequence type: {element}, length: {len(value)}>"
            elif no_str and isinstance(value, str):
                result[name] = f"<string length: <{len(value)}>>"
            else:
                result[name] = to_plain(value, **options)
        return result
    if _is_array(message):
        shown: Iterable[Any] = message if truncate is None else message[:truncate]
        values = [to_plain(value, **options) for value in shown]
        return values if truncate is None or len(message) <= truncate else [*values, "..."]
    if isinstance(message, str):
        return message if truncate is None or len(message) <= truncate else f"{message[:truncate]}..."
    return message.item() if hasattr(message, "item") else message  # numpy scalars


def field_of(message: Any, path: str) -> Any:
    """A field by its dotted path; `poses.0.x` reaches into arrays.

    Raises:
        VlaRosError: no such field; the message lists those that there are.
    """
    value = message
    for part in path.split("."):
        if part.lstrip("-").isdigit() and _is_array(value):
            if not -len(value) <= int(part) < len(value):
                raise VlaRosError(f"field {path!r}: index {part} is outside 0..{len(value) - 1}")
            value = value[int(part)]
            continue
        fields = value.get_fields_and_field_types() if hasattr(value, "get_fields_and_field_types") else {}
        if part not in fields:
            raise VlaRosError(f"field {path!r}: no {part!r}; there are: {', '.join(fields) or 'none'}")
        value = getattr(value, part)
    return value


def fill(message: Any, text: str) -> Any:
    """Sets the fields that a YAML mapping names, and returns the message.

    Raises:
        VlaRosError: not YAML, unknown field, or a value of the wrong kind.
    """
    try:
        values = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as error:
        raise VlaRosError(f"values are not YAML: {error}") from error
    _fill(message, values, "")
    return message


def _fill(message: Any, values: Any, at: str) -> None:
    if not isinstance(values, dict):
        raise VlaRosError(f"{at or 'values'}: found {values!r}, expected a mapping such as '{{data: 1}}'")
    fields = message.get_fields_and_field_types()
    for name, value in values.items():
        where = f"{at}.{name}" if at else str(name)
        if name not in fields:
            raise VlaRosError(f"{where}: no such field in {type(message).__name__}; there are: {', '.join(fields) or 'none'}")
        current = getattr(message, name)
        if hasattr(current, "get_fields_and_field_types"):
            _fill(current, value, where)
            continue
        try:
            setattr(message, name, _convert(current, fields[name], value, where))
        except (AssertionError, TypeError, ValueError, OverflowError) as error:
            raise VlaRosError(f"{where}: {value!r} does not fit {fields[name]}: {error}") from error


def _convert(current: Any, kind: str, value: Any, where: str) -> Any:
    if _is_array(current) or isinstance(current, bytes):
        if not isinstance(value, list):
            raise VlaRosError(f"{where}: found {value!r}, expected a list for {kind}")
        element = _element(kind)
        if "/" in element:
            package, _slash, name = element.partition("/")
            cls = interface("msg", f"{package}/msg/{name}")
            made = [cls() for _ in value]
            for i, (item, item_values) in enumerate(zip(made, value, strict=True)):
                _fill(item, item_values, f"{where}.{i}")
            return made
        return [float(item) for item in value] if element in ("float", "double") else value
    if isinstance(current, bool):
        if not isinstance(value, bool):
            raise VlaRosError(f"{where}: found {value!r}, expected true or false")
        return value
    if isinstance(current, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(current, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # ros2 does so too: `{data: 1}` for a string
    if not isinstance(value, type(current)) or isinstance(value, bool):
        raise VlaRosError(f"{where}: found {value!r}, expected {kind}")
    return value


def _is_array(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes)) and not hasattr(value, "SLOT_TYPES")


def _element(kind: str) -> str:
    fixed = FIXED_ARRAY.fullmatch(kind)
    if fixed:
        return fixed["element"]
    return kind.removeprefix("sequence<").removesuffix(">").split(",")[0].strip()
