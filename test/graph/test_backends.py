"""cell.launch.yaml with every robot and backend: what parses, what starts, and that the graph of our nodes is the same in all.

Programs of ROS 2, Gazebo and the drivers are played by fake_drivers.py, with their names, types, parameters and services.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fake_drivers
import numpy as np
import pytest
import rclpy
import recordings
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from std_msgs.msg import Float64MultiArray
from vla_ros.msg import Progress, SafetyState

from vla_ros.embedded.launch import Launcher, OutputLine, parse
from vla_ros.errors import VlaRosError
from vla_ros.nodes import qos
from vla_ros.paths import share
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.stop import StopSpec

CELL = share() / "launch" / "cell.launch.yaml"
ROBOTS, BACKENDS = ("panda", "fr3", "aloha"), ("mujoco", "gazebo", "hardware", "replay")
OURS = ("safety_node", "camera_node", "progress_node", "policy_node", "trainer_node")
LIGHT = OURS[:2]  # what every backend is started with; the others take seconds to come up, and meet no backend directly
STANDS_IN = {"mujoco": ["sim_node"], "replay": ["replay_node"]}
# What our nodes have more or less with a backend, and why (cell.launch.yaml).
FOLLOW_THE_CLOCK = {(node, "sub", "/clock", "rosgraph_msgs/msg/Clock") for node in OURS}
WATCHES_CAMERAS = {("safety_node", "sub", "/observation", "vla_ros/msg/Observation")}
ASKS_CONTROLLER = {("safety_node", "client", "/forward_position_controller/get_parameters", "rcl_interfaces/srv/GetParameters")}
Endpoint = tuple[str, str, str, str]  # node, kind, name, type


@dataclass
class Started:
    launcher: Launcher
    lines: list[str]
    node: Node
    executor: SingleThreadedExecutor

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 40.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            dead = [r.name for r in self.launcher.poll() if r.failed]
            log = "\n".join(self.lines[-30:])
            assert not dead and time.monotonic() < end, f"waited {seconds} s for {what}; failed: {dead}; log:\n{log}"
            self.executor.spin_once(timeout_sec=0.02)

    def graph(self, names: tuple[str, ...]) -> set[Endpoint]:
        found: set[Endpoint] = set()
        for name in names:
            for kind, ask in (
                ("pub", self.node.get_publisher_names_and_types_by_node),
                ("sub", self.node.get_subscriber_names_and_types_by_node),
                ("service", self.node.get_service_names_and_types_by_node),
                ("client", self.node.get_client_names_and_types_by_node),
            ):
                found |= {(name, kind, topic, types[0]) for topic, types in ask(name, "/")}
        return found

    def qualities(self, names: tuple[str, ...], topics: set[str]) -> dict[tuple[str, str, str], tuple[Any, ...]]:
        """Reliability, durability, deadline and liveliness by node, kind and topic."""
        found = {}
        for topic in topics:
            for kind, ask in (
                ("pub", self.node.get_publishers_info_by_topic), ("sub", self.node.get_subscriptions_info_by_topic)
            ):  # fmt: skip
                for info in ask(topic):
                    if info.node_name in names:
                        q = info.qos_profile
                        lease = q.liveliness_lease_duration.nanoseconds
                        found[info.node_name, kind, topic] = q.reliability, q.durability, q.deadline.nanoseconds, lease
        return found


def arguments(robot: str, backend: str, folder: Path, tiny: Tiny | None = None) -> dict[str, str]:
    given = {"robot": robot, "backend": backend, "policy": "p", "judge": "j"}
    if tiny is not None:
        given |= {"policy": str(tiny.policy), "judge": str(tiny.judge)}
    given |= {"store": str(folder / "store"), "episodes": str(folder / "episodes"), "at_end": "hold"}
    return given | {"episode": str(folder / "e.mcap"), "cameras": "usb" if robot == "aloha" else "realsense"}


@contextmanager
def started(given: dict[str, str], environment: dict[str, str], full: bool) -> Iterator[Started]:
    """The launch file as it is; without the nodes that need a policy unless `full`."""
    description = parse(CELL, given, {**os.environ, **environment})
    kept = [p for p in description.processes if full or not p.name.startswith(OURS[2:])]
    rclpy.init()
    lines: list[str] = []

    def keep(line: OutputLine) -> None:
        lines.append(line.text)

    with Launcher(replace(description, processes=tuple(kept)), keep) as launcher:
        node = Node("onlooker")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            yield Started(launcher, lines, node, executor)
        finally:
            launcher.shutdown("test")
            node.destroy_node()
            rclpy.shutdown()
    assert [r.name for r in launcher.poll() if r.failed] == [], "\n".join(lines[-30:])


def record(path: Path, robot: str) -> None:
    """An episode of an arm that moves a joint slowly from home; as many frames as a short test needs."""
    contract = RobotContract.load(robot)
    home, names = Kinematics(contract).home(), list(contract.joints)

    def spoil(topic: str, step: int, fields: dict[str, Any]) -> dict[str, Any]:
        if topic == "/observation":
            q, v = home.copy(), np.zeros(len(names))
            q[0], v[0] = 0.02 * step / contract.observation.rate, 0.02
            fields |= {"joint_names": names, "position": q, "velocity": v}
        elif topic == "/safety/state":
            fields |= {"command": home, "raw_command": home}
        return fields

    recordings.record(path, contract, steps=20, spoil=spoil, instruction="push the red cube to the left")


@pytest.fixture(scope="module")
def ros(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return fake_drivers.install(tmp_path_factory.mktemp("ros"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("robot", ROBOTS)
def test_every_combination_parses_with_the_same_nodes_of_ours(
    robot: str, backend: str, ros: dict[str, str], tmp_path: Path
) -> None:
    description = parse(CELL, arguments(robot, backend, tmp_path), ros)
    ours = [process for process in description.processes if process.name.startswith(OURS)]
    assert [process.name.split("-")[0] for process in ours] == list(OURS)
    commands = {process.name.split("-")[0]: list(process.command) for process in ours}
    for name, command in commands.items():
        assert f"robot:={robot}" in command
        assert f"use_sim_time:={'false' if backend == 'hardware' else 'true'}" in command, name
    safety = commands["safety_node"]
    assert safety[safety.index("-p") + 1] == f"robot:={robot}"
    assert f"watch_cameras:={'true' if backend == 'hardware' else 'false'}" in safety
    assert f"check_controller:={'true' if backend in {'hardware', 'gazebo'} else 'false'}" in safety
    others = [process.name.rsplit("-", 1)[0] for process in description.processes if process not in ours]
    xs = ["xsarm_control", "xsarm_control", "interbotix_node", *["usb_cam_node_exe"] * 4]
    hardware = xs if robot == "aloha" else ["franka", "spawner", "spawner", *["realsense2_camera_node"] * 2]
    gazebo = ["gz_sim", "description_node", "create", "parameter_bridge", "spawner", "spawner"]
    assert others == {"hardware": hardware, "gazebo": gazebo, **STANDS_IN}[backend]


@pytest.mark.parametrize(
    ("robot", "backend", "package"),
    [
        ("panda", "hardware", "franka_bringup"), ("fr3", "hardware", "controller_manager"),
        ("fr3", "hardware", "realsense2_camera"), ("aloha", "hardware", "interbotix_xsarm_control"),
        ("aloha", "hardware", "usb_cam"), ("panda", "gazebo", "ros_gz_sim"), ("aloha", "gazebo", "ros_gz_bridge"),
    ],
)  # fmt: skip
def test_a_package_that_is_not_installed_is_named(robot: str, backend: str, package: str, tmp_path: Path) -> None:
    environment = fake_drivers.install(tmp_path / "ros", package)
    debian = f"sudo apt-get install ros-jazzy-{package.replace('_', '-')}"
    with pytest.raises(VlaRosError, match=rf"launch\.yaml:\d+: .*package '{package}' is not installed in .*: {debian}"):
        parse(CELL, arguments(robot, backend, tmp_path), environment)
    with pytest.raises(VlaRosError, match="is not known without ROS 2: AMENT_PREFIX_PATH is empty"):
        parse(CELL, arguments(robot, backend, tmp_path), {"PATH": "/bin"})


def test_other_mistakes_are_named(ros: dict[str, str], tmp_path: Path) -> None:
    given = arguments("fr3", "hardware", tmp_path)
    with pytest.raises(VlaRosError, match="argument 'backend' is 'isaac', expected one of mujoco, gazebo, hardware, replay"):
        parse(CELL, {**given, "backend": "isaac"}, ros)
    with pytest.raises(VlaRosError, match=r"fr4\.launch\.yaml \(in that folder: aloha\.launch\.yaml, fr3\.launch\.yaml, .*runn"):
        parse(CELL, {**given, "drivers": "fr4"}, ros)
    with pytest.raises(VlaRosError, match="franka.launch.py cannot be put into namespace '/a' here"):
        parse(CELL, {**given, "namespace": "a"}, ros)


def check_backend(run: Started, robot: str, backend: str) -> None:
    """The other side of the contract: who sends and takes what, and how."""
    contract = RobotContract.load(robot)
    state, command = contract.control.state_topic, contract.control.command_topic
    ask_pub, ask_sub = run.node.get_publishers_info_by_topic, run.node.get_subscriptions_info_by_topic
    stands_in = STANDS_IN.get(backend, ["forward_position_controller"])[0]
    run.until(
        lambda: ask_pub(state)
        and [info.node_name for info in ask_pub(command)] == ["safety_node"]  # the only one that commands
        and stands_in in {info.node_name for info in ask_sub(command)},
        f"{state}, and {command} from safety_node to {stands_in}",
    )
    (sender,) = ask_pub(state)
    assert sender.topic_type == "sensor_msgs/msg/JointState"
    assert sender.qos_profile.reliability == ReliabilityPolicy.RELIABLE, "safety_node asks for it"
    (ours,) = ask_pub(command)
    assert ours.topic_type == "std_msgs/msg/Float64MultiArray"
    stop = StopSpec.load(contract)
    services = [stop.switch, *(f"{action}/_action/cancel_goal" for action in stop.cancel)]
    run.until(lambda: set(services) <= {name for name, _ in run.node.get_service_names_and_types()}, f"{services}", 20)
    for name in contract.observation.cameras:
        topic = contract.cameras[name].topic
        run.until(lambda topic=topic: ask_pub(topic), topic)  # type: ignore[misc]
        assert {info.topic_type for info in ask_pub(topic)} == {"sensor_msgs/msg/Image"}
    assert len(ask_pub("/clock")) == (0 if backend == "hardware" else 1)


def check_commands(run: Started, robot: str) -> None:
    """The filter answers the joint states of whatever stands there: it holds the arm where that is."""
    contract = RobotContract.load(robot)
    commands: list[Float64MultiArray] = []
    run.node.create_subscription(Float64MultiArray, contract.control.command_topic, commands.append, qos.COMMAND)
    run.until(lambda: len(commands) > 5, "commands of safety_node")
    home = Kinematics(contract).home()
    np.testing.assert_allclose(commands[-1].data, home, atol=0.02)


SEEN: dict[str, tuple[set[Endpoint], dict[tuple[str, str, str], tuple[Any, ...]]]] = {}  # of the Panda, by backend
FULL = {"hardware": OURS, "replay": OURS, "gazebo": LIGHT, "mujoco": LIGHT}  # the whole of mujoco's: test_whole_loop.py


def test_nodes_that_are_not_started_here_have_the_same_command_line(ros: dict[str, str], tmp_path: Path) -> None:
    lines: dict[str, list[tuple[str, ...]]] = {}
    for backend in ("mujoco", "gazebo", "replay"):
        given = {**arguments("panda", backend, tmp_path), "reset": "operator"}
        processes = parse(CELL, given, ros).processes
        lines[backend] = [process.command for process in processes if process.name.startswith(OURS[1:])]
    assert lines["mujoco"] == lines["gazebo"] == lines["replay"]
    assert len(lines["mujoco"]) == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_graph_with_the_panda(backend: str, ros: dict[str, str], tiny: Tiny, tmp_path: Path) -> None:
    record(tmp_path / "e.mcap", "panda")
    ours = FULL[backend]
    with started(arguments("panda", backend, tmp_path, tiny), ros, full=ours is OURS) as run:
        estimates: list[Progress] = []
        modes: list[SafetyState] = []
        run.node.create_subscription(Progress, "/progress", estimates.append, qos.RECORD)
        run.node.create_subscription(SafetyState, "/safety/state", modes.append, qos.RECORD)
        check_backend(run, "panda", backend)
        run.until(lambda: {node for node, _, _, _ in run.graph(ours)} == set(ours), "all nodes")
        for topic in ("/policy/chunk", "/progress", "/training/state") if ours is OURS else ():
            run.until(lambda topic=topic: run.node.count_publishers(topic), topic)  # type: ignore[misc]
        check_commands(run, "panda")
        if backend == "replay":
            run.until(lambda: len(estimates) >= 15, "the judge's estimates of the recording")
            assert {e.instruction for e in estimates} == {"push the red cube to the left"}
            assert {e.episode_id for e in estimates} == {"e"}
            run.until(lambda: any("the recording has ended; " in line for line in run.lines), "its end")
            (report,) = (line for line in run.lines if "the recording has ended; " in line)
            assert "commands compared with the recorded ones: mean difference 0.0" in report
            assert SafetyState.LATCHED not in {m.state for m in modes}
        run.until(lambda: _settled(run), "the graph to settle")
        topics = {name for _, kind, name, _ in run.graph(ours) if kind in {"pub", "sub"}}
        SEEN[backend] = run.graph(ours), run.qualities(ours, topics)


def _settled(run: Started) -> bool:
    before = run.graph(OURS)  # those that do not run have none
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        run.executor.spin_once(timeout_sec=0.05)
    return run.graph(OURS) == before


def test_the_graph_of_our_nodes_is_the_same_with_every_backend() -> None:
    if set(SEEN) != set(BACKENDS):
        pytest.skip("needs test_the_graph_with_the_panda of every backend")
    everything, quality = SEEN["replay"]
    for node in OURS:
        assert len({entry for entry in everything if entry[0] == node}) > 10, f"{node} was not seen"
    for backend in ("mujoco", "gazebo", "hardware"):
        endpoints, qualities = SEEN[backend]
        reference = {entry for entry in everything if entry[0] in FULL[backend]}
        more = {"hardware": WATCHES_CAMERAS | ASKS_CONTROLLER, "gazebo": ASKS_CONTROLLER, "mujoco": set()}[backend]
        less = FOLLOW_THE_CLOCK if backend == "hardware" else set()
        assert endpoints - reference == more, backend
        assert reference - endpoints == less, backend
        # With simulated time pictures and observations are reliable, because a lock-stepped clock would wait for a lost one for
        # ever; on a cell a late picture is worth nothing.
        sensing = {key for key in quality if key[2] == "/observation" or (key[0] == "camera_node" and key[1] == "sub")}
        sensing |= {key for key in quality if key[0] == "trainer_node" and "/observation" in key[2]}
        for key in quality.keys() & qualities.keys():
            if backend != "hardware" or key not in sensing:
                assert qualities[key] == quality[key], f"{backend}: {key}"


@pytest.mark.parametrize(
    ("robot", "backend"),
    [("fr3", "mujoco"), ("fr3", "gazebo"), ("fr3", "hardware"), ("fr3", "replay"), ("aloha", "mujoco"), ("aloha", "gazebo"),
     ("aloha", "hardware"), ("aloha", "replay")],
)  # fmt: skip
def test_the_other_robots_start(robot: str, backend: str, ros: dict[str, str], tmp_path: Path) -> None:
    if backend == "replay":
        record(tmp_path / "e.mcap", robot)
    with started(arguments(robot, backend, tmp_path), ros, full=False) as run:
        check_backend(run, robot, backend)
        check_commands(run, robot)
