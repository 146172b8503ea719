"""Runs and records one episode at a time on the live graph, for the trainer node.

Threads: subscriptions share one mutually exclusive group, so episode state is touched by one callback at a time under
`_changed`; `run` executes in an action's thread and waits on `_changed`, which every callback notifies.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from std_msgs.msg import Header

from vla_ros.episodes import EpisodeWriter
from vla_ros.episodes.check import TELEOPERATION
from vla_ros.episodes.monitor import SUCCESS, TIME_LIMIT, EpisodeMonitor
from vla_ros.episodes.tensors import OBSERVATION
from vla_ros.errors import VlaRosError
from vla_ros.msg import ActionChunk, Episode, Instruction, Observation, Progress, SafetyState
from vla_ros.nodes import convert, qos
from vla_ros.nodes.interfaces import message_class
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.srv import ResetCell

HOME_TOLERANCE = 0.02  # rad
FREE = 2.0**31 - 1  # s, the last stamp there is
STALLED = 10.0  # s of wall time without a step until an episode is given up; a lock-stepped clock would wait for ever
# What a step needs.
PARTNERS = {"policy/chunk": "policy_node", "progress": "progress_node with a judge", "safety/state": "safety_node"}
PATIENCE = 30.0  # s of wall time for a partner to come up
LATE = 0.5  # s of wall time for the last observation to arrive after its estimate


@dataclass(frozen=True)
class EpisodeRequest:
    """What to run; the fields are RunTask's goal."""

    instruction: str = ""  # empty: the cell's reset chooses
    time_limit: float = 0.0  # s; 0: the cell's for this task, else the contract's
    greedy: bool = False
    temperature: float = 0.0  # 0: the policy's
    seed: int = 0
    split: str = "train"
    task: str = ""
    folder: str = ""  # below that of the episodes


class Cancelled(Exception):
    """The goal was cancelled before the episode began."""


