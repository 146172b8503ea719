"""DDS types for Cyclone, made from message definitions: its C layer checks every payload against them."""

from __future__ import annotations

import functools
from typing import Any

from cyclonedds.idl import IdlStruct, make_idl_struct, types
from rosbags.interfaces import Nodetype

from vla_ros.embedded.interfaces import store

_BASE = {
    "bool": bool, "byte": types.uint8, "char": types.uint8, "int8": types.int8, "uint8": types.uint8,
    "int16": types.int16, "uint16": types.uint16, "int32": types.int32, "uint32": types.uint32, "int64": types.int64,
    "uint64": types.uint64, "float32": types.float32, "float64": types.float64, "string": str,
}  # fmt: skip

# Subscripting these is a call in disguise, which mypy does not know.
_ARRAY: Any = types.array
_SEQUENCE: Any = types.sequence
_BOUNDED: Any = types.bounded_str


def dds_name(full: str) -> str:
    """`std_msgs/msg/String` -> `std_msgs::msg::dds_::String_`, rmw's mangling."""
    package, kind, name = full.split("/")
    return f"{package}::{kind}::dds_::{name}_"


def ros_name(type_name: str) -> str:
    """The way back: `std_msgs::msg::dds_::String_` -> `std_msgs/msg/String`; other names are left alone."""
    package, _, rest = type_name.partition("::")
    kind, _, name = rest.partition("::dds_::")
    return f"{package}/{kind}/{name.removesuffix('_')}" if name else type_name


@functools.cache
def dds_type(full: str) -> type[IdlStruct]:
    """IDL type of a message."""
    return _make(full, {})


@functools.cache
def service_dds_type(full: str) -> type[IdlStruct]:
    """IDL type of a request or response message behind Cyclone's 16-byte header (client id, sequence number)."""
    return _make(full, {"header_guid": types.uint64, "header_sequence": types.int64})


def _make(full: str, leading: dict[str, Any]) -> type[IdlStruct]:
    fields = {name: _field(description) for name, description in store.fielddefs[full][1]}
    return make_idl_struct(full.replace("/", "_"), dds_name(full), leading | fields)


def _field(description: Any) -> Any:
    node, detail = description
    if node == Nodetype.BASE:
        base, bound = detail
        return _BOUNDED[bound] if bound else _BASE[base]
    if node == Nodetype.NAME:
        return dds_type(detail)
    item, length = detail
    inner = _field(item)
    if node == Nodetype.ARRAY:
        return _ARRAY[inner, length]
    return _SEQUENCE[inner, length] if length else _SEQUENCE[inner]
