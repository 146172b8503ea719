"""The operator's commands on the running graph: e-stop, reset, and the state in one look."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from vla_ros.cli import graph, param
from vla_ros.cli.safety.replay_command import console
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.limits import Limits
from vla_ros.types import SafetyMode

if TYPE_CHECKING:
    from rclpy.node import Node

NODE, TOPIC, ESTOP_TOPIC, ESTOP = "safety_node", "safety/state", "estop", "safety/estop"  # in the cell's namespace
HEAR = 3.0  # s for the last state, which is transient local, to arrive
STOPPED = 1.0  # s for the latch to be seen after the e-stop
WAITING = "safety_node has published no state yet: it waits for joint states (`vla-ros topic echo /diagnostics --once`)"
NO_GRAPH = "is the graph running? `vla-ros node list`"
RELEASES = 5  # messages of /estop false
STYLES = {"RUN": "bold green", "BRAKE": "bold yellow", "HELD": "bold cyan", "LATCHED": "bold white on red"}


@dataclass
class Heard:
    """What safety/state told last, and the limits that it is to be read against."""

    message: Any = None
    before: Any = None  # the message before, for speeds
    at: float = 0.0  # s on the monotonic clock
    limits: Limits | None = None
    limits_text: str = "limits unknown"
    velocity: list[float] = field(default_factory=list)  # [n] rad/s


def nobody(node: Node) -> VlaRosError:
    """The error when no safety node is there."""
    domain, where = os.environ.get("ROS_DOMAIN_ID", "0"), graph.cell(node.get_namespace())
    others = [cell for cell in graph.cells_with(node, ESTOP) if cell != where]
    hint = f"cells do in {', '.join(cell or '/' for cell in others)}; say whose with --namespace" if others else NO_GRAPH
    return VlaRosError(f"no safety node answers in domain {domain} (ROS_DOMAIN_ID){where and f', namespace {where}'}: {hint}")


def listen(node: Node, on_state: Any, topic: str = TOPIC) -> None:
    """Subscribes to the safety state."""
    from vla_ros.msg import SafetyState
    from vla_ros.nodes import qos

    node.create_subscription(SafetyState, topic, on_state, qos.STATUS)


class Stop:
    """One cell's e-stop: the service, because it answers, and the state, because it is what counts."""

    def __init__(self, node: Node, cell: str) -> None:
        from std_srvs.srv import Trigger

        self.cell, self.since = cell, time.monotonic()
        self.state: Any = None
        self._answer: Any = None
        self._client, self._request = node.create_client(Trigger, f"{cell}/{ESTOP}"), Trigger.Request()
        listen(node, self._on_state, f"{cell}/{TOPIC}")

    def _on_state(self, message: Any) -> None:
        self.state = message

    @property
    def latched(self) -> bool:
        return self.state is not None and self.state.state == SafetyMode.LATCHED

    def ask(self) -> None:
        """Once, as soon as the service is there."""
        if self._answer is None and self._client.service_is_ready():
            self._answer, self.since = self._client.call_async(self._request), time.monotonic()

    @property
    def over(self) -> bool:
        """It is answered and latched, or has had its time."""
        waited = time.monotonic() - self.since
        answered = self._answer is not None and self._answer.done()
        return waited > graph.PATIENCE or (answered and (self.latched or waited > STOPPED))

    def told(self) -> str:
        where = f"{self.cell}: " if self.cell else ""
        answer = self._answer.result().message if self._answer is not None and self._answer.done() else "no answer"
        if self.latched:
            option = f" --namespace {self.cell}" if self.cell else ""
            result = f"LATCHED: {self.state.reason}; `vla-ros safety reset{option}` when the cause is cleared"
        else:
            found = SafetyMode(self.state.state).name if self.state else "no state"
            result = f"NOT LATCHED within {STOPPED:g} s ({found} on {self.cell}/{TOPIC}): use the hardware e-stop"
        return f"{where}e-stop: {answer}\n{where}{result}"


def estop(node: Node) -> int:
    """`safety estop`, of the node's namespace, or without one of every cell that is found; 0 when all latches are seen."""
    where, stops, begun = graph.cell(node.get_namespace()), dict[str, Stop](), time.monotonic()

    def over() -> bool:
        for cell in graph.cells_with(node, ESTOP):
            if cell not in stops and where in ("", cell):
                stops[cell] = Stop(node, cell)
        for stop in stops.values():
            stop.ask()
        waited = time.monotonic() - max((stop.since for stop in stops.values()), default=begun)
        settled = waited > (graph.SETTLE if stops else graph.PATIENCE) or bool(where and stops)
        return settled and all(stop.over for stop in stops.values())

    graph.spin_until(node, over)
    if not stops:
        raise nobody(node)
    for stop in stops.values():
        print(stop.told())
    return 0 if all(stop.latched for stop in stops.values()) else 1


def reset(node: Node, release: bool) -> int:
    """`safety reset`; 1 when refused."""
    from std_srvs.srv import Trigger

    if release:
        publish_release(node)
    try:
        answer = graph.call(node, Trigger, "safety/reset", Trigger.Request())
    except VlaRosError as error:
        raise nobody(node) from error
    print(f"reset: {answer.message}" if answer.success else f"refused: {answer.message}")
    if not answer.success and "estop_topic" in answer.message:
        print("somebody holds /estop true: release it there; if that process is gone: `vla-ros safety reset --release`")
    return 0 if answer.success else 1


def publish_release(node: Node) -> None:
    """A few times /estop false; another e-stop that is held goes on publishing true, and latches again."""
    from std_msgs.msg import Bool

    publisher = node.create_publisher(Bool, ESTOP_TOPIC, 10)
    if not graph.spin_until(node, lambda: publisher.get_subscription_count() > 0, graph.PATIENCE):
        raise nobody(node)
    for _ in range(RELEASES):
        publisher.publish(Bool(data=False))
        graph.spin_until(node, lambda: False, 0.05)


