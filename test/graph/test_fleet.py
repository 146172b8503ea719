"""Three cells practise for one learner: their episodes are in one batch, its versions run in all; one is killed and comes back.

Everything of the trainers and of the lead is real, each a process of its own; what else makes a cell is one fake.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from diagnostic_msgs.msg import DiagnosticArray
from node_process import NodeProcess
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from test_practice_stops import CONFIG, HOME, PERIOD, FakeCell, always
from vla_ros.action import Improve
from vla_ros.msg import Episode, Fleet, PolicyVersion, TrainingState
from vla_ros.srv import ActivatePolicy, LabelEpisode

from vla_ros.episodes.folder import read_info
from vla_ros.files import sha256
from vla_ros.nodes import qos
from vla_ros.policy.store import WEIGHTS, WeightStore

NAMES = ("a", "b", "c")
FRAME = 0.02  # s, so that three cells and their trainers share two cores
AWAY = HOME + 0.5  # where an arm stays until the test lets its cell go on


class Operator(Node):
    """Whoever looks at the lead; callbacks leave what a test reads."""

    def __init__(self) -> None:
        super().__init__("operator")
        self.improve = ActionClient(self, Improve, "/fleet/improve")
        self.activate = self.create_client(ActivatePolicy, "/fleet/policy/activate")
        self.label = self.create_client(LabelEpisode, "/fleet/episodes/label")
        self.episodes: list[Episode] = []
        self.orders, self.state = Fleet(), TrainingState()
        self.versions: list[tuple[int, bool]] = []  # announced to all, on probation
        self.told: dict[str, list[str]] = {}  # by name on /diagnostics
        self.create_subscription(Episode, "/fleet/training/episode", self.episodes.append, qos.RECORD)
        self.create_subscription(Fleet, "/fleet/orders", self._on_orders, qos.STATUS)
        self.create_subscription(PolicyVersion, "/fleet/policy/version", self._on_version, qos.STATUS)
        self.create_subscription(TrainingState, "/fleet/training/state", self._on_state, qos.STATUS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 20)

    def _on_orders(self, message: Fleet) -> None:
        self.orders = message

    def _on_version(self, message: PolicyVersion) -> None:
        self.versions.append((message.number, message.probation))

    def _on_state(self, message: TrainingState) -> None:
        self.state = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.told.setdefault(status.name.removeprefix("vla_ros: "), []).append(status.message)


class Rig:
    """The lead, three cells, and the folders of each."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        (folder / "training.yaml").write_text(CONFIG)
        self.operator = Operator()
        self.cells = {name: FakeCell(WeightStore(folder / name / "store"), f"/{name}", FRAME) for name in NAMES}
        self.executor = SingleThreadedExecutor()
        for node in (self.operator, *self.cells.values()):
            self.executor.add_node(node)
        self.store = WeightStore(folder / "lead" / "store")
        self.members = {name: self.member(name) for name in NAMES}
        self.lead = self.leader()

    def leader(self) -> NodeProcess:
        return NodeProcess(
            "fleet_node", "__ns:=/fleet", policy=self.tiny.policy, store=self.store.folder, config=self.folder / "training.yaml",
            episodes_dir=self.folder / "lead" / "episodes", members="a,never",
        )  # fmt: skip

    def member(self, name: str, **changes: Any) -> NodeProcess:
        parameters = {
            "policy": self.tiny.policy, "store": self.folder / name / "store", "episodes_dir": self.folder / name / "episodes",
            "config": self.folder / "training.yaml", "use_sim_time": "true", "lead": "/fleet", "audit_topic": "sim/truth",
        }  # fmt: skip
        return NodeProcess("trainer_node", f"__ns:=/{name}", "/clock:=clock", **{**parameters, **changes})

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        self.cells["a"].until(condition, f"{what}; lead {self.operator.state.message}, {self.operator.told}", seconds)

    def recorded(self, name: str) -> dict[str, Path]:
        """A cell's own episodes for the fleet, by name."""
        folder = self.folder / name / "episodes"
        return {str(p.relative_to(folder)): p for p in folder.glob("*/*.mcap")}

    def fetched(self, name: str) -> dict[str, Path]:
        folder = self.folder / "lead" / "episodes" / name
        return {str(p.relative_to(folder)): p for p in folder.rglob("*.mcap")}

    def start(self, episodes: int, per_update: int) -> Any:
        """The future of the goal's result, with its status."""
        self.operator.episodes.clear()
        for told in self.operator.told.values():
            told.clear()
        sent = self.operator.improve.send_goal_async(Improve.Goal(episodes=episodes, episodes_per_update=per_update, seed=7))
        self.until(sent.done, "acceptance")
        assert sent.result().accepted
        return sent.result().get_result_async()

    def refused(self, name: str) -> str:
        """What one cell alone says to a goal of practice, once it is not busy."""
        while True:
            sent = self.cells[name].improve.send_goal_async(Improve.Goal(episodes=1, episodes_per_update=1))
            self.until(sent.done, "an answer")
            if sent.result().accepted:
                future = sent.result().get_result_async()
                self.until(future.done, "the refusal")
                return str(future.result().result.termination_reason)

    def ended(self, future: Any) -> Improve.Result:
        self.until(future.done, "end of practice", 120.0)
        assert future.result().status == GoalStatus.STATUS_SUCCEEDED, future.result()
        return future.result().result

    def call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        self.until(future.done, "an answer", 10.0)
        return future.result()

    def all_run(self, number: int) -> None:
        self.until(lambda: all(c.version.number == number for c in self.cells.values()), f"version {number} everywhere")

    def heard(self, who: str, text: str) -> bool:
        return any(text in message for message in self.operator.told.get(who, []))

    def cell_of(self, e: Episode) -> str:
        return str(e.id).partition("/")[0]


