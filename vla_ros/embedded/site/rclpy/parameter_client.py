"""Reading and setting another node's parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)

from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_services_default
from rclpy.task import Future
from vla_ros.embedded.arguments import read_parameter_file


class AsyncParameterClient:
    """Clients of the six parameter services of a node."""

    def __init__(
        self, node: Any, remote_node_name: str, qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: Any = None,
    ) -> None:  # fmt: skip
        self.remote_node_name, self.node = remote_node_name, node

        def client(kind: Any, name: str) -> Any:
            full = f"{remote_node_name}/{name}"
            return node.create_client(kind, full, qos_profile=qos_profile, callback_group=callback_group)

        self._get = client(GetParameters, "get_parameters")
        self._list = client(ListParameters, "list_parameters")
        self._set = client(SetParameters, "set_parameters")
        self._types = client(GetParameterTypes, "get_parameter_types")
        self._describe = client(DescribeParameters, "describe_parameters")
        self._set_atomically = client(SetParametersAtomically, "set_parameters_atomically")

    def services_are_ready(self) -> bool:
        """Whether all six services are there."""
        clients = (self._get, self._list, self._set, self._types, self._describe, self._set_atomically)
        return all(client.service_is_ready() for client in clients)

    def wait_for_services(self, timeout_sec: float | None = None) -> bool:
        """Wait for all six; False after timeout_sec [s] or at shutdown."""
        deadline = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while self.node.context.ok():
            if self.services_are_ready():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return False

    def list_parameters(
        self, prefixes: list[str] | None = None, depth: int | None = None, callback: Callable | None = None
    ) -> Future:
        """Future of ListParameters.Response."""
        return _send(self._list, ListParameters.Request(prefixes=prefixes or [], depth=depth or 0), callback)

    def get_parameters(self, names: list[str], callback: Callable | None = None) -> Future:
        """Future of GetParameters.Response."""
        return _send(self._get, GetParameters.Request(names=names), callback)

    def set_parameters(self, parameters: Sequence[Any], callback: Callable | None = None) -> Future:
        """Future of SetParameters.Response."""
        return _send(self._set, SetParameters.Request(parameters=_messages(parameters)), callback)

    def describe_parameters(self, names: list[str], callback: Callable | None = None) -> Future:
        """Future of DescribeParameters.Response."""
        return _send(self._describe, DescribeParameters.Request(names=names), callback)

    def get_parameter_types(self, names: list[str], callback: Callable | None = None) -> Future:
        """Future of GetParameterTypes.Response."""
        return _send(self._types, GetParameterTypes.Request(names=names), callback)

    def set_parameters_atomically(self, parameters: Sequence[Any], callback: Callable | None = None) -> Future:
        """Future of SetParametersAtomically.Response."""
        request = SetParametersAtomically.Request(parameters=_messages(parameters))
        return _send(self._set_atomically, request, callback)

    def load_parameter_file(self, parameter_file: str, use_wildcard: bool = False, callback: Callable | None = None) -> Future:
        """Set what a parameter file says about the node."""
        name = self.remote_node_name.lstrip("/")
        chosen = [
            Parameter(parameter, value=value)
            for node, parameter, value in read_parameter_file(Path(parameter_file))
            if node.lstrip("/") == name or (use_wildcard and "*" in node)
        ]
        return self.set_parameters(chosen, callback)


def _messages(parameters: Sequence[Any]) -> list[Any]:
    return [item.to_parameter_msg() if isinstance(item, Parameter) else item for item in parameters]


def _send(client: Any, request: Any, callback: Callable | None) -> Future:
    future: Future = client.call_async(request)
    if callback is not None:
        future.add_done_callback(callback)
    return future
