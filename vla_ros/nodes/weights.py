"""Versions over the graph: trainer_node hands out its weight store piece by piece, policy_node fills one of its own with it, so
that they may be on different machines, and one trainer may serve several arms. The announced hash decides what is taken."""

from __future__ import annotations

import dataclasses
import json
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path

from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.node import Node

from vla_ros.errors import VlaRosError
from vla_ros.policy.store import WEIGHTS, WeightStore, parse
from vla_ros.srv import GetWeights

SERVICE = "/trainer/weights"
PIECE = 1 << 20  # bytes of one answer
PATIENCE = 5.0  # s for one answer


class WeightServer:
    """Answers for the versions of a store."""

    def __init__(self, node: Node, store: WeightStore, group: CallbackGroup) -> None:
        self._store = store
        node.create_service(GetWeights, SERVICE, self._on_request, callback_group=group)

    def _on_request(self, request: GetWeights.Request, response: GetWeights.Response) -> GetWeights.Response:
        try:
            record = self._store.record(request.number)
            with (Path(record.path) / WEIGHTS).open("rb") as file:
                file.seek(request.offset)
                response.data = array("B", file.read(PIECE))
            response.record = json.dumps(dataclasses.asdict(record))
            response.success = True
        except (VlaRosError, OSError) as error:
            response.message = str(error)
        return response


class WeightClient:
    """Fetches versions into a store; not from the executor's thread, which serves the answers."""

    def __init__(self, node: Node, store: WeightStore) -> None:
        self._store = store
        self._client = node.create_client(GetWeights, SERVICE, callback_group=ReentrantCallbackGroup())

    def fetch(self, number: int, digest: str) -> None:
        """
        Raises:
            VlaRosError: nobody answers, the version is unknown there, or what came has not the announced hash.
        """
        first = self._ask(number, 0)
        record = parse(first.record, f"{SERVICE}: version {number}")
        if record.sha256 != digest:
            raise VlaRosError(f"{SERVICE}: version {number} has sha256 {record.sha256[:16]}, announced was {digest[:16]}")
        self._store.receive(record, self._pieces(number, first))

    def _pieces(self, number: int, answer: GetWeights.Response) -> Iterator[bytes]:
        offset = 0
        while len(answer.data):
            yield bytes(answer.data)
            offset += len(answer.data)
            answer = self._ask(number, offset)

    def _ask(self, number: int, offset: int) -> GetWeights.Response:
        if not self._client.service_is_ready():
            raise VlaRosError(f"{SERVICE}: nobody offers it; is trainer_node running?")
        answered = threading.Event()
        future = self._client.call_async(GetWeights.Request(number=number, offset=offset))
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(PATIENCE):
            future.cancel()
            raise VlaRosError(f"{SERVICE}: no answer within {PATIENCE:g} s")
        answer: GetWeights.Response = future.result()
        if not answer.success:
            raise VlaRosError(f"{SERVICE}: {answer.message}")
        return answer
