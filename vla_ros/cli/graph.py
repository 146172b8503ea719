"""What the graph commands share: a hidden node, waiting for discovery, names and types."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from vla_ros import embedded
from vla_ros.errors import VlaRosError

if TYPE_CHECKING:
    import argparse

    from rclpy.node import Node

SETTLE = 1.0  # s that a listing waits for other processes to answer
PATIENCE = 5.0  # s that a named topic, node or service may take to appear
Found = TypeVar("Found")


@contextmanager
def hidden_node(namespace: str = "") -> Iterator[Node]:
    """A node for the time of one command, of a cell's namespace; the leading underscore hides it from listings, as ros2's own."""
    embedded.activate()
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    # rclpy's own handlers shut the context down before a goal could be cancelled
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        node = rclpy.create_node(
            f"_vla_ros_cli_{os.getpid()}", namespace=namespace, start_parameter_services=False, enable_rosout=False
        )
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
        signal.signal(signal.SIGTERM, before)


def settled(look: Callable[[], Found]) -> Found:
    """Result of `look` (comparable values) after it has not changed for SETTLE seconds, or after PATIENCE."""
    result = look()
    begin = unchanged_since = time.monotonic()
    while time.monotonic() - unchanged_since < SETTLE and time.monotonic() - begin < PATIENCE:
        time.sleep(0.05)
        latest = look()
        if latest != result:
            result, unchanged_since = latest, time.monotonic()
    return result


def awaited(look: Callable[[], Found | None], missing: str, patience: float = PATIENCE) -> Found:
    """First result of `look` that is not None.

    Raises:
        VlaRosError: with the text `missing`, after `patience` [s].
    """
    deadline = time.monotonic() + patience
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise VlaRosError(missing)
        time.sleep(0.05)


def absolute(name: str) -> str:
    """The name with its leading slash."""
    return name if name.startswith("/") else f"/{name}"


def is_hidden(name: str) -> bool:
    """Whether any part of a name begins with an underscore."""
    return any(part.startswith("_") for part in name.split("/"))


def interface(kind: str, name: str) -> Any:
    """Class of `std_msgs/msg/String` or, in short, `std_msgs/String`; `kind` is msg, srv or action.

    Raises:
        VlaRosError: malformed, or no such package or interface.
    """
    parts = name.split("/")
    if len(parts) not in (2, 3) or not all(parts) or (len(parts) == 3 and parts[1] != kind):
        raise VlaRosError(f"type {name!r} is not of the form package/{kind}/Name")
    embedded.activate()
    try:
        return getattr(importlib.import_module(f"{parts[0]}.{kind}"), parts[-1])
    except (ImportError, AttributeError) as error:
        raise VlaRosError(f"type {name!r} is not known: {error}") from error


def topic_type(node: Node, topic: str) -> str:
    """Type of a topic that somebody has, after waiting for it.

    Raises:
        VlaRosError: it did not appear, or endpoints disagree about its type.
    """
    types = awaited(
        lambda: dict(node.get_topic_names_and_types()).get(topic),
        f"topic {topic} has no publisher or subscription (waited {PATIENCE:.0f} s); see `vla-ros topic list`",
    )
    if len(types) != 1:
        raise VlaRosError(f"topic {topic} has several types: {', '.join(types)}")
    return types[0]


def full_node_names(node: Node) -> list[str]:
    """Names of all nodes with their namespaces."""
    pairs = node.get_node_names_and_namespaces()
    return sorted(f"{namespace.rstrip('/')}/{name}" for name, namespace in pairs)


def cell(namespace: str) -> str:
    """However it was written, `a`, `/a` or `/a/`, as '/a'; '' for none."""
    return f"/{namespace.strip('/')}".rstrip("/")


def add_namespace(parser: argparse.ArgumentParser) -> None:
    """The option of commands that work on one cell."""
    parser.add_argument("--namespace", type=cell, default="", help="of the cell, one of several on the network")


def own(node: Node, name: str) -> str:
    """The full name of what a node calls by a relative one."""
    return f"{cell(node.get_namespace())}/{name}"


def cells_with(node: Node, service: str) -> list[str]:
    """Namespaces in which somebody has this service; '' is none."""
    names = [name for name, _ in node.get_service_names_and_types()]
    return sorted(name.removesuffix(f"/{service}") for name in names if name.endswith(f"/{service}"))


def awaited_node(node: Node, wanted: str) -> tuple[str, str]:
    """Name and namespace of a node, after waiting for it."""
    full = absolute(wanted)
    awaited(
        lambda: True if full in full_node_names(node) else None,
        f"node {full} not found (waited {PATIENCE:.0f} s); see `vla-ros node list`",
    )
    namespace, _slash, name = full.rpartition("/")
    return name, namespace or "/"


def spin_until(node: Node, done: Callable[[], bool], patience: float | None = None) -> bool:
    """Handles callbacks until `done`; False after `patience` [s] (None: for ever)."""
    import rclpy

    deadline = None if patience is None else time.monotonic() + patience
    while not done():
        if deadline is not None and time.monotonic() > deadline:
            return False
        rclpy.spin_once(node, timeout_sec=0.1)
    return True


def call(node: Node, service: Any, name: str, request: Any, patience: float = PATIENCE) -> Any:
    """One service call.

    Raises:
        VlaRosError: no such service, or no answer within `patience` [s].
    """
    client = node.create_client(service, name)
    try:
        if not client.wait_for_service(timeout_sec=patience):
            raise VlaRosError(f"service {name} is not available (waited {patience:.0f} s)")
        future = client.call_async(request)
        if not spin_until(node, future.done, patience):
            raise VlaRosError(f"service {name} did not answer within {patience:.0f} s")
        return future.result()
    finally:
        node.destroy_client(client)
