"""trainer_node runs a version for one episode that somebody has asked for; whatever happens meanwhile, the one before is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from action_msgs.msg import GoalStatus
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401
from rclpy.action import ActionClient
from test_practice_stops import CONFIG, FRAMES, HOME, PERIOD, FakeCell, spun, trainer
from vla_ros.action import RunTask
from vla_ros.srv import ActivatePolicy

OLD, NEW = 1, 2


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[FakeCell]:
    """Version 1 runs and is marked; 2 descends from it."""
    with spun(tmp_path) as cell:
        checkpoints.tune(cell.store, 1, 0)
        checkpoints.tune(cell.store, 2, OLD)
        cell.store.activate(OLD)
        cell._run(OLD)
        yield cell


def asked(cell: FakeCell, version: int) -> Any:
    """Future of the episode's result."""
    client = ActionClient(cell, RunTask, "run_task")
    cell.until(client.server_is_ready, "run_task")
    sent = client.send_goal_async(RunTask.Goal(time_limit=FRAMES * PERIOD, policy_version=version))
    cell.until(sent.done, "acceptance")
    return sent.result().get_result_async()


def test_it_runs_for_an_episode_and_no_restart_resumes_it(cell: FakeCell, tiny: Tiny) -> None:
    activate = cell.create_client(ActivatePolicy, "policy/activate")
    with trainer(cell, tiny, CONFIG):
        cell.pose(HOME + 0.5)  # the episode begins when the arm is home
        future = asked(cell, NEW)
        cell.until(lambda: cell.version.number == NEW, "its turn")
        assert (cell.version.trial, cell.version.probation, cell.marked()) == (True, True, OLD)
        cell.pose(HOME)
        cell.until(future.done, "the episode's end")
        assert (future.result().result.outcome, future.result().result.policy_version) == ("success", NEW)
        assert (cell.version.number, cell.version.trial, cell.marked()) == (OLD, False, OLD), "back before the answer"

        future = asked(cell, 9)
        cell.until(future.done, "the refusal")
        assert future.result().status == GoalStatus.STATUS_ABORTED
        assert "no version 9" in future.result().result.termination_reason
        assert cell.version.number == OLD

        cell.pose(HOME + 0.5)
        future = asked(cell, NEW)
        cell.until(lambda: cell.version.number == NEW, "its turn")
        chosen = activate.call_async(ActivatePolicy.Request(number=NEW))
        cell.until(chosen.done, "an operator chooses it")
        cell.until(lambda: cell.marked() == NEW, "its mark")
        cell.pose(HOME)
        cell.until(future.done, "the episode's end")
        assert cell.version.number == NEW, "nobody goes back behind an operator"


def test_a_trainer_that_died_in_a_trial_has_the_old_one_back(cell: FakeCell, tiny: Tiny) -> None:
    cell._run(NEW, probation=True, trial=True)
    with trainer(cell, tiny, CONFIG):
        cell.until(lambda: cell.version.number == OLD, "the old one")
        cell.until(lambda: cell.state.policy_version == OLD, "that it is heard")
        assert cell.marked() == OLD
