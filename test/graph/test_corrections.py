"""A person takes over while the launched graph acts: through the filter, into the recording, into the next version."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoints import tiny_checkpoints  # noqa: F401
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped, Vector3
from std_msgs.msg import Header
from test_whole_loop import Loop
from test_whole_loop import loop as launched  # noqa: F401
from vla_ros.action import Improve
from vla_ros.msg import ActionChunk, Observation, TrainingState

from vla_ros.episodes import EpisodeReader, load_episode
from vla_ros.nodes import convert, qos
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics

CONTRACT = RobotContract.load("panda")
KINEMATICS = Kinematics(CONTRACT)
TIMEOUT = 0.3  # s, policy_node's default
SPEED = 0.2  # m/s, of the person: half of what the contract allows
ACTION = SPEED / CONTRACT.action.max_step / CONTRACT.observation.rate


class Person:
    """Answers observations of an episode with a twist, from one time in it to another."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.chunks: list[ActionChunk] = []
        self.state = TrainingState()
        self.policy: list[tuple[str, dict[str, str]]] = []  # message and values on /diagnostics
        self.fields: dict[str, object] = {}  # of what is sent instead of a good twist
        self._since, self._until, self._begun = 0.0, 0.0, 0.0
        node = loop.node
        self.twists = node.create_publisher(TwistStamped, "/teleop/twist", qos.SENSOR)
        node.create_subscription(ActionChunk, "/policy/chunk", self._on_chunk, qos.RECORD)
        node.create_subscription(Observation, "/observation", self._on_observation, qos.observations(True, 5))
        node.create_subscription(TrainingState, "/training/state", lambda m: setattr(self, "state", m), qos.STATUS)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        loop.until(self.twists.get_subscription_count, "policy_node listens")

    def takes_over(self, since: float, until: float, **fields: object) -> None:
        """s in the next episode; `fields` of the messages that are other than a good one's."""
        self._since, self._until, self._begun, self.fields = since, until, 0.0, fields
        self.chunks.clear()

    def _on_chunk(self, message: ActionChunk) -> None:
        if message.episode_id:
            self.chunks.append(message)
            self._begun = self._begun or convert.seconds(message.observation_stamp)

    def _on_observation(self, message: Observation) -> None:
        stamp = convert.seconds(message.header.stamp)
        if self._begun and self._since <= stamp - self._begun < self._until:
            fields = {"frame_id": "panda_link0", "linear": Vector3(y=SPEED), "stamp": stamp} | self.fields
            header = Header(frame_id=fields["frame_id"], stamp=convert.stamp(fields["stamp"]))
            self.twists.publish(TwistStamped(header=header, twist=Twist(linear=fields["linear"])))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.policy += [(s.message, {v.key: v.value for v in s.values}) for s in message.status if s.name.endswith("policy")]


@pytest.fixture(scope="module")
def person(launched: Loop) -> Person:  # noqa: F811
    return Person(launched)


