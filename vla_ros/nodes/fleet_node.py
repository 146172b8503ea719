"""The lead of a fleet: several cells practise, one learner learns from all of them, and one stream of versions comes back.

It has no arm: each cell's trainer_node (parameter `lead`) practises by itself and keeps what it records; this node fetches the
episodes, counts them, learns, and applies the rules. One thread fetches from each cell, so that none waits for another.
"""

from __future__ import annotations

import json
import re
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType

from vla_ros import files
from vla_ros.action import Improve
from vla_ros.episodes import load_episode
from vla_ros.episodes.folder import read_info
from vla_ros.episodes.monitor import CANCELLED
from vla_ros.errors import VlaRosError
from vla_ros.learning.child import LearnerProcess
from vla_ros.learning.stopping import Stop
from vla_ros.msg import Episode, Fleet, FleetMember
from vla_ros.nodes import qos
from vla_ros.nodes.episode_runner import Cancelled, EpisodeRequest
from vla_ros.nodes.files import FileClient
from vla_ros.nodes.fleet_member import BEAT, FILES, PRACTICE, refuse_canary
from vla_ros.nodes.main import run, spin_threads
from vla_ros.nodes.maintenance import Maintenance
from vla_ros.nodes.trainer_node import ABORTED_IN_A_ROW, TrainerNode
from vla_ros.policy.policy import fingerprint
from vla_ros.srv import ActivatePolicy

SILENT = 5.0  # s without a sign of life until a member is reported
NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")  # of a member: a namespace; its folder here
EPISODE = re.compile(rf"{PRACTICE}[0-9-]+/[0-9A-Za-z-]+\.mcap")


@dataclass
class Cell:
    """What the lead knows of a member."""

    name: str
    client: FileClient
    heard: float  # s, monotonic
    since: datetime  # the same on the wall's clock
    state: FleetMember = field(default_factory=FleetMember)  # without a name until it is heard
    refused: str = ""  # why; empty: it is one of us
    fetched: int = 0  # episodes that the last complete list had
    news: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Arrived:
    """An episode with what its cell knew of it."""

    practice: str
    episode: Episode
    quality: list[float]
    audit: bool | None


class Alarms(Maintenance):
    """What has changed in a cell its own trainer knows; it hears of the rule that rang."""

    def __init__(self, lead: FleetNode) -> None:
        self._lead = lead

    def examine(self, e: Episode) -> None:
        """Its own cell does."""

    def ring(self, stop: Stop) -> None:
        self._lead.order(stop_rule=stop.rule, sentence=stop.sentence, best_version=stop.best)

    def clear(self) -> None:
        self._lead.order(stop_rule="", sentence="", best_version=0)


