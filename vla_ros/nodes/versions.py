"""What trainer_node has run: a version is announced on policy/version, the policy node answers on policy/active, and the store's
marker names the one that a restart resumes.

Threads: a goal's thread calls; `on_active` is a callback, which leaves its values in one assignment each. The marker is written
under a lock.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vla_ros.errors import VlaRosError
from vla_ros.learning.canary import Canary
from vla_ros.msg import Episode, PolicyVersion
from vla_ros.nodes import qos

if TYPE_CHECKING:
    from vla_ros.nodes.trainer_node import TrainerNode


class Versions:
    def __init__(self, trainer: TrainerNode) -> None:
        self.active = 0  # version that the policy node runs; 0: it has not been heard
        self.announced = 0  # the last one that was asked for
        self.chosen = False  # by an operator, a version that the rules do not go back behind
        self.swaps = 0
        self.canary = Canary(trainer.stopping.canary)
        self._trainer, self._store = trainer, trainer.store
        self._trial = 0  # version that runs one episode because somebody asked for it
        self._marking = threading.Lock()
        self._announce = trainer.create_publisher(PolicyVersion, "policy/version", qos.STATUS)

    # -- what runs ------------------------------------------------------------------------------------------------

    def on_active(self, message: PolicyVersion) -> None:
        """Also after an operator's rollback: what runs is what a restart resumes and the next update goes on from. Not what runs
        on trial, or a share of the episodes on probation: a trainer that starts and finds that running has the proven one
        back."""
        self.chosen = self.chosen or message.chosen
        shares = message.trial or (message.probation and self.canary.share < 1)
        try:
            if message.sha256:  # a checkpoint that is no version yet, and a foreign policy, have none
                if self._store.record(message.number).sha256 != message.sha256:
                    raise VlaRosError(f"the policy node's version {message.number} is not that of {self._store.folder}")
                if not shares:
                    self._mark(message.number)
                elif not self.announced and (proven := self._store.active()) and proven.number != message.number:
                    self._ask(proven.number)
        except VlaRosError as error:
            self._trainer.get_logger().error(str(error))
            self._trainer.diagnostics.error(str(error))
        self.changed(message.number)
        self._trainer.report()

    def changed(self, number: int) -> None:
        self.swaps += self.active not in (0, number)
        self.active = number

    def _mark(self, number: int) -> None:
        with self._marking:
            self._store.activate(number)

    @property
    def obeyed(self) -> bool:
        """What runs is what was asked for; else an operator has chosen it."""
        return self.active == self.announced and not self.chosen

    def overruled(self, e: Episode) -> bool:
        """An operator has chosen a version: it runs by itself from here on."""
        if not self.chosen and e.policy_version in (0, self.announced):
            return False
        self.chosen = False
        self.canary.alone()
        self.publish(self.active)
        return True

    # -- what is to run -------------------------------------------------------------------------------------------

    def resume(self, number: int) -> None:
        """Practice begins: it goes on with the version that still shares the episodes with a proven one, else with this one."""
        if not self.obeyed:
            self.chosen = False
            self.canary.alone()
        self.publish(self.canary.trial or number)

    def publish(self, number: int) -> None:
        """Practice goes on from it, on probation if it was learned and has not been seen through that here."""
        known = self.canary.knows(number) or self._store.record(number).stage == "sft"
        self.run(number, 0 if known else self._trainer.stopping.probation)

    def run(self, number: int, probation: int) -> None:
        """A version of the store, with so many episodes of probation; returns when it runs."""
        self.canary.begin(number, probation)
        if told := self.canary.sentence:
            self._trainer.get_logger().info(told)
        self._run(number)

    def turn(self, number: int) -> None:
        """That one for the next episode, while two versions share them, and unless an operator has chosen."""
        if self.canary.trial and self.obeyed and number != self.active:
            self._run(number)

    @contextlib.contextmanager
    def trial(self, number: int) -> Iterator[None]:
        """That version for one episode, as one on probation; 0: the one that is trusted. What ran before is back at the end,
        however it ends, unless an operator has chosen meanwhile, and a restart resumes that at any time.

        Raises:
            VlaRosError: nothing is marked that could come back, or the policy node does not take the version.
        """
        self.turn(self.canary.trusted)
        if number in (0, self.active):
            yield
            return
        marked = self._store.active()
        if marked is None or marked.number != self.active:
            found = f"version {marked.number}" if marked else "none"
            expected = f"version {self.active}, which runs and is to come back"
            remedy = f"vla-ros policy activate {self.active}"
            raise VlaRosError(f"{self._store.folder}: active: found {found}, expected {expected}: `{remedy}`")
        self._store.record(number)
        before, self.chosen = self.chosen, False
        self._trial = number
        try:
            self._ask(number)
            self._trainer.arrive(number)
            yield
        finally:
            self._trial = 0
            if not self.chosen and self._trainer.context.ok():
                self._run(marked.number)
            self.chosen = self.chosen or before

    def prove(self, e: Episode) -> None:
        """One episode less on probation, if it says something about the version that is."""
        if e.outcome == "aborted" or e.corrected_steps or not self.obeyed:
            return
        if self.canary.ran(e.policy_version):
            self._run(e.policy_version)
        else:
            self._trainer.report()

    def _run(self, number: int) -> None:
        self._ask(number)
        self._trainer.arrive(number)
        if number != self.canary.trial:
            self._mark(number)

    def _ask(self, number: int) -> None:
        self.announced = number
        r = self._store.record(number)
        message = PolicyVersion(
            number=r.number, parent=r.parent, sha256=r.sha256, stage=r.stage, path=r.path, metrics=json.dumps(r.metrics),
            probation=number == self._trial or (number == self.canary.newest and self.canary.left > 0),
            trial=number == self._trial,
        )  # fmt: skip
        message.header.stamp = self._trainer.get_clock().now().to_msg()
        self._announce.publish(message)
        self._trainer.report()
