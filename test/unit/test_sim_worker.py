"""Environments in another interpreter: the same values as in this one, clear errors, nothing left behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vla_ros.errors import VlaRosError
from vla_ros.learning.expert import ground
from vla_ros.sim.benchmark import Benchmark
from vla_ros.sim.worker import WorkerEnv

ENVIRONMENT = '''
import os, sys, time
import gymnasium
import numpy as np

class Environment(gymnasium.Env):
    """A point that moves; two pictures side by side, the second one darker."""

    render_mode = "rgb_array"
    action_space = gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 4.0], np.float32))

    def __init__(self, goal, fault=""):
        self.goal, self.fault = goal, fault
        print("a line that must not get among the answers")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.uniform(0, 1, 2), 0
        return self.look(), {}

    def step(self, action):
        if self.fault == "exit":
            print("the simulator gives up", file=sys.stderr)
            os._exit(7)
        if self.fault == "raise":
            raise RuntimeError("a joint fell off")
        if self.fault == "hang":
            time.sleep(60)
        self.at, self.steps = self.at + action, self.steps + 1
        success = bool(self.at[0] >= self.goal)
        return self.look(), float(self.at[1]), False, self.steps == 20, {} if self.fault == "info" else {"won": success}

    def look(self):
        at = np.full(2, np.nan) if self.fault == "nan" else self.at
        return {"robot": {"position": np.array([9.0, *at])}, "secret": self.goal}

    def expert(self):
        return np.array([5.0, 1.0])

    def render(self):
        level = int(100 * self.at[0]) % 100
        return np.concatenate([np.full((4, 6, 3), level + 100, np.uint8), np.full((4, 6, 3), level, np.uint8)], 1)
'''
TINY: dict[str, Any] = {
    "python": sys.executable,
    "packages": ["numpy"],
    "environment": {"file": "tiny.py", "arguments": {"goal": 30.0}},
    "image": {"from": "render", "size": [4, 6], "cameras": 2},
    "state": {
        "from": "robot.position",
        "entries": {"x": {"index": 1, "low": -1.0, "high": 3.0}, "y": {"index": 2, "low": 0.0, "high": 1.0}},
    },
    "action": {"size": 2, "bins": 5, "repeat": 3},
    "success": "won",
    "horizon": 5,
    "tasks": {
        "far": {"instruction": "go far"},
        "near": {"instruction": "go near", "arguments": {"goal": 3.0}},
        **{fault: {"instruction": fault, "arguments": {"fault": fault}} for fault in ("exit", "raise", "hang", "info", "nan")},
    },
}

Make = Callable[..., WorkerEnv]


def write(folder: Path, **changes: Any) -> Benchmark:
    (folder / "tiny.py").write_text(ENVIRONMENT, encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **changes}), encoding="utf-8")
    return Benchmark.load(folder / "tiny.yaml")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[WorkerEnv] = []

    def of(task: str, timeout: float = 60.0, **changes: Any) -> WorkerEnv:
        made.append(WorkerEnv(write(tmp_path, **changes), task, timeout))
        return made[-1]

    yield of
    for env in made:
        env.close()


def in_process(folder: Path, goal: float) -> Any:
    spec = importlib.util.spec_from_file_location("tiny", folder / "tiny.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Environment(goal)


def test_the_values_are_those_of_the_same_environment_in_this_process(make: Make, tmp_path: Path) -> None:
    env, twin = make("far"), in_process(tmp_path, 30.0)
    observation, info = env.reset(seed=5)
    raw, _ = twin.reset(seed=5)
    assert observation["image"].shape == (2, 4, 6, 3)
    assert observation["instruction"] == "go far"
    assert env.observation_space.contains(observation)
    assert env.about["versions"]["numpy"] == np.__version__
    np.testing.assert_allclose(info["expert"], [1.0, -0.5])  # 5 is beyond the bounds -2..2; 1 of 0..4
    for action in ([0.5, -1.0], [-1.0, 1.0]):
        observation, reward, terminated, truncated, info = env.step(action)
        rewards = []
        for _ in range(3):  # `repeat`
            raw, gained, *_ = twin.step(np.array([2 * action[0], 2 * (action[1] + 1)], np.float32))
            rewards.append(gained)
        x, y = raw["robot"]["position"][1:]
        np.testing.assert_allclose(observation["state"], [(x + 1) / 2 - 1, 2 * y - 1], rtol=1e-6)
        np.testing.assert_array_equal(np.concatenate(list(observation["image"]), 1), twin.render())
        np.testing.assert_array_equal(env.render(), twin.render())
        assert reward == pytest.approx(sum(rewards), rel=1e-9)
        assert (terminated, truncated, info["success"]) == (False, False, False)


def test_an_episode_ends_at_success_or_at_the_horizon(make: Make) -> None:
    near = make("near")
    near.reset(seed=1)
    _, reward, terminated, truncated, info = near.step([1.0, -1.0])  # 2 each: over 3 after the second of three
    assert (terminated, truncated, info["success"]) == (True, False, True)
    with pytest.raises(VlaRosError, match="reset first"):
        near.step([0.0, 0.0])
    first, _ = near.reset(seed=1)
    assert reward == pytest.approx(2 * (first["state"][1] + 1) / 2, abs=1e-6)  # the third one was not made
    far = make("far")
    far.reset(seed=1)
    ends = [far.step([0.0, -1.0])[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_a_seed_decides_the_scene_and_those_that_follow(make: Make) -> None:
    env, other = make("far"), make("far")
    states = [[e.reset(seed=s)[0]["state"].tolist() for s in (3, None, None)] for e in (env, other)]
    assert states[0] == states[1]
    assert len({tuple(s) for s in states[0]}) == 3
    assert env.reset(seed=3)[0]["state"].tolist() == states[0][0]


def test_many_step_side_by_side(make: Make) -> None:
    envs = [make("far"), make("near")]
    for env in envs:
        env.reset(seed=2)
        env.send([1.0, 0.0])
    with pytest.raises(VlaRosError, match="still to be received"):
        envs[0].send([1.0, 0.0])
    assert [env.receive()[4]["success"] for env in envs] == [False, True]
    with pytest.raises(VlaRosError, match="nothing was sent"):
        envs[0].receive()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.0], r"action: found shape \(1,\), expected \(2,\)"),
        ([0.0, np.nan], "values in -1..1"),
        ([0.0, 1.1], r"found \[0.0, 1.1\], expected values in -1..1"),
    ],
)
def test_actions_are_checked_before_they_are_sent(make: Make, action: list[float], message: str) -> None:
    env = make("far")
    env.reset(seed=0)
    with pytest.raises(VlaRosError, match=message):
        env.step(action)
    env.step([0.0, 0.0])  # the worker never saw the wrong one


def test_a_dead_worker_tells_its_last_words(make: Make) -> None:
    env = make("exit")
    env.reset(seed=0)
    with pytest.raises(VlaRosError, match=r"(?s)tiny exit: the worker has ended \(exit status 7\).*the simulator gives up"):
        env.step([0.0, 0.0])
    with pytest.raises(VlaRosError, match="the worker has ended"):
        env.reset(seed=0)


def test_a_killed_worker_is_noticed(make: Make) -> None:
    env = make("far")
    env.reset(seed=0)
    os.kill(env.pid, signal.SIGKILL)
    with pytest.raises(VlaRosError, match=r"exit status -9"):
        env.step([0.0, 0.0])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("raise", r"(?s)tiny raise: the environment failed: RuntimeError: a joint fell off.*Traceback"),
        ("info", r"success: info has no 'won'"),
        ("hang", r"did not answer within 3 s"),
    ],
)
def test_a_failing_environment_is_named(make: Make, task: str, message: str) -> None:
    env = make(task, timeout=3.0 if task == "hang" else 60.0)
    env.reset(seed=0)
    with pytest.raises(VlaRosError, match=message):
        env.step([0.0, 0.0])
    if task == "hang":  # it was ended
        with pytest.raises(VlaRosError, match="the worker has ended"):
            env.reset(seed=0)


def test_a_state_that_is_not_finite_is_refused(make: Make) -> None:
    with pytest.raises(VlaRosError, match=r"state: found \[nan, nan\], expected finite"):
        make("nan").reset(seed=0)


def test_closing_leaves_no_process_and_no_shared_memory(make: Make) -> None:
    def left() -> tuple[int, int]:
        """Open descriptors, and mappings of the shared memory."""
        return len(list(Path("/proc/self/fd").iterdir())), Path("/proc/self/maps").read_text().count("memfd:vla_ros")

    before = left()
    env = make("far")
    observation, _ = env.reset(seed=0)
    assert left()[1] == before[1] + 1
    pid = env.pid
    env.close()
    env.close()
    assert not Path(f"/proc/{pid}").exists()
    assert left() == before
    assert observation["image"].max() >= 100  # an observation is no view on what is gone
    with pytest.raises(VlaRosError, match="was closed"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": "/nowhere/python"}, "/nowhere/python does not exist; make it: make bench-tiny"),
        ({"python": "/etc/passwd"}, "/etc/passwd cannot be started: Permission denied"),
        ({"image": {"from": "render", "size": [4, 5], "cameras": 2}}, r"picture is \[4, 12, 3\], expected \[4, 10, 3\]"),
        ({"image": {"from": "robot.position", "size": [4, 6], "cameras": 2}}, "expected .*height, width, 3.* uint8"),
        ({"environment": {"id": "NoSuchEnvironment-v0"}}, "the environment failed: NameNotFound"),
        ({"environment": {"id": "CartPole-v1"}}, r"action space: found Discrete\(2\), expected a Box"),
        ({"action": {"size": 3, "bins": 5, "repeat": 1}}, "action.size: found 3, expected 2 as the environment takes"),
        ({"packages": ["no-such-package"]}, "PackageNotFoundError"),
        ({"horizon": 0}, "horizon: found 0, expected an integer in"),
        ({"environment": {"file": "other.py"}}, "environment.file: found 'other.py', expected a file beside the YAML"),
        ({"environment": {"arguments": {}}}, "expected either `file` or `id`"),
        ({"state": {"from": ".", "entries": {"x": {"index": 0, "low": 1.0, "high": 1.0}}}}, "state.entries.x.high: found 1.0"),
        ({"actoin": {"repeat": 1}}, "unknown key 'actoin'; did you mean 'action'"),
    ],
)
def test_a_wrong_configuration_is_refused(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VlaRosError, match=message):
        make("far", **changes)


def test_a_task_that_is_not_there_is_refused(make: Make) -> None:
    with pytest.raises(VlaRosError, match="tasks: found no 'fly', expected one of exit, far"):
        make("fly")


METAWORLD = Benchmark.load("metaworld")


needs_metaworld = pytest.mark.skipif(not METAWORLD.python.is_file(), reason="MetaWorld is not there: make bench-metaworld")


@needs_metaworld
def test_a_registered_environment_works_from_yaml_alone(make: Make) -> None:
    env = make(
        "far",
        python=str(METAWORLD.python),
        action={"size": 1, "bins": 5, "repeat": 1},
        environment={"id": "InvertedPendulum-v5", "arguments": {"render_mode": "rgb_array", "width": 48, "height": 32}},
        tasks={"far": {"instruction": "balance the pole"}},
        image={"from": "render", "size": [32, 48], "cameras": 1},
        state={"from": ".", "entries": {"angle": {"index": 1, "low": -0.2, "high": 0.2}}},
        success="reward_survive",
    )
    observation, info = env.reset(seed=0)
    assert observation["image"].shape == (32, 48, 3)
    assert observation["image"].std() > 10
    assert info["expert"] is None
    _, reward, terminated, _, info = env.step([0.0])  # "success" at the first step, by this key
    assert (reward, terminated, info["success"]) == (1.0, True, True)


@pytest.mark.parametrize("name", ["gym_aloha", "kitchen"])
def test_other_benchmarks_show_their_tasks(name: str) -> None:
    benchmark = Benchmark.load(name)
    if not benchmark.python.is_file():
        pytest.skip(f"make bench-{name}")
    for task in benchmark.tasks:
        env = WorkerEnv(benchmark, task)
        try:
            first, info = env.reset(seed=3)
            assert not info["success"]
            assert first["image"].std() > 20
            assert np.abs(first["state"]).max() <= 1.05, "at rest, the robot is within what the file says"
            image = first["image"].copy()
            for _ in range(5):
                observation, _, terminated, _, _ = env.step(np.full(benchmark.actions, 0.5))
                assert not terminated
            assert (observation["image"] != image).any()
            np.testing.assert_array_equal(env.reset(seed=3)[0]["image"], image, "the scene depends on the seed only")
            if name == "gym_aloha":
                assert (env.reset(seed=4)[0]["image"] != image).any()
        finally:
            env.close()


@needs_metaworld
def test_metaworld_shows_its_tasks_and_its_experts_solve_them() -> None:
    for task in ("reach-v3", "drawer-open-v3"):
        env, again = WorkerEnv(METAWORLD, task), WorkerEnv(METAWORLD, task)
        try:
            observation, info = env.reset(seed=11)
            first = observation["image"]
            assert first.shape == (2, 64, 64, 3)
            assert first.std((1, 2, 3)).min() > 20  # both cameras see something
            assert observation["state"].shape == (4,)
            assert np.abs(observation["state"]).max() <= 1
            ended, steps = False, 0
            while not ended:
                observation, _, terminated, truncated, info = env.step(info["expert"])
                ended, steps = terminated or truncated, steps + 1
            assert info["success"]
            assert 5 < steps < 40
            _, info = env.reset(seed=11)
            for _ in range(env.benchmark.horizon - 1):
                _, _, terminated, truncated, info = env.step(info["misled"])
                assert not terminated
            assert (observation["image"] != first).any()
            for other in (env, again):  # the scene depends on the seed only, not on what was before
                np.testing.assert_array_equal(other.reset(seed=11)[0]["image"], first)
            assert (again.reset(seed=12)[0]["image"] != first).any()
        finally:
            env.close()
            again.close()


@needs_metaworld
def test_metaworld_tells_where_its_button_is_seen() -> None:
    env = WorkerEnv(METAWORLD, "button-press-topdown-v3")
    try:
        data = ground([env], range(24), lambda: None)
        (observation, points, places), (again, *_) = env.ground(3), env.ground(3)
        np.testing.assert_array_equal(observation["image"], again["image"])
        np.testing.assert_array_equal(data.positions[3], places)
        with pytest.raises(VlaRosError, match="reset first"):
            env.step(np.zeros(4))
    finally:
        env.close()
    np.testing.assert_allclose(data.points[3, :, 0], (points[:, 0] + [-1, 1]) / 2, rtol=1e-6)  # side by side
    across, down = ((data.points + 1) * [64, 32]).astype(int).transpose(2, 0, 1)
    pixels = np.concatenate(list(data.images.swapaxes(0, 1)), 2)[np.arange(24)[:, None], down, across - 1].astype(int)
    away = np.linalg.norm(data.positions[:, 2:], axis=1) > 0.4  # the hand, whose fingers may hide it
    assert away.sum() > 4
    assert (pixels[away, :, 0] > pixels[away, :, 1] + 40).all(), "the button is red, beside the green mark in its middle"