class FleetNode(TrainerNode):
    def __init__(self) -> None:
        super().__init__("fleet_node")

    def _meet(self, own: CallbackGroup, goals: dict[str, Any]) -> None:
        """The cells that practise elsewhere."""
        if self.prompt is None:
            raise VlaRosError(f"parameter `policy`: {self.policy} is foreign: it learns where it runs")
        refuse_canary(self)
        self.member = None
        self.maintenance = Alarms(self)
        self._measures = self._audited = False  # each cell's trainer counts what it misses
        self._fingerprint = fingerprint(Path(self.policy))
        self._cells: dict[str, Cell] = {}
        self._arrived = threading.Condition()
        self._inbox: deque[Arrived] = deque()
        self._orders = Fleet()
        self._ordering = threading.Lock()
        group = MutuallyExclusiveCallbackGroup()
        self._fleet = self.create_publisher(Fleet, "orders", qos.STATUS)
        self.create_subscription(FleetMember, "members", self._on_member, qos.RECORD, callback_group=group)
        self.create_service(ActivatePolicy, "policy/activate", self._on_activate, callback_group=own)
        self.create_timer(BEAT, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME), callback_group=group)
        for name in self.declare_parameter("members", "").value.split(","):  # expected, so that one that never comes is missed
            if name.strip():
                self._meet_member(f"/{name.strip().strip('/')}")
        if running := self.store.active():
            self.versions.publish(running.number)

    # -- members --------------------------------------------------------------------------------------------------

    def _on_member(self, message: FleetMember) -> None:
        name = str(message.name)
        try:
            cell = self._cells.get(name) or self._meet_member(name)
        except VlaRosError as error:
            self.diagnostics.error(str(error))
            return
        cell.heard, cell.since, cell.state = time.monotonic(), datetime.now().astimezone(), message
        refused = self._why_not(message)
        if refused and refused != cell.refused:
            self.get_logger().error(f"member {name} is refused: {refused}")
        known, cell.refused = cell.refused == refused and name in [*self._orders.members, *self._orders.refused], refused
        if not known:
            self.order()
        cell.news.set()

    def _meet_member(self, name: str) -> Cell:
        """
        Raises:
            VlaRosError: not a namespace, of which a folder here is named.
        """
        if not NAME.fullmatch(name):
            raise VlaRosError(f"members: found {name!r}, expected a namespace like /cell1")
        cell = Cell(name, FileClient(self, f"{name}/{FILES}"), time.monotonic(), datetime.now().astimezone())
        self._cells = {**self._cells, name: cell}
        threading.Thread(target=self._fetch_all, args=(cell,), name=f"fetch {name}", daemon=True).start()
        return cell

    def _why_not(self, message: FleetMember) -> str:
        if message.robot != self.contract.robot:
            return f"its robot is {message.robot!r}, expected {self.contract.robot!r}"
        if message.policy != self._fingerprint:
            found, expected = message.policy[:16], self._fingerprint[:16]
            return f"its stage-1 checkpoint has hash {found}, expected {expected}: copy {self.policy} to its parameter `policy`"
        return ""

    def _beat(self) -> None:
        """A sign of life, and on /diagnostics who has given none."""
        self.order()
        if self._orders.practice and not self._orders.members:
            self.diagnostics.fault("members", f"no cell has been heard; start some with lead:={self.get_namespace()}", level=1)
        else:
            self.diagnostics.clear("members")
        for name, cell in self._cells.items():
            state = cell.state
            if state.name:
                told = f"{state.phase}, version {state.policy_version}, {state.episodes} episodes"
                self.diagnostics.set(f"member {name}", told)
            if time.monotonic() - cell.heard > SILENT:
                self.diagnostics.fault(name, f"member {name}: not heard from since {cell.since:%Y-%m-%d %H:%M:%S}", level=1)
            elif cell.refused:
                self.diagnostics.fault(name, f"member {name} is refused: {cell.refused}")
            elif state.message:
                self.diagnostics.fault(name, f"member {name}: {state.message}", level=1)
            else:
                self.diagnostics.clear(name)

    def order(self, **fields: Any) -> None:
        with self._ordering:
            orders = self._orders
            for key, value in fields.items():
                setattr(orders, key, value)
            refused = {name: cell.refused for name, cell in self._cells.items() if cell.refused}
            orders.members = [name for name, cell in self._cells.items() if cell.state.name and not cell.refused]
            orders.refused, orders.reasons = list(refused), list(refused.values())
            orders.policy_version = self.versions.announced
            orders.header.stamp = self.get_clock().now().to_msg()
            self._fleet.publish(orders)

    # -- episodes -------------------------------------------------------------------------------------------------

    def _fetch_all(self, cell: Cell) -> None:
        """The member's thread: whatever it has recorded and is not here, as soon as it is there."""
        while self.context.ok():
            if not cell.news.wait(BEAT):
                continue
            cell.news.clear()
            if cell.refused or cell.fetched == cell.state.episodes:
                continue
            try:
                text, _ = cell.client.open("")
                names = _list(text, cell.client.service)
                for name in names:
                    self._fetch(cell, name)
                cell.fetched = len(names)
            except VlaRosError as error:  # asked for again at its next sign of life
                self.get_logger().warning(f"member {cell.name}: {error}", throttle_duration_sec=5.0)
                self.diagnostics.error(f"member {cell.name}: {error}")
            except Exception as error:  # noqa: BLE001 (whatever it is, a thread that ends would be silent)
                if not self.context.ok():  # it was shut down in the middle of a request
                    return
                self.get_logger().error(traceback.format_exc())
                self.diagnostics.error(f"member {cell.name}: {type(error).__name__}: {error}")

    def _fetch(self, cell: Cell, name: str) -> None:
        path = self.folder / cell.name.strip("/") / name
        if path.exists():
            return
        text, pieces = cell.client.open(name)
        try:
            notes = json.loads(text)
            digest, quality, audit = str(notes["sha256"]), [float(v) for v in notes.get("quality", [])], notes.get("audit")
        except (ValueError, TypeError, KeyError) as error:
            raise VlaRosError(f"{cell.client.service}: {name}: found {text[:80]!r}, expected JSON with its sha256") from error
        files.receive(path, pieces, digest)
        e = self._episode(path, cell)
        if e.outcome != "aborted":
            try:
                load_episode(path, self.contract)  # what the learner cannot read would end practice for all
            except VlaRosError as error:
                raise VlaRosError(f"episode {e.id} is kept, but left out of learning: {error}") from error
        with self._arrived:
            self._inbox.append(Arrived(path.parent.name, e, quality, audit))
            self._arrived.notify_all()

    def _episode(self, path: Path, cell: Cell) -> Episode:
        """The message of a recorded episode, with its cell's name before its id.

        Raises:
            VlaRosError: the file does not tell how it ended.
        """
        told = read_info(path).metadata
        try:
            e = Episode(
                id=f"{cell.name.strip('/')}/{told['episode_id']}", instruction=told["instruction"], outcome=told["outcome"],
                termination_reason=told["termination_reason"], steps=int(told["steps"]),
                duration=int(told["steps"]) / self.contract.observation.rate, return_sum=float(told["return_sum"]),
                final_steps_to_go=float(told["final_steps_to_go"]), policy_version=int(told["policy_version"]),
                limited_ticks=int(told["limited_ticks"]), corrected_steps=int(told["corrected_steps"]), file=str(path.resolve()),
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise VlaRosError(f"{path}: its metadata do not tell how the episode ended: {error!r}") from error
        e.header.stamp = self.get_clock().now().to_msg()
        return e

    def next_episode(self, request: EpisodeRequest, stopped: Any) -> Episode:
        """The next one of the running version that any cell has finished for this practice."""
        while True:
            with self._arrived:
                while not self._inbox:
                    if stopped() or not self.context.ok():
                        raise Cancelled
                    self._arrived.wait(0.1)
                arrived = self._inbox.popleft()
            e = arrived.episode
            if arrived.practice != self._orders.practice or e.termination_reason == CANCELLED:
                continue
            if e.policy_version not in (0, self.versions.announced):
                self.diagnostics.count("episodes_of_other_versions")
                self.episodes.publish(e)
                continue
            self._quality, self._truth = list(arrived.quality), arrived.audit
            return e

    # -- what trainer_node does with its own cell -----------------------------------------------------------------

    def _practise(self, handle: Any, learner: LearnerProcess, result: Improve.Result) -> Stop | None:
        goal, practice = handle.request, f"{PRACTICE}{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        self.versions.chosen = False
        self.order(practice=practice, pause=False, task=goal.task, seed=goal.seed)
        try:
            return super()._practise(handle, learner, result)
        finally:
            if self.context.ok():
                self.order(practice="")

    def _hold(self, on: bool) -> None:
        if on:  # until the next version: more of this one would not be learned from
            self.order(pause=True)

    def arrive(self, number: int) -> None:
        """Nobody waits for the slowest cell: each takes the version when it is ready for it."""
        self.versions.changed(number)
        self.order(pause=False)

    def overruled(self, e: Episode) -> bool:
        chosen = self.versions.chosen and e.policy_version == self.versions.announced
        self.versions.chosen = self.versions.chosen and not chosen
        return chosen

    def _broken(self, e: Episode) -> None:
        self.diagnostics.error(
            f"{ABORTED_IN_A_ROW} episodes in a row were aborted, the last one, {e.id}, by {e.termination_reason}"
        )

    def _on_activate(self, request: ActivatePolicy.Request, response: ActivatePolicy.Response) -> ActivatePolicy.Response:
        """An operator's choice, for all cells."""
        try:
            number = self.store.record(self.versions.announced).parent if request.rollback else request.number
            if request.rollback and not number:
                raise VlaRosError(f"version {self.versions.announced} has no parent to go back to")
            self.store.record(number)
            self.versions.chosen = True
            self.versions.publish(number)
            response.success = True
        except VlaRosError as error:
            response.message = str(error)
        response.number = self.versions.announced
        return response


def _list(text: str, source: str) -> list[str]:
    """
    Raises:
        VlaRosError: not a list of episodes of practice; they become names of files here.
    """
    try:
        names = json.loads(text)
    except ValueError as error:
        raise VlaRosError(f"{source}: found {text[:80]!r}, expected JSON") from error
    wrong = [name for name in names if not (isinstance(name, str) and EPISODE.fullmatch(name))]
    if wrong:
        raise VlaRosError(f"{source}: found {wrong[0]!r}, expected names like {PRACTICE}20260131-120000/NAME.mcap")
    return sorted(names)


def main(args: list[str] | None = None) -> int:
    return run(FleetNode, args, spin=spin_threads)


if __name__ == "__main__":
    raise SystemExit(main())
