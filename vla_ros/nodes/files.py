"""Files over the graph, piece by piece, for machines that do not see each other's file systems."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.node import Node

from vla_ros.errors import VlaRosError
from vla_ros.srv import GetFile

PIECE = 1 << 20  # bytes of one answer
PATIENCE = 5.0  # s for one answer

Find = Callable[[str], tuple[Path | None, str]]


class FileServer:
    """Answers for files by name.

    Args:
        find: path and record of a name; no path: the record is all there is. Raises VlaRosError for what it does not hand out.
    """

    def __init__(self, node: Node, service: str, find: Find, group: CallbackGroup) -> None:
        self._find = find
        node.create_service(GetFile, service, self._on_request, callback_group=group)

    def _on_request(self, request: GetFile.Request, response: GetFile.Response) -> GetFile.Response:
        try:
            path, response.record = self._find(request.name)
            if path is not None:
                with path.open("rb") as file:
                    file.seek(request.offset)
                    response.data = array("B", file.read(PIECE))
            response.success = True
        except (VlaRosError, OSError) as error:
            response.message = str(error)
        return response


class FileClient:
    """Asks a FileServer; not from the executor's thread, which serves the answers."""

    def __init__(self, node: Node, service: str) -> None:
        self.service = node.resolve_service_name(service)
        self._client = node.create_client(GetFile, service, callback_group=ReentrantCallbackGroup())

    def open(self, name: str) -> tuple[str, Iterator[bytes]]:
        """Record and pieces of a file.

        Raises:
            VlaRosError: nobody answers, or the other side says why not; also while the pieces are taken.
        """
        first = self._ask(name, 0)
        return str(first.record), self._pieces(name, first)

    def _pieces(self, name: str, answer: GetFile.Response) -> Iterator[bytes]:
        offset = 0
        while len(answer.data):
            yield bytes(answer.data)
            offset += len(answer.data)
            answer = self._ask(name, offset)

    def _ask(self, name: str, offset: int) -> GetFile.Response:
        if not self._client.service_is_ready():
            raise VlaRosError(f"{self.service}: nobody offers it; is trainer_node running?")
        answered = threading.Event()
        future = self._client.call_async(GetFile.Request(name=name, offset=offset))
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(PATIENCE):
            future.cancel()
            raise VlaRosError(f"{self.service}: no answer within {PATIENCE:g} s")
        answer: GetFile.Response = future.result()
        if not answer.success:
            raise VlaRosError(f"{self.service}: {answer.message}")
        return answer
