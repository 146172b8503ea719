"""Practice on workers: the same episodes whoever runs them, of the weights that were asked for, whole, whoever dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import STRICT, Tiny, model, prompt, tiny_checkpoints  # noqa: F401 (fixture)

from vla_ros.errors import VlaRosError
from vla_ros.learning.practice import Episodes, PracticeConfig, SimulatedPractice
from vla_ros.learning.self_improvement import ImproveConfig
from vla_ros.learning.workers import Crew, Group, Lost, Setup, Spawned, Weights, Worker
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.policy.store import WeightStore
from vla_ros.progress.calibration import Calibration
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv

SEEDS = {"reach": [7, 8, 9, 10, 11]}  # groups of 2, 2 and 1


@pytest.fixture(scope="module")
def setup(tiny: Tiny) -> Setup:
    return Setup(tiny.policy, tiny.judge, Calibration.load(tiny.judge), "panda", "train", cells=2)


def learner(setup: Setup) -> Model:
    """Its LoRA is drawn, as a worker's is not."""
    policy, _ = checkpoint.load(setup.policy)
    torch.manual_seed(3)
    return adapter.add(policy)


@pytest.fixture(scope="module")
def here(setup: Setup) -> tuple[Episodes, dict[str, torch.Tensor]]:
    """Episodes of this process, and the weights after an update on them."""
    cells = [TabletopEnv(RobotContract.load("panda")) for _ in range(setup.cells)]
    return practise(setup, cells, None)


def practise(setup: Setup, cells: list[TabletopEnv], crew: Crew | None) -> tuple[Episodes, dict[str, torch.Tensor]]:
    policy, judge = learner(setup), checkpoint.load(setup.judge)[0]
    config = PracticeConfig(per_update=5, tasks=("reach",), seed=7)
    improve = ImproveConfig(updates=2, batch=8, learning_rate=1e-2)
    found, _ = SimulatedPractice(policy, judge, setup.calibration, prompt(), cells, config, improve, crew).iterate()
    return found, adapter.state(policy)


def assert_same(found: Episodes, wanted: Episodes) -> None:
    assert found.keys() == wanted.keys()
    for own, theirs in zip(chain(*found.values()), chain(*wanted.values()), strict=True):
        for name in vars(theirs.practice):
            np.testing.assert_array_equal(getattr(own.practice, name), getattr(theirs.practice, name), err_msg=name)
        np.testing.assert_array_equal(own.distribution, theirs.distribution)
        assert (own.detected, own.true_success) == (theirs.detected, theirs.true_success)


class Killed(Spawned):
    """The first one dies by kill -9 in the middle of its first group."""

    alive = True

    def ask(self, method: str, *arguments: Any) -> Any:
        if method == "run" and Killed.alive:
            Killed.alive = False
            os.kill(self.process.pid or 0, signal.SIGKILL)
        return super().ask(method, *arguments)


@pytest.fixture(scope="module")
def pair(setup: Setup) -> Iterator[tuple[Crew, list[str]]]:
    told: list[str] = []
    crew = Crew(setup, 2, Killed, told.append)
    yield crew, told
    crew.close()


def test_two_workers_of_which_one_is_killed_do_what_this_process_does(
    setup: Setup, here: tuple[Episodes, dict[str, torch.Tensor]], pair: tuple[Crew, list[str]]
) -> None:
    crew, told = pair
    found, weights = practise(setup, [], crew)
    assert len(told) == 1
    assert "has died (exit status -9); its " in told[0]
    assert told[0].endswith("episodes are run again")
    assert_same(found, here[0])
    assert all(torch.equal(weights[name], tensor) for name, tensor in here[1].items())


def test_one_worker_does_the_same_and_ends_with_its_learner(
    setup: Setup, here: tuple[Episodes, dict[str, torch.Tensor]], pair: tuple[Crew, list[str]]
) -> None:
    link = pair[0]._idle[0].link
    assert isinstance(link, Spawned)
    crew = Crew(setup, 1, lambda *_: link, pytest.fail)
    found, weights = practise(setup, [], crew)
    assert_same(found, here[0])
    assert all(torch.equal(weights[name], tensor) for name, tensor in here[1].items())
    link._pipe.close()  # as when the learner is killed
    link.process.join(300)
    assert link.process.exitcode == 0
    crew.close()


# -------------------------------------------------------------------------------------- without processes


class Scripted:
    """A worker in this process that does as it is told."""

    def __init__(self, run: Callable[[Weights, Group], Any], start: Callable[[], str] = lambda: "cell:1") -> None:
        self._run, self._start = run, start

    def ask(self, method: str, *arguments: Any) -> Any:
        return self._run(*arguments) if method == "run" else self._start()

    def close(self) -> None: ...


def crew_of(setup: Setup, workers: int, told: list[str], *script: Any, patience: float = 600.0) -> Crew:
    return Crew(setup, workers, lambda *_: Scripted(*script), told.append, patience)


