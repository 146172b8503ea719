"""Requests and replies on the wire, with rmw_cyclonedds' 16-byte header: client id and sequence number."""

from __future__ import annotations

import secrets
import struct
import threading
import time
from typing import Any, NamedTuple

from vla_ros.embedded import dds, names
from vla_ros.embedded.endpoint_qos import to_dds, user_data
from vla_ros.embedded.idl import service_dds_type
from vla_ros.embedded.messages import deserialize, serialize, type_hash

_HEADER = struct.Struct("<Qq")
_PATIENCE = 0.1  # [s] that a reply waits for discovery of the client's reader, as in rmw_cyclonedds


class RequestId(NamedTuple):
    """Whose request, and which."""

    client: int
    sequence: int


def _tags(full: str, role: str, identity: str) -> str:
    return f"typehash={type_hash(full)};{role}={identity};"


def _pack(message: Any, request: RequestId) -> bytes:
    body = serialize(message)
    return b"".join((body[:4], _HEADER.pack(*request), body[4:]))


def _unpack(data: bytes, cls: Any) -> tuple[RequestId, Any]:
    request = RequestId(*_HEADER.unpack_from(data, 4))
    return request, deserialize(data[:4] + data[20:], cls)


def _identity() -> str:
    return ".".join(f"{byte:02x}" for byte in secrets.token_bytes(16))


class ClientWire:
    """Client side of a service."""

    def __init__(self, participant: Any, full_name: str, service_type: Any, qos: Any) -> None:
        request, response = service_type.Request.TYPE, service_type.Response.TYPE
        self._response = service_type.Response
        self.id = secrets.randbits(63)
        self._sequence = 0
        self._lock = threading.Lock()
        identity = _identity()
        self.reader = dds.Reader(
            participant, names.reply_to_dds(full_name), service_dds_type(response),
            to_dds(qos, writer=False, user_data=_tags(response, "clientid", identity)),
        )  # fmt: skip
        self.writer = dds.Writer(
            participant, names.request_to_dds(full_name), service_dds_type(request),
            to_dds(qos, writer=True, user_data=_tags(request, "clientid", identity)),
        )  # fmt: skip

    def next_sequence(self) -> int:
        """A number for a new request."""
        with self._lock:
            self._sequence += 1
            return self._sequence

    def send(self, message: Any, sequence: int) -> None:
        """Send a request."""
        self.writer.write(_pack(message, RequestId(self.id, sequence)))

    def take(self) -> tuple[int, Any] | None:
        """Sequence number and response of the next reply to this client."""
        while samples := self.reader.take(1):
            request, response = _unpack(samples[0][0], self._response)
            if request.client == self.id:
                return request.sequence, response
        return None

    def ready(self) -> bool:
        """Whether a server is matched both ways."""
        return self.writer.matched() > 0 and self.reader.matched() > 0

    def close(self) -> None:
        """Delete both endpoints."""
        self.reader.close()
        self.writer.close()


class ServerWire:
    """Server side of a service."""

    def __init__(self, participant: Any, full_name: str, service_type: Any, qos: Any) -> None:
        request, response = service_type.Request.TYPE, service_type.Response.TYPE
        self._request = service_type.Request
        identity = _identity()
        self._known: set[int] = set()
        self.reader = dds.Reader(
            participant, names.request_to_dds(full_name), service_dds_type(request),
            to_dds(qos, writer=False, user_data=_tags(request, "serviceid", identity)),
        )  # fmt: skip
        self.writer = dds.Writer(
            participant, names.reply_to_dds(full_name), service_dds_type(response),
            to_dds(qos, writer=True, user_data=_tags(response, "serviceid", identity)),
        )  # fmt: skip

    def take(self) -> tuple[tuple[RequestId, int], Any] | None:
        """Request with its id and the handle of the writer that sent it."""
        samples = self.reader.take(1)
        if not samples:
            return None
        data, info = samples[0]
        request, message = _unpack(data, self._request)
        return (request, info.publication_handle), message

    def reply(self, to: tuple[RequestId, int], message: Any) -> None:
        """Send a response; waits a moment if the client's reply reader is not discovered yet."""
        request, writer_handle = to
        if request.client not in self._known:
            self._wait_for_reader(writer_handle)
            self._known.add(request.client)
        self.writer.write(_pack(message, request))

    def _wait_for_reader(self, writer_handle: int) -> None:
        client = _client_id(self.reader.entity.get_matched_publication_data(writer_handle))
        deadline = time.monotonic() + _PATIENCE
        while client and time.monotonic() < deadline:
            matched = self.writer.entity.get_matched_subscriptions()
            if any(_client_id(self.writer.entity.get_matched_subscription_data(handle)) == client for handle in matched):
                return
            time.sleep(0.002)

    def close(self) -> None:
        """Delete both endpoints."""
        self.reader.close()
        self.writer.close()


def _client_id(endpoint: Any) -> str:
    return "" if endpoint is None else user_data(endpoint.qos, "clientid")
