"""What may be assigned to a message field: the same values as under rclpy, and numpy arrays.

Scalars are strict (an `int` in a float field is an error), because rclpy either asserts or, with checks switched off as
since Jazzy, sends garbage. Arrays of numbers become one-dimensional numpy arrays, without copying where types agree.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from vla_ros.errors import VlaRosError

Check = Callable[[Any], Any]

DTYPES = {
    "bool": np.bool_, "byte": np.int8, "char": np.uint8, "int8": np.int8, "uint8": np.uint8, "int16": np.int16,
    "uint16": np.uint16, "int32": np.int32, "uint32": np.uint32, "int64": np.int64, "uint64": np.uint64,
    "float32": np.float32, "float64": np.float64,
}  # fmt: skip
_FLOAT32_MAX = 3.402823466e38


class FieldError(VlaRosError, AssertionError):
    """A value that a message field does not take (rclpy raises AssertionError here)."""


class Octet(bytes):
    """One `byte`: bytes of length 1 as in rclpy, that the serialiser can read as a number."""

    def __index__(self) -> int:
        return self[0] - 256 if self[0] > 127 else self[0]


def _error(where: str, value: Any, expected: str) -> FieldError:
    shown = repr(value)
    shown = shown if len(shown) < 80 else shown[:77] + "..."
    return FieldError(f"{where}: found {type(value).__name__} {shown}, expected {expected}")


def scalar(where: str, base: str) -> Check:
    """Check of one number, bool, byte or string."""
    if base == "string":
        return _instance(where, str, "str")
    if base == "bool":
        return _instance(where, bool, "bool")
    if base == "byte":

        def octet(value: Any) -> Octet:
            if not isinstance(value, bytes) or len(value) != 1:
                raise _error(where, value, "bytes of length 1")
            return Octet(value)

        return octet
    if base.startswith("float"):
        floating = _instance(where, float, f"float ({base})")
        if base == "float64":
            return floating

        def float32(value: Any) -> float:
            number: float = floating(value)
            if _FLOAT32_MAX < abs(number) < float("inf"):
                raise _error(where, value, "a number inside float32's range")
            return number

        return float32
    info = np.iinfo(DTYPES[base])
    low, high = int(info.min), int(info.max)

    def integer(value: Any) -> int:
        if not isinstance(value, int) or not low <= value <= high:
            raise _error(where, value, f"int in [{low}, {high}] ({base})")
        return value

    return integer


def _instance(where: str, kind: type, expected: str) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise _error(where, value, expected)
        return value

    return check


def message(where: str, cls: type) -> Check:
    """Check of one nested message."""
    return _instance(where, cls, f"{cls.__module__}.{cls.__qualname__}")


def numbers(where: str, base: str, length: int, fixed: bool) -> Check:
    """Check of an array of numbers: [n] of the field's type; `length` 0 means no bound."""
    dtype = np.dtype(DTYPES[base])
    accepted = {"b": "b", "f": "fiu"}.get(dtype.kind, "iu")
    expected = f"a one-dimensional array of {base}" + (f" with {'' if fixed else 'at most '}{length} values" if length else "")

    def check(value: Any) -> Any:
        if isinstance(value, (bytes, bytearray, memoryview)) and base in ("uint8", "char", "byte"):
            result = np.frombuffer(value, dtype)
        elif isinstance(value, array) and value.typecode != "u":
            result = np.frombuffer(value, value.typecode) if len(value) else np.zeros(0, dtype)
        elif isinstance(value, (str, bytes, dict)):
            raise _error(where, value, expected)
        else:
            if base == "byte" and isinstance(value, (list, tuple)):
                value = [Octet(item).__index__() if isinstance(item, bytes) else item for item in value]
            result = np.asarray(value if isinstance(value, (np.ndarray, list, tuple)) else list(value))
        if result.dtype != dtype:
            if result.size and result.dtype.kind not in accepted:
                raise _error(where, value, expected)
            converted = result.astype(dtype)
            if result.size and dtype.kind in "iu" and not np.array_equal(converted, result):
                raise _error(where, value, expected)
            result = converted
        if result.ndim != 1 or not result.flags.c_contiguous:
            result = np.ascontiguousarray(result).reshape(-1)
        if length and (len(result) != length if fixed else len(result) > length):
            raise _error(where, value, f"{expected}, found {len(result)}")
        return result

    return check


def items(where: str, kind: type, length: int, fixed: bool) -> Check:
    """Check of an array of strings or nested messages; a list is kept as it is, so that it can be appended to."""
    expected = f"a list of {kind.__name__}" + (f" with {'' if fixed else 'at most '}{length} values" if length else "")

    def check(value: Any) -> Any:
        if isinstance(value, (str, bytes, dict)):
            raise _error(where, value, expected)
        result = value if isinstance(value, list) else list(value)
        for item in result:
            if not isinstance(item, kind):
                raise _error(where, item, expected)
        if length and (len(result) != length if fixed else len(result) > length):
            raise _error(where, value, f"{expected}, found {len(result)}")
        return result

    return check
