"""What the nodes add: from a camera frame to the first safe command that follows the policy's answer to it, less the policy's
own model time. Real processes over real DDS on this machine, with the cameras in both ways that camera_node knows:

    devices  2 files ──threads──►┐
    topics   2 camera drivers ──►┴ camera_node ──► policy_node ──► safety_node ──► arm
                                       ▲                               ▲            │
                                       └────── joint states, 210 Hz ───┴────────────┘

Both cameras send 640x480 at the same moments at 29.97 Hz (NTSC's), so that frames meet the arm's clock in every phase; 210 Hz is
the first control rate from 200 Hz on that is a multiple of 30, as contracts want it. As topics they are rgb8 images from a
process each, as driver nodes are. As devices they are video files of noise in uncompressed YUV 4:2:0, which costs as much to
turn into pictures as the YUYV of a webcam (0.15 ms; MJPG would be 2.5 ms). The arm goes where it is told. The policy is VlaModel
in its default shape with random weights.

Every node runs as it is; its callbacks note when they begin and end. A frame's stamp is when its driver has it: before it is
sent, or before it is decoded. The sums leave out two stages:

    model      the network
    tick wait  an admitted chunk waits for the next joint state, the control clock: evenly spread over 0 to 4.8 ms, p99 4.7 ms,
               however fast the nodes are. The bar of 4 ms is held against what the nodes add; `with_wait` includes it.

The wait of the frames for a joint state (`joint wait`) is the alignment's own choice and counts, and so does the command's way
to the arm. `from_observation` begins where camera_node sends the aligned observation.

    python benchmarks/node_overhead.py [--quick] [--json] [--engine onnx] [--cameras devices]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch

import cv2
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vla_ros import embedded  # noqa: E402

embedded.activate()

import rclpy  # noqa: E402
from rclpy.executors import ExternalShutdownException  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from vla_ros.msg import Instruction  # noqa: E402

from vla_ros.nodes import convert, qos  # noqa: E402
from vla_ros.robots.contract import RobotContract  # noqa: E402
from vla_ros.robots.kinematics import Kinematics  # noqa: E402
from vla_ros.robots.shapes import model_shapes  # noqa: E402

DOMAIN = 112  # of its own, away from a robot's
CAMERAS = ("front", "wrist")
RATE = 30.0 / 1.001  # Hz
CONTROL = 210  # Hz
HEIGHT, WIDTH = 480, 640
BAR = 4.0  # ms, p99
TEXT = "push the red cube to the left"
NODES = ("camera_node", "policy_node", "safety_node")
WARM = 60  # observations before the figures
WAYS = ("topics", "devices")  # of the cameras
VIDEO = 90  # frames of a device before it begins anew
PATIENCE = 90.0  # s, until the first command that follows a chunk

Row = dict[str, Any]
Trace = list[Row]


def write_contract(folder: Path) -> Path:
    """Panda's, with both cameras and 30 Hz; the step is shortened as the period is."""
    content = yaml.safe_load((ROOT / "config" / "robots" / "panda.yaml").read_text())
    slower = content["observation"]["rate"] / 30
    content["control"]["rate"] = CONTROL
    content["observation"] |= {"rate": 30, "cameras": list(CAMERAS)}
    content["action"]["max_step"] *= slower
    path = folder / "panda.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def write_policy(contract: RobotContract, folder: Path) -> Path:
    """A checkpoint of VlaModel that sees both cameras; in all else its defaults, and random weights."""
    import torch

    from vla_ros.policy import policy
    from vla_ros.policy.model import VlaConfig, VlaModel
    from vla_ros.policy.prompt import WordPrompt
    from vla_ros.sim.tasks import Tasks

    torch.manual_seed(0)
    prompt = WordPrompt.of(Tasks.load().vocabulary)
    config = VlaConfig(robot=contract.robot, **model_shapes(contract))
    config.language["vocab_size"] = len(prompt.tokenizer)
    policy.save(folder / "policy", VlaModel(config), prompt, {"stage": "benchmark"})
    return folder / "policy"


# Each of these wraps methods of a node's class, and adds to `trace` as its callbacks run. All times: time.time() [s].


