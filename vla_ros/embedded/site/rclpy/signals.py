"""SIGINT and SIGTERM: close the default context and wake everybody who waits in DDS."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from enum import IntEnum
from typing import Any

from rclpy.utilities import get_default_context


class SignalHandlerOptions(IntEnum):
    """Which signals init() takes over."""

    NO = 0
    SIGINT = 1
    SIGTERM = 2
    ALL = 3


_previous: dict[int, Any] = {}
_bell: tuple[socket.socket, socket.socket] | None = None


def install_signal_handlers(options: SignalHandlerOptions = SignalHandlerOptions.ALL) -> None:
    """Install handlers; only the main thread can, elsewhere the process keeps its own."""
    if threading.current_thread() is not threading.main_thread():
        return
    _start_bell()
    for number, flag in ((signal.SIGINT, SignalHandlerOptions.SIGINT), (signal.SIGTERM, SignalHandlerOptions.SIGTERM)):
        if options & flag and number not in _previous:
            _previous[number] = signal.signal(number, _interrupt if number == signal.SIGINT else _terminate)


def uninstall_signal_handlers() -> None:
    """Give the signals back."""
    if threading.current_thread() is threading.main_thread():
        while _previous:
            number, handler = _previous.popitem()
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    get_default_context().try_shutdown()
    previous = _previous.get(signal.SIGINT)
    if callable(previous):
        previous(number, frame)  # Python's own raises KeyboardInterrupt


def _terminate(number: int, frame: Any) -> None:
    get_default_context().try_shutdown()
    previous = _previous.get(signal.SIGTERM)
    if callable(previous):
        previous(number, frame)


def _start_bell() -> None:
    """Python runs handlers only when its main thread gets to run; this thread gets it out of a DDS wait."""
    global _bell
    if _bell is not None:
        return
    _bell = socket.socketpair()
    _bell[1].setblocking(False)
    signal.set_wakeup_fd(_bell[1].fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(_bell[0],), name="rclpy_signals", daemon=True).start()


def _listen(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while end.recv(64):
            for executor in get_default_context().executors():
                executor.wake()
