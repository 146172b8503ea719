"""Services."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from rclpy.task import Future
from rclpy.waitable import Waitable
from vla_ros.embedded.service_wire import ServerWire


class Service(Waitable):
    """Answers requests with `callback(request, response) -> response`, which may be a coroutine."""

    class Later(NamedTuple):
        """Not in rclpy: a callback returns this to answer when a future is done, without occupying its group."""

        future: Future

    def __init__(self, wire: ServerWire, srv_type: Any, srv_name: str, callback: Callable[..., Any], callback_group: Any) -> None:
        self._wire = wire
        self.srv_type, self.srv_name, self.service_name = srv_type, srv_name, srv_name
        self.callback, self.callback_group = callback, callback_group
        self.conditions = (wire.reader.condition,)

    def take(self) -> Callable[[], Any] | None:
        taken = self._wire.take()
        if taken is None:
            return None
        to, request = taken
        return lambda: self._answer(request, to)

    def _answer(self, request: Any, to: Any) -> Any:
        response = self.callback(request, self.srv_type.Response())
        if inspect.isawaitable(response):
            return self._answer_later(response, to)
        if isinstance(response, Service.Later):
            response.future.when_done(lambda: self.send_response(response.future.result(), to))
        else:
            self.send_response(response, to)
        return None

    async def _answer_later(self, response: Any, to: Any) -> None:
        self.send_response(await response, to)

    def send_response(self, response: Any, header: Any) -> None:
        """Send a response.

        Raises:
            TypeError: not the service's response type.
        """
        if not isinstance(response, self.srv_type.Response):
            raise TypeError(f"service {self.srv_name}: callback returned {response!r}, expected {self.srv_type.Response}")
        self._wire.reply(header, response)

    def destroy(self) -> None:
        """Stop answering."""
        self._wire.close()
