"""A person's device as commands on /teleop/..., which policy_node takes in the policy's place (nodes/teleop.py); and, in a
terminal, the recording of demonstrations. It publishes nothing else: the way to the arm is through the safety filter.

One executor thread does everything; keys and joystick are read without waiting.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped, Vector3
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMsg
from sensor_msgs.msg import Joy
from std_msgs.msg import Header

from vla_ros import paths, terminal
from vla_ros.errors import VlaRosError
from vla_ros.msg import ActionChunk
from vla_ros.nodes import convert, qos
from vla_ros.nodes.demonstrations import QUIT, Demonstrations
from vla_ros.nodes.diagnostics import Diagnostics
from vla_ros.nodes.main import run
from vla_ros.nodes.safety_world import base_frame
from vla_ros.nodes.teleop import JOINTS, TWIST
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import positions_of
from vla_ros.teleop.joints import JointSources
from vla_ros.teleop.joystick import Joystick
from vla_ros.teleop.velocity import Gamepad, Keyboard
from vla_ros.types import Array, JointState

SOURCES = ("keyboard", "gamepad", "leaders", "joint_states", "none")  # none: only records
LET_GO = "c"
PERIOD = 0.05  # s between velocities
SHOW = 0.1  # s between lines of the state
SILENT = 0.2  # s without a Joy message, which joy_node repeats 20 times a second
AGAIN = 1.0  # s until a joystick that has gone is looked for again
SILENT_POLICY = 1.0  # s without a chunk: nobody acts
SHOWN = 5.0  # s for which a refusal is shown


class TeleopNode(Node):
    def __init__(self) -> None:
        super().__init__("teleop_node")
        p = self.declare_parameter
        self.contract = RobotContract.load(p("robot", "panda").value)
        source = p("source", "").value
        config = p("config", "").value  # name in config/teleop, or a path; empty: the source's name
        self.calibrates = bool(p("calibrate", False).value)  # only listens, and tells the grippers' ranges
        records = bool(p("record", False).value)  # demonstrations, one after another, with keys
        instruction, time_limit = p("instruction", "").value, float(p("time_limit", 60.0).value)
        if source not in SOURCES:
            raise VlaRosError(f"parameter `source`: found '{source}', expected one of {', '.join(SOURCES)}")
        self.terminal = sys.stdin.fileno() if terminal.has_keys() else -1
        if self.terminal < 0 and (source == "keyboard" or records):
            raise VlaRosError("standard input is no terminal, so there are no keys: run `vla-ros teleop` in a terminal")
        self.state = "nothing is sent"  # of the source
        self._told = ""
        self._acts, self._refused = (-math.inf, ""), (-math.inf, "")  # s, monotonic, and what was heard then
        self.diagnostics = Diagnostics(self, "teleop", self.contract.robot)
        self._send: Callable[[], None] = lambda: None
        self._keyboard: Keyboard | None = None
        self._joints: JointSources | None = None
        if source != "none":
            file = _file(config or source)
            if source in ("keyboard", "gamepad"):
                self._lead_tip(source, file)
            else:
                self._lead_joints(file)
        self.demonstrations = Demonstrations(self, instruction, time_limit) if records else None
        self.create_subscription(ActionChunk, "policy/chunk", self._on_chunk, qos.LATEST)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period = PERIOD if self._joints is None else 1 / self.contract.action.rate
        self.create_timer(period, self._tick, clock=steady)
        self.create_timer(SHOW, self._show, clock=steady)

    # -- sources --------------------------------------------------------------------------------------------------

    def _lead_tip(self, source: str, file: Path) -> None:
        self._twists = self.create_publisher(TwistStamped, TWIST, qos.SENSOR)
        self._frame, self._held = base_frame(self.contract), False
        if source == "keyboard":
            keyboard = self._keyboard = Keyboard(self.contract, file)
            self._send = lambda: self._twist(keyboard.velocity(time.monotonic()))
            return
        self._gamepad = Gamepad(self.contract, file)
        self._joy: tuple[float, Joy] | None = None
        self._pad: Joystick | None = None
        if self._gamepad.device.startswith("/dev/"):
            self._pad, self._gone = Joystick(Path(self._gamepad.device)), 0.0
            self._send = self._send_joystick
        else:
            self.create_subscription(Joy, self._gamepad.device, self._on_joy, qos.SENSOR)
            self._send = self._send_joy

    def _lead_joints(self, file: Path) -> None:
        sources = self._joints = JointSources(self.contract, file)
        self._measured: Array | None = None
        self._leader = self.create_publisher(JointStateMsg, JOINTS, qos.SENSOR)
        self.create_subscription(JointStateMsg, self.contract.control.state_topic, self._on_measured, qos.LATEST)
        for topic in sources.topics:
            self.create_subscription(JointStateMsg, topic, self._listener(topic, sources), qos.SENSOR)
        self._send = lambda: self._lead(sources)

    def _twist(self, velocity: Array | None) -> None:
        """Zeros once when the person lets go, so that the arm does not go on for what its last command still holds."""
        if velocity is None and not self._held:
            self.state = "let go"
            return
        self._held = velocity is not None
        x, y = (velocity if velocity is not None else np.zeros(2)).tolist()
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame)
        self._twists.publish(TwistStamped(header=header, twist=Twist(linear=Vector3(x=x, y=y))))
        self.diagnostics.count("commands", rate=True)
        self.state = f"x {x:+.2f} y {y:+.2f} m/s"

    def _send_joystick(self) -> None:
        try:
            if self._pad is None:
                if time.monotonic() < self._gone + AGAIN:
                    return
                self._pad = Joystick(Path(self._gamepad.device))
                self.diagnostics.clear("device")
            self._pad.read()
        except VlaRosError as error:
            self._twist(None)
            if self._pad is not None:
                self._pad.close()
                self.get_logger().error(str(error))
            self._pad, self._gone, self.state = None, time.monotonic(), str(error)
            self.diagnostics.fault("device", str(error))
            return
        self._move(self._pad.axes, self._pad.buttons)

    def _on_joy(self, message: Joy) -> None:
        self._joy = time.monotonic(), message

    def _send_joy(self) -> None:
        if self._joy is None or time.monotonic() - self._joy[0] > SILENT:
            self._twist(None)
            self.state = f"silent: {self._gamepad.device}"
            return
        self._move(self._joy[1].axes, self._joy[1].buttons)

    def _move(self, axes: list[float], buttons: list[int]) -> None:
        try:
            self._twist(self._gamepad.velocity(axes, buttons))
        except VlaRosError as error:
            self._twist(None)
            self._error(error)

    def _on_measured(self, message: JointStateMsg) -> None:
        try:
            self._measured = positions_of(self.contract, convert.joint_state(message))
        except VlaRosError as error:
            self._error(error)

    def _listener(self, topic: str, sources: JointSources) -> Callable[[JointStateMsg], None]:
        def listen(message: JointStateMsg) -> None:
            joints = convert.joint_state(message)
            if qos.simulated(self):  # a leader's clock is the wall's
                joints = JointState(self._now(), joints.names, joints.position, joints.velocity)
            try:
                sources.hear(topic, joints)
            except VlaRosError as error:
                self._error(error)

        return listen

    def _lead(self, sources: JointSources) -> None:
        command = sources.command(self._now(), self._measured)
        self.state = sources.state
        if self.calibrates:
            self.state = sources.calibration().replace("\n", "; ")
        elif command is not None:
            self._leader.publish(convert.joint_state_message(command))
            self.diagnostics.count("commands", rate=True)

    # -- what goes on ---------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def _error(self, error: VlaRosError) -> None:
        self._refused = time.monotonic(), str(error)
        self.diagnostics.error(str(error))
        self.get_logger().error(f"{error}; nothing is sent", throttle_duration_sec=2.0)

    def _on_chunk(self, message: ActionChunk) -> None:
        self._acts = time.monotonic(), "person" if message.corrected else "policy"

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """What policy_node refuses."""
        for status in message.status:
            if status.name.endswith("policy") and "/teleop/" in status.message and "refused" in status.message:
                self._refused = time.monotonic(), status.message

    def _tick(self) -> None:
        pressed = terminal.pressed(self.terminal) if self.terminal >= 0 else []
        if pressed is None:
            raise KeyboardInterrupt  # the terminal has gone
        for key in pressed:
            self._press(key)
        self._send()

    def _press(self, key: str) -> None:
        if self._keyboard is not None and self._keyboard.press(key, time.monotonic()):
            return
        if self.demonstrations is not None and self.demonstrations.press(key):
            return
        if key == LET_GO and self._joints is not None:
            self._joints.let_go() if self._joints.leads else self._joints.take()
        elif key == QUIT and not (self.demonstrations and self.demonstrations.busy):
            raise KeyboardInterrupt

    def _show(self) -> None:
        """One line that is written over and over in a terminal, and else the log's when something has changed."""
        acts = self._acts[1] if time.monotonic() - self._acts[0] < SILENT_POLICY else "nobody"
        parts = [self.state, f"{acts} acts"]
        if self.demonstrations is not None:
            parts.insert(0, self.demonstrations.state)
        if time.monotonic() - self._refused[0] < SHOWN:
            parts.append(self._refused[1])
        line = " | ".join(parts)
        self.diagnostics.set("state", self.state)
        if sys.stdout.isatty():
            print(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif self.state.partition(" ")[0] != self._told:
            self._told = self.state.partition(" ")[0]
            self.get_logger().info(line)


def _file(name: str) -> Path:
    return paths.resolve(name) if name.endswith((".yaml", ".yml")) else paths.share() / "config" / "teleop" / f"{name}.yaml"


def _serve(node: TeleopNode) -> None:
    try:
        with terminal.single_keys(node.terminal):
            rclpy.spin(node)
    finally:
        if sys.stdout.isatty():
            print()
        if node.calibrates and node._joints is not None:
            print(node._joints.calibration())


def main(args: list[str] | None = None) -> int:
    return run(TeleopNode, args, spin=_serve)


if __name__ == "__main__":
    raise SystemExit(main())
