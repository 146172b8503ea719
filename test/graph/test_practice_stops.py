"""trainer_node and its learner, with a cell whose policy succeeds as each test says: practice that goes back, ends, or breaks.

Everything of the trainer is real (recordings, learner process, weight store, services); camera, policy, judge and safety filter
are one fake, which answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
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
from diagnostic_msgs.msg import DiagnosticArray
from node_process import NodeProcess
from rclpy.action import ActionClient
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float32
from std_srvs.srv import Trigger
from vla_ros.action import Improve
from vla_ros.msg import (
    ActionChunk,
    Episode,
    Health,
    Instruction,
    Observation,
    PolicyVersion,
    Progress,
    SafetyState,
    TrainingState,
    TrueOutcome,
)
from vla_ros.srv import ActivatePolicy, LabelEpisode, ResetCell

from vla_ros import types
from vla_ros.episodes.data import load_episode
from vla_ros.episodes.reader import EpisodeReader
from vla_ros.learning.health import NOTHING
from vla_ros.nodes import convert, qos
from vla_ros.nodes.main import spin_beside
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics

CONTRACT = RobotContract.load("panda")
HOME = Kinematics(CONTRACT).home()
TEXT = "reach the red cube"
FRAMES, PERIOD = 4, 0.1  # of an episode; s of its stamps
PROBATION = 8  # episodes
CONFIG = f"updates: 1\nstopping: {{window: 10, patience: 2, level: 0.01, returns: 2, probation: {PROBATION}}}\n"
EVERY = 10  # episodes per update
# version, its number among those of that version -> success | failure | latched, after "helped " if a person acts in it
Outcome = Callable[[int, int], str]


def always(rates: dict[int, int]) -> Outcome:
    """So many successes in ten episodes, evenly; of a version that is not named, the last one's."""
    return lambda version, k: "success" if k * (r := rates.get(version, [*rates.values()][-1])) % 10 < r else "failure"


