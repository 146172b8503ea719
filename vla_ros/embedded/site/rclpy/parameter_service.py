"""The services with which others read and set a node's parameters."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import ListParametersResult, SetParametersResult
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)

from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.parameter import PARAMETER_SEPARATOR_STRING, Parameter
from rclpy.qos import qos_profile_parameters


class ParameterService:
    """Creates the six services of a node."""

    def __init__(self, node: Any) -> None:
        self._node = node
        for kind, name, callback in (
            (DescribeParameters, "describe_parameters", self._describe),
            (GetParameters, "get_parameters", self._get),
            (GetParameterTypes, "get_parameter_types", self._types),
            (ListParameters, "list_parameters", self._list),
            (SetParameters, "set_parameters", self._set),
            (SetParametersAtomically, "set_parameters_atomically", self._set_atomically),
        ):
            node.create_service(kind, f"~/{name}", callback, qos_profile=qos_profile_parameters)

    def _describe(self, request: Any, response: Any) -> Any:
        # As under rclcpp and rclpy: one unknown name, and the answer is empty.
        if all(self._node.has_parameter(name) for name in request.names):
            response.descriptors = self._node.describe_parameters(list(request.names))
        return response

    def _get(self, request: Any, response: Any) -> Any:
        kept = self._node._rcl_parameters
        if all(name in kept for name in request.names):
            response.values = [kept[name].get_parameter_value() for name in request.names]
        return response

    def _types(self, request: Any, response: Any) -> Any:
        kept = self._node._rcl_parameters
        if all(name in kept for name in request.names):
            response.types = [int(kept[name].type_) for name in request.names]
        return response

    def _list(self, request: Any, response: Any) -> Any:
        found, prefixes = [], set()
        for name in self._node._rcl_parameters:
            parts = name.split(PARAMETER_SEPARATOR_STRING)
            inside = [p for p in request.prefixes if name == p or name.startswith(p + PARAMETER_SEPARATOR_STRING)]
            if request.prefixes and not inside:
                continue
            base = len(inside[0].split(PARAMETER_SEPARATOR_STRING)) if inside else 0
            if request.depth and len(parts) - base > request.depth:
                continue
            found.append(name)
            if len(parts) > 1:
                prefixes.add(PARAMETER_SEPARATOR_STRING.join(parts[:-1]))
        response.result = ListParametersResult(names=found, prefixes=sorted(prefixes))
        return response

    def _set(self, request: Any, response: Any) -> Any:
        response.results = [self._result([message], atomically=False) for message in request.parameters]
        return response

    def _set_atomically(self, request: Any, response: Any) -> Any:
        response.result = self._result(request.parameters, atomically=True)
        return response

    def _result(self, messages: Any, atomically: bool) -> Any:
        try:
            parameters = [Parameter.from_parameter_msg(message) for message in messages]
            if atomically:
                return self._node.set_parameters_atomically(parameters)
            return self._node.set_parameters(parameters)[0]
        except ParameterNotDeclaredException as error:
            return SetParametersResult(successful=False, reason=str(error))
