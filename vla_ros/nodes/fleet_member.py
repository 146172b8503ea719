"""A cell's part in a fleet: practises for the lead, runs the versions that it announces, and keeps the episodes for it.

Threads: one of its own runs versions and episodes, one after another; callbacks only leave it values, each in one assignment.
"""

from __future__ import annotations

import functools
import json
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType

from vla_ros.errors import VlaRosError
from vla_ros.files import sha256
from vla_ros.learning.stopping import Stop
from vla_ros.msg import Episode, Fleet, FleetMember, PolicyVersion
from vla_ros.nodes import qos
from vla_ros.nodes.episode_runner import Cancelled, EpisodeRequest
from vla_ros.nodes.files import FileServer
from vla_ros.nodes.weights import SERVICE, WeightClient
from vla_ros.policy.policy import fingerprint

if TYPE_CHECKING:
    from vla_ros.nodes.trainer_node import TrainerNode

PRACTICE = "improve-"  # how the folders of a fleet's practice begin
FILES = "trainer/episodes"
BEAT = 1.0  # s between two signs of life
QUIET = 10.0  # s without the lead until the cell stands still: its rules are what watches over practice
RETRY = 2.0  # s after a failure
FAILURES = 5  # in a row, then the cell leaves this practice to the others


def refuse_canary(trainer: TrainerNode) -> None:
    """
    Raises:
        VlaRosError: one is configured; a fleet announces one version to all cells.
    """
    if (share := trainer.stopping.canary) < 1:
        found = f"{trainer.config}: stopping: canary is {share}, expected 1 in a fleet"
        raise VlaRosError(f"{found}: all its cells run the version that the lead announces")