@pytest.fixture(scope="module")
def rig(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rclpy.init()
    rig = Rig(tiny, tmp_path_factory.mktemp("fleet"))
    thread = threading.Thread(target=_spin, args=(rig.executor,))
    thread.start()
    try:
        rig.until(lambda: set(rig.operator.orders.members) == {f"/{name}" for name in NAMES}, "three members", 60.0)
        for cell in rig.cells.values():
            heard = (cell.observations, cell.chunks, cell.progress, cell.safety, cell.truths, cell.clock_)
            rig.until(lambda heard=heard: all(p.get_subscription_count() for p in heard), "the trainers' subscriptions")  # type: ignore[misc]
        yield rig
    finally:
        ended = {name: process.end() for name, process in {"lead": rig.lead, **rig.members}.items()}
        rclpy.shutdown()
        thread.join()
    for name, (status, output) in ended.items():
        assert status == 0, (name, output[-3000:])


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def test_three_cells_fill_one_batch_and_all_run_what_comes_of_it(rig: Rig) -> None:
    result = rig.ended(rig.start(24, 12))
    assert (result.termination_reason, result.episodes, result.updates) == ("finished", 24, 2)
    rig.all_run(3)
    assert rig.store.numbers() == [1, 2, 3]
    assert [rig.store.record(n).parent for n in (1, 2, 3)] == [0, 1, 2]
    assert [rig.store.record(n).metrics["episodes"] for n in (2, 3)] == [12, 12]
    for version in (1, 2):
        batch = [e for e in rig.operator.episodes if e.policy_version == version][:12]
        assert len(batch) == 12
        assert {rig.cell_of(e) for e in batch} == set(NAMES), "no cell is left out"
    for name, cell in rig.cells.items():
        here, there = cell.store.record(3), rig.store.record(3)
        assert (Path(here.path) / WEIGHTS).read_bytes() == (Path(there.path) / WEIGHTS).read_bytes()
        assert cell.marked() == 3
        assert cell.announced[0][0] == 1, f"{name} began with the lead's first version"
    rig.until(lambda: all(rig.fetched(name).keys() == rig.recorded(name).keys() for name in NAMES), "all recordings")
    for name in NAMES:
        for episode, path in rig.fetched(name).items():
            assert sha256(path) == sha256(rig.recorded(name)[episode])
    assert not [p for p in (rig.folder / "lead" / "episodes").rglob("*") if p.is_file() and p.suffix != ".mcap"]
    seeds = [read_info(path).metadata["seed"] for name in NAMES for path in rig.fetched(name).values()]
    assert len(set(seeds)) == len(seeds) >= 24, "scenes differ, in a cell and between cells"


def test_a_killed_member_holds_up_nobody_and_what_it_has_recorded_is_learned_from(rig: Rig) -> None:
    number, batch = rig.store.numbers()[-1], 30
    for name in "ab":
        rig.cells[name].pose(AWAY)
    future = rig.start(batch, batch)
    rig.until(lambda: rig.fetched("c").keys() >= rig.recorded("c").keys() and len(rig.operator.episodes) > 2, "practice of c")
    rig.lead.process.send_signal(signal.SIGSTOP)
    before = set(rig.recorded("c"))
    rig.until(lambda: len(rig.recorded("c").keys() - before) >= 4, "episodes while the lead is away", 9.0)
    rig.members["c"].end(signal.SIGKILL)
    missing = rig.recorded("c").keys() - rig.fetched("c").keys()
    assert len(missing) >= 3
    rig.lead.process.send_signal(signal.SIGCONT)
    ids = {f"c/{Path(name).stem}" for name in missing}
    counted = len(rig.operator.episodes)
    for name in "ab":
        rig.cells[name].pose(HOME)
    rig.until(lambda: {rig.cell_of(e) for e in rig.operator.episodes[counted:]} >= {"a", "b"}, "the others go on")
    for name in "ab":
        rig.cells[name].q = AWAY  # seen with its next frame
    rig.until(lambda: rig.heard("fleet/fleet", "member /c: not heard from since 20"), "/diagnostics")
    assert rig.heard("fleet/fleet", "member /never: not heard from since 20")
    assert not rig.heard("fleet/fleet", "member /a: not heard")
    assert rig.store.numbers()[-1] == number, "the batch is not full yet"
    assert not ids & {e.id for e in rig.operator.episodes}
    rig.members["c"] = rig.member("c")
    rig.until(lambda: ids <= {e.id for e in rig.operator.episodes}, "what c had recorded")
    for name in "ab":
        rig.cells[name].pose(HOME)
    result = rig.ended(future)
    assert (result.termination_reason, result.updates) == ("finished", 1)
    learned = [e for e in rig.operator.episodes if e.policy_version == number][:batch]
    assert ids <= {e.id for e in learned}
    assert rig.store.record(number + 1).metrics["episodes"] == batch
    assert rig.fetched("c").keys() >= missing
    rig.all_run(number + 1)
    seeds = [read_info(path).metadata["seed"] for name, path in rig.recorded("c").items() if name > max(before)]
    assert len(set(seeds)) == len(seeds) > 4, "started again, it does not have the same scenes again"


def test_a_worse_version_is_left_in_all_cells(rig: Rig) -> None:
    """By the episodes of all: no cell has enough of its own for it."""
    first = rig.store.numbers()[-1]
    rig.operator.versions.clear()
    for cell in rig.cells.values():
        cell.announced.clear()
        cell.outcome = always({first: 10, first + 1: 0, first + 2: 10})
    result = rig.ended(rig.start(40, 12))
    assert (result.termination_reason, result.rollbacks) == ("finished", 1), result
    told = [number for number, _ in rig.operator.versions]
    assert list(dict.fromkeys(told))[:3] == [first, first + 1, first + 2]
    assert first in told[told.index(first + 1) :]
    assert rig.store.record(first + 2).parent == first, "learning goes on from the better one"
    rig.all_run(result.policy_version)
    for cell in rig.cells.values():
        rig.until(lambda cell=cell: any("maintenance: probation: success fell" in a.message for a in cell.alarms), "its alarm")  # type: ignore[misc]
    slowed = [cell for cell in rig.cells.values() if (first + 1, True) in [told[:2] for told in cell.announced]]
    assert len(slowed) > 1, "on probation it is slowed down wherever it runs"


def test_a_stalled_member_holds_up_nobody_and_follows_when_it_moves_again(rig: Rig) -> None:
    number = rig.store.numbers()[-1]
    rig.members["b"].process.send_signal(signal.SIGSTOP)
    result = rig.ended(rig.start(12, 12))
    assert (result.termination_reason, result.updates) == ("finished", 1)
    assert {rig.cell_of(e) for e in rig.operator.episodes} == {"a", "c"}
    rig.until(lambda: all(rig.cells[name].version.number == number + 1 for name in "ac"), "the new version in the others")
    rig.until(lambda: rig.heard("fleet/fleet", "member /b: not heard from since 20"), "/diagnostics")
    assert rig.cells["b"].version.number != number + 1
    rig.members["b"].process.send_signal(signal.SIGCONT)
    rig.all_run(number + 1)


def test_recordings_that_cannot_be_read_are_kept_and_hold_up_nobody(rig: Rig) -> None:
    cell, before = rig.cells["c"], set(rig.recorded("c"))
    frame = cell._frame

    def twice() -> None:
        frame()
        cell._stamp -= PERIOD
        frame()

    cell._frame = twice  # type: ignore[method-assign]
    result = rig.ended(rig.start(12, 12))
    cell._frame = frame  # type: ignore[method-assign]
    assert (result.termination_reason, result.updates) == ("finished", 1)
    assert {rig.cell_of(e) for e in rig.operator.episodes if e.outcome != "aborted"} == {"a", "b"}
    rig.until(lambda: rig.heard("fleet/fleet", "is kept, but left out of learning: "), "/diagnostics")
    rig.until(lambda: rig.fetched("c").keys() >= rig.recorded("c").keys() > before, "its recordings at the lead")
    rig.all_run(result.policy_version)


def test_what_the_cells_audits_say_ends_it(rig: Rig) -> None:
    began = rig.store.numbers()[-1]
    for cell in rig.cells.values():
        cell.outcome, cell.truth = always({1: 10}), False
    result = rig.ended(rig.start(200, 12))
    for cell in rig.cells.values():
        cell.truth = None
    assert result.termination_reason == "stopped"
    assert result.message.startswith("hacking: the detector saw success in ")
    assert result.policy_version == began
    rig.all_run(began)


def test_what_is_recorded_while_the_lead_is_away_is_fetched_when_it_is_back(rig: Rig) -> None:
    running = rig.store.active()
    assert running is not None
    rig.start(500, 400)
    rig.until(lambda: len(rig.operator.episodes) > 2, "practice")
    rig.lead.end(signal.SIGKILL)
    before = {name: set(rig.recorded(name)) for name in NAMES}
    for name in NAMES:
        rig.until(lambda name=name: len(rig.recorded(name).keys() - before[name]) >= 2, "they go on at first")  # type: ignore[misc]
        rig.until(lambda name=name: rig.heard(f"{name}/trainer", "lead /fleet: nothing heard for 10 s"), "they miss it")  # type: ignore[misc]
    rig.until(lambda: all(cell.state.phase == "idle" for cell in rig.cells.values()), "they stand still without it")
    missing = {name: rig.recorded(name).keys() - rig.fetched(name).keys() for name in NAMES}
    assert all(missing.values())
    rig.lead = rig.leader()
    rig.until(lambda: all(rig.fetched(name).keys() >= missing[name] for name in NAMES), "what it had missed")
    for name in NAMES:
        for episode in missing[name]:
            assert sha256(rig.fetched(name)[episode]) == sha256(rig.recorded(name)[episode])
    rig.all_run(running.number)
    result = rig.ended(rig.start(6, 6))
    assert (result.termination_reason, result.updates) == ("finished", 1)
    rig.all_run(result.policy_version)


def test_an_operator_speaks_to_the_lead(rig: Rig) -> None:
    answer = rig.call(rig.operator.activate, ActivatePolicy.Request(number=2))
    assert (answer.success, answer.number) == (True, 2), answer.message
    rig.all_run(2)
    answer = rig.call(rig.operator.activate, ActivatePolicy.Request(number=99))
    assert not answer.success
    assert "no version 99" in answer.message
    cell = rig.cells["a"]
    own = cell.create_client(ActivatePolicy, "policy/activate")
    rig.until(own.service_is_ready, "the cell's own service")
    assert rig.call(own, ActivatePolicy.Request(number=1)).number == 1
    rig.until(lambda: cell.version.number == 2, "the fleet's version in it again")
    name = next(iter(rig.fetched("b").values())).stem
    assert rig.call(rig.operator.label, LabelEpisode.Request(episode_id=f"b/{name}", outcome="failure")).success
    assert rig.refused("a") == "Improve: this cell practises for a fleet; send the goal to /fleet/improve"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy": "judge"}, "its stage-1 checkpoint has hash "),
        ({"robot": "aloha"}, "its robot is 'aloha', expected 'panda'"),
    ],
)
def test_a_stranger_is_refused(rig: Rig, changes: dict[str, str], reason: str) -> None:
    if "policy" in changes:
        changes = {"policy": str(rig.tiny.judge)}
    rig.operator.told.clear()
    with rig.member("d", **changes):
        rig.until(lambda: rig.heard("d/trainer", f"lead /fleet refuses this cell: {reason}"), "the member to say so")
        rig.until(lambda: rig.heard("fleet/fleet", f"member /d is refused: {reason}"), "the lead to say so")
        assert "/d" not in rig.operator.orders.members


def test_a_cell_without_a_namespace_cannot_be_told_from_others(rig: Rig) -> None:
    status, output = NodeProcess("trainer_node", policy=rig.tiny.policy, lead="/fleet", store=rig.folder / "e").wait(60.0)
    assert status == 2
    assert "parameter `lead`: this node has no namespace; start each cell of a fleet in one of its own" in output


def test_a_fleet_shares_no_episodes_between_versions(rig: Rig) -> None:
    config = rig.folder / "canary.yaml"
    config.write_text("stopping: {canary: 0.3}\n")
    common = {"policy": rig.tiny.policy, "config": config, "store": rig.folder / "e"}
    nodes = [NodeProcess("fleet_node", "__ns:=/e", **common), NodeProcess("trainer_node", "__ns:=/e", lead="/fleet", **common)]
    for node in nodes:
        status, output = node.wait(60.0)
        assert status == 2
        assert "canary.yaml: stopping: canary is 0.3, expected 1 in a fleet: all its cells run the version that" in output