class EpisodeRunner:
    """Owns what an episode needs: instruction, reset, recording, end, and the pace of a lock-stepped simulation.

    Args:
        judged: a judge counts the steps and sees success; else the chunks count them, and the verdict is the operator's label.
    """

    def __init__(
        self, node: Node, contract: RobotContract, folder: Path, reset_by: str, extra_topics: list[str], judged: bool = True
    ) -> None:
        self.node, self.contract, self.folder, self.reset_by, self.judged = node, contract, folder, reset_by, judged
        self._home = Kinematics(contract).home()
        self._changed = threading.Condition()
        self._monitor: EpisodeMonitor | None = None
        self._writer: EpisodeWriter | None = None
        self._stamp = 0.0  # s, newest observation
        self._position: np.ndarray | None = None
        self._newest = b""  # the observation itself; an episode begins with it
        self._count = 0
        self._hold = False
        self._acknowledged = 0.0
        self.latched = False
        self.limited_ticks = 0
        self._safe = 0.0  # s, stamp of the newest safety state
        self.operator_ready = threading.Event()
        self.notify: Callable[[str, str], None] = lambda phase, message: None  # with an empty phase: it goes on

        self.instruction = node.create_publisher(Instruction, "instruction", qos.STATUS)
        self.ack = node.create_publisher(Header, "trainer/ack", qos.STATUS)
        self.reset_cell = node.create_client(ResetCell, "cell/reset", callback_group=ReentrantCallbackGroup())
        self._failure: VlaRosError | None = None  # of the recorder, in the running episode
        self._listen(extra_topics)
        self.instruction.publish(Instruction())  # what a trainer that died had asked for is over
        self._acknowledge()

    def _listen(self, extra: list[str]) -> None:
        """Raw subscriptions: the bytes that arrive are what is recorded; fields are read where the episode needs them.

        In a recording a cell's topics have the names of a cell without a namespace, so that nobody need know where it was made.
        """
        group = MutuallyExclusiveCallbackGroup()
        heard: dict[str, tuple[type, Callable[[EpisodeMonitor | None, Any], bool] | None, Any]] = {
            # First, because it is served first: behind a queue of the others the episode would end without it.
            "/safety/state": (SafetyState, self._on_safety, qos.RECORD),
            OBSERVATION: (Observation, self._on_observation, qos.observations(qos.simulated(self.node), 5)),
            "/policy/chunk": (ActionChunk, self._on_chunk, qos.RECORD),
            "/progress": (Progress, self._on_progress, qos.RECORD),
        }
        for entry in filter(None, extra):
            topic, _, kind = entry.partition(" ")
            heard[topic] = (message_class(kind), None, qos.SENSOR)
        for topic, (message, handle, profile) in heard.items():
            callback = self._recorder(f"/{topic.lstrip('/')}", message, handle)
            name = topic if handle is None else topic.removeprefix("/")  # ours is in the node's namespace
            self.node.create_subscription(message, name, callback, profile, callback_group=group, raw=True)

    def _recorder(
        self, topic: str, kind: type, handle: Callable[[EpisodeMonitor | None, Any], bool] | None
    ) -> Callable[[bytes], None]:
        full_name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        paces = topic in (OBSERVATION, "/policy/chunk", "/progress")

        def callback(cdr: bytes) -> None:
            with self._changed:
                monitor = self._monitor
                if topic == OBSERVATION:
                    self._newest = cdr
                try:
                    wanted = handle(monitor, deserialize_message(cdr, kind)) if handle else monitor is not None
                except VlaRosError as error:  # the nodes that answer it say so, too
                    self.node.get_logger().error(f"{topic}: {error}; not recorded", throttle_duration_sec=2.0)
                    wanted = False
                if wanted:
                    self._record(topic, full_name, cdr)
                self._changed.notify_all()
            if paces:
                self._acknowledge()

        return callback

    def _record(self, topic: str, kind: str, cdr: bytes) -> None:
        """A recorder that fails ends the episode, not the node: the arm would go on acting without it."""
        if self._writer is None or self._failure:
            return
        try:
            kept = self._writer.write(topic, kind, cdr, self.node.get_clock().now().nanoseconds)
        except VlaRosError as error:
            self._failure = error
            if self._monitor is not None:
                self._monitor.cancel()
            return
        if not kept:
            self.node.get_logger().error(f"{topic}: the disk is too slow, not recorded", throttle_duration_sec=2.0)

    def _on_observation(self, monitor: EpisodeMonitor | None, message: Observation) -> bool:
        self._stamp = convert.seconds(message.header.stamp)
        joints = convert.ordered(convert.observation(message).joints, self.contract.joints)
        self._position = joints.position
        if monitor is not None:
            monitor.observe(self._stamp)
        return True

    def _on_chunk(self, monitor: EpisodeMonitor | None, message: ActionChunk) -> bool:
        if monitor is None or message.episode_id != monitor.episode_id:
            return False
        stamp = convert.seconds(message.observation_stamp)
        monitor.chunk(stamp, message.policy_version, message.corrected)
        if not self.judged:
            monitor.judge(stamp, math.nan, math.nan, False)
        return True

    def _on_progress(self, monitor: EpisodeMonitor | None, message: Progress) -> bool:
        if monitor is None or message.episode_id != monitor.episode_id or not self.judged:
            return False
        monitor.judge(convert.seconds(message.header.stamp), message.steps_to_go, message.reward, message.success)
        return True

    def _on_safety(self, monitor: EpisodeMonitor | None, message: SafetyState) -> bool:
        self.latched = message.state == SafetyState.LATCHED
        self._safe = convert.seconds(message.header.stamp)
        self.limited_ticks = message.limited_ticks
        if monitor is not None:
            monitor.safety(self.latched)
        return True

    # -- pace of a lock-stepped simulation ------------------------------------------------------------------------

    def _acknowledge(self) -> None:
        """Everything up to a stamp has been recorded: simulated time may pass that far, or freely between episodes."""
        with self._changed:
            if self._hold or (self._monitor is not None and not self._monitor.complete(self._stamp)):
                return
            stamp = FREE if self._monitor is None else self._stamp
            if stamp == self._acknowledged:
                return
            self._publish_ack(stamp)

    def _publish_ack(self, stamp: float) -> None:
        """Under the lock: an acknowledgement that is overtaken by a later one would set time free in an episode."""
        self._acknowledged = stamp
        self.ack.publish(Header(stamp=convert.stamp(stamp)))

    def hold(self, on: bool) -> None:
        """Keep a lock-stepped simulation waiting (while the learner has the processor); no effect on a real cell."""
        self._hold = on
        if on:
            self._grant(self._stamp)
        else:
            self._acknowledge()

    def _grant(self, stamp: float) -> None:
        """Simulated time may pass until the first frame after this stamp, and no further."""
        with self._changed:
            self._publish_ack(stamp)

    # -- one episode, in the action's thread ----------------------------------------------------------------------

    def wait(
        self,
        until: Callable[[], bool],
        seconds: float,
        cancelled: Callable[[], bool] = lambda: False,
        now: Callable[[], float] | None = None,
    ) -> bool:
        """True when the condition holds, False after `seconds` of ROS time, or of the clock `now`.

        Raises:
            Cancelled: the goal was cancelled meanwhile, or the node is shutting down.
        """
        now = now or self._now
        start = now()
        with self._changed:
            while not until():
                if cancelled() or not self.node.context.ok():
                    raise Cancelled
                if now() - start > seconds:
                    return False
                self._changed.wait(0.05)
        return True

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _now(self) -> float:
        return float(self.node.get_clock().now().nanoseconds) * 1e-9

    def prepare(self, request: EpisodeRequest, cancelled: Callable[[], bool]) -> EpisodeRequest:
        """Home the arm through the safety filter and lay out the scene; returns the request with what it left open."""
        self._released(cancelled)
        for topic, name in PARTNERS.items():
            if topic == "progress" and not self.judged:
                continue
            if not self.wait(lambda topic=topic: self.node.count_publishers(topic) > 0, PATIENCE, cancelled, time.monotonic):  # type: ignore[misc]
                full = self.node.resolve_topic_name(topic)
                raise VlaRosError(f"nobody publishes {full} after {PATIENCE:g} s; is {name} running?")
        while not self._home_arm(cancelled):
            self._released(cancelled)
        if self.reset_by == "operator":
            self._ask_reset("reset the scene", cancelled)
            self._released(cancelled)  # who enters the cell stops it first
            return replace(request, time_limit=request.time_limit or self.contract.time_limit)
        self.hold(True)
        try:
            answer = self._reset(ResetCell.Request(seed=request.seed, split=request.split, task=request.task), cancelled)
            laid_out = convert.seconds(answer.stamp)
            self._grant(laid_out)  # one more frame, the first of the new scene; the episode begins with it
            if not self.wait(lambda: self._stamp > laid_out, 5.0, cancelled, time.monotonic):
                raise VlaRosError("no observation within 5 s of the reset; is camera_node running?")
        except BaseException:
            self.hold(False)
            raise
        limit = request.time_limit or float(answer.time_limit) or self.contract.time_limit
        return replace(request, instruction=request.instruction or str(answer.instruction), time_limit=limit)

    def _released(self, cancelled: Callable[[], bool]) -> None:
        """Waits for the reset of a latched safety filter."""
        if self.latched:
            what = "safety is latched: clear the cause, then call /safety/reset"
            self._ask("stopped", what, lambda: not self.latched, cancelled)

    def _home_arm(self, cancelled: Callable[[], bool]) -> bool:
        """False where the safety filter latched on the way. However it ends, nothing asks for the motion any more: else the arm
        would set out by itself as soon as what had stopped it is gone."""
        self.instruction.publish(Instruction(mode=Instruction.HOME))
        try:
            if not self.wait(lambda: self.latched or self._at_home(), 20.0, cancelled):
                raise VlaRosError("the arm did not reach home within 20 s; /safety/state tells what stops it")
        finally:
            if self.node.context.ok():
                self.instruction.publish(Instruction())
        return not self.latched

    def _ask_reset(self, what: str, cancelled: Callable[[], bool]) -> None:
        self.operator_ready.clear()
        self._ask("reset_wanted", f"{what}, then call /trainer/ready", self.operator_ready.is_set, cancelled)

    def _ask(self, phase: str, what: str, until: Callable[[], bool], cancelled: Callable[[], bool]) -> None:
        """Waits for what only a person can do."""
        self.notify(phase, what)
        self.wait(until, float("inf"), cancelled)
        self.notify("", "")

    def _at_home(self) -> bool:
        return self._position is not None and float(np.abs(self._position - self._home).max()) < HOME_TOLERANCE

    def _reset(self, request: ResetCell.Request, cancelled: Callable[[], bool]) -> ResetCell.Response:
        if not self.wait(self.reset_cell.service_is_ready, 10.0, cancelled, time.monotonic):
            raise VlaRosError("no /cell/reset service within 10 s; start sim_node, or set parameter `reset` to 'operator'")
        future = self.reset_cell.call_async(request)
        future.add_done_callback(lambda _: self._wake())
        if not self.wait(future.done, 10.0, cancelled, time.monotonic):
            raise VlaRosError("/cell/reset did not answer within 10 s")
        answer: ResetCell.Response = future.result()
        if answer.operator:
            self.hold(False)
            self._ask_reset(answer.message, cancelled)
            self.hold(True)
            return self._reset(request, cancelled)
        if not answer.success:
            raise VlaRosError(f"/cell/reset: {answer.message}")
        return answer

    def run(
        self,
        request: EpisodeRequest,
        cancelled: Callable[[], bool],
        feedback: Callable[[EpisodeMonitor], None] = lambda monitor: None,
    ) -> Episode:
        """Run and record one prepared episode; its file is complete on disk when this returns."""
        self._count += 1
        name = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{self._count:05d}"
        path = self.folder / request.folder / f"{name}.mcap"
        metadata = {
            "episode_id": name, "instruction": request.instruction, "robot": self.contract.robot, "seed": str(request.seed),
            "split": request.split, "greedy": str(request.greedy), "temperature": str(request.temperature),
        }  # fmt: skip
        if not self.judged:
            metadata["kind"] = TELEOPERATION
        if material := str(self.node.get_parameter("material").value):
            metadata["material"] = material
        instruction = request.instruction
        monitor, limited = EpisodeMonitor(name, request.time_limit), self.limited_ticks
        # On a cell a recorder that waits would lose messages unseen, in the middleware; simulated time can wait.
        patience = None if qos.simulated(self.node) else 0.0
        with EpisodeWriter(path, metadata, patience=patience) as writer:
            with self._changed:
                self._monitor, self._writer, self._failure = monitor, writer, None
                monitor.observe(self._stamp)
                writer.write(OBSERVATION, "vla_ros/msg/Observation", self._newest, self.node.get_clock().now().nanoseconds)
                self._hold = False  # from here on, time passes frame by frame as policy and judge answer
            self.instruction.publish(
                Instruction(
                    header=Header(stamp=convert.stamp(monitor.asked or 0.0)), text=instruction, episode_id=name,
                    greedy=request.greedy, temperature=request.temperature, seed=request.seed,
                )
            )  # fmt: skip
            try:
                self._follow(monitor, cancelled, feedback)
                period = 1 / self.contract.observation.rate  # without the states up to the end nobody knows what was executed
                last = lambda: monitor.has_all(self._stamp) and self._safe >= self._stamp - period  # noqa: E731
                self.wait(last, LATE, now=time.monotonic)
            except Cancelled:  # the node is shutting down
                monitor.cancel()
            finally:
                with self._changed:
                    self._monitor = self._writer = None
                if self.node.context.ok():
                    self.instruction.publish(Instruction())
                    self._acknowledge()
            if self._failure:
                raise self._failure
            outcome = {SUCCESS: "success", TIME_LIMIT: "failure"}.get(monitor.reason, "aborted") if self.judged else "aborted"
            limited = self.limited_ticks - limited
            writer.annotate(
                outcome=outcome, termination_reason=monitor.reason, policy_version=str(monitor.policy_version),
                steps=str(monitor.steps), corrected_steps=str(monitor.corrected_steps), return_sum=str(monitor.return_sum),
                final_steps_to_go=str(monitor.final_steps_to_go), limited_ticks=str(limited),
            )  # fmt: skip
        return Episode(
            header=Header(stamp=self.node.get_clock().now().to_msg()), id=name, instruction=instruction, outcome=outcome,
            termination_reason=monitor.reason, steps=monitor.steps,
            duration=monitor.steps / self.contract.observation.rate, return_sum=monitor.return_sum,
            final_steps_to_go=monitor.final_steps_to_go, policy_version=monitor.policy_version,
            limited_ticks=limited, corrected_steps=monitor.corrected_steps, file=str(path.resolve()),
        )  # fmt: skip

    def _follow(
        self, monitor: EpisodeMonitor, cancelled: Callable[[], bool], feedback: Callable[[EpisodeMonitor], None]
    ) -> None:
        """Until the episode ends, by itself or because it is cancelled."""
        steps = 0
        while not monitor.reason:
            more = lambda seen=steps: bool(monitor.reason) or monitor.steps > seen  # noqa: E731
            try:
                if not self.wait(more, STALLED, cancelled, time.monotonic):
                    monitor.observe(float("inf"))  # nobody drives the arm
            except Cancelled:
                monitor.cancel()
                return
            steps = monitor.steps
            feedback(monitor)
