"""trainer_node with a `canary`: a new version shares the episodes with the proven one until it is proven itself, or gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from rclpy.action import ActionClient
from test_practice_stops import EVERY, FRAMES, HOME, PERIOD, PROBATION, FakeCell, always, spun, trainer
from vla_ros.action import RunTask
from vla_ros.srv import ActivatePolicy

SHARE = 0.5
CONFIG = f"""
updates: 1
stopping: {{window: 10, patience: 5, level: 0.01, returns: 2, probation: {PROBATION}, canary: {SHARE}}}
"""


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[FakeCell]:
    with spun(tmp_path) as cell:
        yield cell


def ran(cell: FakeCell) -> list[int]:
    return [e.policy_version for e in cell.episodes]


def between(cell: FakeCell, first: int, last: int) -> list[int]:
    """Versions of the episodes from the first one of a version to the last one of another, both included."""
    versions = ran(cell)
    return versions[versions.index(first) : len(versions) - versions[::-1].index(last)]


def task(cell: FakeCell) -> Any:
    client = ActionClient(cell, RunTask, "run_task")
    cell.until(client.server_is_ready, "run_task")
    sent = client.send_goal_async(RunTask.Goal(time_limit=FRAMES * PERIOD))
    cell.until(sent.done, "acceptance")
    future = sent.result().get_result_async()
    cell.until(future.done, "the task's end")
    return future.result().result


def test_a_bad_version_goes_having_run_its_share(cell: FakeCell, tiny: Tiny) -> None:
    """2 is proven beside 1; 3 is broken, and seen to be beside 2; 4 is still on trial when practice ends."""
    with trainer(cell, tiny, CONFIG):
        marked = list[tuple[int, int]]()
        future = cell.start(60, always({1: 5, 2: 10, 3: 0, 4: 10}))
        cell.after_episode = lambda episode_id: marked.append((cell.episodes[-1].policy_version, cell.marked()))
        result = cell.ended(future)
        versions = ran(cell)
        assert (result.termination_reason, result.rollbacks, result.updates) == ("finished", 1, 3)
        assert versions[:EVERY] == [1] * EVERY
        bad = between(cell, 3, 3)
        assert set(bad) == {2, 3}
        assert 4 <= bad.count(3) < PROBATION
        assert versions.count(2) >= EVERY
        assert set(between(cell, 4, 4)) == {2, 4}
        store = cell.store
        assert [store.record(n).parent for n in store.numbers()] == [0, 1, 2, 2]
        learned = next(n for number, _, n in cell.announced if number == 4)
        assert versions[versions.index(3) : learned].count(2) == EVERY, "those that ran beside 3 are learned from, too"
        assert {version: marker for version, marker in marked if version > 2} == {3: 2, 4: 2}, "a restart resumes the proven one"
        slow = {(number, probation) for number, probation, _ in cell.announced}
        assert slow == {(1, False), (2, True), (2, False), (3, True), (4, True)}
        told = [s.message for s in cell.states]
        assert any(t.startswith("canary: success of version 3 is 0% in ") and t.endswith("; back to version 2") for t in told)
        assert not [a for a in cell.alarms if a.message], "nothing is wrong with the cell: the version beside it succeeds"
        shares = "it runs 50% of all, version 2 the others"
        assert f"version 4 is on probation for {PROBATION} more episodes: {shares}" in told

        left = cell.state.probation
        assert 0 < left < PROBATION
        assert (result.policy_version, cell.version.number, cell.marked()) == (2, 2, 2), "what is proven runs after practice"
        assert task(cell).policy_version == 2
        assert cell.state.probation == left

        cell.ended(cell.start(PROBATION, always({4: 10})))
        assert set(ran(cell)) == {2, 4}, "the next practice goes on with it, and begins its probation anew"
        assert cell.state.probation == PROBATION - ran(cell).count(4)


def test_an_operators_choice_and_a_restart_end_the_trial(cell: FakeCell, tiny: Tiny) -> None:
    """He activates the proven version while it runs anyway: he wants no more of the new one."""
    activate = cell.create_client(ActivatePolicy, "policy/activate")
    with trainer(cell, tiny, CONFIG):
        future = cell.start(3 * EVERY + 2, always({1: 5}))

        def away(episode_id: str) -> None:
            if 2 in ran(cell) and ran(cell)[-1] == 1:
                cell.pose(HOME + 0.5)  # the next episode begins when the arm is home

        cell.after_episode = away
        cell.until(lambda: cell.q is not HOME and cell.version.number == 1, "the proven version's turn", 120.0)
        cell.after_episode = lambda episode_id: None
        tried = len(cell.episodes)
        chosen = activate.call_async(ActivatePolicy.Request(number=1))
        cell.until(chosen.done, "activation")
        cell.pose(HOME)
        result = cell.ended(future)
        assert result.rollbacks == 0
        after = ran(cell)[tried:]
        assert after[: after.index(3)] == [1] * after.index(3), "2 never runs again"
        assert cell.store.record(3).parent == 1
        assert set(between(cell, 3, 3)) == {1, 3}
        assert cell.marked() == 1
        cell._run(3, probation=True)  # as if the trainer had gone in its turn
        cell.until(lambda: cell.state.policy_version == 3, "it is heard")
        assert cell.marked() == 1
    with trainer(cell, tiny, CONFIG):
        cell.until(lambda: cell.version.number == 1, "the proven version is back")
        assert (cell.marked(), cell.announced[-1][:2]) == (1, (1, False))
        assert task(cell).policy_version == 1
