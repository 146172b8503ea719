"""The running cell, as `vla-ros deploy` needs it: what its nodes have, episodes by version, and the change-over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ros.cli import graph, param
from vla_ros.doctor.observed import Observed
from vla_ros.episodes.folder import read_info
from vla_ros.episodes.labels import read_label
from vla_ros.episodes.monitor import LATCHED
from vla_ros.errors import VlaRosError
from vla_ros.learning.trial import Ran
from vla_ros.policy.store import WeightStore

if TYPE_CHECKING:
    from rclpy.node import Node

HEAR = 5.0  # s for states that are transient local to arrive
ANSWER = 60.0  # s for a change-over; loading and checking a large version takes its time
END = 60.0  # s for a cancelled episode to end and the old version to be back
WANTED = {  # parameter by node
    "trainer_node": ("policy", "store", "episodes_dir", "reset", "lead"), "progress_node": ("judge",),
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What the cell's nodes have; paths as they are seen from here."""

    policy: Path
    judge: Path
    store: Path
    episodes: Path
    by_operator: bool  # a person lays out the scenes
    running: int
    sha256: str  # of the version that runs; empty: the checkpoint itself, which is no version yet


class LiveCell:
    """One thread; each wait spins the node."""

    def __init__(self, node: Node, namespace: str, tell: Callable[[str], None]) -> None:
        from rclpy.action import ActionClient

        from vla_ros.action import RunTask
        from vla_ros.msg import PolicyVersion, TrainingState
        from vla_ros.nodes import qos

        self.node, self.names, self.tell = node, Observed(namespace=namespace), tell
        self._goal = RunTask.Goal
        self._version: Any = None
        self._state: Any = None
        node.create_subscription(PolicyVersion, self.names.name("policy/active"), self._on_version, qos.STATUS)
        node.create_subscription(TrainingState, self.names.name("training/state"), self._on_state, qos.STATUS)
        self._run = ActionClient(node, RunTask, self.names.name("run_task"))

    def _on_version(self, message: Any) -> None:
        self._version = message

    def _on_state(self, message: Any) -> None:
        if self._state is not None and message.message and message.message != self._state.message:
            self.tell(message.message)  # a person is wanted, or what went wrong
        self._state = message

    def facts(self) -> Facts:
        """
        Raises:
            VlaRosError: a node is missing, the cell practises or belongs to a fleet, the policy is foreign, or its files are not
                here.
        """
        name = self.names.name
        if not graph.spin_until(self.node, lambda: self._version is not None and self._state is not None, HEAR):
            missing = "policy/active" if self._version is None else "training/state"
            who = "policy_node" if self._version is None else "trainer_node"
            raise VlaRosError(f"{name(missing)}: nothing heard for {HEAR:g} s; is {who} running?")
        told = {
            key: value
            for node, keys in WANTED.items()
            for key, (_, value) in zip(keys, param.values_of(self.node, name(node), list(keys)), strict=True)
        }
        if told["lead"]:
            raise VlaRosError(f"{name('trainer_node')}: lead: found {told['lead']}, expected none: it decides for its fleet")
        if self._state.phase not in ("idle", "stopped"):
            expected = "expected idle: wait for its end or cancel it"
            raise VlaRosError(f"{name('training/state')}: phase: found {self._state.phase}, {expected}")
        if self._version.stage == "foreign":
            raise VlaRosError(f"policy {told['policy']} is foreign: its versions are where it runs")
        places = {key: Path(told[key]) for key in ("policy", "judge", "store")}
        for key, path in places.items():
            if not path.is_dir():
                remedy = "run this in the folder in which the cell was launched, on the machine of trainer_node"
                raise VlaRosError(f"{key} {path}: no such folder; {remedy}")
        return Facts(
            **places, episodes=Path(told["episodes_dir"] or "episodes"), by_operator=told["reset"] == "operator",
            running=int(self._version.number), sha256=str(self._version.sha256),
        )  # fmt: skip

    def activate(self, number: int) -> None:
        """The version runs and a restart resumes it. Raises VlaRosError where policy_node refuses it."""
        from vla_ros.srv import ActivatePolicy

        name = self.names.name("policy/activate")
        answer = graph.call(self.node, ActivatePolicy, name, ActivatePolicy.Request(number=number), ANSWER)
        if not answer.success:
            raise VlaRosError(f"{name}: version {number} refused, version {answer.number} runs: {answer.message}")

    def marked(self, store: WeightStore, number: int) -> None:
        """Waits until the store says so, which its nodes do on threads of their own.

        Raises:
            VlaRosError: it does not.
        """

        def done() -> bool:
            return (marked := store.active()) is not None and marked.number == number

        if not graph.spin_until(self.node, done, HEAR):
            found = f"version {number} runs, but is not marked active after {HEAR:g} s"
            raise VlaRosError(f"{store.folder}: {found}; is this the store of policy_node?")

    def reduced_speed(self) -> None:
        from std_srvs.srv import SetBool

        name = self.names.name("safety/reduced_speed")
        answer = graph.call(self.node, SetBool, name, SetBool.Request(data=True))
        if not answer.success:
            raise VlaRosError(f"{name}: refused: {answer.message}")

    def runs(self, number: int, seconds: float = HEAR) -> bool:
        """Waits for it."""
        return graph.spin_until(self.node, lambda: self._version is not None and self._version.number == number, seconds)

    def episode(self, version: int, old: int, goal: dict[str, Any]) -> Ran:
        """One episode of a version; `old` runs before and after it. When this is interrupted the goal is cancelled and `old`
        waited for.

        Raises:
            VlaRosError: `old` does not run (somebody has chosen another), the trainer is busy, or could not run it.
        """
        if not self.runs(old):
            raise VlaRosError(f"version {self._version.number} runs, expected {old}: somebody has chosen it, so the trial ends")
        if not self._run.wait_for_server(timeout_sec=graph.PATIENCE):
            raise VlaRosError(f"action {self.names.name('run_task')} has no server; is trainer_node running?")
        sending = self._run.send_goal_async(self._goal(policy_version=version, **goal))
        try:
            graph.spin_until(self.node, sending.done)
            if not sending.result().accepted:
                raise VlaRosError(f"{self.names.name('run_task')}: rejected: the trainer is busy with another goal")
            future = sending.result().get_result_async()
            graph.spin_until(self.node, future.done)
        except KeyboardInterrupt:
            self._cancel(sending, old)
            raise
        return _ran(future.result().result, version)

    def _cancel(self, sending: Any, old: int) -> None:
        if graph.spin_until(self.node, sending.done, HEAR) and sending.result().accepted:
            sending.result().cancel_goal_async()
            future = sending.result().get_result_async()
            graph.spin_until(self.node, future.done, END)
        if not self.runs(old, END):
            self.tell(f"version {self._version.number} still runs; trainer_node has version {old} back when it comes up again")


def _ran(result: Any, version: int) -> Ran:
    """Raises VlaRosError where there was no episode."""
    if not result.episode_id:
        raise VlaRosError(f"run_task: version {version}: {result.termination_reason}")
    stopped, void = result.termination_reason == LATCHED, ""
    if int(read_info(Path(result.file)).metadata.get("corrected_steps", "0")):
        void = "a person took over"
    elif result.outcome == "aborted" and not stopped:
        void = f"aborted: {result.termination_reason}"
    elif result.policy_version != version:
        void = f"version {result.policy_version} ran"
    return Ran(result.episode_id, version, result.outcome == "success", stopped, void, result.file)


def success(ran: Ran) -> bool | None:
    """The operator's verdict where there is one, else the judge's; None: it says nothing."""
    outcome = read_label(ran.file).get("outcome")
    if outcome == "aborted" or ran.void:
        return None
    return ran.detected if outcome is None else outcome == "success"
