"""Versions over the graph: trainer_node hands out its weight store, policy_node fills one of its own with it, so that they may
be on different machines, and one trainer may serve several arms. The announced hash decides what is taken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from vla_ros.errors import VlaRosError
from vla_ros.nodes.files import FileClient, FileServer
from vla_ros.policy.store import WEIGHTS, WeightStore, parse

SERVICE = "trainer/weights"


class WeightServer:
    """Answers for the versions of a store, by number."""

    def __init__(self, node: Node, store: WeightStore, group: CallbackGroup) -> None:
        self._store = store
        FileServer(node, SERVICE, self._find, group)

    def _find(self, name: str) -> tuple[Path, str]:
        if not name.isdecimal():
            raise VlaRosError(f"found name {name!r}, expected a version's number")
        record = self._store.record(int(name))
        return Path(record.path) / WEIGHTS, json.dumps(dataclasses.asdict(record))


class WeightClient:
    """Fetches versions into a store; not from the executor's thread, which serves the answers."""

    def __init__(self, node: Node, store: WeightStore, service: str = SERVICE) -> None:
        self._store = store
        self._files = FileClient(node, service)

    def fetch(self, number: int, digest: str) -> None:
        """
        Raises:
            VlaRosError: nobody answers, the version is unknown there, or what came has not the announced hash.
        """
        text, pieces = self._files.open(str(number))
        source = f"{self._files.service}: version {number}"
        record = parse(text, source)
        if record.sha256 != digest:
            raise VlaRosError(f"{source} has sha256 {record.sha256[:16]}, announced was {digest[:16]}")
        self._store.receive(record, pieces)