class Member:
    """
    Args:
        lead: namespace of the lead, `/` where it has none.

    Raises:
        VlaRosError: the cell's node has no namespace to be told from others by, a foreign policy, or a `canary`.
    """

    def __init__(self, trainer: TrainerNode, lead: str, group: CallbackGroup) -> None:
        self._trainer, self.name = trainer, trainer.get_namespace()
        if self.name == "/":
            raise VlaRosError("parameter `lead`: this node has no namespace; start each cell of a fleet in one of its own")
        if trainer.prompt is None:
            raise VlaRosError(f"parameter `lead`: policy {trainer.policy} is foreign: it learns where it runs")
        refuse_canary(trainer)
        lead = "/" + lead.strip("/")
        within = lead.rstrip("/")
        self.goals = f"{within}/improve"
        self._lead, self._policy = lead, fingerprint(Path(trainer.policy))
        self._recorded = self._on_disk()
        self._notes: dict[str, dict[str, object]] = {}  # of an episode: what is not in its file
        self._orders, self._heard = Fleet(), time.monotonic()
        self._wanted: PolicyVersion | None = None
        self._followed = (0, False)  # version and probation that the cell was told
        self._rang = ("", "")
        self._failures, self._given_up = 0, ""
        self._message = ""
        self._hash = functools.lru_cache(maxsize=8)(sha256)  # of files that never change

        steady = Clock(clock_type=ClockType.STEADY_TIME)
        callbacks = MutuallyExclusiveCallbackGroup()
        self._tell = trainer.create_publisher(FleetMember, f"{within}/members", qos.RECORD)
        trainer.create_subscription(Fleet, f"{within}/orders", self._on_orders, qos.STATUS, callback_group=callbacks)
        trainer.create_subscription(
            PolicyVersion, f"{within}/policy/version", self._on_version, qos.STATUS, callback_group=callbacks
        )
        FileServer(trainer, FILES, self._find, group)
        self._weights = WeightClient(trainer, trainer.store, f"{within}/{SERVICE}")
        trainer.create_timer(BEAT, self._beat, clock=steady, callback_group=callbacks)
        threading.Thread(target=self._run, name="fleet member", daemon=True).start()

    # -- what it hears and tells ----------------------------------------------------------------------------------

    def _on_orders(self, message: Fleet) -> None:
        self._orders, self._heard = message, time.monotonic()
        if self.name not in [*message.members, *message.refused]:
            self._beat()

    def _on_version(self, message: PolicyVersion) -> None:
        self._wanted = message

    def _beat(self) -> None:
        orders, quiet = self._orders, time.monotonic() - self._heard > QUIET
        if quiet:
            self._trainer.diagnostics.fault(
                "fleet", f"lead {self._lead}: nothing heard for {QUIET:g} s; this cell waits", level=1
            )
        elif self.name in orders.refused:
            reason = orders.reasons[list(orders.refused).index(self.name)]
            self._trainer.diagnostics.fault("fleet", f"lead {self._lead} refuses this cell: {reason}")
        else:
            self._trainer.diagnostics.clear("fleet")
        message = FleetMember(
            name=self.name, robot=self._trainer.contract.robot, policy=self._policy, policy_version=self._trainer.running,
            episodes=len(self._recorded), phase=self._trainer.phase, message=self._message,
        )  # fmt: skip
        message.header.stamp = self._trainer.get_clock().now().to_msg()
        self._tell.publish(message)

    def _on_disk(self) -> list[str]:
        """Its episodes for a fleet, whatever became of the attempt that recorded them."""
        folder = self._trainer.folder
        return sorted(str(path.relative_to(folder)) for path in folder.glob(f"{PRACTICE}*/*.mcap"))

    def _find(self, name: str) -> tuple[Path | None, str]:
        """The list of episodes, or one of them with its hash."""
        if not name:
            return None, json.dumps(self._recorded)
        if name not in self._recorded:
            raise VlaRosError(f"no episode {name!r}; the list (an empty name) has {len(self._recorded)}")
        path = self._trainer.folder / name
        return path, json.dumps({"sha256": self._hash(path), **self._notes.get(name, {})})

    # -- its thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        trainer = self._trainer
        while trainer.context.ok():
            try:
                if work := self._due():
                    with trainer.busy:
                        work()
                else:
                    if trainer.phase == "collecting":
                        trainer.report(phase="idle")
                    time.sleep(0.05)
            except Cancelled:
                if trainer.context.ok():
                    trainer.report(phase="idle")
            except VlaRosError as error:
                self._failed(str(error))
                time.sleep(RETRY)
            except Exception as error:  # noqa: BLE001 (whatever it is, a thread that ends would be silent)
                if not trainer.context.ok():  # it was shut down in the middle of something
                    return
                trainer.get_logger().error(traceback.format_exc())
                self._failed(f"{type(error).__name__}: {error}")  # the lead hears of it
                time.sleep(RETRY)

    def _due(self) -> Callable[[], None] | None:
        """What comes next for this cell."""
        orders, wanted, running = self._orders, self._wanted, self._trainer.running
        if time.monotonic() - self._heard > QUIET or self.name not in orders.members:
            return None
        if (orders.stop_rule, orders.sentence) != self._rang:
            return lambda: self._ring(orders)
        if wanted is not None and (*self._followed, running) != (wanted.number, wanted.probation, wanted.number):
            return lambda: self._follow(wanted)
        if self._given_up not in ("", orders.practice):
            self._failures, self._given_up = 0, ""
        if orders.practice not in ("", self._given_up) and not orders.pause and running == orders.policy_version:
            return lambda: self._practise(orders)
        return None

    def _ring(self, orders: Fleet) -> None:
        """The fleet's rule rang: what has changed in this cell?"""
        self._rang = (orders.stop_rule, orders.sentence)
        if orders.stop_rule:
            self._trainer.maintenance.ring(Stop(orders.stop_rule, orders.sentence, orders.best_version))
        else:
            self._trainer.maintenance.clear()

    def _follow(self, wanted: PolicyVersion) -> None:
        """The cell runs what the lead has announced; the store here is filled with it first."""
        store = self._trainer.store
        if wanted.number not in store.numbers():
            self._weights.fetch(wanted.number, wanted.sha256)
        if (found := store.record(wanted.number).sha256) != wanted.sha256:
            which = f"version {wanted.number} has sha256 {found[:16]}, lead {self._lead} announced {wanted.sha256[:16]}"
            raise VlaRosError(f"{store.folder}: {which}: this store belongs to another trainer; choose an empty folder")
        self._trainer.versions.run(wanted.number, int(wanted.probation))
        self._followed = (wanted.number, wanted.probation)
        self._message, self._failures, self._given_up = "", 0, ""

    def _practise(self, orders: Fleet) -> None:
        """One episode. Its scene is no other cell's, nor one that this cell had before it was started again."""
        trainer, begun = self._trainer, sum(name.startswith(f"{orders.practice}/") for name in self._recorded)
        seed = zlib.crc32(f"{orders.seed} {self.name} {begun}".encode())
        trainer.report(phase="collecting", message="")
        request = EpisodeRequest(seed=seed, split="train", task=orders.task, folder=orders.practice)
        try:
            e: Episode = trainer.next_episode(request, lambda: self._orders.practice != orders.practice)
            values, truth = trainer.measured()
            self._notes[f"{orders.practice}/{e.id}.mcap"] = {"quality": values, "audit": truth}
        finally:
            trainer.runner.hold(False)
            self._recorded = self._on_disk()
        trainer.episodes.publish(e)
        self._beat()
        if not e.corrected_steps:
            trainer.maintenance.examine(e)
        if e.outcome != "aborted":
            self._message, self._failures = "", 0
        elif e.termination_reason != "cancelled":
            self._failed(f"episode {e.id} was aborted: {e.termination_reason}")

    def _failed(self, message: str) -> None:
        """The others go on; this cell tries again, but not for ever."""
        self._failures += 1
        if self._failures >= FAILURES and self._orders.practice:
            self._given_up = self._orders.practice
            message = f"{self._failures} failures in a row, this cell takes no further part in {self._given_up}: {message}"
            self._trainer.report(phase="stopped", message=message)
        self._message = message
        self._trainer.get_logger().error(message)
        self._trainer.diagnostics.error(message)
