"""The launch file as a user starts it, with tiny checkpoints: episodes, practice with swaps, stop and reset."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from action_msgs.msg import GoalStatus
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from vla_ros.action import Improve, RunTask
from vla_ros.msg import Episode, PolicyVersion, Progress, SafetyState
from vla_ros.srv import LabelEpisode

from vla_ros.embedded.launch import Launcher, OutputLine, parse
from vla_ros.episodes import EpisodeData, EpisodeReader, load_episode
from vla_ros.nodes import convert, qos
from vla_ros.paths import share
from vla_ros.policy.store import WeightStore


class Loop:
    """The launched graph, and an operator among its nodes."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.lines: list[str] = []
        self._lock = threading.Lock()
        arguments = {
            "policy": str(tiny.policy), "judge": str(tiny.judge), "store": str(self.store),
            "episodes": str(folder / "episodes"), "real_time_factor": "0.0",
        }  # fmt: skip
        self.launcher = Launcher(parse(share() / "launch" / "cell.launch.yaml", arguments), self._keep)
        self.node = Node("operator")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.safety, self.joints, self.version = SafetyState(), JointState(), PolicyVersion()
        self.episodes: list[Episode] = []
        listen = self.node.create_subscription
        listen(SafetyState, "/safety/state", lambda m: setattr(self, "safety", m), qos.STATUS)
        listen(JointState, "/joint_states", lambda m: setattr(self, "joints", m), qos.LATEST)
        listen(PolicyVersion, "/policy/active", lambda m: setattr(self, "version", m), qos.STATUS)
        self.image, self.progress = Image(), Progress()
        listen(Image, "/camera/front/image_raw", lambda m: setattr(self, "image", m), qos.LATEST)
        listen(Progress, "/progress", lambda m: setattr(self, "progress", m), qos.RECORD)
        listen(Episode, "/training/episode", self.episodes.append, qos.RECORD)
        self.run = ActionClient(self.node, RunTask, "/run_task")
        self.improve = ActionClient(self.node, Improve, "/improve")

    def _keep(self, line: OutputLine) -> None:
        with self._lock:
            self.lines.append(line.text)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [r.name for r in self.launcher.poll() if r.exit_code is not None]
            if dead or time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s for: {what}; ended: {dead}; log:\n{self.log()}")
            self.executor.spin_once(timeout_sec=0.02)

    def log(self) -> str:
        with self._lock:
            return "\n".join(self.lines[-40:])

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, name)
        future = client.call_async(request)
        self.until(future.done, f"answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def start(self, client: ActionClient, goal: Any) -> tuple[Any, Any, list[Any]]:
        """Goal handle, future of its result, and the feedback so far."""
        feedback: list[Any] = []
        sent = client.send_goal_async(goal, feedback_callback=lambda m: feedback.append(m.feedback))
        self.until(sent.done, "acceptance")
        handle = sent.result()
        assert handle.accepted, self.lines[-10:]
        return handle, handle.get_result_async(), feedback

    def episode(self, **fields: Any) -> RunTask.Result:
        _, future, _ = self.start(self.run, RunTask.Goal(**fields))
        self.until(future.done, "end of the episode", 60.0)
        return future.result().result

    def pace(self, factor: float) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=factor)
        request = SetParameters.Request(parameters=[Parameter(name="real_time_factor", value=value)])
        assert self.call(SetParameters, "/sim_node/set_parameters", request).results[0].successful