def trace_camera(module: Any, trace: Trace) -> None:
    """Per observation: when the last frame had arrived, when the callback began that completed it, and when it was sent."""
    node = module.CameraNode
    started, feed, on_joints = node.__init__, node.feed, node._on_joints
    arrived: dict[str, float] = {}
    began = 0.0

    def timed_feed(self: Any, name: str, *rest: Any) -> None:
        nonlocal began
        began = arrived[name] = time.time()
        feed(self, name, *rest)

    def timed_joints(self: Any, message: Any) -> None:
        nonlocal began
        began = time.time()
        on_joints(self, message)

    def timed_start(self: Any) -> None:
        started(self)
        publish = self.observations.publish

        def timed_publish(message: Any) -> None:
            row = {"stamp": convert.seconds(message.header.stamp), "arrived": max(arrived.values()), "began": began}
            row["built"] = time.time()
            publish(message)
            trace.append(row)

        self.observations.publish = timed_publish

    node.__init__, node.feed, node._on_joints = timed_start, timed_feed, timed_joints


def trace_policy(module: Any, trace: Trace) -> None:
    """Per chunk: when its observation had come, when it was sent, and its latency_ms."""
    node = module.PolicyNode
    on_observation, publish = node._on_observation, node._publish
    began = 0.0

    def timed_observation(self: Any, message: Any) -> None:
        nonlocal began
        began = time.time()
        on_observation(self, message)

    def timed_publish(self: Any, chunk: Any, latency: list[float]) -> None:
        row = {"stamp": chunk.observation_stamp, "began": began, "answered": time.time(), "latency": list(latency)}
        publish(self, chunk, latency)
        trace.append(row)

    node._on_observation, node._publish = timed_observation, timed_publish


def trace_safety(module: Any, trace: Trace) -> None:
    """Per accepted chunk: when it had come and was admitted; when the next tick began and its command was sent, and which."""
    node = module.SafetyNode
    on_chunk, on_joints, send = node._on_chunk, node._on_joint_state, node._send
    waiting: Row = {}
    began = 0.0

    def timed_chunk(self: Any, message: Any) -> None:
        came, accepted = time.time(), self.filter.counters.accepted_chunks
        on_chunk(self, message)
        if self.filter.counters.accepted_chunks > accepted:
            waiting.clear()
            waiting.update(stamp=convert.seconds(message.observation_stamp), came=came, admitted=time.time())

    def timed_joints(self: Any, message: Any) -> None:
        nonlocal began
        began = time.time()
        on_joints(self, message)

    def timed_send(self: Any, sent: Any) -> None:
        row = {**waiting, "began": began, "command": sent.command.tolist(), "sent": time.time()}
        send(self, sent)
        if waiting:
            trace.append(row)
            waiting.clear()

    node._on_chunk, node._on_joint_state, node._send = timed_chunk, timed_joints, timed_send


TRACERS: dict[str, Callable[[Any, Trace], None]] = {
    "camera_node": trace_camera, "policy_node": trace_policy, "safety_node": trace_safety,
}  # fmt: skip


class Arm(Node):
    """Joint states at the control rate, of an arm that is where it was last told to be; notes the commands."""

    def __init__(self, contract: RobotContract, trace: Trace) -> None:
        super().__init__("arm")
        self.names, self.rate, self.trace = contract.joints, contract.control.rate, trace
        self.position = Kinematics(contract).home()
        self.velocity = np.zeros(len(contract.joints))
        self.joints = self.create_publisher(JointState, contract.control.state_topic, 5)
        self.create_subscription(Float64MultiArray, contract.control.command_topic, self._on_command, qos.COMMAND)
        self.create_timer(1 / self.rate, self._send)

    def _on_command(self, message: Float64MultiArray) -> None:
        self.trace.append({"received": time.time(), "command": message.data.tolist()})
        position = np.array(message.data)
        self.velocity, self.position = (position - self.position) * self.rate, position

    def _send(self) -> None:
        message = JointState(name=list(self.names), position=self.position, velocity=self.velocity)
        message.header.stamp = self.get_clock().now().to_msg()
        self.joints.publish(message)


def run_camera(contract: RobotContract, name: str) -> None:
    """Noise at RATE; all cameras at the same moments."""
    node = Node(f"camera_{name}")
    publisher = node.create_publisher(Image, contract.cameras[name].topic, qos.SENSOR)
    publisher.wait_for_subscriptions(1, PATIENCE)
    pixels = np.random.default_rng(len(name)).integers(0, 256, HEIGHT * WIDTH * 3, np.uint8)
    tick = int(time.time() * RATE) + 1
    while rclpy.ok():
        time.sleep(max(0.0, tick / RATE - time.time()))
        tick = max(tick + 1, int(time.time() * RATE))
        message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=pixels)
        message.header.stamp = convert.stamp(time.time())
        publisher.publish(message)


