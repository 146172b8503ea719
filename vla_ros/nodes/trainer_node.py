"""Online training: samples instructions, has episodes run and recorded, a child process learn, announces versions, and goes
back to the best one when a stopping rule says so (vla_ros/learning/stopping.py).

Threads: a goal runs in a thread of its own; callbacks only leave it values, each in one assignment or append.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.node import Node
from std_msgs.msg import Float32
from std_srvs.srv import Trigger

from vla_ros.action import Improve, RunTask
from vla_ros.episodes import label
from vla_ros.episodes.folder import Shelf, corrected_episodes
from vla_ros.episodes.monitor import LATCHED, EpisodeMonitor
from vla_ros.errors import VlaRosError
from vla_ros.learning.child import LearnerProcess
from vla_ros.learning.learner import load_config
from vla_ros.learning.stopping import Stop, Stopping, task_of
from vla_ros.msg import Episode, PolicyVersion, TrainingState, TrueOutcome
from vla_ros.nodes import qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.episode_runner import PATIENCE, Cancelled, EpisodeRequest, EpisodeRunner
from vla_ros.nodes.fleet_member import Member
from vla_ros.nodes.main import run, spin_threads
from vla_ros.nodes.maintenance import Maintenance
from vla_ros.nodes.versions import Versions
from vla_ros.nodes.weights import WeightServer
from vla_ros.policy.foreign import NOBODY, is_foreign
from vla_ros.policy.policy import load_prompt
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.srv import LabelEpisode

ABORTED_IN_A_ROW = 5  # then practice stops: something is broken


class TrainerNode(Node):
    """One cell's trainer. With the parameter `lead` it practises for a fleet (fleet_member.py), whose lead (fleet_node.py) is a
    trainer that has its episodes from other cells."""

    def __init__(self, name: str = "trainer_node") -> None:
        super().__init__(name)
        p = self.declare_parameter
        self.contract = RobotContract.load(p("robot", "panda").value)
        self.policy = p("policy", "").value
        # An instruction that the policy cannot read is refused at once; foreign ones read anything.
        self.prompt = None if is_foreign(self.policy) else load_prompt(Path(self.policy))
        self.store = WeightStore(Path(p("store", "").value or "store"))
        self.config = p("config", "config/training/self_improvement.yaml").value
        _, self.stopping = load_config(self.config)  # fail at start, not after an hour of practice
        self.folder = Path(p("episodes_dir", "").value or "episodes")
        keep = int(p("keep_episodes", 0).value)  # newest recordings that practice keeps, besides those that people gave; 0: all
        if keep < 0:
            raise VlaRosError(f"parameter `keep_episodes` is {keep}, expected 0 (all) or more")
        self.shelf = Shelf(self.folder, keep)
        self.busy = threading.Lock()  # one goal at a time moves the arm
        self._quality: list[float] = []  # measures since the last episode's end
        self._truth: bool | None = None
        self._detected: dict[str, bool] = {}  # of this practice's episodes, by id: success
        self._audits: deque[tuple[bool, bool]] = deque()  # detected and labelled success, not yet looked at
        self._state = TrainingState(phase="idle")
        self._before = ""  # its phase, until the runner began to wait for a person

        self.diagnostics = Diagnostics(self, name.removesuffix("_node"))
        self.versions = Versions(self)
        self.training = self.create_publisher(TrainingState, "training/state", qos.STATUS)
        self.episodes = self.create_publisher(Episode, "training/episode", qos.RECORD)
        own = ReentrantCallbackGroup()
        goals: dict[str, Any] = {
            "goal_callback": self._on_goal, "cancel_callback": lambda _: CancelResponse.ACCEPT, "callback_group": own,
        }  # fmt: skip
        self._meet(own, goals)
        WeightServer(self, self.store, own)
        self.create_service(LabelEpisode, "episodes/label", self._on_label, callback_group=own)
        self._improve = ActionServer(self, Improve, "improve", self._execute_improve, **goals)
        self.report()
        self.get_logger().info(f"episodes go to {self.folder}, versions to {self.store.folder}")

    def _meet(self, own: ReentrantCallbackGroup, goals: dict[str, Any]) -> None:
        """The cell that practises here."""
        p = self.declare_parameter
        reset_by = p("reset", "cell").value
        if reset_by not in ("cell", "operator"):
            raise VlaRosError(f"parameter `reset` is {reset_by!r}, expected 'cell' or 'operator'")
        p("material", "")  # batch on the table, recorded with each episode; change it when the batch changes
        topics = list(p("record_topics", [""]).value)
        self.runner = EpisodeRunner(self, self.contract, self.folder, reset_by, topics, judged=self.policy != NOBODY)
        self.runner.notify = self._on_wait
        self.maintenance = Maintenance(self, self.contract, self.diagnostics)
        self.create_subscription(
            PolicyVersion, "policy/active", self.versions.on_active, qos.STATUS, callback_group=MutuallyExclusiveCallbackGroup()
        )
        quality, audit = p("quality_topic", "").value, p("audit_topic", "").value
        self._measures, self._audited = bool(quality), bool(audit)
        if quality:  # std_msgs/Float32, larger is better: an inspection's score, say
            self.create_subscription(Float32, quality, self._on_quality, qos.RECORD, callback_group=own)
        if audit:  # vla_ros/TrueOutcome: audits every episode; nothing learns from it
            self.create_subscription(TrueOutcome, audit, self._on_truth, qos.STATUS, callback_group=own)
        self.create_service(Trigger, "trainer/ready", self._on_ready, callback_group=own)
        self._run_task = ActionServer(self, RunTask, "run_task", self._execute_run_task, **goals)
        lead = p("lead", "").value  # namespace of the fleet's lead; empty: this cell learns by itself
        self.member = Member(self, lead, own) if lead else None

    @property
    def running(self) -> int:
        """The version that the policy node runs; 0: it has not been heard."""
        return self.versions.active

    @property
    def phase(self) -> str:
        return str(self._state.phase)

    def report(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self._state, name, value)
        self._state.header.stamp = self.get_clock().now().to_msg()
        self._state.policy_version, self._state.swaps = self.running, self.versions.swaps
        self._state.probation = self.versions.canary.left
        self.training.publish(self._state)

    def _on_wait(self, phase: str, message: str) -> None:
        """The runner waits for a person; with an empty phase it goes on."""
        if phase:
            self._before = self.phase
            self._state.resets_wanted += phase == "reset_wanted"
            self.get_logger().warning(f"a person is wanted: {message}")
        self.report(phase=phase or self._before, message=message)

    def _on_quality(self, message: Float32) -> None:
        if math.isfinite(message.data):
            if self.busy.locked():  # else it is of no episode
                self._quality.append(message.data)
        else:
            self.diagnostics.error(f"quality measure: found {message.data}, expected a finite number; left out")

    def _on_truth(self, message: TrueOutcome) -> None:
        self._truth = message.success

    def _on_goal(self, goal: Any) -> GoalResponse:
        if self.busy.locked():
            first = f"cancel that of {self.member.goals}" if self.member else "cancel it first"
            self.get_logger().warning(f"goal rejected: another one is running; {first}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    # -- actions --------------------------------------------------------------------------------------------------

    def _execute_run_task(self, handle: Any) -> RunTask.Result:
        g = handle.request
        request = EpisodeRequest(g.instruction, g.time_limit, g.greedy, g.temperature, g.seed, g.split or "train", g.task)

        def feedback(monitor: EpisodeMonitor) -> None:
            handle.publish_feedback(
                RunTask.Feedback(
                    steps_to_go=monitor.final_steps_to_go, steps=monitor.steps, policy_version=monitor.policy_version
                )
            )

        result = RunTask.Result(outcome="aborted")
        with self.busy:
            try:
                if g.instruction and self.prompt is not None:
                    self.prompt([g.instruction])
                with self.versions.trial(g.policy_version):
                    request = self.runner.prepare(request, lambda: handle.is_cancel_requested)
                    e = self.runner.run(request, lambda: handle.is_cancel_requested, feedback)
            except Cancelled:
                return self._cancelled(handle, result)
            except VlaRosError as error:
                return self._failed(handle, result, error)
        self.episodes.publish(e)
        if self.member is None:
            self.versions.prove(e)
        result = RunTask.Result(
            outcome=e.outcome, termination_reason=e.termination_reason, episode_id=e.id, instruction=e.instruction,
            steps=e.steps, duration=e.duration, policy_version=e.policy_version, file=e.file,
        )  # fmt: skip
        if e.termination_reason == "cancelled":
            return self._cancelled(handle, result)
        handle.succeed()
        return result

    def _cancelled(self, handle: Any, result: Any) -> Any:
        """By the client, or because this node is shutting down, which no client asked for."""
        result.termination_reason = "cancelled"
        handle.canceled() if handle.is_cancel_requested else handle.abort()
        return result

    def _failed(self, handle: Any, result: Any, error: VlaRosError) -> Any:
        self.get_logger().error(str(error))
        self.diagnostics.error(str(error))
        self.report(phase="stopped", message=str(error))
        result.termination_reason = str(error)
        handle.abort()
        return result

    def _execute_improve(self, handle: Any) -> Improve.Result:
        goal, result = handle.request, Improve.Result()
        if not goal.episodes or not goal.episodes_per_update:
            return self._failed(handle, result, VlaRosError("Improve: episodes and episodes_per_update must be above 0"))
        if self.prompt is None:
            what = "is nobody: start with policy:=DIR" if self.policy == NOBODY else "is foreign: it learns where it runs"
            return self._failed(handle, result, VlaRosError(f"Improve: policy {self.policy} {what}"))
        if self.member is not None:
            elsewhere = f"Improve: this cell practises for a fleet; send the goal to {self.member.goals}"
            return self._failed(handle, result, VlaRosError(elsewhere))
        with self.busy:
            learner: LearnerProcess | None = None
            swaps_before = self.versions.swaps
            self.diagnostics.clear("practice")
            self.maintenance.clear()
            try:
                learner = LearnerProcess(Path(self.policy), self.store.folder, str(self.contract.path), self.config)
                first = learner.answer(timeout=120.0)
                if first is None:
                    raise VlaRosError("the learner process did not start within 120 s")
                self.versions.resume(first["version"])
                stop = self._practise(handle, learner, result)
                self.versions.turn(self.versions.canary.trusted)
            except Cancelled:
                self.report(phase="idle")
                return self._cancelled(handle, result)
            except VlaRosError as error:
                return self._failed(handle, result, error)
            finally:
                self._hold(False)
                result.swaps, result.policy_version = self.versions.swaps - swaps_before, self.running
                if learner is not None:
                    learner.close()
            if stop is None:
                self.report(phase="idle")
                result.termination_reason = "finished"
            else:
                result.termination_reason, result.message = "stopped", f"{stop.rule}: {stop.sentence}"
                self.report(phase="stopped", message=result.message, stop_rule=stop.rule)
        handle.succeed()
        return result

    def _practise(self, handle: Any, learner: LearnerProcess, result: Improve.Result) -> Stop | None:
        """Algorithm 1 of the paper: whole batches of whole episodes, N updates, swap, next batch; until a rule stops it."""
        goal, batch = handle.request, list[Episode]()
        canary, watch, recent = self.versions.canary, Stopping(self.stopping), deque[Episode](maxlen=self.stopping.window)
        self._detected, self._audits, self._quality = {}, deque(), []
        self.report(stop_rule="", rollbacks=0, best_version=0)
        stopped = lambda: handle.is_cancel_requested  # noqa: E731
        # What the learner has not read yet: people also take over in tasks, and did in practice before.
        corrected = [str(path) for path in corrected_episodes(self.folder, self.contract.robot)]
        self.report(corrected_episodes=0)
        aborted, told, rate = Counter[tuple[str, int]](), "", math.nan
        stop: Stop | None = None
        while result.episodes < goal.episodes and not (stop and stop.ends):
            message = told or canary.sentence
            self.report(phase="collecting", episodes=result.episodes, episodes_goal=goal.episodes, message=message)
            e = self.next_episode(EpisodeRequest(seed=goal.seed + result.episodes, split="train", task=goal.task), stopped)
            says = e.outcome != "aborted" or e.termination_reason == LATCHED
            if says and e.policy_version and not e.corrected_steps:  # version 0: it ended before the policy did anything
                self._detected[e.id] = e.outcome == "success"  # before anybody hears of it: a label may come at once
            self.episodes.publish(e)
            if e.termination_reason == "cancelled":
                raise Cancelled
            if self.overruled(e):  # an operator's choice; the rules do not go back behind it
                watch = Stopping(self.stopping)
            if e.corrected_steps:
                corrected.append(e.file)  # whatever becomes of the episode: it is a person's work
                self.report(corrected_episodes=self._state.corrected_episodes + 1)
            else:
                self.maintenance.examine(e)
            if stop := self._asked(watch, e):
                told = self._go_back(stop, result)
                batch = [x for x in batch if x.policy_version == stop.best]  # those that ran beside a canary
            else:
                self.versions.prove(e)
            who = e.id.rpartition("/")[0], e.policy_version  # cell of a fleet; one version must not hide the other's
            if e.outcome == "aborted":
                aborted[who] += 1
                self.get_logger().warning(f"episode {e.id} is left out of learning: {e.termination_reason}")
                if aborted[who] == ABORTED_IN_A_ROW:
                    self._broken(e)
                continue
            aborted[who] = 0
            result.episodes += 1
            if not e.corrected_steps:
                recent.append(e)
                rate = sum(x.outcome == "success" for x in recent) / len(recent)
                self.report(success_rate=rate, mean_length=sum(x.steps for x in recent) / len(recent))
            self.report(episodes=result.episodes)
            handle.publish_feedback(
                Improve.Feedback(
                    episodes=result.episodes, iteration=result.updates, success_rate=rate, policy_version=self.running
                )
            )
            if stop:
                continue
            batch.append(e)
            own = [x for x in batch if x.policy_version == canary.newest]
            if len(own) >= goal.episodes_per_update and canary.settled:
                self._learn(learner, own, corrected, stopped)
                batch.clear()
                corrected.clear()
                result.updates += 1
                told = ""
                self.diagnostics.count("deleted_recordings", self.shelf.clear())
        return stop if stop and stop.ends else None

    # -- the cell -------------------------------------------------------------------------------------------------

    def next_episode(self, request: EpisodeRequest, stopped: Callable[[], bool]) -> Episode:
        """Lays out a scene, runs and records an episode in it."""
        self.versions.turn(self.versions.canary.draw())
        prepared = self.runner.prepare(request, stopped)
        self._truth = None
        return self.runner.run(prepared, stopped)

    def measured(self) -> tuple[list[float], bool | None]:
        """Quality and audited success of the episode that has just ended; asked for once."""
        values, self._quality = self._quality, []
        self.diagnostics.count("unmeasured_episodes", int(self._measures and not values))
        self.diagnostics.count("unaudited_episodes", int(self._audited and self._truth is None))
        return values, self._truth

    def _broken(self, e: Episode) -> None:
        raise VlaRosError(f"{ABORTED_IN_A_ROW} episodes in a row were aborted, the last one by {e.termination_reason}")

    def _hold(self, on: bool) -> None:
        self.runner.hold(on)

    def arrive(self, number: int) -> None:
        """Waits until the announced version runs; a policy node that died may come back, no faster in a fast simulation."""
        if not self.runner.wait(lambda: self.running == number, PATIENCE, now=time.monotonic):
            found = f"the policy node did not take version {number} within {PATIENCE:g} s"
            raise VlaRosError(f"{found}; it runs version {self.running}")

    def overruled(self, e: Episode) -> bool:
        return self.versions.overruled(e)

    # -- rules and versions ---------------------------------------------------------------------------------------

    def _asked(self, watch: Stopping, e: Episode) -> Stop | None:
        """What the stopping rules say after an episode; one that broke off for want of a policy says nothing about it, nor does
        one in which a person took over."""
        stop: Stop | None = None
        while self._audits and stop is None:
            stop = watch.audit(*self._audits.popleft())
        values, truth = self.measured()
        if (success := self._detected.get(e.id)) is not None:
            quality = {"quality": sum(values) / len(values)} if values else {}
            group = task_of(e.instruction)
            beside = self.versions.canary.beside(e.policy_version)
            stop = stop or watch.episode(e.policy_version, success, e.termination_reason, quality, truth, group, beside)
        if best := watch.best:
            self.report(best_version=best.version, best_rate=best.rate, best_low=best.low, best_high=best.high)
        return stop

    def _go_back(self, stop: Stop, result: Improve.Result) -> str:
        """The better version runs from here on, and the next update goes on from it; returns what to tell."""
        message = f"{stop.rule}: {stop.sentence}; back to version {stop.best}"
        self.get_logger().warning(message)
        if stop.ends:
            self.diagnostics.fault("practice", message, level=2 if stop.rule in ("hacking", "failures") else 1)
        else:
            result.rollbacks += 1
            self.diagnostics.error(message)
        self.maintenance.ring(stop)
        self.versions.publish(stop.best)
        self.report(rollbacks=result.rollbacks, message=message)
        return message

    def _learn(self, learner: LearnerProcess, batch: list[Episode], corrected: list[str], stopped: Any) -> None:
        """One update in the child, on a batch and on recordings in which a person took over; simulated time waits, a real arm
        stands still. Then swap and go on."""
        self.report(phase="learning")
        self._hold(True)
        learner.submit([e.file for e in batch], batch[-1].policy_version, corrected)
        answer = None
        while answer is None:
            if stopped():
                raise Cancelled
            answer = learner.answer(timeout=0.1)
        self.report(
            phase="publishing", iteration=self._state.iteration + 1,  # a batch that people acted in alone has no such figures
            **{name: answer.get(name, math.nan) for name in ("loss", "entropy", "mean_return")},
        )  # fmt: skip
        self._hold(False)
        if not self.versions.chosen:  # what an operator has chosen meanwhile stays; the new version lies in the store
            self.versions.publish(int(answer["version"]))

    # -- services -------------------------------------------------------------------------------------------------

    def _on_label(self, request: LabelEpisode.Request, response: LabelEpisode.Response) -> LabelEpisode.Response:
        try:
            cell, _, name = request.episode_id.rpartition("/")
            label(self.folder / cell, name, request.outcome, request.note)
            if request.outcome != "aborted" and request.episode_id in self._detected:
                self._audits.append((self._detected[request.episode_id], request.outcome == "success"))
            response.success = True
        except VlaRosError as error:
            response.message = str(error)
        return response

    def _on_ready(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.runner.operator_ready.set()
        response.success = True
        return response


def main(args: list[str] | None = None) -> int:
    return run(TrainerNode, args, spin=spin_threads)


if __name__ == "__main__":
    raise SystemExit(main())
