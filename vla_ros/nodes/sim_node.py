"""The simulated cell on the graph: the arm's joint states and command topics, its cameras, the clock, and the truth.

Threads: one. The loop steps the physics, renders (OpenGL belongs to the thread that made it) and serves callbacks while
it waits, so nothing needs a lock. The node makes the clock and therefore never uses simulated time itself.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory

from vla_ros.errors import VlaRosError
from vla_ros.msg import TrueOutcome
from vla_ros.nodes import convert, qos
from vla_ros.nodes.controller_manager import TRAJECTORY_CONTROLLER, ControllerManager
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.interfaces import message_class
from vla_ros.nodes.main import run
from vla_ros.nodes.safety_world import base_frame
from vla_ros.nodes.sim_mishap import Mishaps
from vla_ros.nodes.sim_pace import Pace
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.limits import Limits
from vla_ros.sim import render
from vla_ros.sim.bimanual_cell import BimanualCell
from vla_ros.sim.cell import Cell
from vla_ros.sim.driver import Driver
from vla_ros.sim.model import LARGEST_PICTURE
from vla_ros.sim.robot_cell import AnyScene, RobotCell
from vla_ros.sim.trajectory import checked, ordered
from vla_ros.srv import ResetCell
from vla_ros.twin import file as twin_file

TRAJECTORY_TOPIC = f"/{TRAJECTORY_CONTROLLER}/joint_trajectory"
TOLERANCE = 0.15  # rad per joint: further from where the arm holds, no new stream of commands is taken up
OVERVIEW = (480, 640)  # px, height and width of the spectators' camera, which is no part of the contract
CLOCK = 0.02  # s between ticks of /clock in lock step, which goes to every node and costs more than the physics; also at frames


class SimNode(Node):
    def __init__(self) -> None:
        own_clock = Parameter("use_sim_time", value=False)  # it makes the clock that the others follow
        super().__init__("sim_node", parameter_overrides=[own_clock])
        self.contract = RobotContract.load(self.declare_parameter("robot", "panda").value)
        seed = int(self.declare_parameter("seed", 0).value)
        factor = float(self.declare_parameter("real_time_factor", 1.0).value)
        timeout = float(self.declare_parameter("lockstep_timeout", 2.0).value)
        command_timeout = float(self.declare_parameter("command_timeout", 0.1).value)  # s, a stream is dead after it
        rate = float(self.declare_parameter("camera_rate", 0.0).value) or self.contract.observation.rate
        self.size = _size(list(self.declare_parameter("camera_size", [128, 128]).value))
        awaited = [entry for entry in self.declare_parameter("lockstep_topics", [""]).value if entry]

        self.base = base_frame(self.contract)
        self.period = 1 / self.contract.control.rate
        self.frame_every = round(self.contract.control.rate / rate)
        if not math.isclose(self.frame_every * rate, self.contract.control.rate):
            raise VlaRosError(f"parameter camera_rate: found {rate}, expected a divisor of {1 / self.period:g} Hz")
        self.clock_every = max(1, round(CLOCK / self.period))
        self.ticks = self.commands = self.refused = 0
        self.following = False  # commands have come, so lock step may wait for them
        self._dead = False
        self._own = SingleThreadedExecutor()  # served while the loop waits
        self.pace = Pace(self, self._own, _factor(factor), timeout)
        twin = self.declare_parameter("twin", "").value  # a twin's file: the cell as `vla-ros twin fit` found a real one
        self.cell = cell_of(self.contract, twin)
        limits = Limits.load(self.contract)
        self.driver = Driver(
            self.cell.joint_state().position, limits.velocity, limits.acceleration, self.period, command_timeout, TOLERANCE
        )
        self._lay_out(self.cell.sample(seed))
        self.cell.render(next(iter(self.contract.cameras)), self.size)  # missing OpenGL is known now

        reliable = QoSProfile(depth=10)  # in lock step nothing may be lost; also serves best-effort subscribers
        self.clock = self.create_publisher(Clock, "/clock", reliable)
        self.joints = self.create_publisher(JointState, self.contract.control.state_topic, reliable)
        self.truth = self.create_publisher(TrueOutcome, "sim/truth", qos.STATUS)
        self.cameras = {
            name: (self.create_publisher(Image, c.topic, reliable), self.create_publisher(CameraInfo, c.info, reliable))
            for name, c in self.contract.cameras.items()
        }
        self.overview = self.create_publisher(Image, "camera/overview/image_raw", qos.SENSOR)
        command = self.contract.control.command_topic
        self.create_subscription(Float64MultiArray, command, self._on_command, qos.COMMAND)
        self.create_subscription(JointTrajectory, TRAJECTORY_TOPIC, self._on_trajectory, qos.COMMAND)
        self.create_service(ResetCell, "cell/reset", self._on_reset)
        self.mishaps = Mishaps(self, self.cell, self._lay_out_clear)
        ControllerManager(self, command, self.driver)
        self.answered = {entry.partition(" ")[0]: -math.inf for entry in awaited}  # topic -> newest stamp [s]
        for entry in awaited:
            self._listen(entry)
        self.diagnostics = Diagnostics(self, "sim", self.contract.robot)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.get_logger().info(
            f"cell with {self.contract.robot}, {'lock step' if factor == 0 else f'{factor:g} x real time'}; "
            f"instruction of the first scene: {self.instruction}"
        )

        self._own.add_node(self)

    def run(self) -> None:
        while rclpy.ok():
            self.tick()

    def destroy_node(self) -> None:
        render.release()
        super().destroy_node()

    def tick(self) -> None:
        """One control period: publish the present, let the graph answer, move on."""
        stamp = convert.stamp(self.cell.time)
        frame = self.ticks % self.frame_every == 0
        before = self.commands
        lock_step = self.pace.factor == 0 and self.following
        if frame or not lock_step or self.ticks % self.clock_every == 0:
            self.clock.publish(Clock(clock=stamp))
        self.joints.publish(convert.joint_state_message(self.cell.joint_state()))
        if frame:
            self._publish_frames(stamp)
        if lock_step:
            self._lock_step(before, self.cell.time if frame else None)
        else:
            self.pace.until_due(self.period)
        self.cell.set_command(self.driver.advance(self.cell.time, time.monotonic()))
        self._report_driver()
        self.cell.step(self.period)
        self.ticks += 1
        self.diagnostics.count("ticks", rate=True)

    def _lock_step(self, before: int, frame: float | None) -> None:
        topic = self.contract.control.command_topic
        if not self.pace.until(lambda: self.commands > before, lambda: f"command on {topic}"):
            self.following = self.count_publishers(topic) > 0
        self.diagnostics.set("lockstep_timeouts", self.pace.timeouts)
        if frame is None:
            return

        def missing() -> list[str]:
            return [name for name, stamp in self.answered.items() if stamp < frame - 1e-6]

        for name in missing():
            if self.count_publishers(name) == 0:
                self.answered[name] = math.inf  # nobody there to wait for; its first message counts again
        self.pace.until(lambda: not missing(), lambda: f"answer to the frame of {frame:.2f} s on {missing()}")

    def _publish_frames(self, stamp: Time) -> None:
        for name, (images, infos) in self.cameras.items():
            header = Header(stamp=stamp, frame_id=self.contract.cameras[name].frame)
            if images.get_subscription_count():
                pixels = self.cell.render(name, self.size)
                images.publish(convert.image_message(pixels, self.cell.time, header.frame_id))
            if infos.get_subscription_count():
                infos.publish(self._camera_info(name, header))
        if self.overview.get_subscription_count():
            pixels = self.cell.render("overview", OVERVIEW)
            self.overview.publish(convert.image_message(pixels, self.cell.time, "overview"))
        self._publish_truth(stamp)

    def _camera_info(self, name: str, header: Header) -> CameraInfo:
        height, width = self.size
        focal = self.cell.focal_length(name, height)
        k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        p = [focal, 0.0, width / 2, 0.0, 0.0, focal, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
        return CameraInfo(
            header=header, height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5, k=k,
            r=np.eye(3).ravel().tolist(), p=p,
        )  # fmt: skip

    def _publish_truth(self, stamp: Time) -> None:
        success, distance = self.cell.truth()
        self.truth.publish(
            TrueOutcome(
                header=Header(stamp=stamp, frame_id=self.base), instruction=self.instruction,
                success=success, distance=distance,
            )
        )  # fmt: skip

    def _report_driver(self) -> None:
        driver = self.driver
        if driver.dead != self._dead:
            self._dead = driver.dead
            if driver.dead and driver.active:
                topic = self.contract.control.command_topic
                silence = f"{topic}: no command for {driver.timeout:g} s; braked by itself"
                self.get_logger().error(silence)
                self.diagnostics.count("command_timeouts")
                self.diagnostics.fault("driver", f"{silence} and resumes with commands within {TOLERANCE:g} rad of its place")
            else:
                self.diagnostics.clear("driver")
        state = "inactive" if not driver.active else "dead" if driver.dead else "active"
        self.diagnostics.set("controller", state)
        self.diagnostics.set("unheeded_commands", driver.refused)

    def _on_command(self, message: Float64MultiArray) -> None:
        try:
            self.driver.command(checked(message.data, len(self.contract.joints)), time.monotonic())
        except VlaRosError as error:
            self._refuse(error)
            return
        self._obey()

    def _on_trajectory(self, message: JointTrajectory) -> None:
        joints, now = self.contract.joints, self.cell.time
        start = max(now, convert.seconds(message.header.stamp))
        try:
            rows = [ordered(p.positions, list(message.joint_names), joints) for p in message.points]
            due = [start + convert.seconds(p.time_from_start) for p in message.points]
            self.driver.trajectory(now, due, rows)
        except VlaRosError as error:
            self._refuse(error)
            return
        self._obey()

    def _obey(self) -> None:
        self.commands += 1
        self.following = True

    def _refuse(self, error: VlaRosError) -> None:
        self.refused += 1
        self.diagnostics.error(str(error))
        self.commands += 1  # an answer all the same: lock step goes on, the arm holds the last good command
        self.get_logger().error(f"{error}; refused ({self.refused} so far), the arm holds", throttle_duration_sec=2.0)

    def _on_reset(self, request: ResetCell.Request, response: ResetCell.Response) -> ResetCell.Response:
        if fallen := self.mishaps.check():
            response.success, response.operator, response.message = False, True, fallen
            return response
        try:
            scene = self.cell.sample(request.seed, request.split or "train", request.task)
            self._lay_out_clear(scene)
        except VlaRosError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.instruction = True, scene.instruction
        response.stamp = convert.stamp(self.cell.time)
        response.time_limit = self.cell.time_limit(scene)
        self._publish_truth(convert.stamp(self.cell.time))
        return response

    def _lay_out_clear(self, scene: AnyScene) -> None:
        if reason := self.cell.in_the_way(scene):
            raise VlaRosError(reason)
        self._lay_out(scene)

    def _lay_out(self, scene: AnyScene) -> None:
        self.cell.reset(scene)
        self.instruction = scene.instruction

    def _listen(self, entry: str) -> None:
        topic, _, kind = entry.partition(" ")
        try:
            kind_of = message_class(kind)
        except VlaRosError as error:
            expected = "expected '/topic package/msg/Type'"
            raise VlaRosError(f"parameter lockstep_topics: found '{entry}', {expected}; {error}") from error

        def note(message: Any) -> None:
            self.answered[topic] = _stamp_of(message)

        self.create_subscription(kind_of, topic, note, qos.RECORD)

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "real_time_factor":
                try:
                    self.pace.factor = _factor(float(parameter.value))
                except (VlaRosError, TypeError) as error:
                    return SetParametersResult(successful=False, reason=str(error))
            elif parameter.name == "lockstep_timeout":
                self.pace.timeout = float(parameter.value)
        return SetParametersResult(successful=True)


def cell_of(contract: RobotContract, twin: str = "") -> RobotCell[Any]:
    """The tabletop cell of a robot whose tip moves in the table's plane, else the bimanual one.

    Args:
        twin: file of `vla-ros twin fit`: the tabletop cell as a real one was found.

    Raises:
        VlaRosError: a twin of the other cell, or a robot for which there is none.
    """
    if contract.action.tip_plane is not None:
        return Cell(contract, physics=twin_file.physics(twin, contract) if twin else None)
    if twin:
        expected = f"expected none: twins are of tabletop cells, {contract.robot} has a bimanual one"
        raise VlaRosError(f"parameter twin: found '{twin}', {expected}")
    return BimanualCell(contract)


def _size(value: list[int]) -> tuple[int, int]:
    (most_high, most_wide) = LARGEST_PICTURE
    if len(value) != 2 or not (16 <= value[0] <= most_high and 16 <= value[1] <= most_wide):
        raise VlaRosError(f"parameter camera_size: found {value}, expected height 16..{most_high} and width 16..{most_wide} px")
    return int(value[0]), int(value[1])


def _factor(value: float) -> float:
    if not (math.isfinite(value) and 0 <= value <= 100):
        raise VlaRosError(f"parameter real_time_factor: found {value}, expected 0 (lock step) or up to 100")
    return value


def _stamp_of(message: Any) -> float:
    """The frame [s] that a message answers: its observation_stamp, else its header's stamp, else its stamp."""
    if hasattr(message, "observation_stamp"):
        stamp = message.observation_stamp
    else:
        stamp = message.header.stamp if hasattr(message, "header") else message.stamp
    return convert.seconds(stamp)


def main(args: list[str] | None = None) -> int:
    return run(SimNode, args, spin=SimNode.run)


if __name__ == "__main__":
    raise SystemExit(main())
