"""The demo's end of the live graph: starts the launch file, asks for episodes and practice, listens for the view."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import rclpy
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from vla_ros.action import Improve, RunTask
from vla_ros.cli.demo.settings import TRAINING, RunFolder
from vla_ros.cli.demo.view import Figures
from vla_ros.embedded.launch import Launcher, OutputLine, parse
from vla_ros.episodes.monitor import LATCHED
from vla_ros.errors import VlaRosError
from vla_ros.msg import Episode, PolicyVersion, Progress, SafetyState, TrainingState, TrueOutcome
from vla_ros.nodes import qos
from vla_ros.nodes.main import spin_beside
from vla_ros.paths import share
from vla_ros.srv import ActivatePolicy

DISCOVERY = 1.0  # s to hear of nodes that run already
START = 90.0  # s for all nodes to come up (torch is imported in three of them)
STUCK = 120.0  # s without an answer to one episode


@dataclass(frozen=True)
class EpisodeResult:
    """One evaluated episode."""

    seed: int
    instruction: str
    detected: bool  # the detector's verdict
    true_success: bool  # the simulator's, at its end
    steps: int
    reason: str
    version: int
    file: str


class Graph:
    """All nodes in processes of their own, and a client among them. Use as a context manager."""

    def __init__(self, robot: str, folder: RunFolder, figures: Figures, training: str = TRAINING) -> None:
        self.figures = figures
        self._log = folder.log.open("w", encoding="utf-8")
        arguments = {
            "robot": robot, "policy": str(folder.policy), "judge": str(folder.judge), "store": str(folder.store),
            "episodes": str(folder.episodes), "real_time_factor": "0.0", "training": training,
        }  # fmt: skip
        description = parse(share() / "launch" / "cell.launch.yaml", arguments)
        self._launcher = Launcher(description, on_line=self._keep)
        self._truth = (0.0, False)
        self._thread: threading.Thread | None = None
        self.on_episode: Callable[[dict[str, Any]], None] = lambda episode: None

    def _keep(self, line: OutputLine) -> None:
        self._log.write(line.text + "\n")
        self._log.flush()

    def __enter__(self) -> Graph:
        try:
            self._connect()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _connect(self) -> None:
        # Ctrl-C must reach this process as KeyboardInterrupt, so that it can end the graph in order.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("vla_demo")
        time.sleep(DISCOVERY)
        if taken := {"sim_node", "safety_node"} & set(self.node.get_node_names()):
            raise VlaRosError(
                f"ROS domain {os.environ['ROS_DOMAIN_ID']} is taken: {', '.join(sorted(taken))} runs there already; "
                "end it, or choose another one: ROS_DOMAIN_ID=<0..100> vla-ros demo"
            )
        self._launcher.start()
        listen = self.node.create_subscription
        listen(Progress, "/progress", self._on_progress, QoSProfile(depth=10))
        listen(SafetyState, "/safety/state", self._on_safety, qos.STATUS)
        listen(TrainingState, "/training/state", self._on_training, qos.STATUS)
        listen(PolicyVersion, "/policy/active", self._on_version, qos.STATUS)
        listen(Episode, "/training/episode", self._on_episode, qos.RECORD)
        listen(TrueOutcome, "/sim/truth", self._on_truth, QoSProfile(depth=10))
        self._run = ActionClient(self.node, RunTask, "/run_task")
        self._improve = ActionClient(self.node, Improve, "/improve")
        self._activate = self.node.create_client(ActivatePolicy, "/policy/activate")
        self._sim = self.node.create_client(SetParameters, "/sim_node/set_parameters")
        self._thread = threading.Thread(target=spin_beside, args=(self.node,), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START
        clients: list[Any] = [self._run, self._improve]
        while not (all(c.server_is_ready() for c in clients) and self.figures.version):
            self._check_alive()
            if time.monotonic() > deadline:
                raise VlaRosError(f"the graph did not come up within {START:g} s; see {self._log.name}")
            time.sleep(0.1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        rclpy.try_shutdown()
        if self._thread is not None:
            self._thread.join(5.0)
        self._launcher.shutdown("the demo is over")
        self._log.close()

    # -- what the view shows --------------------------------------------------------------------------------------

    def _on_progress(self, m: Progress) -> None:
        f = self.figures
        if m.instruction != f.instruction or m.reward == 0.0:
            f.instruction, f.first = m.instruction, m.steps_to_go
        f.steps_to_go, f.success_probability = m.steps_to_go, m.success_probability

    def _on_safety(self, m: SafetyState) -> None:
        f = self.figures
        f.mode, f.reason, f.path_speed, f.active = m.state, m.reason, m.path_speed, tuple(m.active_constraints)
        f.ticks, f.missed, f.limited = m.ticks, m.missed_ticks, m.limited_ticks

    def _on_training(self, m: TrainingState) -> None:
        self.figures.swaps, self.figures.message = m.swaps, m.message

    def _on_version(self, m: PolicyVersion) -> None:
        self.figures.version = m.number

    def _on_truth(self, m: TrueOutcome) -> None:
        self._truth = (m.distance, m.success)

    def _on_episode(self, m: Episode) -> None:
        good = m.outcome == "success"
        self.figures.outcomes.append(good)
        self.on_episode(
            {"id": m.id, "instruction": m.instruction, "outcome": m.outcome, "steps": m.steps, "version": m.policy_version}
        )

    # -- what the demo asks for -----------------------------------------------------------------------------------

    def _check_alive(self) -> None:
        failed = [r for r in self._launcher.poll() if r.failed]
        if failed or not self._launcher.running():
            names = ", ".join(r.name for r in failed) or "all nodes"
            raise VlaRosError(f"{names} ended; see {self._log.name}")

    def _await(self, future: Any, what: str, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while not future.done():
            self._check_alive()
            if self.figures.mode == SafetyState.LATCHED:
                deadline = time.monotonic() + seconds  # an operator has stopped the arm, and may take his time
            if time.monotonic() > deadline:
                raise VlaRosError(f"no answer to {what} within {seconds:g} s; see {self._log.name}")
            time.sleep(0.005)
        return future.result()

    def _goal(self, client: ActionClient, goal: Any, what: str, seconds: float, feedback: Any = None) -> Any:
        handle = self._await(client.send_goal_async(goal, feedback_callback=feedback), what, STUCK)
        if not handle.accepted:
            raise VlaRosError(f"{what} was rejected; see {self._log.name}")
        return self._await(handle.get_result_async(), what, seconds).result

    def episode(
        self, seed: int, greedy: bool, split: str = "train", time_limit: float = 0.0, task: str = ""
    ) -> EpisodeResult:
        """One recorded episode; truth is the simulator's when the arm has stopped."""
        goal = RunTask.Goal(seed=seed, greedy=greedy, split=split, time_limit=time_limit, task=task)
        r = self._goal(self._run, goal, f"episode {seed}", STUCK)
        while r.termination_reason == LATCHED:  # an operator's stop is no failure of the policy: the scene is laid out again
            r = self._goal(self._run, goal, f"episode {seed}", STUCK)
        if r.outcome == "aborted":
            raise VlaRosError(f"episode {seed} was aborted: {r.termination_reason}; see {self._log.name}")
        detected = r.outcome == "success"
        return EpisodeResult(
            seed, r.instruction, detected, self._truth[1], r.steps, r.termination_reason, r.policy_version, r.file
        )

    def evaluate(
        self, first_seed: int, count: int, greedy: bool, split: str, tell: Callable[[float, str], None]
    ) -> list[EpisodeResult]:
        self.figures.outcomes.clear()
        out: list[EpisodeResult] = []
        for k in range(count):
            out.append(self.episode(first_seed + k, greedy, split))
            tell((k + 1) / count, f"success {sum(e.true_success for e in out)}/{k + 1}")
        return out

    def improve(self, episodes: int, per_update: int, seed: int, task: str, tell: Callable[[float, str], None]) -> Improve.Result:
        """Practise; the trainer's report of how it went."""
        self.figures.outcomes.clear()

        def feedback(message: Any) -> None:
            f = message.feedback
            tell(f.episodes / episodes, f"detected {f.success_rate:.0%}  version {f.policy_version}")

        goal = Improve.Goal(episodes=episodes, episodes_per_update=per_update, seed=seed, task=task)
        result = self._goal(self._improve, goal, "practice", 3600.0, feedback)
        if result.termination_reason not in ("finished", "stopped"):
            raise VlaRosError(f"practice ended early: {result.termination_reason}; see {self._log.name}")
        tell(1.0, f"{result.updates} updates, {result.swaps} swaps {result.message}".strip())
        return result

    def activate(self, number: int) -> None:
        answer = self._await(self._activate.call_async(ActivatePolicy.Request(number=number)), "/policy/activate", 10.0)
        if not answer.success:
            raise VlaRosError(f"/policy/activate: {answer.message}")

    def pace(self, factor: float) -> None:
        """Simulated seconds per second; 0 is lock step."""
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=factor)
        request = SetParameters.Request(parameters=[ParameterMsg(name="real_time_factor", value=value)])
        answer = self._await(self._sim.call_async(request), "/sim_node/set_parameters", 10.0)
        if not answer.results[0].successful:
            raise VlaRosError(f"/sim_node: {answer.results[0].reason}")

    def live(
        self, seconds: float, versions: list[int], seed: int, greedy: bool, tell: Callable[[float, str], None]
    ) -> dict[str, int]:
        """Real time: episodes run on while versions change under load; counts control ticks that were missed."""
        self.pace(1.0)
        before = self.figures.ticks, self.figures.missed
        swaps, start, k = 0, time.monotonic(), 0
        stop = threading.Event()

        def swapper() -> None:
            nonlocal swaps
            while not stop.wait(seconds / (len(versions) + 1)) and swaps < len(versions):
                self.activate(versions[swaps])
                swaps += 1

        thread = threading.Thread(target=swapper, daemon=True)
        thread.start()
        while (now := time.monotonic() - start) < seconds:
            self.episode(seed + k, greedy)
            k += 1
            tell(min(1.0, now / seconds), f"{swaps} swaps, {self.figures.missed - before[1]} missed ticks")
        stop.set()
        thread.join()
        self.pace(0.0)
        missed = self.figures.missed - before[1]
        tell(1.0, f"{swaps} swaps, {missed} missed ticks")
        return {"episodes": k, "swaps": swaps, "ticks": self.figures.ticks - before[0], "missed_ticks": missed}
