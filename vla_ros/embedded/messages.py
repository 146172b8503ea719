"""Message classes made from the type store's definitions; they behave like rosidl's.

Keyword construction, defaults, constants as class attributes, type checks on assignment, `==`, `repr`,
`get_fields_and_field_types()`. Arrays of numbers are numpy arrays; those of a received message are read-only views.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError

from vla_ros.embedded import checks
from vla_ros.embedded.checks import FieldError, Octet
from vla_ros.embedded.interfaces import EMPTY, defaults, store
from vla_ros.errors import VlaRosError

_IDL = {"bool": "boolean", "byte": "octet", "char": "uint8", "float32": "float", "float64": "double"}
_set = object.__setattr__


class Message:
    """Base of all message classes."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    TYPE: ClassVar[str]  # pkg/msg/Name
    _checks: ClassVar[dict[str, checks.Check]]
    _defaults: ClassVar[dict[str, Callable[[], Any]]]
    _kinds: ClassVar[dict[str, str]]

    def __init__(self, **fields: Any) -> None:
        for name, default in self._defaults.items():
            if name in fields:
                self.__setattr__(name, fields.pop(name))
            else:
                _set(self, name, default())
        if fields:
            raise FieldError(f"{self.TYPE}: unknown field(s) {sorted(fields)}, expected {list(self._checks)}")

    def __setattr__(self, name: str, value: Any) -> None:
        check = self._checks.get(name)
        if check is None:
            raise AttributeError(f"{self.TYPE} has no field {name!r}; it has {list(self._checks)}")
        _set(self, name, check(value))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in self._checks)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._checks)
        return f"{type(self).__module__}.{type(self).__qualname__}({fields})"

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        """Field names with their types in IDL notation, such as `sequence<double>`."""
        return dict(cls._kinds)


def _same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


@functools.cache
def message_class(full: str) -> type[Message]:
    """The class of message `pkg/msg/Name`.

    Raises:
        VlaRosError: no such message is known.
    """
    if full not in store.fielddefs:
        raise VlaRosError(f"message type {full!r} is unknown; known are Jazzy's standard messages and vla_ros' own")
    constants, fields = store.fielddefs[full]
    package, kind, name = full.split("/")
    namespace: dict[str, Any] = {
        "__slots__": tuple(field for field, _ in fields if field != EMPTY),
        "__module__": f"{package}.{kind}",
        "__doc__": f"Message {full}.",
        "TYPE": full,
        "_checks": {},
        "_defaults": {},
        "_kinds": {},
    }
    for constant, base, value in constants:
        namespace[constant] = Octet([int(value) & 255]) if base == "byte" else value
    for field, description in fields:
        if field == EMPTY:
            namespace[EMPTY] = 0  # read by the serialiser only
            continue
        check, default, idl = _field(f"{full}.{field}", description)
        if field in defaults.get(full, {}):
            given = check(defaults[full][field])
            default = functools.partial(np.copy, given) if isinstance(given, np.ndarray) else functools.partial(_value, given)
        namespace["_checks"][field], namespace["_defaults"][field], namespace["_kinds"][field] = check, default, idl
    cls: type[Message] = type(name, (Message,), namespace)
    store.types[full] = _builder(cls, fields)  # type: ignore[assignment]
    return cls


def _value(value: Any) -> Any:
    return value


def _field(where: str, description: Any) -> tuple[checks.Check, Callable[[], Any], str]:
    """Check, default factory and IDL name of a field."""
    node, detail = description
    if node == Nodetype.BASE:
        base, bound = detail
        idl = f"string<{bound}>" if bound else _IDL.get(base, base)
        zero: Any = {"string": "", "bool": False, "byte": Octet(b"\0"), "float32": 0.0, "float64": 0.0}.get(base, 0)
        return checks.scalar(where, base), functools.partial(_value, zero), idl
    if node == Nodetype.NAME:
        cls = message_class(detail)
        return checks.message(where, cls), cls, _short(detail)
    (item_node, item), length = detail
    fixed = node == Nodetype.ARRAY
    if item_node == Nodetype.BASE and item[0] != "string":
        idl = _array_idl(_IDL.get(item[0], item[0]), length, fixed)
        zeros = functools.partial(np.zeros, length if fixed else 0, checks.DTYPES[item[0]])
        return checks.numbers(where, item[0], length, fixed), zeros, idl
    if item_node == Nodetype.BASE:
        inner = f"string<{item[1]}>" if item[1] else "string"
        texts = functools.partial(_repeat, str, length if fixed else 0)
        return checks.items(where, str, length, fixed), texts, _array_idl(inner, length, fixed)
    cls = message_class(item)
    nested = functools.partial(_repeat, cls, length if fixed else 0)
    return checks.items(where, cls, length, fixed), nested, _array_idl(_short(item), length, fixed)


def _repeat(make: Callable[[], Any], count: int) -> list[Any]:
    return [make() for _ in range(count)]


def _short(full: str) -> str:
    package, _, name = full.split("/")
    return f"{package}/{name}"


def _array_idl(inner: str, length: int, fixed: bool) -> str:
    if fixed:
        return f"{inner}[{length}]"
    return f"sequence<{inner}, {length}>" if length else f"sequence<{inner}>"


def _builder(cls: type[Message], fields: Any) -> Callable[..., Message]:
    """What the deserialiser calls with all values in order; values from the wire need no check."""
    octets = [i for i, (_, description) in enumerate(fields) if description[0] == Nodetype.BASE and description[1][0] == "byte"]
    setters = [cls.__dict__[field].__set__ for field, _ in fields if field != EMPTY]
    new = cls.__new__

    def build(*values: Any) -> Message:
        made = new(cls)
        for put, value in zip(setters, values):  # noqa: B905  (an empty message carries one dummy byte)
            put(made, value)
        return made

    def build_octets(*values: Any) -> Message:
        wire = list(values)
        for i in octets:
            wire[i] = Octet([wire[i] & 255])
        return build(*wire)

    return build_octets if octets else build


def serialize(message: Message) -> memoryview:
    """CDR bytes with the 4-byte encapsulation header.

    Raises:
        VlaRosError: a list was given a wrong element after it was assigned.
    """
    try:
        return store.serialize_cdr(message, message.TYPE)
    except (AttributeError, TypeError, ValueError, SerdeError, AssertionError) as error:
        raise VlaRosError(f"{message.TYPE} cannot be serialised: {error}; found {message!r}") from error


def deserialize(data: bytes | memoryview, cls: type[Message]) -> Message:
    """Message from CDR bytes; arrays of numbers are views into `data`.

    Raises:
        VlaRosError: the bytes are no message of that type.
    """
    try:
        return store.deserialize_cdr(data, cls.TYPE)  # type: ignore[return-value]
    except (SerdeError, ValueError, AssertionError) as error:
        raise VlaRosError(f"{len(data)} bytes cannot be read as {cls.TYPE}: {error}") from error


def type_hash(full: str) -> str:
    """REP-2011 hash of a message type, `RIHS01_<sha256>`."""
    return store.hash_rihs01(full)