def write_video(path: Path) -> Path:
    """Noise at RATE; camera_node plays files of one rate in step."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"I420"), RATE, (WIDTH, HEIGHT))
    random = np.random.default_rng(len(path.stem))
    for _ in range(VIDEO):
        writer.write(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    writer.release()
    return path


def run_role(role: str, folder: Path, arguments: list[str]) -> None:
    """One of the processes; at its end, with SIGINT, writes its trace."""
    trace: Trace = []
    try:
        if role in TRACERS:
            module = importlib.import_module(f"vla_ros.nodes.{role}")
            TRACERS[role](module, trace)
            sys.argv = [role, *arguments]
            status = module.main()
            if status:
                raise SystemExit(status)
        else:
            rclpy.init(args=[])
            contract = RobotContract.load(folder / "panda.yaml")
            if role == "arm":
                rclpy.spin(Arm(contract, trace))
            else:
                run_camera(contract, role)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    (folder / f"{role}.json").write_text(json.dumps(trace))


class Process:
    """One role."""

    def __init__(self, role: str, folder: Path, **parameters: Any) -> None:
        values = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
        command = [sys.executable, __file__, "--role", role, "--folder", str(folder)]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.trace = folder / f"{role}.json"
        self._process = subprocess.Popen(
            [*command, "--ros-args", *values] if parameters else command, stdout=self._log, stderr=subprocess.STDOUT
        )

    def check(self) -> None:
        """Raises RuntimeError with what it wrote if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.trace.stem} ended with status {self._process.returncode}: {self.output()}")

    def output(self) -> str:
        self._log.seek(0)
        return self._log.read()[-3000:]

    def end(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=30)


def run_graph(folder: Path, seconds: float, engine: str, way: str) -> dict[str, Trace]:
    """The traces of all processes, after `seconds` of answers and their warming up; `way` of the cameras, one of WAYS."""
    folder.mkdir()
    contract = write_contract(folder)
    policy = write_policy(RobotContract.load(contract), folder)
    parameters: dict[str, Row] = {
        "policy_node": {"robot": contract, "policy": policy, "engine": engine}, "safety_node": {"robot": contract},
        "camera_node": {"robot": contract}, "arm": {},
    }  # fmt: skip
    if way == "devices":
        videos = [str(write_video(folder / f"{name}.avi")) for name in CAMERAS]
        parameters["camera_node"]["devices"] = f"[{', '.join(videos)}]"
    else:
        parameters |= {name: {} for name in CAMERAS}
    rclpy.init(args=[])
    node = Node("operator")
    moving: list[float] = []

    def on_state(message: Any) -> None:
        if message.policy_version and not message.reason:
            moving.append(time.time())

    from std_msgs.msg import Header
    from vla_ros.msg import SafetyState

    states = node.create_subscription(SafetyState, "/safety/state", on_state, qos.STATUS)
    instructions = node.create_publisher(Instruction, "/instruction", qos.STATUS)
    instructions.publish(Instruction(text=TEXT, episode_id="benchmark", header=Header(stamp=convert.stamp(time.time()))))
    processes = {role: Process(role, folder, **values) for role, values in parameters.items()}
    try:
        deadline = time.monotonic() + PATIENCE
        while not moving:
            for process in processes.values():
                process.check()
            if time.monotonic() > deadline:
                told = "\n".join(f"{role}: {process.output()}" for role, process in processes.items())
                raise RuntimeError(f"no command followed a chunk within {PATIENCE:.0f} s; the processes wrote:\n{told}")
            rclpy.spin_once(node, timeout_sec=0.5)
        node.destroy_subscription(states)
        time.sleep(seconds + WARM / RATE)
        for process in processes.values():
            process.check()
    finally:
        for process in reversed(processes.values()):
            process.end()
        node.destroy_node()
        rclpy.shutdown()
    return {role: json.loads(process.trace.read_text()) for role, process in processes.items()}


STAGES = (
    "frame in", "joint wait", "align", "observation transport", "decode, preprocess", "model", "post",
    "rest of policy_node", "chunk transport", "admission", "tick wait", "tick", "command transport",
)  # fmt: skip
SUMS = {
    "overhead": f"from the frame's stamp (bar: p99 <= {BAR:g})",
    "from_observation": "from the aligned observation",
    "with_wait": "from the frame's stamp, with the wait for the next tick",
}