def test_a_person_acts_through_the_filter_and_gives_back(person: Person) -> None:
    person.takes_over(0.8, 1.6)
    result = person.loop.episode(time_limit=3.0, seed=5, task="push")
    data = load_episode(result.file)
    assert (result.termination_reason, len(data)) == ("time_limit", 30)
    acted = np.flatnonzero(data.corrected)
    begun, ended = data.stamps[acted[0]] - data.stamps[0], data.stamps[acted[-1]] - data.stamps[0]
    assert acted.tolist() == list(range(acted[0], acted[-1] + 1)), "in one go"
    assert 0.75 < begun < 1.05
    assert 1.45 < ended < 1.6 + TIMEOUT, "silence gives back"
    assert [c.corrected for c in person.chunks[:30]] == data.corrected.tolist(), "as everybody heard it"
    # The filter's commands: to the side at the person's speed while he acts, and nowhere like it before and after.
    states = EpisodeReader(result.file).of("/safety/state")
    times = np.array([convert.seconds(m.header.stamp) for m in states])
    tips = np.array([KINEMATICS.tip_xy(np.array(m.command)) for m in states])
    at = lambda time: np.array([np.interp(time, times, tips[:, d]) for d in (0, 1)])  # noqa: E731
    first, last = data.stamps[acted[0] + 2], data.stamps[acted[-1] + 1]  # once the arm is on its way
    np.testing.assert_allclose((at(last) - at(first)) / (last - first), [0.0, SPEED], atol=0.25 * SPEED)
    np.testing.assert_allclose(data.executed[acted[2:], 0], [[0.0, ACTION]] * (len(acted) - 2), atol=0.3 * ACTION)
    np.testing.assert_allclose(data.actions[acted, 0], [[0.0, ACTION]] * len(acted), atol=1e-3)
    own = ~data.corrected
    wanted = data.tokens[:, 0] / 10 - 1
    np.testing.assert_allclose(data.actions[own, 0], wanted[own], atol=1e-3, err_msg="the policy's are what it drew")
    assert len({tuple(tokens) for tokens in data.tokens[acted, 0].tolist()}) > 1, "what it would have done is recorded"
    assert data.metadata["corrected_steps"] == str(len(acted))
    person.loop.until(lambda: person.loop.episodes and person.loop.episodes[-1].corrected_steps == len(acted), "Episode")
    assert "a person takes over" in person.loop.log() or any("a person takes over" in line for line in person.loop.lines)


BAD = {
    "not finite": ({"linear": Vector3(y=float("nan"))}, "expected finite numbers"),
    "too fast": ({"linear": Vector3(y=0.5)}, "expected at most 0.4 m/s"),
    "another frame": ({"frame_id": "panda_hand"}, "frame_id: found 'panda_hand', expected 'panda_link0' or empty"),
    "stale": ({"stamp": 0.5}, "s ago, expected at most 0.3 s"),
    "of another clock": ({"stamp": 1.7e9}, "ahead of this machine's clock"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_and_the_policy_goes_on(person: Person, name: str) -> None:
    fields, message = BAD[name]
    person.policy.clear()
    person.takes_over(0.2, 0.6, **fields)
    result = person.loop.episode(time_limit=1.0, seed=6, task="push")
    assert (result.termination_reason, result.steps) == ("time_limit", 10)
    assert not load_episode(result.file).corrected.any()
    person.loop.until(lambda: any(message in told for told, _ in person.policy), f"'{message}' on /diagnostics")
    assert any(told.startswith("/teleop/twist: refused: ") for told, _ in person.policy)
    assert int(person.policy[-1][1]["refused_commands"]) > 0
    assert person.policy[-1][1]["acts"] == "policy"


def test_the_next_version_has_learned_from_it(person: Person) -> None:
    """From an episode of practice and from one of a task before it; the successes that a person helped in do not count."""
    before = [load_episode(e.file) for e in person.loop.episodes if e.corrected_steps]
    assert len(before) == 1
    person.takes_over(0.3, 0.8)
    _, future, _ = person.loop.start(person.loop.improve, Improve.Goal(episodes=2, episodes_per_update=2, seed=40, task="push"))
    person.loop.until(future.done, "end of practice", 120.0)
    result = future.result().result
    assert (result.termination_reason, result.updates, result.policy_version) == ("finished", 1, 2)
    helped, alone = person.loop.episodes[-2:]
    assert helped.corrected_steps > 3
    assert alone.corrected_steps == 0
    metrics = WeightStore(person.loop.store).record(2).metrics
    steps = sum(d.corrected.sum() for d in before) + helped.corrected_steps
    assert metrics["corrected_steps"] == steps
    assert (metrics["episodes"], metrics["corrected_episodes"], metrics["parent_success"]) == (2, 1, 0.0)
    assert metrics["first_ratio"] == pytest.approx(1.0, abs=1e-3)
    assert metrics["samples"] == helped.steps + alone.steps - helped.corrected_steps
    assert np.isfinite(metrics["correction_loss"])
    assert metrics["kept"] < 1.0
    person.loop.until(lambda: person.state.phase == "idle", "idle")
    assert person.state.corrected_episodes == 1
