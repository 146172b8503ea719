"""A recorded episode in the arm's place: its joint states and pictures on the contract's topics, its clock, its instruction.
Nothing moves; commands are taken as a controller takes them and compared with the recorded ones.

Threads: one. The loop publishes and serves callbacks while it waits, so nothing needs a lock. The node makes the clock and
therefore never uses simulated time itself. It holds the first frame until the rest of the graph is there.
"""

from __future__ import annotations

import math
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, Header

from vla_ros.episodes.replay import ROUNDING, Comparison, Picture, Recording
from vla_ros.errors import VlaRosError
from vla_ros.msg import Instruction
from vla_ros.nodes import convert, qos
from vla_ros.nodes.controller_manager import ControllerManager
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.main import run
from vla_ros.nodes.sim_pace import Pace
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.trajectory import checked

PARTNERS = {"policy/chunk": "policy_node", "progress": "progress_node"}  # what an answer to the recording needs
AFTER = 1.0  # s for the last answers; then it ends


class Still:
    """The arm of a recording: switched like a controller, and never moved."""

    def __init__(self) -> None:
        self.active = True

    def switch(self, active: bool) -> None:
        self.active = active

    def cancel(self) -> bool:
        return False


class ReplayNode(Node):
    def __init__(self) -> None:
        own_clock = Parameter("use_sim_time", value=False)  # it makes the clock that the others follow
        super().__init__("replay_node", parameter_overrides=[own_clock])
        self.contract = RobotContract.load(self.declare_parameter("robot", "panda").value)
        episode = str(self.declare_parameter("episode", "").value)  # *.mcap
        factor = float(self.declare_parameter("real_time_factor", 1.0).value)  # recorded seconds per second
        self.patience = float(self.declare_parameter("patience", 120.0).value)  # s of wall time for policy and judge to come up
        self.at_end = str(self.declare_parameter("at_end", "end").value)  # `end`, or `hold` the last frame
        # Whether it gives the recorded instruction; without it the policy stands still until somebody publishes /instruction.
        self.instructs = bool(self.declare_parameter("instruct", True).value)
        if not episode:
            raise VlaRosError("parameter episode: found '', expected a recorded episode; add episode:=FILE.mcap to the launch")
        if not (math.isfinite(factor) and 0 < factor <= 100):
            raise VlaRosError(f"parameter real_time_factor: found {factor}, expected a number above 0, up to 100")
        if self.at_end not in {"end", "hold"}:
            raise VlaRosError(f"parameter at_end: found '{self.at_end}', expected end or hold")
        self.recording = Recording.load(episode, self.contract)
        self.comparison = Comparison(self.contract.joints)
        self.period = 1 / self.contract.control.rate
        self.ticks = self.refused = 0
        self.held = 0.0  # s that the first frame was held: what the graph's clock is ahead of the recording's
        self.playing = False
        self._shown = 0  # pictures published in this playing
        self._own = SingleThreadedExecutor()  # served while the loop waits
        self.pace = Pace(self, self._own, factor, timeout=self.patience)

        reliable = QoSProfile(depth=10)  # also serves best-effort subscribers
        self.clock = self.create_publisher(Clock, "/clock", reliable)
        self.joints = self.create_publisher(JointState, self.contract.control.state_topic, reliable)
        self.cameras = {
            name: self.create_publisher(Image, self.contract.cameras[name].topic, reliable) for name in self.recording.cameras
        }
        self.instruction = self.create_publisher(Instruction, "instruction", qos.STATUS)
        command = self.contract.control.command_topic
        self.create_subscription(Float64MultiArray, command, self._on_command, qos.COMMAND)
        self.still = Still()
        ControllerManager(self, command, self.still)
        self.diagnostics = Diagnostics(self, "replay", self.contract.robot)
        frames = ", ".join(f"{sum(p.camera == c for p in self.recording.pictures)} of {c}" for c in self.recording.cameras)
        if absent := [name for name in self.contract.cameras if name not in self.recording.cameras]:
            self.get_logger().info(f"not recorded, so not published: {', '.join(absent)}")
        self.get_logger().info(
            f"{self.recording.path}: {self.recording.end - self.recording.start:.1f} s, {frames}; "
            f"'{self.recording.instruction}'; nothing moves"
        )
        self._own.add_node(self)

    @property
    def now(self) -> float:
        """s on the graph's clock, which starts with the recording's."""
        return self.recording.start + self.ticks * self.period

    def run(self) -> None:
        """Holds the first frame, plays, and holds the last one.

        Raises:
            VlaRosError: policy or judge do not come up.
        """
        deadline = time.monotonic() + self.patience
        while rclpy.ok() and (missing := self._missing()):
            self.diagnostics.set("waits_for", ", ".join(missing))
            if time.monotonic() > deadline:
                raise VlaRosError(
                    f"nobody publishes {self.resolve_topic_name(missing[0])} after {self.patience:g} s; "
                    f"is {PARTNERS.get(missing[0], 'safety_node')} running?"
                )
            self.tick()
        self._begin()
        while rclpy.ok() and self.now - self.held <= self.recording.end + ROUNDING:
            self.tick()
        self._finish()
        until = self.now + AFTER
        while rclpy.ok() and (self.at_end == "hold" or self.now < until):
            self.tick()

    def tick(self) -> None:
        """One control period: publish the present, let the graph answer, move on."""
        stamp, then = convert.stamp(self.now), self.now - self.held  # on the graph's clock, and on the recording's
        self.clock.publish(Clock(clock=stamp))
        standing = self.recording.end if self._shown else self.recording.start  # where the arm is while nothing is played
        message = convert.joint_state_message(self.recording.joint_state(then if self.playing else standing))
        message.header = Header(stamp=stamp)
        self.joints.publish(message)
        if self.playing:
            while self._shown < len(self.recording.pictures) and self.recording.pictures[self._shown].stamp <= then + ROUNDING:
                picture = self.recording.pictures[self._shown]
                self._show(picture, picture.stamp + self.held)
                self._shown += 1
        elif self.ticks % self.contract.ticks_per_step == 0:
            for camera in self.cameras:
                self._show(self._standing_picture(camera), self.now)
        self.pace.until_due(self.period)
        self.ticks += 1
        self.diagnostics.count("ticks", rate=True)

    def _missing(self) -> list[str]:
        awaited = [*PARTNERS, self.contract.control.command_topic]
        return [topic for topic in awaited if self.count_publishers(topic) == 0]

    def _begin(self) -> None:
        self.held, self.playing = self.now - self.recording.start, True
        self.diagnostics.set("waits_for", "nobody")
        if self.instructs:
            self.instruction.publish(
                Instruction(
                    header=Header(stamp=convert.stamp(self.now)), text=self.recording.instruction,
                    episode_id=self.recording.episode_id,
                )
            )  # fmt: skip

    def _finish(self) -> None:
        self.playing = False
        if rclpy.ok():
            if self.instructs:
                self.instruction.publish(Instruction())
            self.get_logger().info(f"the recording has ended; {self.comparison.summary()}")
        self.diagnostics.set("ended", True)

    def _standing_picture(self, camera: str) -> Picture:
        pictures = [picture for picture in self.recording.pictures if picture.camera == camera]
        return pictures[-1] if self._shown else pictures[0]

    def _show(self, picture: Picture, stamp: float) -> None:
        frame = self.contract.cameras[picture.camera].frame
        self.cameras[picture.camera].publish(convert.image_message(picture.pixels, stamp, frame))
        self.diagnostics.count(f"frames_{picture.camera}")

    def _on_command(self, message: Float64MultiArray) -> None:
        try:
            sent = checked(message.data, len(self.contract.joints))
        except VlaRosError as error:
            self.refused += 1
            self.diagnostics.error(str(error))
            self.get_logger().error(f"{error}; refused ({self.refused} so far)", throttle_duration_sec=2.0)
            return
        self.diagnostics.count("commands", rate=True)
        if not self.playing or not self.still.active:
            return
        recorded = self.recording.command(self.now - self.held)
        if recorded is not None:
            self.comparison.add(sent, recorded)
            self.diagnostics.set("compared", self.comparison.compared)
            self.diagnostics.set("mean_difference", f"{self.comparison.mean.max():.5f}")
            self.diagnostics.set("largest_difference", f"{self.comparison.worst.max():.5f}")


def main(args: list[str] | None = None) -> int:
    return run(ReplayNode, args, spin=ReplayNode.run)


if __name__ == "__main__":
    raise SystemExit(main())
