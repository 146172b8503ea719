"""VLA inference: observation and instruction in, action chunk out; weights change between two ticks. A person who takes over
(vla_ros/nodes/teleop.py) acts in the policy's place, on the same way through the safety filter.

Threads: everything runs on the executor's thread except loading a version, which has a thread of its own and hands the
checked tensors over through `_pending`; the swap itself is done by the executor's thread, so no inference ever sees
half-written weights and no lock is needed.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rclpy.node import Node
from torch import Tensor

from vla_ros.errors import VlaRosError
from vla_ros.msg import ActionChunk as ActionChunkMsg
from vla_ros.msg import Instruction
from vla_ros.msg import Observation as ObservationMsg
from vla_ros.msg import PolicyVersion as PolicyVersionMsg
from vla_ros.nodes import convert, qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.main import run
from vla_ros.nodes.teleop import Teleop
from vla_ros.nodes.weights import WeightClient
from vla_ros.policy import adapter, engines, foreign
from vla_ros.policy.nobody import Nobody
from vla_ros.policy.policy import VlaPolicy, load
from vla_ros.policy.running import RunningChunk
from vla_ros.policy.store import WeightStore
from vla_ros.robots.actions import action_space
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.homing import homing_rows
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import images_of, positions_of, state_of
from vla_ros.robots.shapes import check_model
from vla_ros.srv import ActivatePolicy
from vla_ros.types import ActionChunk, Image, Observation

Loaded = tuple[PolicyVersionMsg, dict[str, Tensor]]  # a version, and its checked weights


class PolicyNode(Node):
    def __init__(self) -> None:
        super().__init__("policy_node")
        robot = self.declare_parameter("robot", "panda").value
        source = self.declare_parameter("policy", "").value
        mapping = self.declare_parameter("mapping", "").value
        store = self.declare_parameter("store", "").value
        engine = self.declare_parameter("engine", "eager").value
        self.declare_parameter("temperature", 1.0)
        torch.set_num_threads(1)  # two threads on two busy cores are 3-100 times slower

        self.contract = RobotContract.load(robot)
        self.kinematics = Kinematics(self.contract)
        self.space = action_space(self.contract, self.kinematics)
        device = self.declare_parameter("device", "cpu").value  # as torch names it; auto: over all GPUs
        half = self.declare_parameter("half", False).value  # a pretrained base in bfloat16
        self.policy = self._made(source, engine, mapping, device, half)
        prefix = self.policy.model.units.prefix if isinstance(self.policy, VlaPolicy) else getattr(self.policy, "prefix", 0)
        self.running = RunningChunk(1 / self.contract.action.rate, prefix)
        self.store = WeightStore(Path(store)) if store else None
        self.remote = WeightClient(self, self.store) if self.store else None
        self._marking = threading.Lock()  # of the store's marker
        stage = "none" if source == foreign.NOBODY else "foreign" if foreign.is_foreign(source) else "sft"
        self.version = PolicyVersionMsg(number=1, stage=stage, path=source)
        self.instruction = Instruction()
        self._said = ""  # the last instruction's text: new weights come between two episodes, and are tried on something
        self._wanted = 1  # version that was asked for last; one that was loaded later than that does not come
        self._loading = threading.Lock()  # of the two
        self._pending: Loaded | None = None
        self._probe: Observation | None = None  # last observation, on which a new version must behave
        self._homing_until = 0.0
        self._decode = 0.0  # s that the last message took to become an observation

        self.diagnostics = Diagnostics(self, "policy")
        self.teleop = Teleop(self, self.contract, self.diagnostics)
        self.chunks = self.create_publisher(ActionChunkMsg, "policy/chunk", qos.COMMAND)
        self.active = self.create_publisher(PolicyVersionMsg, "policy/active", qos.STATUS)
        self.create_subscription(ObservationMsg, "observation", self._on_observation, qos.observations(qos.simulated(self), 1))
        self.create_subscription(Instruction, "instruction", self._on_instruction, qos.STATUS)
        self.create_subscription(PolicyVersionMsg, "policy/version", self._on_version, qos.STATUS)
        self.create_service(ActivatePolicy, "policy/activate", self._on_activate)
        if self.store and (resumed := self.store.active() or self.store.latest()):
            self._want(resumed.number, self._load(resumed.number, resumed.sha256))
            self._swap()
        self.active.publish(self.version)
        self.get_logger().info(f"policy of {Path(source).name} ready, version {self.version.number}, engine {engine}")

    def _made(self, source: str, engine: str, mapping: str, device: str, half: bool) -> foreign.Policy:
        """
        Raises:
            VlaRosError: a parameter that does not fit, or a policy that does not.
        """
        if mapping and (source == foreign.NOBODY or not foreign.is_foreign(source)):
            raise VlaRosError(f"parameter `mapping`: found '{mapping}', expected none: policy {source} is none of others")
        if source == foreign.NOBODY:
            return Nobody(self.contract)
        if foreign.is_foreign(source):
            if engine != "eager":
                raise VlaRosError(f"parameter `engine`: found '{engine}', expected eager: policy {source} has its own")
            other = foreign.load(source, self.contract, mapping)
            self.get_logger().info(f"policy {source} says of itself: {other.metadata}")
            return other
        model, prompt = load(Path(source), self.contract.robot, device, half)
        check_model(self.contract, model.config, Path(source))
        torch.manual_seed(0)
        return VlaPolicy(model, prompt, engines.build(engine, adapter.add(model), prompt))

    def _own(self) -> VlaPolicy:
        """Raises VlaRosError where the policy is foreign."""
        if not isinstance(self.policy, VlaPolicy):
            raise VlaRosError(f"policy {self.version.path} is foreign: its weights change where it runs, `store` has none for it")
        return self.policy

    def _on_instruction(self, message: Instruction) -> None:
        self.instruction, self._said = message, message.text or self._said
        self._homing_until = 0.0
        self.running.reset()
        self.policy.seed(message.seed)
        if self._probe is not None:
            self._answer(self._probe)  # at once, not when the next frame comes

    def _on_observation(self, message: ObservationMsg) -> None:
        try:
            self._swap()
        except VlaRosError as error:
            self._refused(error)
        start = time.perf_counter()
        try:
            self._probe = convert.observation(message)
        except VlaRosError as error:
            self._unusable(error)
            return
        self._decode = time.perf_counter() - start
        self._answer(self._probe)

    def _answer(self, observation: Observation) -> None:
        if observation.stamp < convert.seconds(self.instruction.header.stamp):
            return  # of the scene before
        age = self._now(observation) - observation.stamp
        if age > (limit := self.contract.observation.max_age):
            self.diagnostics.count("stale_observations")
            return
        if age < -limit:
            found = f"observation: stamp is {-age:.3f} s ahead of this machine's clock, expected at most {limit:g} s"
            self._unusable(VlaRosError(f"{found}; set the clocks of the machines alike (chrony, PTP)"))
            return
        try:
            if self.instruction.mode == Instruction.HOME:
                self._home(observation)
            elif self.instruction.text:
                self._act(observation)
        except VlaRosError as error:
            self._unusable(error)

    def _now(self, observation: Observation) -> float:
        """[s]; until simulated time is heard (0) it is the observation's: in lock step it waits for this node's answer."""
        return self.get_clock().now().nanoseconds * 1e-9 or observation.stamp

    def _unusable(self, error: VlaRosError) -> None:
        self.diagnostics.error(str(error))
        self.get_logger().error(str(error), throttle_duration_sec=2.0)

    def _act(self, observation: Observation) -> None:
        start = time.perf_counter()
        q = positions_of(self.contract, observation.joints)
        person = self.teleop.action(q)  # before inference, during which nobody is heard
        images, state = self._seen(observation)
        temperature = self.instruction.temperature or self.get_parameter("temperature").value
        decision = self.policy.infer(
            images, self.instruction.text, state, self.instruction.greedy, temperature, self.running.rows(observation.stamp)
        )
        drawn = time.perf_counter()
        action = decision.action if person is None else person
        rows = self.space.rows(action, q)
        end = time.perf_counter()
        post = decision.post + end - drawn
        preprocess = end - start - decision.model - post
        period = 1 / self.contract.action.rate
        self._publish(
            ActionChunk(
                stamp=observation.stamp + period, period=period, joint_names=self.contract.joints, rows=rows,
                observation_stamp=observation.stamp, policy_version=self.version.number,
                episode_id=self.instruction.episode_id, tokens=decision.tokens,
                log_probability=decision.log_probability, corrected=person is not None,
            ),
            [(self._decode + preprocess) * 1e3, decision.model * 1e3, post * 1e3],
        )  # fmt: skip
        self.running.sent(observation.stamp, action, self._now(observation) - observation.stamp)
        split = {"decode": self._decode, "preprocess": preprocess, "model": decision.model, "post": post, "latency": end - start}
        for name, seconds in split.items():
            self.diagnostics.sample(name, seconds)

    def _seen(self, observation: Observation) -> tuple[Image, NDArray[np.float32]]:
        """What the network takes of it."""
        return images_of(self.contract, observation), state_of(self.contract, self.kinematics, observation.joints)

    def _home(self, observation: Observation) -> None:
        """One scripted chunk to the home pose; it passes the same safety filter as the policy's."""
        if observation.stamp < self._homing_until:
            return
        q, period = positions_of(self.contract, observation.joints), 1 / self.contract.action.rate
        rows = homing_rows(q, self.kinematics.home(), self.contract.limits.velocity, period)
        start = self._now(observation)  # the arm stands still: the motion need not begin at the observation
        self._homing_until = start + period * (len(rows) + 2)
        self._publish(ActionChunk(stamp=start + period, period=period, joint_names=self.contract.joints, rows=rows), [])

    def _publish(self, chunk: ActionChunk, latency: list[float]) -> None:
        if not np.isfinite(chunk.rows).all():
            raise VlaRosError("the decoded chunk is not finite and was not sent")
        self.chunks.publish(convert.chunk_message(chunk, latency, self.contract.robot))

    def _want(self, number: int, loaded: Loaded | None = None) -> None:
        with self._loading:
            self._wanted, self._pending = number, loaded

    def _on_version(self, message: PolicyVersionMsg) -> None:
        self._want(message.number)
        if message.number != self.version.number:
            told = {"probation": message.probation, "trial": message.trial}
            threading.Thread(target=self._try_load, args=(message.number, message.sha256), kwargs=told, daemon=True).start()
        elif self.version.probation and not message.probation:
            self.version.probation = False
            threading.Thread(target=self._mark, daemon=True).start()

    def _try_load(self, number: int, digest: str, **told: bool) -> None:
        try:
            if self.store and self.remote and number not in self.store.numbers():  # the trainer's is on another machine
                self.remote.fetch(number, digest)
            loaded = self._load(number, digest, **told)
            with self._loading:
                if number == self._wanted:
                    self._pending = loaded
        except VlaRosError as error:
            self._refused(VlaRosError(f"version {number} refused, version {self.version.number} stays: {error}"))

    def _refused(self, error: VlaRosError) -> None:
        self.diagnostics.error(str(error))
        self.get_logger().error(str(error))

    def _load(self, number: int, digest: str = "", **told: bool) -> Loaded:
        """
        Args:
            told: fields of its message that are not in the store.
        """
        own = self._own()
        if self.store is None:
            raise VlaRosError("parameter `store` is empty; set it to the weight store's folder to swap versions")
        record = self.store.record(number)
        weights = self.store.load(number, digest)
        adapter.check(own.model, weights, record.path)
        version = PolicyVersionMsg(
            number=record.number, parent=record.parent, sha256=record.sha256, stage=record.stage,
            path=record.path, metrics=json.dumps(record.metrics), **told,
        )  # fmt: skip
        return version, weights

    def _swap(self) -> None:
        """Between two inferences: change over, prove the new weights on the last observation, go back if they fail.

        Raises:
            VlaRosError: the new weights compute nonsense; the old ones are back.
        """
        with self._loading:
            pending, self._pending = self._pending, None
        if pending is None:
            return
        start, own = time.perf_counter(), self._own()
        version, weights = pending
        previous = {name: tensor.detach().clone() for name, tensor in adapter.state(own.model).items()}
        own.engine.swap(weights)
        pause = time.perf_counter() - start
        if self._probe is not None and (text := self.instruction.text or self._said):
            try:
                images, state = self._seen(self._probe)
                own.infer(images, text, state, greedy=True)
            except VlaRosError as error:
                own.engine.swap(previous)
                running = self.version.number
                raise VlaRosError(f"version {version.number} refused, version {running} stays: {error}") from error
        self.version = version
        self.version.header.stamp = self.get_clock().now().to_msg()
        self.diagnostics.sample("swap", pause)
        self.active.publish(self.version)
        self.get_logger().info(f"version {version.number} active ({pause * 1e3:.2f} ms pause)")
        threading.Thread(target=self._mark, daemon=True).start()  # a disk may take longer than an observation

    def _mark(self) -> None:
        """What runs is what a restart resumes, also where no trainer has this store; on probation its trainer knows."""
        with self._marking:
            try:
                if self.store is None or self.version.probation:
                    return
                if (marked := self.store.active()) is None or marked.number != self.version.number:
                    self.store.activate(self.version.number)
            except VlaRosError as error:
                self.diagnostics.error(str(error))
                self.get_logger().error(str(error))

    def _on_activate(self, request: ActivatePolicy.Request, response: ActivatePolicy.Response) -> ActivatePolicy.Response:
        number = self.version.parent if request.rollback else request.number
        try:
            if request.rollback and not number:
                raise VlaRosError(f"version {self.version.number} has no parent to go back to")
            self._want(number, self._load(number, chosen=True))
            self._swap()
        except VlaRosError as error:
            response.message = str(error)
        response.success = self.version.number == number
        response.number = self.version.number
        return response


def main(args: list[str] | None = None) -> int:
    return run(PolicyNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