def split(traces: dict[str, Trace]) -> np.ndarray:
    """[steps, len(STAGES)] ms of every answered observation whose command arrived."""
    observed = {row["stamp"]: row for row in traces["camera_node"]}
    answered = {row["stamp"]: row for row in traces["policy_node"]}
    received = traces["arm"]
    times = np.array([row["received"] for row in received])
    rows = []
    for sent in traces["safety_node"]:
        seen, chunk = observed.get(sent["stamp"]), answered.get(sent["stamp"])
        after = int(np.searchsorted(times, sent["sent"]))
        same = (row["received"] for row in received[after : after + 5] if row["command"] == sent["command"])
        arrival = next(same, None)
        if seen is None or chunk is None or arrival is None:
            continue
        waited = max(0.0, seen["began"] - seen["arrived"])
        ready, model, post = (value / 1e3 for value in chunk["latency"])
        marks = (seen["arrived"], seen["arrived"] + waited, seen["built"], chunk["began"])
        inside = (chunk["began"] + ready, chunk["began"] + ready + model, chunk["began"] + ready + model + post)
        last = (chunk["answered"], sent["came"], sent["admitted"], max(sent["began"], sent["admitted"]), sent["sent"], arrival)
        rows.append(np.diff([sent["stamp"], *marks, *inside, *last]) * 1e3)
    return np.array(rows[WARM:])


def figures(traces: dict[str, Trace]) -> Row:
    """p50 and p99 [ms] of each step's sums and of each stage, and the counts."""
    steps = split(traces)
    if len(steps) < 100:
        raise RuntimeError(f"found {len(steps)} answered observations, expected at least 100")
    counts = {"observations": "camera_node", "chunks": "policy_node", "followed": "safety_node"}
    added = np.array([name not in ("model", "tick wait") for name in STAGES])
    sums = {
        "overhead": steps[:, added].sum(1),
        "from_observation": steps[:, added & (np.arange(len(STAGES)) >= STAGES.index("observation transport"))].sum(1),
        "with_wait": steps[:, [name != "model" for name in STAGES]].sum(1),
    }

    def percentiles(named: Any) -> Row:
        return {name: np.percentile(values, [50, 99]).tolist() for name, values in named}

    return {
        "sums_ms": percentiles(sums.items()), "stages_ms": percentiles(zip(STAGES, steps.T, strict=True)), "bar_ms": BAR,
        "steps": len(steps), **{name: len(traces[role]) for name, role in counts.items()},
    }  # fmt: skip


def cpu_time() -> np.ndarray:
    """s since boot: of all cores; of this benchmark and its ended processes; stolen by the host; idle."""
    user, nice, system, idle, wait, irq, soft, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ticks = np.array([user + nice + system + idle + wait + irq + soft + stolen, 0, stolen, idle + wait])
    return ticks / os.sysconf("SC_CLK_TCK") + [0.0, sum(each.ru_utime + each.ru_stime for each in used), 0.0, 0.0]


def tell(way: str, found: Row) -> None:
    """The table for people."""
    counts = ", ".join(f"{name} {found[name]}" for name in ("observations", "chunks", "followed", "steps"))
    print(f"cameras as {way}: {counts}")
    print(f"  of {os.cpu_count()} cores others took {found['others']:.0%}, the host {found['stolen']:.1%}")
    print(f"  {'ms':<56} {'p50':>8} {'p99':>8}")
    sums = {SUMS[name]: values for name, values in found["sums_ms"].items()}
    for name, (p50, p99) in {**found["stages_ms"], **sums}.items():
        print(f"  {name:<56} {p50:8.3f} {p99:8.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="15 s, not 60 s, each")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object in the last line")
    parser.add_argument("--engine", default="onnx", help="of policy_node (onnx)")
    parser.add_argument("--cameras", choices=WAYS, action="append", help="only as these (topics and devices)")
    parser.add_argument("--role", choices=(*NODES, "arm", *CAMERAS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options, arguments = parser.parse_known_args()
    os.environ["ROS_DOMAIN_ID"] = os.environ.get("ROS_DOMAIN_ID") or str(DOMAIN)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if options.role:
        run_role(options.role, options.folder, arguments)
        return
    if arguments:
        parser.error(f"unknown: {' '.join(arguments)}")
    found = {}
    for way in options.cameras or WAYS:
        before = cpu_time()
        with tempfile.TemporaryDirectory() as folder:
            traces = run_graph(Path(folder) / way, 15.0 if options.quick else 60.0, options.engine, way)
        cores, own, stolen, idle = cpu_time() - before
        found[way] = {**figures(traces), "others": (cores - own - stolen - idle) / cores, "stolen": stolen / cores}
        tell(way, found[way])
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
