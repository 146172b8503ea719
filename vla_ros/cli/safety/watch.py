"""`vla-ros safety watch`: the live view, and an e-stop on the keyboard.

Threads: keys are read, and /estop is published, in a thread of their own that a slow or stopped terminal cannot hold up;
the graph's callbacks run in a second one; the first one only paints. The e-stop is held: /estop true goes out at once and
then ten times a second until it is released with r.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from vla_ros.cli import graph
from vla_ros.cli.safety import live
from vla_ros.errors import VlaRosError
from vla_ros.terminal import has_keys, single_keys
from vla_ros.types import SafetyMode

if TYPE_CHECKING:
    from rclpy.node import Node

HOLD = 0.1  # s between messages of a held e-stop
PAINT = 0.1  # s between frames
PLAIN = 1.0  # s between lines where there is no terminal
SILENT = 1.0  # s without a state until the view says so; safety_node publishes every tick
STOP_KEYS, RESET_KEY, QUIT_KEYS = (b" ", b"e", b"E"), b"r", (b"q", b"Q", b"")
KEYS = "SPACE or e: E-STOP   r: release and reset   q: quit"
NO_KEYS = "stdin is not a terminal: no keys, only the view; Ctrl-C ends it"
ANSWER = 3.0  # s that the view waits for the answer to a reset


class EstopKey(threading.Thread):
    """Reads single keys from `terminal` and acts on them until q or end of file.

    Args:
        publish: sends /estop.
        reset: asks for the reset; the answer comes by itself.
        terminal: file descriptor; -1 reads no keys.
    """

    def __init__(self, publish: Callable[[bool], None], reset: Callable[[], None], terminal: int) -> None:
        super().__init__(name="estop key", daemon=True)
        self._publish, self._reset, self._terminal = publish, reset, terminal
        self.holding = False
        self.failed = False
        self.quit = threading.Event()

    def run(self) -> None:
        self.failed = True
        try:
            self._serve()
            self.failed = False
        finally:
            self.quit.set()  # a view without its key must not go on as if it had one

    def _serve(self) -> None:
        sent = 0.0
        while not self.quit.is_set():
            ready, _, _ = select.select([self._terminal], [], [], HOLD / 4 if self.holding else HOLD)
            if ready:
                self._press(os.read(self._terminal, 1))
            if self.holding and (now := time.monotonic()) - sent >= HOLD:
                self._publish(True)
                sent = now

    def _press(self, key: bytes) -> None:
        if key in STOP_KEYS:
            self.holding = True
            self._publish(True)  # now; the ten per second follow
        elif key == RESET_KEY:
            if self.holding:  # somebody else's stop is not ours to release
                self.holding = False
                self._publish(False)
            self._reset()
        elif key in QUIT_KEYS:
            self.quit.set()


class Watch:
    """What is heard and said on the graph, for the view."""

    def __init__(self, node: Node) -> None:
        from rclpy.executors import SingleThreadedExecutor
        from std_msgs.msg import Bool
        from std_srvs.srv import Trigger

        self.heard = live.Heard()
        self.note = ""
        self._node, self._bool, self._trigger = node, Bool, Trigger
        live.listen(node, self._on_state)
        self._estop = node.create_publisher(Bool, live.ESTOP_TOPIC, 10)
        self._reset = node.create_client(Trigger, "safety/reset")
        self._asked = 0.0
        self._executor = SingleThreadedExecutor()
        self._speeds_at = 0.0

    @property
    def latched(self) -> bool:
        return self.heard.message is not None and self.heard.message.state == SafetyMode.LATCHED

    def start(self) -> None:
        """Waits for the first state, reads the limits, then serves callbacks in a thread. Without joint states safety_node
        is silent; the e-stop key has to work then, too.

        Raises:
            VlaRosError: there is neither a state nor a safety_node.
        """
        heard = graph.spin_until(self._node, lambda: self.heard.message is not None, live.HEAR)
        if not heard and graph.own(self._node, live.NODE) not in graph.full_node_names(self._node):
            raise live.nobody(self._node)
        live.read_limits(self._node, self.heard)
        self._executor.add_node(self._node)
        threading.Thread(target=self._spin, name="graph", daemon=True).start()

    def stop(self) -> None:
        """Before the node goes."""
        self._executor.shutdown()

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_state(self, message: Any) -> None:
        heard = self.heard
        heard.message, heard.at = message, time.monotonic()
        if heard.before is None or heard.at - self._speeds_at >= PAINT / 2:  # two neighbours are too close to tell a speed
            heard.velocity = live.speeds(heard.before, message)
            heard.before, self._speeds_at = message, heard.at

    def publish(self, stop: bool) -> None:
        """Any thread."""
        self._estop.publish(self._bool(data=stop))
        if stop and not self.note.startswith("E-STOP"):
            self.note = f"E-STOP sent to {self._estop.get_subscription_count()} subscriber(s), held until r"
        elif not stop:
            self.note = "released"

    def reset(self) -> None:
        """The key's thread; the answer comes in the graph's."""
        if not self._reset.service_is_ready():
            self.note = f"reset: {self._reset.service_name} is not there; is safety_node running? `vla-ros node list`"
            return
        self.note, self._asked = "reset asked ...", time.monotonic()
        self._reset.call_async(self._trigger.Request()).add_done_callback(self._on_reset)

    def _on_reset(self, future: Any) -> None:
        answer = future.result()
        self.note = f"reset: {answer.message}" if answer.success else f"reset refused: {answer.message}"
        if "estop_topic" in answer.message:
            self.note += " (held by another; if it is gone: `vla-ros safety reset --release`)"

    def page(self, keys: EstopKey, with_keys: bool) -> Group:
        """The whole view."""
        known = self.heard.message is not None
        silent = time.monotonic() - self.heard.at if known else 0.0
        if self.note == "reset asked ..." and time.monotonic() - self._asked > ANSWER:
            self.note = f"reset: no answer within {ANSWER:g} s"
        cell = graph.cell(self._node.get_namespace())
        title = f"safety{cell and f' of {cell}'}, domain {os.environ.get('ROS_DOMAIN_ID', '0')}"
        border = "red" if keys.holding or self.latched or silent > SILENT else "dim"
        waiting = Text(live.WAITING, style="yellow")
        body = Group(live.overview(self.heard), Text(), live.joints(self.heard)) if known else Group(waiting)
        lines: list[Any] = [Panel(body, title=title, title_align="left", border_style=border)]
        if silent > SILENT:
            lines.append(Text(f"NO STATE for {silent:.1f} s: what is shown is old", style="bold red"))
        if keys.holding:
            lines.append(Text(" E-STOP HELD ", style="bold white on red"))
        if self.note:
            lines.append(Text(self.note, style="yellow"))
        lines.append(Text(KEYS if with_keys else NO_KEYS, style="dim"))
        return Group(*lines)


def watch(node: Node) -> int:
    """The command: 0, 1 when the arm is latched at its end, 130 after Ctrl-C."""
    terminal = sys.stdin.fileno() if has_keys() else -1
    view = Watch(node)
    keys = EstopKey(view.publish, view.reset, terminal)
    view.start()
    interrupted = False
    try:
        with single_keys(terminal):
            if terminal >= 0:
                keys.start()
            _paint(view, keys, terminal >= 0)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        keys.quit.set()
        if keys.is_alive():
            keys.join(1.0)
        view.stop()
    if keys.failed:
        raise VlaRosError("the e-stop key failed (traceback above): use `vla-ros safety estop` or the hardware e-stop")
    if view.latched:
        print(f"left LATCHED: {view.heard.message.reason}")
        if keys.holding:
            print("/estop is still held true: `vla-ros safety reset --release` when the cause is cleared")
    return 1 if view.latched else 130 if interrupted else 0


def _paint(view: Watch, keys: EstopKey, with_keys: bool) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        if not with_keys:
            print(NO_KEYS, flush=True)
        while not keys.quit.wait(PLAIN):
            print(_line(view.heard.message), flush=True)
        return
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            screen.update(view.page(keys, with_keys), refresh=True)
            if keys.quit.wait(PAINT):
                return


def _line(message: Any) -> str:
    if message is None:
        return live.WAITING
    active = ", ".join(message.active_constraints) or "nothing"
    mode = SafetyMode(message.state).name
    return f"{mode}  {message.reason or '-'}  path speed {message.path_speed:.2f}  limited by {active}"
