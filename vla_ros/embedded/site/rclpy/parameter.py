"""Parameters: name, type and value, and their messages."""

from __future__ import annotations

import array
from enum import IntEnum
from typing import Any

import numpy as np
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterType, ParameterValue

from vla_ros.embedded.arguments import read_parameter_file

PARAMETER_SEPARATOR_STRING = "."


class Parameter:
    """A named value."""

    class Type(IntEnum):
        """Types by rcl_interfaces/ParameterType's numbers."""

        NOT_SET = 0
        BOOL = 1
        INTEGER = 2
        DOUBLE = 3
        STRING = 4
        BYTE_ARRAY = 5
        BOOL_ARRAY = 6
        INTEGER_ARRAY = 7
        DOUBLE_ARRAY = 8
        STRING_ARRAY = 9

        @classmethod
        def from_parameter_value(cls, value: Any) -> Parameter.Type:
            """Type of a Python value.

            Raises:
                TypeError: not a value that a parameter can have.
            """
            if value is None:
                return cls.NOT_SET
            for kind, member in ((bool, cls.BOOL), (int, cls.INTEGER), (float, cls.DOUBLE), (str, cls.STRING)):
                if isinstance(value, kind):
                    return member
            if isinstance(value, (list, tuple, array.array, np.ndarray)):
                items = list(value)
                if all(isinstance(item, bytes) for item in items):
                    return cls.BYTE_ARRAY  # rclpy's answer for an empty list, too
                for kinds, member in (
                    ((bool, np.bool_), cls.BOOL_ARRAY),
                    ((int, np.integer), cls.INTEGER_ARRAY),
                    ((float, np.floating), cls.DOUBLE_ARRAY),
                    ((str,), cls.STRING_ARRAY),
                ):
                    if all(isinstance(item, kinds) for item in items):
                        return member
                raise TypeError(f"a parameter's list must hold one type; found {value!r}")
            raise TypeError(f"found {type(value).__name__} {value!r}, expected bool, int, float, str or a list of one of them")

        def check(self, value: Any) -> bool:
            """Whether a Python value is of this type; an empty list is of every array type."""
            if self >= Parameter.Type.BYTE_ARRAY and isinstance(value, (list, tuple)) and not value:
                return True
            try:
                return Parameter.Type.from_parameter_value(value) == self
            except TypeError:
                return False

    @classmethod
    def from_parameter_msg(cls, msg: Any) -> Parameter:
        """Parameter from rcl_interfaces/Parameter."""
        kind = cls.Type(msg.value.type)
        return cls(msg.name, kind, parameter_value_to_python(msg.value))

    def __init__(self, name: str, type_: Parameter.Type | None = None, value: Any = None) -> None:
        if type_ is None:
            type_ = Parameter.Type.from_parameter_value(value)
        if not isinstance(type_, Parameter.Type):
            raise TypeError("type must be an instance of Parameter.Type")
        if not type_.check(value):
            raise ValueError(f"Type '{type_}' and value '{value}' do not agree")
        self._name, self._type_, self._value = name, type_, value

    @property
    def name(self) -> str:
        """Name."""
        return self._name

    @property
    def type_(self) -> Parameter.Type:
        """Type."""
        return self._type_

    @property
    def value(self) -> Any:
        """Value."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parameter) and (self._name, self._type_, self._value) == (
            other._name,
            other._type_,
            other._value,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Parameter({self._name!r}, {self._type_.name}, {self._value!r})"

    def get_parameter_value(self) -> Any:
        """Value as rcl_interfaces/ParameterValue."""
        return _to_message(self._type_, self._value)

    def to_parameter_msg(self) -> Any:
        """rcl_interfaces/Parameter."""
        return ParameterMsg(name=self._name, value=self.get_parameter_value())


_FIELDS = {
    Parameter.Type.BOOL: "bool_value",
    Parameter.Type.INTEGER: "integer_value",
    Parameter.Type.DOUBLE: "double_value",
    Parameter.Type.STRING: "string_value",
    Parameter.Type.BYTE_ARRAY: "byte_array_value",
    Parameter.Type.BOOL_ARRAY: "bool_array_value",
    Parameter.Type.INTEGER_ARRAY: "integer_array_value",
    Parameter.Type.DOUBLE_ARRAY: "double_array_value",
    Parameter.Type.STRING_ARRAY: "string_array_value",
}


def _to_message(kind: Parameter.Type, value: Any) -> Any:
    if kind == Parameter.Type.NOT_SET:
        return ParameterValue(type=ParameterType.PARAMETER_NOT_SET)
    given = list(value) if kind >= Parameter.Type.BYTE_ARRAY else value
    return ParameterValue(type=int(kind), **{_FIELDS[kind]: given})


def parameter_value_to_python(parameter_value: Any) -> Any:
    """Python value of rcl_interfaces/ParameterValue; arrays become lists.

    Raises:
        RuntimeError: unknown type number.
    """
    if parameter_value.type == ParameterType.PARAMETER_NOT_SET:
        return None
    try:
        kind = Parameter.Type(parameter_value.type)
    except ValueError:
        raise RuntimeError(f"unexpected parameter type {parameter_value.type}") from None
    value = getattr(parameter_value, _FIELDS[kind])
    if kind == Parameter.Type.BYTE_ARRAY:
        return [bytes([int(item) & 255]) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def get_parameter_value(string_value: str) -> Any:
    """rcl_interfaces/ParameterValue of text as it is written on the command line."""
    import yaml

    value = yaml.safe_load(string_value)
    try:
        return _to_message(Parameter.Type.from_parameter_value(value), value)
    except TypeError:
        return _to_message(Parameter.Type.STRING, string_value)


def parameter_dict_from_yaml_file(
    parameter_file: str, use_wildcard: bool = False, target_nodes: list[str] | None = None, namespace: str = ""
) -> dict[str, Any]:
    """rcl_interfaces/Parameter by name, from a parameter file."""
    from pathlib import Path

    result = {}
    for node, name, value in read_parameter_file(Path(parameter_file)):
        if (use_wildcard and "*" in node) or not target_nodes or node in target_nodes:
            full = f"{namespace}{PARAMETER_SEPARATOR_STRING}{name}" if namespace else name
            result[full] = Parameter(full, value=value).to_parameter_msg()
    return result
