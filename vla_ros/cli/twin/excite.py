"""`vla-ros twin excite`: plays the excitation through the safety filter and records what was sent and what the joints did.

One thread; the newest joint state's stamp is the time, so that it works with every clock that the graph may have.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ros.cli import graph, param
from vla_ros.cli.doctor.observe import look
from vla_ros.cli.safety.replay_command import console
from vla_ros.doctor import commands
from vla_ros.doctor.observed import Observed
from vla_ros.episodes.check import EXCITATION
from vla_ros.episodes.tensors import OBSERVATION, SAFETY
from vla_ros.episodes.writer import EpisodeWriter
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import seconds
from vla_ros.safety.limits import Limits
from vla_ros.twin.excitation import NEXT, Player, excitation
from vla_ros.types import ActionChunk, SafetyMode

if TYPE_CHECKING:
    from rclpy.node import Node

LOOK = 2.0  # s
BEGIN = 0.3  # s until the first row is due
HELD = 0.5  # s of the graph's clock that the filter may hold the arm
SILENT = 3.0  # s of wall time without a joint state
AFTER = 0.5  # s that are recorded when the motion is over
EVERY_TICK, RATE = 0.0, "state_rate"  # parameter of safety_node
ACTING = ("collecting", "learning", "publishing")  # phases of a trainer that will move the arm


class Stopped(Exception):
    """The motion must not go on; what was recorded of it stays as *.mcap.part."""


def run(args: argparse.Namespace) -> int:
    contract = RobotContract.load(args.robot)
    if args.count < 1 or not 2.0 < args.seconds <= 60.0:
        expected = "expected at least 1, and 2 to 60 s"
        raise VlaRosError(f"--count {args.count} --seconds {args.seconds:g}: {expected}")
    namespace: str = args.namespace
    with graph.hidden_node() as node:
        observed = look(node, contract, namespace, LOOK)
        limits, _ = commands.limits_in_force(contract, observed, ())
        rig = Rig(node, contract, observed)
        _ready(observed, rig)
        if not observed.simulated:
            _confirm(contract, args)
        with rig.every_tick():
            for k in range(args.count):
                try:
                    path = rig.play(args.out, limits, args.seconds, args.seed + k)
                except Stopped as stopped:
                    print(f"stopped: {stopped}", file=sys.stderr)
                    return 1
                print(f"{path}: {args.seconds:g} s, seed {args.seed + k}", flush=True)
    print(f"vla-ros twin fit {args.out} --out cell.yaml      tells the twin")
    return 0


def _ready(observed: Observed, rig: Rig) -> None:
    """
    Raises:
        VlaRosError: the safety filter does not stand and wait, or a policy acts.
    """
    name, safety = observed.name, observed.safety
    if safety is None:
        raise VlaRosError(f"{name('safety/state')}: nothing heard for {LOOK:g} s; is safety_node running?")
    if safety.mode is not SafetyMode.HELD:
        remedy = "clear the cause, then `vla-ros safety reset`" if safety.mode is SafetyMode.LATCHED else "end what moves the arm"
        found = f"{safety.mode.name} {safety.reason}".strip()
        raise VlaRosError(f"{name('safety/state')}: found {found}, expected HELD: {remedy}; nothing was moved")
    if observed.chunks:
        found = f"{observed.chunks} chunks in {LOOK:g} s"
        raise VlaRosError(f"{name('policy/chunk')}: found {found}, expected none: a policy acts; nothing was moved")
    if rig.phase in ACTING:
        found = f"phase {rig.phase}"
        raise VlaRosError(f"{name('training/state')}: found {found}, expected idle: cancel practice; nothing was moved")
    if math.isnan(rig.now) or not len(observed.observation):
        missing = OBSERVATION.strip("/") if len(observed.joints.timing) else rig.contract.control.state_topic
        raise VlaRosError(f"{name(missing)}: nothing heard for {LOOK:g} s, expected the arm's; see `vla-ros doctor`")


def _confirm(contract: RobotContract, args: argparse.Namespace) -> None:
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise VlaRosError("stdin is not a terminal, so nobody can confirm; with a person at the hardware e-stop: --yes")
    told = f"THE ARM MOVES: {args.count} times {args.seconds:g} s, to {list(contract.posture)} rad and round it, every joint."
    console().print(f"{told} Clear its surroundings. Stand at the hardware e-stop.", style="bold", markup=False)
    if input("yes, or anything else to end: ").strip().lower() != "yes":
        raise KeyboardInterrupt


class Rig:
    """What is heard of the cell and sent to it; records while a writer is there."""

    def __init__(self, node: Node, contract: RobotContract, observed: Observed) -> None:
        from sensor_msgs.msg import JointState

        from vla_ros.msg import ActionChunk as ChunkMsg
        from vla_ros.msg import Observation, SafetyState, TrainingState
        from vla_ros.nodes import qos

        self.node, self.contract, self.names = node, contract, observed
        self.now = math.nan  # s on the graph's clock
        self.phase = ""
        self._heard = time.monotonic()  # when a joint state came
        self._safety: Any = None
        self._held: float | None = None  # s, since when the filter holds the arm
        self._refused = ""  # why the filter did not take a chunk
        self._id, self._foreign = "", ""
        self._writer: EpisodeWriter | None = None
        name, state_topic = observed.name, contract.control.state_topic
        reliable = all(p.reliable for p in observed.publishers.get(name(state_topic), ()))
        self._listen(JointState, name(state_topic), state_topic, qos.RECORD if reliable else qos.SENSOR, self._on_joints)
        self._listen(SafetyState, name("safety/state"), SAFETY, qos.RECORD, self._on_safety)
        self._listen(Observation, name("observation"), OBSERVATION, qos.SENSOR, lambda message: None)
        node.create_subscription(ChunkMsg, name("policy/chunk"), self._on_chunk, qos.RECORD)
        node.create_subscription(TrainingState, name("training/state"), self._on_training, qos.STATUS)
        self._chunks = node.create_publisher(ChunkMsg, name("policy/chunk"), qos.COMMAND)
        graph.spin_until(node, lambda: not math.isnan(self.now) and self._safety is not None, LOOK)

    def _listen(self, kind: Any, topic: str, recorded: str, profile: Any, handle: Callable[[Any], None]) -> None:
        """`recorded`: name of the topic in a recording, in which nobody need know the cell's namespace."""
        from rclpy.serialization import deserialize_message

        full = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"

        def callback(cdr: bytes) -> None:
            handle(deserialize_message(cdr, kind))
            if self._writer is not None:
                self._writer.write(recorded, full, cdr, round(self.now * 1e9))

        self.node.create_subscription(kind, topic, callback, profile, raw=True)

    def _on_joints(self, message: Any) -> None:
        self.now, self._heard = seconds(message.header.stamp), time.monotonic()

    def _on_safety(self, message: Any) -> None:
        if self._safety is not None and message.rejected_chunks > self._safety.rejected_chunks:
            self._refused = message.reason or "no reason given"
        self._safety = message
        if message.state == SafetyMode.RUN:
            self._held = None
        elif self._held is None:
            self._held = seconds(message.header.stamp)

    def _on_chunk(self, message: Any) -> None:
        if message.episode_id != self._id:
            self._foreign = f"{self.names.name('policy/chunk')}: somebody else sends chunks (version {message.policy_version})"

    def _on_training(self, message: Any) -> None:
        self.phase = message.phase

    @contextlib.contextmanager
    def every_tick(self) -> Iterator[None]:
        """safety_node tells every command meanwhile, and as before afterwards."""
        before = self._set_rate(EVERY_TICK)
        try:
            yield
        finally:
            self._set_rate(before)

    def _set_rate(self, rate: float) -> float:
        """The rate before."""
        target = self.names.name("safety_node")
        ((_, before),) = param.values_of(self.node, target, [RATE])
        wanted = graph.interface("msg", "rcl_interfaces/msg/Parameter")(name=RATE, value=param.message(float(rate)))
        (result,) = param.ask(self.node, target, "SetParameters", parameters=[wanted]).results
        if not result.successful:
            raise VlaRosError(f"{target}: {RATE}: {result.reason}")
        return float(before)

    def play(self, folder: Path, limits: Limits, length: float, seed: int) -> Path:
        """One motion, recorded; its file.

        Raises:
            Stopped: the motion did not come to its end; the arm rests, or does so within Player.halt's time.
        """
        import numpy as np

        self._id = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{seed:05d}"
        self._held, self._refused, self._foreign = None, "", ""
        path = excitation(self.contract, length, seed, np.array(self._safety.command, np.float64), limits)
        metadata = {
            "episode_id": self._id, "robot": self.contract.robot, "instruction": "excite the joints", "kind": EXCITATION,
            "seed": str(seed),
        }  # fmt: skip
        with EpisodeWriter(folder / f"{self._id}.mcap", metadata) as writer:
            self._writer = writer
            player = Player(self.contract, path, self.now + BEGIN, self._id)
            try:
                self._follow(player)
            except BaseException:
                self._send(player.halt(self.now))
                raise
            finally:
                self._writer = None
        return folder / f"{self._id}.mcap"

    def _follow(self, player: Player) -> None:
        import rclpy

        following = -math.inf
        while self.now < player.end + AFTER:
            if self.now >= following and not player.complete:
                self._send(player.piece(self.now))
                following = self.now + NEXT
            rclpy.spin_once(self.node, timeout_sec=0.05)
            if self.now < player.end and (fault := self._fault()):
                raise Stopped(fault)

    def _fault(self) -> str:
        """Why the motion must end; empty: it goes on."""
        state = self._safety
        if state.state == SafetyMode.LATCHED:
            return f"the safety filter has latched: {state.reason}"
        if self._refused:
            return f"the safety filter refuses a chunk: {self._refused}"
        if self._held is not None and self.now - self._held > BEGIN + HELD:
            return f"the safety filter holds the arm: {state.reason or 'no reason given'} (nearest: {state.nearest or '-'})"
        if self._foreign:
            return self._foreign
        if time.monotonic() - self._heard > SILENT:
            return f"{self.names.name(self.contract.control.state_topic)}: silent for {SILENT:g} s"
        return ""

    def _send(self, chunk: ActionChunk) -> None:
        from vla_ros.nodes import convert

        self._chunks.publish(convert.chunk_message(chunk, robot=self.contract.robot))
