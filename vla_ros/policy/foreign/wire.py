"""openpi's wire format: msgpack, in which an array is a mapping of its bytes, dtype and shape. No pickle.

    server → client, once      {anything}                     about the policy
    client → server            {"prompt": text, key: array}   an observation
    server → client            {"actions": [H, D], ...}       the answer; a text frame instead of it is the server's traceback

Needs numpy and msgpack only, because scripts/lerobot_server.py reads it in an environment without the rest of the package.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

from vla_ros.errors import VlaRosError

ARRAY, SCALAR = b"__ndarray__", b"__npgeneric__"
KINDS = "biufSU"  # of dtypes: numbers and texts; Python objects would have to be unpickled
LARGEST = 2**26  # bytes of a message: 20 pictures of 720 x 1280 fit


def pack(message: Any) -> bytes:
    """
    Raises:
        VlaRosError: something in it has no form on the wire.
    """
    try:
        return bytes(msgpack.packb(message, default=_plain))
    except (TypeError, ValueError, OverflowError) as error:
        raise VlaRosError(f"message: cannot be sent: {error}") from error


def unpack(data: bytes) -> Any:
    """
    Raises:
        VlaRosError: no msgpack, or an array that is not what it says it is.
    """
    try:
        return msgpack.unpackb(data, object_hook=_numpy)
    except (TypeError, ValueError, KeyError, msgpack.UnpackException) as error:
        raise VlaRosError(f"message of {len(data)} bytes: cannot be read: {error or type(error).__name__}") from error


def _plain(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind not in KINDS:
        raise TypeError(f"found {getattr(value, 'dtype', type(value).__name__)}, expected plain values or arrays of numbers")
    if isinstance(value, np.generic):
        return {SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    return {ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _numpy(found: dict[Any, Any]) -> Any:
    if ARRAY not in found and SCALAR not in found:
        return found
    dtype, data = np.dtype(found[b"dtype"]), found[b"data"]
    if dtype.kind not in KINDS:
        raise ValueError(f"found an array of {dtype}, expected numbers")
    if SCALAR in found:
        return dtype.type(data)
    shape = tuple(found[b"shape"])
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, data)
    if array.nbytes != len(data) or array.shape != shape:
        raise ValueError(f"found {len(data)} bytes for {dtype} {shape}, expected {array.nbytes}")
    return array
