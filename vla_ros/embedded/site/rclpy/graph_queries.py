"""What a node can ask about the graph; mixed into Node."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from rclpy.qos import QoSProfile
from vla_ros.embedded import names
from vla_ros.embedded.endpoint_qos import from_dds, user_data
from vla_ros.embedded.idl import ros_name


class TopicEndpointTypeEnum(IntEnum):
    """Kind of endpoint."""

    INVALID = 0
    PUBLISHER = 1
    SUBSCRIPTION = 2


class TopicEndpointInfo:
    """A publisher or subscription somewhere in the graph."""

    def __init__(self, endpoint: Any, kind: TopicEndpointTypeEnum, owner: tuple[str, str]) -> None:
        self.node_name, self.node_namespace = owner
        self.topic_type = ros_name(endpoint.type_name)
        self.topic_type_hash = user_data(endpoint.qos, "typehash") or "INVALID"
        self.endpoint_type = kind
        self.endpoint_gid = list(endpoint.key.bytes)
        self.qos_profile: QoSProfile = from_dds(endpoint.qos)

    def __str__(self) -> str:
        return (
            f"Node name: {self.node_name}\nNode namespace: {self.node_namespace}\nTopic type: {self.topic_type}\n"
            f"Topic type hash: {self.topic_type_hash}\nEndpoint type: {self.endpoint_type.name}\n"
            f"QoS profile: {self.qos_profile}"
        )


class GraphMixin:
    """Questions about the graph."""

    context: Any

    def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
        """(name, namespace) of all nodes."""
        return self.context.graph.nodes()

    def get_node_names(self) -> list[str]:
        """Names of all nodes."""
        return [name for name, _ in self.context.graph.nodes()]

    def get_fully_qualified_node_names(self) -> list[str]:
        """Full names of all nodes."""
        return [names.join(namespace, name) for name, namespace in self.context.graph.nodes()]

    def get_topic_names_and_types(self, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """All topics."""
        return self.context.graph.topics(no_demangle)

    def get_service_names_and_types(self) -> list[tuple[str, list[str]]]:
        """All services."""
        return self.context.graph.services()

    def get_publisher_names_and_types_by_node(
        self, node_name: str, node_namespace: str, no_demangle: bool = False
    ) -> list[tuple[str, list[str]]]:
        """Topics that a node publishes."""
        return self._rcl_topics_of(self.context.graph.publications(), node_name, node_namespace)

    def get_subscriber_names_and_types_by_node(
        self, node_name: str, node_namespace: str, no_demangle: bool = False
    ) -> list[tuple[str, list[str]]]:
        """Topics that a node subscribes to."""
        return self._rcl_topics_of(self.context.graph.subscriptions(), node_name, node_namespace)

    def get_service_names_and_types_by_node(self, node_name: str, node_namespace: str) -> list[tuple[str, list[str]]]:
        """Services that a node offers."""
        return self.context.graph.services(self._rcl_owned(node_name, node_namespace), servers=True)

    def get_client_names_and_types_by_node(self, node_name: str, node_namespace: str) -> list[tuple[str, list[str]]]:
        """Services that a node calls."""
        return self.context.graph.services(self._rcl_owned(node_name, node_namespace), servers=False)

    def _rcl_owned(self, name: str, namespace: str) -> set[bytes]:
        return {gid for gid, owner in self.context.graph.owners().items() if owner == (name, namespace)}

    def _rcl_topics_of(self, endpoints: list[Any], name: str, namespace: str) -> list[tuple[str, list[str]]]:
        owned = self._rcl_owned(name, namespace)
        found: dict[str, set[str]] = {}
        for endpoint in endpoints:
            if endpoint.key.bytes in owned and endpoint.topic_name.startswith("rt/"):
                found.setdefault(endpoint.topic_name[2:], set()).add(ros_name(endpoint.type_name))
        return [(topic, sorted(types)) for topic, types in sorted(found.items())]

    def get_publishers_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        """Publishers of a topic."""
        return self._rcl_infos(topic_name, no_mangle, TopicEndpointTypeEnum.PUBLISHER)

    def get_subscriptions_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        """Subscriptions of a topic."""
        return self._rcl_infos(topic_name, no_mangle, TopicEndpointTypeEnum.SUBSCRIPTION)

    def _rcl_infos(self, topic_name: str, no_mangle: bool, kind: TopicEndpointTypeEnum) -> list[TopicEndpointInfo]:
        graph = self.context.graph
        wanted = topic_name if no_mangle else names.topic_to_dds(self.resolve_topic_name(topic_name))  # type: ignore[attr-defined]
        owners = graph.owners()
        unknown = ("_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_")
        endpoints = graph.publications() if kind == TopicEndpointTypeEnum.PUBLISHER else graph.subscriptions()
        return [
            TopicEndpointInfo(endpoint, kind, owners.get(endpoint.key.bytes, unknown))
            for endpoint in endpoints
            if endpoint.topic_name == wanted
        ]

    def count_publishers(self, topic_name: str) -> int:
        """Number of publishers of a topic."""
        return len(self.get_publishers_info_by_topic(topic_name))

    def count_subscribers(self, topic_name: str) -> int:
        """Number of subscriptions of a topic."""
        return len(self.get_subscriptions_info_by_topic(topic_name))
