"""A policy server with openpi's protocol on loopback, written without the package's own codec, which is not its own judge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import yaml
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as listen

from vla_ros.paths import share

METADATA = {"policy": "of a test", "dims": np.arange(3)}

Answer = Callable[[dict[str, Any]], Any]  # bytes are sent as they are, a text as a text frame, others packed as actions


def openpi_pack(value: Any) -> bytes:
    """As openpi-client 0.1.2 packs."""

    def plain(array: Any) -> Any:
        return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}

    return bytes(msgpack.packb(value, default=plain))


def openpi_unpack(data: bytes) -> Any:
    def array(found: dict[Any, Any]) -> Any:
        if b"__ndarray__" not in found:
            return found
        return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"])

    return msgpack.unpackb(data, object_hook=array)


class Server:
    """Speaks openpi's protocol: metadata first, then an answer to each request; an error as a text frame, then it hangs up."""

    def __init__(self, answer: Answer, port: int = 0) -> None:
        self.answer, self.requests, self.connections = answer, list[dict[str, Any]](), list[ServerConnection]()
        self.server = listen(self._handle, "127.0.0.1", port, compression=None, max_size=None)
        self.port = int(self.server.socket.getsockname()[1])
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def _handle(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        connection.send(openpi_pack(METADATA))
        for message in connection:
            assert isinstance(message, bytes)
            self.requests.append(openpi_unpack(message))
            reply = self.answer(self.requests[-1])
            if isinstance(reply, str):
                connection.send(reply)
                connection.close(1011)
                return
            connection.send(reply if isinstance(reply, bytes) else openpi_pack({"actions": reply, "server_timing": {}}))

    def close(self) -> None:
        self.server.shutdown()
        for connection in self.connections:  # websockets before 17 leaves them open
            connection.close()
        self.thread.join()


@contextmanager
def serving(answer: Answer, port: int = 0) -> Iterator[Server]:
    server = Server(answer, port)
    try:
        yield server
    finally:
        server.close()


def written(folder: Path, name: str = "openpi_aloha", **changes: Any) -> Path:
    """A shipped mapping with other values: `a__b` is key b of mapping a, None removes it."""
    content = yaml.safe_load((share() / "config" / "policies" / f"{name}.yaml").read_text())
    for key_path, value in changes.items():
        *path, last = key_path.split("__")
        inner = content
        for key in path:
            inner = inner[key]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    file = folder / "mapping.yaml"
    file.write_text(yaml.safe_dump(content))
    return file
