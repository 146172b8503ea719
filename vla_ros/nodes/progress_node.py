"""Steps-to-go and success detection: the frozen judge looks at every observation of the running instruction. With `judge: none`,
where demonstrations are recorded before there is one, it says nothing."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rclpy.node import Node

from vla_ros.errors import VlaRosError
from vla_ros.msg import Instruction, Progress
from vla_ros.msg import Observation as ObservationMsg
from vla_ros.nodes import convert, qos
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.main import run
from vla_ros.policy.foreign import NOBODY
from vla_ros.policy.policy import load
from vla_ros.progress.judge import Calibration, Judge
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import images_of, state_of
from vla_ros.robots.shapes import check_model


class ProgressNode(Node):
    def __init__(self) -> None:
        super().__init__("progress_node")
        robot = self.declare_parameter("robot", "panda").value
        judge = self.declare_parameter("judge", "").value
        self.diagnostics = Diagnostics(self, "progress")
        self.diagnostics.set("judge", judge)
        if judge == NOBODY:
            self.get_logger().info("no judge: nothing is estimated, and only a person ends an episode before its time")
            return
        folder = Path(judge)
        torch.set_num_threads(1)
        self.contract = RobotContract.load(robot)
        self.kinematics = Kinematics(self.contract)
        model, prompt = load(folder, self.contract.robot)
        check_model(self.contract, model.config, folder, acts=False)
        self.judge = Judge(model, prompt, Calibration.load(folder))
        self.instruction = Instruction()
        self._newest: ObservationMsg | None = None
        self.progress = self.create_publisher(Progress, "progress", qos.RECORD)
        self.create_subscription(ObservationMsg, "observation", self._on_observation, qos.observations(qos.simulated(self), 1))
        self.create_subscription(Instruction, "instruction", self._on_instruction, qos.STATUS)
        c = self.judge.calibration
        self.get_logger().info(f"judge ready: success at d <= {c.threshold:.2f} steps, {c.debounce} frames in a row")

    def _on_instruction(self, message: Instruction) -> None:
        self.instruction = message
        self.judge.begin(message.text)
        if self._newest is not None:
            self._judge(self._newest)

    def _on_observation(self, message: ObservationMsg) -> None:
        self._newest = message
        self._judge(message)

    def _judge(self, message: ObservationMsg) -> None:
        if self.instruction.mode != Instruction.RUN or not self.instruction.text:
            return
        if convert.seconds(message.header.stamp) < convert.seconds(self.instruction.header.stamp):
            return  # of the scene before
        start = time.perf_counter()
        try:
            observation = convert.observation(message)
            images = images_of(self.contract, observation)
            state = state_of(self.contract, self.kinematics, observation.joints)
            estimate = self.judge.observe(observation.stamp, images, state)
        except VlaRosError as error:
            self.diagnostics.error(str(error))
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
            return
        self.diagnostics.sample("latency", time.perf_counter() - start)
        self.progress.publish(convert.progress_message(estimate, self.instruction.text, self.instruction.episode_id))


def main(args: list[str] | None = None) -> int:
    return run(ProgressNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
