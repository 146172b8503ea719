"""Actions in the graph, known by their status topics."""

from __future__ import annotations

from typing import Any

_FEEDBACK, _KIND = "/_action/feedback", "_FeedbackMessage"


def _actions(topics: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    return [
        (name.removesuffix(_FEEDBACK), [kind.removesuffix(_KIND) for kind in types])
        for name, types in topics
        if name.endswith(_FEEDBACK)
    ]


def get_action_names_and_types(node: Any) -> list[tuple[str, list[str]]]:
    """All actions with their types."""
    return _actions(node.get_topic_names_and_types())


def get_action_server_names_and_types_by_node(
    node: Any, remote_node_name: str, remote_node_namespace: str
) -> list[tuple[str, list[str]]]:
    """Actions that a node serves."""
    return _actions(node.get_publisher_names_and_types_by_node(remote_node_name, remote_node_namespace))


def get_action_client_names_and_types_by_node(
    node: Any, remote_node_name: str, remote_node_namespace: str
) -> list[tuple[str, list[str]]]:
    """Actions that a node uses."""
    return _actions(node.get_subscriber_names_and_types_by_node(remote_node_name, remote_node_namespace))
