"""Who is there: nodes from `ros_discovery_info`, endpoints from DDS discovery."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile

from vla_ros.embedded import dds
from vla_ros.embedded.endpoint_qos import to_dds
from vla_ros.embedded.idl import dds_type, ros_name
from vla_ros.embedded.messages import deserialize, message_class, serialize

_INFO = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_MANY = 10_000  # samples of a built-in topic read at once


class _Alive:
    """What a built-in topic says of entities that are alive.

    Decoding one costs most of a millisecond, so each is decoded once, when it has changed: a node that looks at the graph
    at intervals must not be held up for a hundred of them.
    """

    def __init__(self, participant: Any, topic: Any) -> None:
        self._reader = BuiltinDataReader(participant, topic)
        self._changed = ReadCondition(self._reader, ViewState.Any | SampleState.NotRead | InstanceState.Any)
        self._known: dict[bytes, Any] = {}

    def read(self) -> dict[bytes, Any]:
        """Guid -> its latest sample."""
        for sample in self._reader.read(_MANY, self._changed):
            key = sample.key.bytes
            if sample.sample_info.instance_state == InstanceState.Alive:
                self._known[key] = sample
            else:
                self._known.pop(key, None)
        return self._known


class Graph:
    """One participant's view of the ROS graph; also tells the others of its own nodes."""

    def __init__(self, participant: Any) -> None:
        self._participant = participant
        self._lock = threading.RLock()
        self._own: dict[Any, tuple[str, str]] = {}  # node -> (namespace, name)
        self._others: dict[bytes, Any] = {}  # participant guid -> ParticipantEntitiesInfo
        self._info = message_class(_INFO)
        self._node_info = message_class("rmw_dds_common/msg/NodeEntitiesInfo")
        self._gid = message_class("rmw_dds_common/msg/Gid")
        transient = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._writer = dds.Writer(participant, "ros_discovery_info", dds_type(_INFO), to_dds(transient, writer=True))
        self._reader = dds.Reader(participant, "ros_discovery_info", dds_type(_INFO), to_dds(everything, writer=False))
        self._participants = _Alive(participant, BuiltinTopicDcpsParticipant)
        self._publications = _Alive(participant, BuiltinTopicDcpsPublication)
        self._subscriptions = _Alive(participant, BuiltinTopicDcpsSubscription)

    def add_node(self, node: Any, name: str, namespace: str) -> None:
        """Announce a node of this participant."""
        with self._lock:
            self._own[node] = (namespace, name)
        self.update()

    def remove_node(self, node: Any) -> None:
        """Withdraw a node."""
        with self._lock:
            self._own.pop(node, None)
        self.update()

    def update(self) -> None:
        """Publish this participant's nodes with their endpoints."""
        with self._lock:
            nodes = [
                self._node_info(
                    node_namespace=namespace, node_name=name,
                    reader_gid_seq=[self._to_gid(reader) for reader in node._rcl_readers()],
                    writer_gid_seq=[self._to_gid(writer) for writer in node._rcl_writers()],
                )
                for node, (namespace, name) in self._own.items()
            ]  # fmt: skip
            info = self._info(gid=self._to_gid(self._participant), node_entities_info_seq=nodes)
            self._writer.write(serialize(info))

    def _to_gid(self, entity: Any) -> Any:
        return self._gid(data=np.frombuffer(entity.guid.bytes, np.uint8))

    def participants(self) -> list[tuple[bytes, list[Any]]]:
        """(participant guid, its NodeEntitiesInfo list) of every participant that is alive."""
        with self._lock:
            while samples := self._reader.take(100):
                for data, _ in samples:
                    info: Any = deserialize(data, self._info)
                    self._others[bytes(info.gid.data)] = info
            alive = self._participants.read()
            self._others = {gid: info for gid, info in self._others.items() if gid in alive}
            return [(gid, info.node_entities_info_seq) for gid, info in self._others.items()]

    def nodes(self) -> list[tuple[str, str]]:
        """(name, namespace) of every node."""
        return [(node.node_name, node.node_namespace) for _, infos in self.participants() for node in infos]

    def publications(self) -> list[Any]:
        """Every writer that is alive."""
        with self._lock:
            return list(self._publications.read().values())

    def subscriptions(self) -> list[Any]:
        """Every reader that is alive."""
        with self._lock:
            return list(self._subscriptions.read().values())

    def owners(self) -> dict[bytes, tuple[str, str]]:
        """(node name, namespace) by endpoint guid."""
        found = {}
        for _, infos in self.participants():
            for node in infos:
                for gid in (*node.reader_gid_seq, *node.writer_gid_seq):
                    found[bytes(gid.data)] = (node.node_name, node.node_namespace)
        return found

    def topics(self, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """ROS topics with their types."""
        found: dict[str, set[str]] = {}
        for endpoint in (*self.publications(), *self.subscriptions()):
            if no_demangle:
                found.setdefault(endpoint.topic_name, set()).add(endpoint.type_name)
            elif endpoint.topic_name.startswith("rt/"):
                found.setdefault(endpoint.topic_name[2:], set()).add(ros_name(endpoint.type_name))
        return [(name, sorted(types)) for name, types in sorted(found.items())]

    def services(self, owned: set[bytes] | None = None, servers: bool = True) -> list[tuple[str, list[str]]]:
        """Services with their types; of the servers (or clients) whose endpoint guids are in `owned`, if given."""
        found: dict[str, set[str]] = {}
        endpoints = self.subscriptions() if servers else self.publications()
        for endpoint in endpoints if owned is not None else (*self.publications(), *self.subscriptions()):
            name = endpoint.topic_name
            if owned is not None and (endpoint.key.bytes not in owned or not name.startswith("rq/")):
                continue  # of a node: what it reads requests from, or writes them to; replies go the other way
            prefix, ending = ("rq", "Request") if name.startswith("rq/") else ("rr", "Reply")
            if not name.startswith(f"{prefix}/") or not name.endswith(ending):
                continue
            kind = ros_name(endpoint.type_name)
            for suffix in ("_Request", "_Response"):
                kind = kind.removesuffix(suffix)
            found.setdefault(name[2 : -len(ending)], set()).add(kind)
        return [(name, sorted(types)) for name, types in sorted(found.items())]

    def close(self) -> None:
        """Delete the graph's own endpoints."""
        self._writer.close()
        self._reader.close()
