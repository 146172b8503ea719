"""What a node does with its parameters; mixed into Node."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

import builtin_interfaces.msg
from rcl_interfaces.msg import ParameterDescriptor, ParameterEvent, SetParametersResult

from rclpy.exceptions import (
    InvalidParameterException,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from rclpy.parameter import PARAMETER_SEPARATOR_STRING, Parameter

Callback = Callable[[list[Parameter]], Any]


class ParametersMixin:
    """Declaring, reading and setting parameters."""

    def _rcl_init_parameters(self, overrides: dict[str, Any], allow_undeclared: bool) -> None:
        self._rcl_parameters: dict[str, Parameter] = {}
        self._rcl_descriptors: dict[str, Any] = {}
        self._rcl_overrides = overrides
        self._rcl_used_overrides: set[str] = set()
        self._rcl_allow_undeclared = allow_undeclared
        self._rcl_pre: list[Callable] = []
        self._rcl_on_set: list[Callback] = []
        self._rcl_post: list[Callable] = []
        self._rcl_parameter_event_publisher: Any = None

    def declare_parameter(self, name: str, value: Any = None, descriptor: Any = None, ignore_override: bool = False) -> Parameter:
        """Declare a parameter; an override from the command line or a file replaces `value`.

        Raises:
            ParameterAlreadyDeclaredException, InvalidParameterException, InvalidParameterValueException,
            InvalidParameterTypeException.
        """
        arguments = (name,) if value is None and descriptor is None else (name, value, descriptor)
        return self.declare_parameters("", [arguments], ignore_override)[0]

    def declare_parameters(self, namespace: str, parameters: Sequence[tuple], ignore_override: bool = False) -> list[Parameter]:
        """Declare several, as (name), (name, value) or (name, value, descriptor), below `namespace`."""
        declared = []
        for entry in parameters:
            name, value, descriptor = (*entry, None, None)[:3]
            if not isinstance(name, str) or not name:
                raise InvalidParameterException(repr(name))
            full = f"{namespace}{PARAMETER_SEPARATOR_STRING}{name}" if namespace else name
            if full in self._rcl_parameters:
                raise ParameterAlreadyDeclaredException(full)
            declared.append(self._rcl_declare(full, value, descriptor, ignore_override))
        return declared

    def _rcl_declare(self, name: str, value: Any, descriptor: Any, ignore_override: bool) -> Parameter:
        kind: Parameter.Type | None = None
        if isinstance(value, Parameter.Type):
            kind, value = value, None
        elif value is not None:
            kind = Parameter.Type.from_parameter_value(value)
        made = ParameterDescriptor(name=name) if descriptor is None else descriptor
        made.name = name
        if kind is None and descriptor is None:
            made.dynamic_typing = True  # as under rclpy, a parameter without value takes any
        if kind is not None:
            made.type = int(kind)
        if not ignore_override and name in self._rcl_overrides:
            value = _fit(self._rcl_overrides[name], made)
            self._rcl_used_overrides.add(name)
        # An empty list alone does not tell its type.
        parameter = Parameter(name, kind if _empty(value) else None, value)
        self._rcl_descriptors[name] = made
        if value is not None:
            result = self._rcl_check(parameter, made)
            if result.successful:
                result = self._rcl_ask([parameter])
            if not result.successful:
                del self._rcl_descriptors[name]
                if "Wrong parameter type" in result.reason:
                    raise InvalidParameterTypeException(result.reason)
                raise InvalidParameterValueException(name, value, result.reason)
        self._rcl_parameters[name] = parameter
        self._rcl_apply([parameter], new=True)
        return parameter

    def undeclare_parameter(self, name: str) -> None:
        """Remove a parameter.

        Raises:
            ParameterNotDeclaredException, ParameterImmutableException.
        """
        if name not in self._rcl_parameters:
            raise ParameterNotDeclaredException(name)
        if self._rcl_descriptors[name].read_only:
            raise ParameterImmutableException(name)
        del self._rcl_parameters[name], self._rcl_descriptors[name]

    def has_parameter(self, name: str) -> bool:
        """Whether it is declared."""
        return name in self._rcl_parameters

    def get_parameter(self, name: str) -> Parameter:
        """A declared parameter.

        Raises:
            ParameterNotDeclaredException, ParameterUninitializedException.
        """
        if name not in self._rcl_parameters:
            if self._rcl_allow_undeclared:
                return Parameter(name, Parameter.Type.NOT_SET, None)
            raise ParameterNotDeclaredException(name)
        parameter = self._rcl_parameters[name]
        if parameter.type_ == Parameter.Type.NOT_SET and not self._rcl_descriptors[name].dynamic_typing:
            raise ParameterUninitializedException(name)
        return parameter

    def get_parameters(self, names: list[str]) -> list[Parameter]:
        """Several parameters."""
        return [self.get_parameter(name) for name in names]

    def get_parameter_or(self, name: str, alternative_value: Parameter | None = None) -> Parameter:
        """A parameter, or the alternative if it is not declared or has no value."""
        found = self._rcl_parameters.get(name)
        if found is not None and found.type_ != Parameter.Type.NOT_SET:
            return found
        return alternative_value if alternative_value is not None else Parameter(name, Parameter.Type.NOT_SET)

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """Parameters below a prefix, by the rest of their names."""
        start = f"{prefix}{PARAMETER_SEPARATOR_STRING}" if prefix else ""
        return {name.removeprefix(start): kept for name, kept in self._rcl_parameters.items() if name.startswith(start)}

    def get_parameter_type(self, name: str) -> Parameter.Type:
        """Type of a declared parameter."""
        return self.get_parameter(name).type_

    def set_parameters(self, parameter_list: list[Parameter]) -> list[Any]:
        """Set one by one; one result each.

        Raises:
            ParameterNotDeclaredException: and undeclared ones are not allowed.
        """
        self._rcl_must_exist(parameter_list)
        return [self._rcl_set([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> Any:
        """Set all or none."""
        self._rcl_must_exist(parameter_list)
        return self._rcl_set(list(parameter_list))

    def _rcl_must_exist(self, parameters: list[Parameter]) -> None:
        missing = [parameter.name for parameter in parameters if parameter.name not in self._rcl_parameters]
        if missing and not self._rcl_allow_undeclared:
            raise ParameterNotDeclaredException(missing)

    def describe_parameter(self, name: str) -> Any:
        """Descriptor of a parameter."""
        if name not in self._rcl_parameters:
            if self._rcl_allow_undeclared:
                return ParameterDescriptor()
            raise ParameterNotDeclaredException(name)
        descriptor = self._rcl_descriptors[name]
        descriptor.type = int(self._rcl_parameters[name].type_)
        return descriptor

    def describe_parameters(self, names: list[str]) -> list[Any]:
        """Descriptors of several."""
        return [self.describe_parameter(name) for name in names]

    def set_descriptor(self, name: str, descriptor: Any, alternative_value: Any = None) -> Any:
        """Replace a descriptor; the value must fit it."""
        current = self.get_parameter(name)
        if self._rcl_descriptors[name].read_only:
            raise ParameterImmutableException(name)
        result = self._rcl_check(current, descriptor)
        if not result.successful:
            raise InvalidParameterValueException(name, current.value, result.reason)
        descriptor.name = name
        self._rcl_descriptors[name] = descriptor
        return current.get_parameter_value()

    def add_on_set_parameters_callback(self, callback: Callback) -> None:
        """Ask `callback(parameters) -> SetParametersResult` before each change; the last added is asked first."""
        self._rcl_on_set.insert(0, callback)

    def remove_on_set_parameters_callback(self, callback: Callback) -> None:
        """Stop asking."""
        self._rcl_on_set.remove(callback)

    def add_pre_set_parameters_callback(self, callback: Callable) -> None:
        """`callback(parameters) -> parameters` may change what is to be set."""
        self._rcl_pre.insert(0, callback)

    def remove_pre_set_parameters_callback(self, callback: Callable) -> None:
        """Stop asking."""
        self._rcl_pre.remove(callback)

    def add_post_set_parameters_callback(self, callback: Callable) -> None:
        """Call `callback(parameters)` after a change."""
        self._rcl_post.insert(0, callback)

    def remove_post_set_parameters_callback(self, callback: Callable) -> None:
        """Stop calling."""
        self._rcl_post.remove(callback)

    def _rcl_set(self, parameters: list[Parameter]) -> Any:
        for callback in self._rcl_pre:
            parameters = callback(parameters)
        for parameter in parameters:
            descriptor = self._rcl_descriptors.get(parameter.name)
            if descriptor is not None and descriptor.read_only:
                return _no(f"Trying to set a read-only parameter: {parameter.name}.")
            result = self._rcl_check(parameter, descriptor)
            if not result.successful:
                return result
        result = self._rcl_ask(parameters)
        if result.successful:
            new = [parameter for parameter in parameters if parameter.name not in self._rcl_parameters]
            for parameter in parameters:
                self._rcl_parameters[parameter.name] = parameter
                self._rcl_descriptors.setdefault(parameter.name, ParameterDescriptor(name=parameter.name, dynamic_typing=True))
            self._rcl_apply([parameter for parameter in parameters if parameter not in new], new=False)
            self._rcl_apply(new, new=True)
        return result

    def _rcl_ask(self, parameters: list[Parameter]) -> Any:
        for callback in self._rcl_on_set:
            result = callback(parameters)
            if not result.successful:
                return result
        return SetParametersResult(successful=True)

    def _rcl_check(self, parameter: Parameter, descriptor: Any) -> Any:
        if descriptor is None:
            return SetParametersResult(successful=True)
        if not descriptor.dynamic_typing and descriptor.type and parameter.type_ != descriptor.type:
            expected = Parameter.Type(descriptor.type)
            found = parameter.type_.name
            if not expected.check(parameter.value) or parameter.value is None:
                return _no(f"Wrong parameter type, parameter {parameter.name}: expected {expected.name}, got {found}")
        ranges = descriptor.integer_range if parameter.type_ == Parameter.Type.INTEGER else descriptor.floating_point_range
        if parameter.type_ in (Parameter.Type.INTEGER, Parameter.Type.DOUBLE) and ranges:
            return _in_range(parameter, ranges[0])
        return SetParametersResult(successful=True)

    def _rcl_apply(self, parameters: list[Parameter], new: bool) -> None:
        if not parameters:
            return
        for callback in self._rcl_post:
            callback(parameters)
        if self._rcl_parameter_event_publisher is not None:
            nanoseconds = self.get_clock().nanoseconds()  # type: ignore[attr-defined]
            stamp = builtin_interfaces.msg.Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
            messages = [parameter.to_parameter_msg() for parameter in parameters]
            node: str = self.get_fully_qualified_name()  # type: ignore[attr-defined]
            event = ParameterEvent(stamp=stamp, node=node, **{"new_parameters" if new else "changed_parameters": messages})
            self._rcl_parameter_event_publisher.publish(event)

    def _rcl_unused_overrides(self) -> dict[str, str]:
        """Not in rclpy: given parameters that were never declared, with the closest declared name (or '')."""
        found = {}
        for name in sorted(set(self._rcl_overrides) - self._rcl_used_overrides - set(self._rcl_parameters)):
            found[name] = next(iter(difflib.get_close_matches(name, self._rcl_parameters, n=1, cutoff=0.0)), "")
        return found


def _no(reason: str) -> Any:
    return SetParametersResult(successful=False, reason=reason)


def _empty(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and not value


def _fit(value: Any, descriptor: Any) -> Any:
    """Nothing is converted silently but whole numbers in a list of floats, which YAML cannot tell apart."""
    wanted = descriptor.type == Parameter.Type.DOUBLE_ARRAY and isinstance(value, list)
    if wanted and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
        return [float(item) for item in value]
    return value


def _in_range(parameter: Parameter, limits: Any) -> Any:
    value, low, high, step = parameter.value, limits.from_value, limits.to_value, limits.step
    if not low <= value <= high:
        return _no(f"Parameter {parameter.name} out of range. Min: {low}, Max: {high}, value: {value}")
    # The upper bound is always allowed, whatever the step.
    if step and not math.isclose(value, high):
        steps = (value - low) / step
        if not math.isclose(steps, round(steps), abs_tol=1e-9):
            limits_text = f"Min: {low}, max: {high}, value: {value}, step: {step}"
            return _no(f"The parameter value for {parameter.name} is not a valid step. {limits_text}")
    return SetParametersResult(successful=True)