def test_when_all_die_again_and_again_practice_ends_with_the_reason(setup: Setup) -> None:
    def die(*_: Any) -> None:
        raise Lost("exit status -9")

    told: list[str] = []
    with pytest.raises(VlaRosError, match="no worker is left of 2"):
        crew_of(setup, 2, told, die)(learner(setup), SEEDS)
    assert len(told) == 4  # two, and two in their place
    assert [line.endswith("it is not replaced") for line in told] == [False, False, True, True]


def test_deaths_between_finished_groups_end_nothing(setup: Setup) -> None:
    calls = 0

    def die_every_other_time(weights: Weights, group: Group) -> tuple[str, list[int]]:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise Lost("machine gone")
        return weights.sha256, group.seeds

    told: list[str] = []
    found = crew_of(setup, 1, told, die_every_other_time)(learner(setup), {"reach": list(range(20)), "push": [], "x": [3]})
    assert found == {"reach": list(range(20)), "push": [], "x": [3]}
    assert len(told) == 11


def test_episodes_of_other_weights_are_an_error(setup: Setup) -> None:
    with pytest.raises(VlaRosError, match=r"worker cell:1: its weights are 0000000000000000, expected [0-9a-f]{16}"):
        crew_of(setup, 1, [], lambda weights, group: ("0" * 64, group.seeds))(learner(setup), SEEDS)


def test_a_cluster_without_room_is_an_error(setup: Setup) -> None:
    told: list[str] = []
    waiting = threading.Event()
    crew = crew_of(setup, 2, told, None, lambda: waiting.wait(60) and "late", patience=0.1)
    with pytest.raises(VlaRosError, match="none of 2 workers has started within 0 s"):
        crew(learner(setup), SEEDS)
    waiting.set()
    crew.close()


@pytest.fixture(scope="module")
def worker(setup: Setup) -> Worker:
    worker = Worker(setup, setup.identity())
    assert worker.start().endswith(f":{os.getpid()}")
    return worker


def test_a_worker_runs_the_version_that_it_is_given(setup: Setup, worker: Worker, tmp_path: Any) -> None:
    policy = learner(setup)
    weights = Weights.of(policy)
    assert weights.sha256 == WeightStore(tmp_path).write(adapter.state(policy), 0, "sft", {}).sha256
    found, episodes = worker.run(weights, Group("reach", [7]))
    assert found == weights.sha256
    assert len(episodes) == 1


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (lambda w: replace(w, data=w.data[:-1] + b"\1"), r"worker .*:\d+: weights have sha256 .*: not taken"),
        (lambda w: Weights.of(adapter.add(model(0, slots=5))), r"worker .*:\d+: weights [0-9a-f]{16}: .* has shape"),
    ],
)
def test_damaged_or_foreign_weights_are_not_taken(
    setup: Setup, worker: Worker, spoilt: Callable[[Weights], Weights], message: str
) -> None:
    with pytest.raises(VlaRosError, match=message):
        worker.run(spoilt(Weights.of(learner(setup))), Group("reach", [7]))


@pytest.mark.parametrize("what", ["vla_ros", "tasks", "robot panda", "policy", "judge"])
def test_a_machine_that_has_other_files_is_refused(setup: Setup, what: str) -> None:
    here = setup.identity()
    name = next(key for key in here if key.startswith(what))
    with pytest.raises(VlaRosError, match=rf"worker .*:\d+: {name}: found .*, expected the learner's 1234: copy it"):
        Worker(setup, {**here, name: "1234"}).start()


def test_ray_does_what_this_process_does(
    setup: Setup, here: tuple[Episodes, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster of this machine; the first actor's process is killed in the middle of its first group."""
    ray = pytest.importorskip("ray")
    from vla_ros.learning.ray_workers import OnRay, connect

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    alive = True

    class KilledOnRay(OnRay):
        name = ""

        def ask(self, method: str, *arguments: Any) -> Any:
            nonlocal alive
            if method == "run" and alive:
                alive = False
                os.kill(int(self.name.split(":")[1]), signal.SIGKILL)
            answer = super().ask(method, *arguments)
            self.name = answer if method == "start" else self.name
            return answer

    told: list[str] = []
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    try:
        crew = Crew(setup, 2, KilledOnRay, told.append)
        found, weights = practise(setup, [], crew)
        crew.close()
        with pytest.raises(VlaRosError, match=r"worker .*: policy .*: found .*, expected the learner's 1234"):
            OnRay(setup, {f"policy {setup.policy}": "1234"}).ask("start")
    finally:
        ray.shutdown()
    assert len(told) == 1
    assert_same(found, here[0])
    assert all(torch.equal(weights[name], tensor) for name, tensor in here[1].items())
    with pytest.raises(VlaRosError, match="--ray 127.0.0.1:1: .*start a cluster with `ray start --head`"):
        connect("127.0.0.1:1")