class FakeCell(Node):
    """Callbacks run on a thread of their own; the test reads what they leave."""

    def __init__(self, store: WeightStore, namespace: str = "/", period: float = 0.004) -> None:
        """period: s of wall time between two frames."""
        super().__init__("fake_cell", namespace=namespace)
        self.store = store
        self.outcome: Outcome = always({1: 5})
        self.after_episode: Callable[[str], None] = lambda episode_id: None
        self.truth: bool | None = None
        self.fallen = ""  # what no script can put back
        self.version = PolicyVersion(number=1)
        self.trainer = 0  # process id
        self.asked = Instruction()
        self.q = HOME
        self.state, self.faults = TrainingState(), list[str]()
        self.states: list[TrainingState] = []
        self.episodes: list[Episode] = []
        self.seen: dict[int, int] = {}  # episodes by version
        self._stamp, self._left = 100.0, 0
        self._episode, self._helped = "", False
        self._random = np.random.default_rng(0)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        p = self.create_publisher
        self.clock_, self.active = p(Clock, "clock", 10), p(PolicyVersion, "policy/active", qos.STATUS)
        self.observations = p(Observation, "observation", qos.observations(True, 5))
        self.chunks, self.progress = p(ActionChunk, "policy/chunk", qos.COMMAND), p(Progress, "progress", qos.RECORD)
        self.safety, self.truths = p(SafetyState, "safety/state", qos.RECORD), p(TrueOutcome, "sim/truth", qos.STATUS)
        self.score = p(Float32, "inspection/score", 10)
        self.create_subscription(Instruction, "instruction", self._on_instruction, qos.STATUS)
        self.announced: list[tuple[int, bool, int]] = []  # number, on probation, episodes until then
        self.create_subscription(PolicyVersion, "policy/version", self._on_version, qos.STATUS)
        self.create_subscription(TrainingState, "training/state", self._on_state, qos.STATUS)
        self.create_subscription(Episode, "training/episode", self._on_episode, qos.RECORD)
        self.alarms: list[Health] = []
        self.create_subscription(Health, "training/health", self.alarms.append, qos.STATUS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_service(ResetCell, "cell/reset", self._on_reset)
        self.create_service(ActivatePolicy, "policy/activate", self._on_activate)
        self.create_timer(period, self._tick, clock=steady)
        self.improve = ActionClient(self, Improve, "improve")
        self.label = self.create_client(LabelEpisode, "episodes/label")
        self.ready = self.create_client(Trigger, "trainer/ready")
        self.active.publish(self.version)
        self._frame()

    # -- what the nodes of a cell do ------------------------------------------------------------------------------

    def _on_version(self, message: PolicyVersion) -> None:
        self.announced.append((message.number, message.probation, len(self.episodes)))
        if message.number != self.version.number:
            self._run(message.number, probation=message.probation, trial=message.trial)

    def _run(self, number: int, **told: bool) -> None:
        r = self.store.record(number)
        self.version = PolicyVersion(number=number, parent=r.parent, sha256=r.sha256, stage=r.stage, path=r.path, **told)
        self.active.publish(self.version)

    def _on_activate(self, request: ActivatePolicy.Request, response: ActivatePolicy.Response) -> ActivatePolicy.Response:
        self._run(self.version.parent if request.rollback else request.number, chosen=True)
        response.success, response.number = True, self.version.number
        return response

    def _on_reset(self, request: ResetCell.Request, response: ResetCell.Response) -> ResetCell.Response:
        if self.fallen:
            response.operator, response.message = True, f"{self.fallen} fell off the table: put it back"
            return response
        response.success, response.instruction = True, TEXT
        response.stamp, response.time_limit = convert.stamp(self._stamp), FRAMES * PERIOD
        self._frame()
        return response

    def _on_instruction(self, message: Instruction) -> None:
        self.asked = message
        self._episode, self._left = message.episode_id, FRAMES if message.text else 0
        if message.text:
            k = self.seen[self.version.number] = self.seen.get(self.version.number, -1) + 1
            helped, _, self._wanted = self.outcome(self.version.number, k).rpartition(" ")
            self._helped = bool(helped)
            self._answer(False)

    def _tick(self) -> None:
        now = time.monotonic()
        if self.q is HOME:  # else time stands still, and so does the trainer's patience with an arm that comes home
            self.clock_.publish(Clock(clock=convert.stamp(now)))
        if not self._left:
            return
        self._left -= 1
        self._frame()
        if self._wanted == "latched" and self._left == 1:
            self._safe(SafetyState.LATCHED)
            self._safe(SafetyState.RUN)
        self._answer(self._wanted == "success" and not self._left)
        if self.truth is not None:
            self.truths.publish(TrueOutcome(success=self.truth))

    def _safe(self, state: int) -> None:
        message = SafetyState(state=state, joint_names=list(CONTRACT.joints), command=convert.floats(HOME))
        message.header.stamp = convert.stamp(self._stamp)
        self.safety.publish(message)

    def _frame(self) -> None:
        self._stamp += PERIOD
        images = {"front": self._random.integers(0, 255, (64, 64, 3), np.uint8)}
        joints = types.JointState(self._stamp, CONTRACT.joints, self.q, np.zeros(7))
        self._safe(SafetyState.RUN)
        self.observations.publish(convert.observation_message(types.Observation(self._stamp, images, joints), {}))

    def _answer(self, success: bool) -> None:
        tokens = self._random.integers(0, 21, (1, 2)).astype(np.int16)
        chunk = types.ActionChunk(
            self._stamp + PERIOD, PERIOD, CONTRACT.joints, HOME[None], observation_stamp=self._stamp, tokens=tokens,
            policy_version=self.version.number, episode_id=self._episode, log_probability=-6.0,
            corrected=self._helped and self._left < FRAMES,
        )  # fmt: skip
        self.chunks.publish(convert.chunk_message(chunk))
        d = float(self._random.uniform(0, 10))
        estimate = types.ProgressEstimate(self._stamp, d, 1.0, 0.0, success, 0.1)
        self.progress.publish(convert.progress_message(estimate, TEXT, self._episode))

    def _on_state(self, message: TrainingState) -> None:
        self.state = message
        self.states.append(message)

    def _on_episode(self, message: Episode) -> None:
        self.episodes.append(message)
        self.after_episode(message.id)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.faults += [s.message for s in message.status if s.name.endswith("trainer") and s.message != "ok"]

    def pose(self, q: np.ndarray) -> None:
        self.q = q
        self._frame()

    # -- what a test asks for -------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for: {what}; {len(self.episodes)} episodes, {self.state}"
            time.sleep(0.005)

    def start(self, episodes: int, outcome: Outcome) -> Any:
        """The future of the goal's result, with its status."""
        self.outcome, self.after_episode, self.truth = outcome, lambda episode_id: None, None
        self.seen.clear()
        self.episodes.clear()
        self.announced.clear()
        self.faults.clear()
        self.alarms.clear()
        sent = self.improve.send_goal_async(Improve.Goal(episodes=episodes, episodes_per_update=EVERY))
        self.until(sent.done, "acceptance")
        assert sent.result().accepted
        return sent.result().get_result_async()

    def ended(self, future: Any, status: int = GoalStatus.STATUS_SUCCEEDED) -> Improve.Result:
        self.until(future.done, "end of practice", 120.0)
        assert future.result().status == status, future.result()
        return future.result().result

    def marked(self) -> int:
        running = self.store.active()
        assert running is not None
        return running.number


@contextlib.contextmanager
def spun(folder: Path) -> Iterator[FakeCell]:
    rclpy.init()
    cell = FakeCell(WeightStore(folder / "store"))
    thread = threading.Thread(target=spin_beside, args=(cell,))
    thread.start()
    yield cell
    rclpy.shutdown()
    thread.join()


@contextlib.contextmanager
def trainer(cell: FakeCell, tiny: Tiny, config: str) -> Iterator[NodeProcess]:
    """A trainer_node for this cell."""
    folder = cell.store.folder.parent
    (folder / "training.yaml").write_text(config)
    parameters = {
        "policy": tiny.policy, "store": cell.store.folder, "episodes_dir": folder / "episodes", "use_sim_time": "true",
        "config": folder / "training.yaml", "quality_topic": "/inspection/score", "audit_topic": "/sim/truth",
        "material": "batch 7",
    }  # fmt: skip
    cell.state = TrainingState()
    with NodeProcess("trainer_node", **parameters) as process:
        try:
            cell.until(cell.improve.server_is_ready, "trainer_node")
            cell.until(lambda: cell.state.policy_version == cell.version.number, "the running version")
            # An episode of 20 ms is over before a publisher has found its subscription.
            heard = (cell.observations, cell.chunks, cell.progress, cell.safety, cell.truths, cell.score)
            cell.until(lambda: all(publisher.get_subscription_count() for publisher in heard), "the trainer's subscriptions")
        except AssertionError as error:
            raise AssertionError(f"{error}; it wrote:\n{process.end()[1][-3000:]}") from None
        cell.trainer = process.process.pid
        yield process
        status, output = process.end()
    assert status == 0, output[-3000:]


@pytest.fixture(scope="module")
def cell(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCell]:
    with spun(tmp_path_factory.mktemp("practice")) as cell, trainer(cell, tiny, CONFIG):
        yield cell


def child_of(parent: int) -> int:
    """Process id of its only child."""
    found = [
        int(f.parent.name)
        for f in Path("/proc").glob("[0-9]*/stat")
        if f.read_text().rpartition(")")[2].split()[1] == str(parent)
    ]
    assert len(found) == 1, found
    return found[0]


def test_a_worse_version_is_left_and_learning_goes_on_from_the_better_one(cell: FakeCell) -> None:
    """As 3 has the first update of 2 broken: it is gone within its probation."""
    result = cell.ended(cell.start(50, always({1: 5, 2: 9, 3: 0, 4: 9})))
    assert (result.termination_reason, result.rollbacks, result.updates) == ("finished", 1, 4)
    ran = [e.policy_version for e in cell.episodes]
    broken = ran.count(3)
    assert broken < PROBATION
    assert ran == [1] * EVERY + [2] * EVERY + [3] * broken + [2] * EVERY + [4] * EVERY + [5] * (EVERY - broken)
    proven = EVERY + PROBATION
    told = [(1, False, 0), (2, True, EVERY), (2, False, proven), (3, True, 2 * EVERY), (2, False, 2 * EVERY + broken)]
    assert cell.announced[: len(told)] == told, "what ran before needs no probation"
    assert [a[:2] for a in cell.announced[len(told) :]] == [(4, True), (4, False), (5, True)]
    store = cell.store
    assert [store.record(n).parent for n in store.numbers()] == [0, 1, 2, 2, 4], "4 descends from 2, not from 3"
    assert [store.record(n).metrics.get("parent_success") for n in (2, 3, 4)] == [0.5, 0.9, 0.9]
    assert cell.marked() == cell.version.number == result.policy_version == 5
    cell.until(lambda: cell.state.phase == "idle", "idle")
    assert (cell.state.rollbacks, cell.state.best_version) == (1, 2)
    assert cell.state.best_rate == pytest.approx(0.9)
    assert 0.5 < cell.state.best_low < 0.9 < cell.state.best_high < 1
    assert cell.state.probation == PROBATION - (EVERY - broken)
    assert any(s.message.startswith("probation: success fell to 0%") and "back to version 2" in s.message for s in cell.states)
    cell.until(lambda: any("back to version 2" in f for f in cell.faults), "/diagnostics")
    (alarm,) = [a for a in cell.alarms if a.message]
    assert alarm.message.startswith("maintenance: probation: success fell to 0%")
    assert alarm.message.endswith("episodes is too short to say what has changed")
    assert list(alarm.causes) == []
    assert EpisodeReader(Path(cell.episodes[0].file)).metadata["material"] == "batch 7"
    cell.until(lambda: alarm.message in cell.faults, "the alarm on /diagnostics")


def test_a_person_is_asked_for_what_no_script_can_reset(cell: FakeCell) -> None:
    """As often as it takes; practice goes on where it stood."""
    asked = cell.state.resets_wanted
    future = cell.start(4, always({5: 5}))
    cell.until(lambda: cell.episodes, "the first episode")
    cell.fallen = "red cube"
    wanted = "red cube fell off the table: put it back, then call /trainer/ready"
    for n in (1, 2):  # the first time he says so without having done it
        cell.until(lambda n=n: cell.state.resets_wanted == asked + n, "the request")  # type: ignore[misc]
        assert (cell.state.phase, cell.state.message) == ("reset_wanted", wanted)
        before = len(cell.episodes)
        time.sleep(0.3)
        assert len(cell.episodes) == before < 4, "it waits"
        cell.fallen = "" if n == 2 else cell.fallen
        cell.until(cell.ready.call_async(Trigger.Request()).done, "the answer")
    result = cell.ended(future)
    assert (result.termination_reason, result.episodes) == ("finished", 4)
    assert cell.state.resets_wanted == asked + 2
    assert "collecting" in [s.phase for s in cell.states[-8:]]


def test_a_plateau_ends_it_with_the_best_version(cell: FakeCell) -> None:
    """Goes on from 5; 6 is the best one, 7 and 8 are not worse enough to be left at once."""
    result = cell.ended(cell.start(200, always({5: 8, 6: 9, 7: 7, 8: 8})))
    assert (result.termination_reason, result.episodes, result.updates) == ("stopped", 40, 3)
    assert result.message == "plateau: the last 20 episodes changed success by -10.0 % against as many before"
    assert (result.policy_version, cell.version.number, cell.marked()) == (6, 6, 6)
    assert cell.announced[:2] == [(5, True, 0), (5, False, PROBATION)], "5 was not through with it when practice ended"
    cell.until(lambda: cell.state.stop_rule, "the last state")
    assert (cell.state.phase, cell.state.message, cell.state.stop_rule) == ("stopped", result.message, "plateau")
    cell.until(lambda: any("plateau" in f for f in cell.faults), "/diagnostics")


def test_a_measure_on_a_topic_that_goes_back_ends_it(cell: FakeCell) -> None:
    future = cell.start(200, always({6: 6, 9: 8}))

    def inspect(episode_id: str) -> None:
        k = len(cell.episodes)
        cell.score.publish(Float32(data=float("nan") if k == 3 else (1.0 if k < 20 else 0.2) + 0.01 * (k % 7)))

    cell.after_episode = inspect
    result = cell.ended(future)
    assert (result.termination_reason, result.episodes) == ("stopped", 30)
    assert result.message.startswith("quality: quality fell from ")
    assert cell.marked() == 9
    cell.until(lambda: any(a.message for a in cell.alarms), "the alarm")
    alarm = cell.alarms[-1]
    assert alarm.message == f"maintenance: {result.message}; {NOTHING}"
    cell.until(lambda: any("found nan, expected a finite number" in f for f in cell.faults), "/diagnostics")


def test_more_safety_stops_end_it(cell: FakeCell) -> None:
    rates: Outcome = lambda version, k: "latched" if version > 9 and k % 10 in (2, 4, 5, 7, 8, 9) else "success"  # noqa: E731
    result = cell.ended(cell.start(200, rates))
    assert (result.termination_reason, cell.marked()) == ("stopped", 9)
    assert result.message.startswith(
        "failures: collisions and safety stops ended 60% of the last 10 episodes, 0% of those before"
    )
    assert {e.termination_reason for e in cell.episodes} == {"success_detected", "safety_latched"}


@pytest.mark.parametrize("by", ["truth", "label"])
def test_a_deceived_judge_ends_it_with_the_version_that_practice_began_with(cell: FakeCell, by: str) -> None:
    before = cell.marked()
    future = cell.start(200, always({0: 9, 99: 9}))
    if by == "truth":
        cell.truth = False
    else:
        refused = lambda name: LabelEpisode.Request(episode_id=name, outcome="failure")  # noqa: E731

        def refuse(name: str) -> None:
            cell.pose(HOME + 0.5)  # the next episode begins when the arm is home, and the label there
            cell.label.call_async(refused(name)).add_done_callback(lambda _: cell.pose(HOME))

        cell.after_episode = refuse
    result = cell.ended(future)
    assert result.termination_reason == "stopped"
    assert result.message.startswith("hacking: the detector saw success in ")
    assert 7 <= result.episodes <= 20
    assert cell.marked() == cell.version.number == before


def test_an_operators_rollback_holds(cell: FakeCell) -> None:
    """By the command line, in the middle of practice; what follows descends from the version that he chose."""
    future = cell.start(6 * EVERY, always({1: 1, cell.marked(): 9, 99: 1}))

    def away(episode_id: str) -> None:
        if len(cell.episodes) == EVERY + 3:
            cell.pose(HOME + 0.5)  # the next episode begins when the arm is home

    cell.after_episode = away
    cell.until(lambda: len(cell.episodes) >= EVERY + 3, "an update", 120.0)
    words = [sys.executable, "-m", "vla_ros.cli", "policy", "activate", "1", "--store", str(cell.store.folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "version 1 runs\n"), done.stderr
    assert len(cell.episodes) < EVERY + 6
    newest = cell.store.numbers()[-1]
    cell.pose(HOME)
    result = cell.ended(future)
    assert (result.termination_reason, result.rollbacks) == ("stopped", 0), (
        "a bad version, but his choice: no going back behind it"
    )
    assert result.message.startswith("plateau")
    assert any(cell.store.record(n).parent == 1 for n in cell.store.numbers() if n > newest)


def test_the_way_home_is_taken_back_by_a_stop_and_by_a_cancel(cell: FakeCell) -> None:
    """Else the arm would set out by itself when what had stopped it is gone."""
    cell.pose(HOME + 0.5)
    sent = cell.improve.send_goal_async(Improve.Goal(episodes=3, episodes_per_update=EVERY))
    cell.until(lambda: cell.asked.mode == Instruction.HOME, "the way home", 120.0)
    cell._safe(SafetyState.LATCHED)
    cell.until(lambda: cell.asked.mode != Instruction.HOME, "the end of it")
    cell.until(lambda: cell.state.phase == "stopped", "the wait for a person")
    cell._safe(SafetyState.RUN)
    cell.until(lambda: cell.asked.mode == Instruction.HOME, "the way home again")
    sent.result().cancel_goal_async()
    result = sent.result().get_result_async()
    cell.until(result.done, "the cancel")
    assert result.result().status == GoalStatus.STATUS_CANCELED
    cell.until(lambda: cell.asked.mode != Instruction.HOME, "nothing that is asked for")
    cell.pose(HOME)


def test_a_learner_that_dies_ends_the_goal_and_the_running_version_stays(cell: FakeCell) -> None:
    running = cell.marked()
    future = cell.start(200, always({0: 6, 99: 6}))
    cell.until(lambda: len(cell.episodes) == 3, "three episodes", 120.0)
    os.kill(child_of(cell.trainer), signal.SIGKILL)
    result = cell.ended(future, GoalStatus.STATUS_ABORTED)
    assert "the learner process has ended" in result.termination_reason
    assert cell.marked() == cell.version.number == running
    cell.until(lambda: cell.state.phase == "stopped", "the last state")
    assert "the learner process has ended" in cell.state.message


def test_a_store_that_vanishes_ends_the_goal_and_the_running_version_stays(cell: FakeCell) -> None:
    running = cell.marked()
    future = cell.start(200, always({0: 6, 99: 6}))
    cell.until(lambda: len(cell.episodes) == 3, "three episodes", 120.0)
    elsewhere = cell.store.folder.rename(cell.store.folder.with_name("elsewhere"))
    result = cell.ended(future, GoalStatus.STATUS_ABORTED)
    elsewhere.rename(cell.store.folder)
    assert "store: cannot be read: No such file or directory" in result.termination_reason
    assert cell.marked() == cell.version.number == running


def test_a_version_with_an_unknown_parent_is_not_practised(cell: FakeCell) -> None:
    record = cell.store.folder / f"{cell.marked():06d}" / "version.json"
    before = record.read_text()
    record.write_text(json.dumps({**json.loads(before), "parent": 999}))
    result = cell.ended(cell.start(20, always({0: 6, 99: 6})), GoalStatus.STATUS_ABORTED)
    record.write_text(before)
    assert "has the unknown parent 999" in result.termination_reason
    assert cell.episodes == []


def test_what_a_person_helped_in_is_no_evidence_and_is_not_lost(cell: FakeCell) -> None:
    """In every second episode a person takes over after a step and fails, or latches the arm, so that it is in no batch."""
    start, before = cell.marked(), len(cell.store.numbers())

    def outcome(version: int, k: int) -> str:
        return ("helped latched" if k == 3 else "helped failure") if k % 2 else "success"

    result = cell.ended(cell.start(2 * EVERY + 1, outcome))
    assert (result.termination_reason, result.rollbacks, result.updates) == ("finished", 0, 2)
    helped = [e for e in cell.episodes if e.corrected_steps]
    assert len(helped) == EVERY, "five with each of the two versions that were learned from"
    assert [e.corrected_steps for e in helped if e.outcome == "failure"] == [FRAMES - 1] * (len(helped) - 2)
    cell.until(lambda: cell.state.phase == "idle", "idle")
    assert (cell.state.corrected_episodes, cell.state.success_rate, cell.state.best_rate) == (len(helped), 1.0, 1.0)
    own = [e for e in cell.episodes if e.policy_version == result.policy_version and not e.corrected_steps]
    assert cell.state.probation == PROBATION - len(own)

    def taught(*versions: int) -> int:
        """Steps of people, also in aborted episodes, but not while the arm was latched."""
        recorded = [load_episode(e.file) for e in helped if e.policy_version in versions]
        return sum(int((data.corrected & ~data.latched).sum()) for data in recorded)

    aborted = [load_episode(e.file) for e in helped if e.outcome == "aborted"]
    assert [bool((data.corrected & ~data.latched).any()) for data in aborted] == [True, True]
    first, second = cell.store.numbers()[before:]
    for number, versions in ((first, (start,)), (second, (start, first))):
        metrics = cell.store.record(number).metrics
        assert metrics["parent_success"] == 1.0
        assert (metrics["episodes"], metrics["corrected_episodes"]) == (EVERY, EVERY // 2 - 1)
        assert metrics["corrected_steps"] == taught(*versions)