@pytest.fixture(scope="module")
def loop(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    rclpy.init()
    loop = Loop(tiny, tmp_path_factory.mktemp("loop"))
    with loop.launcher:
        loop.until(
            lambda: loop.run.server_is_ready() and loop.improve.server_is_ready() and loop.version.number, "the graph", 90.0
        )
        pids = loop.launcher.pids()
        assert len(pids) == 6
        yield loop
        if not loop.launcher.failed and loop.run.server_is_ready():
            loop.start(loop.run, RunTask.Goal(time_limit=60.0, seed=11, task="push"))  # everybody ends in the middle of it
    loop.node.destroy_node()
    rclpy.shutdown()
    for result in loop.launcher.poll():
        assert result.exit_code == 0, (result, [x for x in loop.lines if result.name in x][-15:])
        assert not Path(f"/proc/{result.pid}").exists()


def check_alignment(data: EpisodeData, result: RunTask.Result) -> None:
    assert len(data) == result.steps > 3
    np.testing.assert_allclose(np.diff(data.stamps), 0.1, atol=1e-6)
    assert data.unanswered == 0
    assert set(data.policy_versions) == {result.policy_version}
    assert data.instruction == result.instruction
    assert np.isfinite(data.steps_to_go).all()
    np.testing.assert_allclose(data.rewards, data.steps_to_go[:-1] - data.steps_to_go[1:], atol=1e-4)
    assert not data.latched.any()
    assert (np.abs(data.states) <= 1.05).all()
    assert data.images.std() > 10


def check_causality(episodes: list[EpisodeData]) -> None:
    """A random policy's actions go with the way that the arm makes in the same step and the next: not before, not later.

    Of single episodes: 0.41 to 0.78 in the same step, 0.13 to 0.60 in the next, at most 0.20 in the others.
    """

    def together(lag: int) -> float:
        pairs = []
        for data in episodes:
            moved, wanted = np.diff(data.states, axis=0), data.tokens[:, 0, :].astype(float) - 10
            step = np.arange(max(0, -lag), min(len(wanted), len(moved) - lag))
            step = step[np.abs(data.states[step + lag]).max(1) < 0.7]  # further out the workspace cuts the raw action
            pairs.append(np.stack([wanted[step].ravel(), moved[step + lag].ravel()]))
        all_pairs = np.concatenate(pairs, axis=1)
        assert all_pairs.shape[1] > 80
        return float(np.corrcoef(all_pairs)[0, 1])

    at = {lag: together(lag) for lag in (-2, -1, 0, 1, 2)}
    assert at[0] > 0.4, f"steps and actions belong together; found {at} by lag"
    assert max(at[-1], at[-2], at[2]) < at[0] - 0.2, f"the arm moves when told, not before and not a step late; found {at}"


def test_an_episode_in_lock_step(loop: Loop) -> None:
    result = loop.episode(time_limit=10.0, seed=5, task="push")
    assert (result.outcome, result.termination_reason) == ("failure", "time_limit"), loop.log()
    assert (result.steps, result.policy_version) == (100, 1)
    assert result.duration == pytest.approx(10.0)
    assert loop.progress.instruction == result.instruction, "an operator's process hears the steps-to-go"
    assert len(loop.image.data) == loop.image.step * loop.image.height == 3 * 128 * 128
    assert np.frombuffer(loop.image.data, np.uint8).std() > 10
    data = load_episode(result.file)
    check_alignment(data, result)
    assert "/camera/front/image_raw" in EpisodeReader(Path(result.file)).topics()
    assert data.metadata["termination_reason"] == "time_limit"
    loop.until(lambda: loop.episodes, "/training/episode")
    assert loop.episodes[-1].id == result.episode_id
    answer = loop.call(LabelEpisode, "/episodes/label", LabelEpisode.Request(episode_id=result.episode_id, outcome="aborted"))
    assert answer.success
    assert load_episode(result.file).label["outcome"] == "aborted"
    more = [load_episode(loop.episode(time_limit=10.0, seed=seed, task="push").file) for seed in (7, 8)]
    check_causality([data, *more])


def test_practice_makes_two_versions_and_swaps(loop: Loop) -> None:
    missed = loop.safety.missed_ticks  # while the nodes came up, simulated time did not yet wait for them
    _, future, feedback = loop.start(loop.improve, Improve.Goal(episodes=4, episodes_per_update=2, seed=40))
    loop.until(future.done, "end of practice", 120.0)
    result = future.result().result
    assert result.termination_reason == "finished"
    assert (result.episodes, result.updates, result.swaps, result.policy_version) == (4, 2, 2, 3)
    assert [f.episodes for f in feedback] == [1, 2, 3, 4]
    store = WeightStore(loop.store)
    assert store.numbers() == [1, 2, 3]
    assert [store.record(n).parent for n in store.numbers()] == [0, 1, 2]
    for number in (2, 3):
        assert store.record(number).metrics["first_ratio"] == pytest.approx(1.0, abs=1e-3), "pictures came through unharmed"
        assert store.record(number).metrics["episodes"] == 2
    assert loop.version.number == 3
    assert [e.policy_version for e in loop.episodes[-4:]] == [1, 1, 2, 2]
    assert loop.safety.missed_ticks == missed
    assert loop.episode(time_limit=0.5, seed=6).policy_version == 3


def test_stop_during_an_episode_and_reset(loop: Loop) -> None:
    _, future, feedback = loop.start(loop.run, RunTask.Goal(time_limit=60.0, seed=7, task="push"))
    loop.until(lambda: feedback and feedback[-1].steps >= 5, "five steps")
    assert loop.call(Trigger, "/safety/estop", Trigger.Request()).success
    loop.until(future.done, "end of the episode")
    result = future.result().result
    assert (result.outcome, result.termination_reason) == ("aborted", "safety_latched")
    loop.until(lambda: loop.safety.state == SafetyState.LATCHED, "latch")
    start = convert.seconds(loop.joints.header.stamp)
    loop.until(lambda: convert.seconds(loop.joints.header.stamp) > start + 0.5, "half a second")
    assert np.abs(loop.joints.velocity).max() < 5e-3
    position = np.array(loop.joints.position)
    _, waiting, _ = loop.start(loop.run, RunTask.Goal(time_limit=0.6, seed=8))
    loop.until(lambda: convert.seconds(loop.joints.header.stamp) > start + 1.5, "a second")
    assert not waiting.done()
    np.testing.assert_allclose(loop.joints.position, position, atol=2e-3, err_msg="a latched arm moved")
    assert loop.call(Trigger, "/safety/reset", Trigger.Request()).success
    loop.until(waiting.done, "the episode that waited for the reset")
    assert waiting.result().result.termination_reason == "time_limit"
    assert len(load_episode(waiting.result().result.file)) == 6


def test_an_episode_can_be_cancelled(loop: Loop) -> None:
    handle, future, feedback = loop.start(loop.run, RunTask.Goal(time_limit=60.0, seed=9, task="push"))
    loop.until(lambda: feedback and feedback[-1].steps >= 2, "two steps")
    loop.until(handle.cancel_goal_async().done, "cancel")
    loop.until(future.done, "end of the episode", 10.0)
    assert future.result().status == GoalStatus.STATUS_CANCELED
    assert future.result().result.termination_reason == "cancelled"


def test_bad_goals_end_with_a_reason(loop: Loop) -> None:
    result = loop.episode(task="juggle", time_limit=0.5)
    assert result.outcome == "aborted"
    assert "juggle" in result.termination_reason
    result = loop.episode(instruction="juggle the red cube", time_limit=0.5)
    assert result.outcome == "aborted"
    assert "does not know ['juggle']" in result.termination_reason


def test_in_real_time(loop: Loop) -> None:
    loop.pace(1.0)
    before, ticks = loop.safety.missed_ticks, loop.safety.ticks
    wall, sim = time.monotonic(), convert.seconds(loop.joints.header.stamp)
    result = loop.episode(time_limit=2.5, seed=10, task="push")
    passed = convert.seconds(loop.joints.header.stamp) - sim
    assert passed / (time.monotonic() - wall) == pytest.approx(1.0, abs=0.15)
    assert (result.steps, result.termination_reason) == (25, "time_limit")
    check_alignment(load_episode(result.file), result)
    assert loop.safety.ticks - ticks > 400
    # A test machine is no robot's: other work takes the processor away. A cell of its own misses none.
    assert loop.safety.missed_ticks - before <= 0.1 * (loop.safety.ticks - ticks)