def state(node: Node) -> int:
    """`safety state`; 1 when latched."""
    heard = Heard()

    def take(message: Any) -> None:
        heard.before, heard.message = heard.message, message

    listen(node, take)
    if not graph.spin_until(node, lambda: heard.message is not None, HEAR):
        raise VlaRosError(WAITING) if graph.own(node, NODE) in graph.full_node_names(node) else nobody(node)
    graph.spin_until(node, lambda: heard.before is not None, 0.2)  # a second one tells the speeds; there may be none
    read_limits(node, heard)
    heard.velocity = speeds(heard.before, heard.message)
    to = console()
    to.print(overview(heard))
    to.print(joints(heard))
    return 1 if heard.message.state == SafetyMode.LATCHED else 0


def read_limits(node: Node, heard: Heard) -> None:
    """The limits in force: safety_node's own parameters name the robot and the files."""
    try:
        (_, robot), (_, files) = param.values_of(node, graph.own(node, NODE), ["robot", "safety"])
        names = [name.strip() for name in (files or "").split(",") if name.strip()]
        heard.limits = Limits.load(RobotContract.load(robot), *names)
        heard.limits_text = " + ".join(names) or f"config/safety/{heard.limits.robot}.yaml"
    except VlaRosError as error:  # another machine's files; the state is worth showing without them
        heard.limits_text = f"limits unknown here: {error}"


def speeds(before: Any, now: Any) -> list[float]:
    """[n] rad/s of the command between two states; empty when they are too far apart to tell."""
    if before is None or len(before.command) != len(now.command):
        return []
    stamp, then = now.header.stamp, before.header.stamp
    elapsed = (stamp.sec - then.sec) + (stamp.nanosec - then.nanosec) * 1e-9
    if not 0.0 < elapsed < 0.5:
        return []
    return [(b - a) / elapsed for a, b in zip(before.command, now.command, strict=True)]


# -- what is shown, once or live ----------------------------------------------------------------------------------


def overview(heard: Heard) -> Table:
    """Mode, reason, path speed, distances, counters."""
    m = heard.message
    rows = Table.grid(padding=(0, 2))
    mode = SafetyMode(m.state).name
    rows.add_row("mode", f"[{STYLES[mode]}] {mode} [/]  {escape(m.reason)}")
    cap = f"  cap {m.speed_cap:.0%}" if m.speed_cap < 1.0 else ""
    rows.add_row("path speed", f"{bar(m.path_speed)} {m.path_speed:4.0%}{cap}  off the path {m.off_path:.4f} rad")
    rows.add_row("limited by", escape(", ".join(m.active_constraints)) or "nothing")
    if not math.isfinite(m.clearance):
        rows.add_row("clearance", "not checked" if math.isnan(m.clearance) else "nothing near")
    else:
        rows.add_row("clearance", f"{m.clearance:.3f} m  {escape(m.nearest)}")
    rows.add_row("torque", f"{bar(m.torque_share)} {m.torque_share:4.0%} of the limit   tip {m.tip_speed:.2f} m/s")
    counted = f"{m.ticks} ticks, {m.missed_ticks} missed, {m.limited_ticks} limited, {m.rejected_chunks} chunks rejected"
    rows.add_row("counters", counted)
    rows.add_row("policy", f"version {m.policy_version}  episode {escape(m.episode_id) or '-'}")
    rows.add_row("limits", escape(heard.limits_text))
    return rows


def joints(heard: Heard) -> Table:
    """Command of each joint between its limits, margin to the nearer one, speed as a share of its limit."""
    m, limits = heard.message, heard.limits
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("joint", "command [rad]", "lower .. upper", "margin [rad]", "speed [rad/s]", "of its limit", "limited by"):
        right = name in ("command [rad]", "margin [rad]", "speed [rad/s]")
        table.add_column(escape(name), justify="right" if right else "left", no_wrap=True)
    for j, (name, q) in enumerate(zip(m.joint_names, m.command, strict=False)):
        k = limits.joints.index(name) if limits and name in limits.joints else -1
        place, margin = ("-", "-") if limits is None or k < 0 else _place(q, limits.lower[k], limits.upper[k])
        speed = heard.velocity[j] if heard.velocity else math.nan
        share = "-"
        if limits is not None and k >= 0 and not math.isnan(speed):
            part = abs(speed) / limits.velocity[k]
            share = f"{bar(part, 10)} {part:4.0%}"
        active = [c.partition(":")[0] for c in m.active_constraints if c.endswith(f":{name}")]
        shown = "-" if math.isnan(speed) else f"{speed:.3f}"
        table.add_row(escape(name), f"{q:.4f}", place, margin, shown, share, f"[bold yellow]{escape(', '.join(active))}[/]")
    return table


def _place(q: float, low: float, high: float, width: int = 21) -> tuple[str, str]:
    margin = min(q - low, high - q)
    at = round((width - 1) * min(1.0, max(0.0, (q - low) / (high - low))))
    style = "red" if margin < 0.02 * (high - low) else "yellow" if margin < 0.08 * (high - low) else "green"
    return f"[dim]{'─' * at}[/][{style}]●[/][dim]{'─' * (width - 1 - at)}[/]", f"[{style}]{margin:.3f}[/]"


def bar(share: float, width: int = 20) -> str:
    """A bar of `width` characters; past 90 % it is red."""
    full = 0 if math.isnan(share) else round(width * min(1.0, max(0.0, share)))
    style = "red" if share > 0.9 and width < 20 else "green"
    return f"[{style}]{'━' * full}[/][dim]{'━' * (width - full)}[/]"
