"""`vla-ros train ... --env`: somebody else's environment, from its expert's demonstrations to every method."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from vla_ros.cli.__main__ import main
from vla_ros.cli.train.place import Place, by_task
from vla_ros.errors import VlaRosError
from vla_ros.learning.expert import STAYS
from vla_ros.learning.stage1 import load_demonstrations, save_demonstrations
from vla_ros.policy.policy import load
from vla_ros.policy.store import WeightStore

pytestmark = pytest.mark.filterwarnings("ignore")
ENVIRONMENT = '''
import gymnasium
import numpy as np

class Environment(gymnasium.Env):
    """A lamp that moves along a line, to the right or to the left end."""

    render_mode = "rgb_array"
    action_space = gymnasium.spaces.Box(-0.1, 0.1, (1,))

    def __init__(self, goal):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-0.3, 0.3)
        return np.array([self.at]), {}

    def step(self, action):
        self.at = float(np.clip(self.at + action[0], -1, 1))
        return np.array([self.at]), 0.0, False, False, {"there": abs(self.at - self.goal) < 0.3}

    def ground(self, seed):
        observation, _ = self.reset(seed=seed)
        return observation, [[((self.at + 1) * 14 + 2) / 16 - 1, 0.0]], [self.at, 0.5]

    def expert(self):
        return np.array([np.sign(self.goal - self.at) * 0.1])

    def misled(self):
        return -self.expert()

    def render(self):
        picture = np.full((32, 32, 3), 40, np.uint8)
        column = int((self.at + 1) * 14)
        picture[:, column : column + 4] = 220
        return picture
'''
LINE: dict[str, Any] = {
    "python": sys.executable,
    "packages": ["numpy"],
    "environment": {"file": "line.py"},
    "image": {"from": "render", "size": [32, 32], "cameras": 1},
    "state": {"from": ".", "entries": {"at": {"index": 0, "low": -1.0, "high": 1.0}}},
    "action": {"size": 1, "bins": 5, "repeat": 1},
    "success": "there",
    "horizon": 15,
    "tasks": {
        "go-right": {"instruction": "go right", "arguments": {"goal": 1.0}},
        "go-left": {"instruction": "go left", "arguments": {"goal": -1.0}},
    },
}
METHODS = {
    "improve": "",
    "ppo": "warmup: 0\nepochs: 1\n",
    "ire-vla": "batches: 1\nsteps: 2\nbatch: 4\nppo: {warmup: 0, epochs: 1}\n",
    "recap": "steps: 2\nbatch: 4\nvalue_steps: 2\n",
}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark's file, with a policy and a judge that were trained for it, beside."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "line.py").write_text(ENVIRONMENT, encoding="utf-8")
    (folder / "line.yaml").write_text(yaml.safe_dump(LINE, sort_keys=False), encoding="utf-8")
    few = ["--steps", "4", "--batch", "4", "--evaluate-every", "4", "--held-out", "0.25", "--policy", "small"]
    asked = ["train", "sft", "--env", str(folder / "line.yaml"), *few]
    assert main([*asked, "--demonstrations", "4", "--out", str(folder / "policy")]) == 0
    data = str(folder / "policy" / "demonstrations.npz")
    assert main([*asked, "--judge", "--data", data, "--out", str(folder / "judge")]) == 0
    return folder / "line.yaml"


def test_the_expert_demonstrates_every_task(line: Path) -> None:
    data = load_demonstrations(line.parent / "policy" / "demonstrations.npz")
    assert data.instructions == ("go right", "go left")
    assert data.images.shape[1:] == (32, 32, 3)
    for k, sign in ((0, 1), (1, -1)):
        mine = (data.instruction == k) & (data.steps_to_go > 0)
        assert (sign * data.actions[mine] == 1).all(), "what the expert would do, in -1..1"
    model, _ = load(line.parent / "policy", "line")
    assert (model.config.bins, model.config.action_dim, model.config.state_dim) == (5, 1, 1)


def test_a_judge_is_shown_success_and_the_methods_what_leads_there(line: Path) -> None:
    data = load_demonstrations(line.parent / "policy" / "demonstrations.npz")
    episodes = np.unique(data.episode)
    for k in episodes:
        togo = data.steps_to_go[data.episode == k]
        shown = int((togo == 0).sum())
        assert shown == 1 + STAYS
        assert togo.tolist() == [*range(len(togo) - shown, 0, -1), *[0] * shown]
    place = Place.of(argparse.Namespace(env=str(line), robot=None))
    kept = by_task(place, data)
    assert sum(len(d.episode) for d in kept.values()) == len(data.episode) - STAYS * len(episodes)
    assert all((d.steps_to_go[d.episode == k] == 0).sum() == 1 for d in kept.values() for k in np.unique(d.episode))


def test_a_judge_is_shown_misses(line: Path, tmp_path: Path) -> None:
    """The motion to the other end, then back: steps-to-go grow with every step astray, and the labels stay the expert's."""
    out = tmp_path / "judge"
    asked = ["train", "sft", "--env", str(line), "--tasks", "go-right", "--policy", "small", "--judge", "--out", str(out)]
    asked += ["--steps", "2", "--batch", "4", "--held-out", "0.25", "--demonstrations", "8", "--noise", "0"]
    assert main([*asked, "--miss", "0.5"]) == 0
    data = load_demonstrations(out / "demonstrations.npz")
    missed = 0
    for k in np.unique(data.episode):
        mine = data.episode == k
        place, togo = data.states[mine, 0], data.steps_to_go[mine]
        astray = int(place.argmin())
        assert (np.diff(place[: astray + 1]) < 0).all()
        assert (np.diff(place[astray:]) >= 0).all()
        missed += astray > 0
        shown = int((togo == 0).sum())
        assert togo.tolist() == [*range(len(togo) - shown, 0, -1), *[0] * shown], "from the start on it is known what is left"
        assert (data.actions[mine][place < 0.7] == 1).all()
        assert (togo[place < 0.7] > 0).all()
    assert 0 < missed < 8
    asked[asked.index(str(out))] = str(tmp_path / "again")
    assert main([*asked, "--miss", "1.5"]) == 2


def test_an_expert_that_cannot_be_misled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "line.py").write_text(ENVIRONMENT.replace("def misled", "def no"), encoding="utf-8")
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(LINE, sort_keys=False), encoding="utf-8")
    asked = ["train", "sft", "--env", str(tmp_path / "line.yaml"), "--policy", "small", "--out", str(tmp_path), "--miss", "1"]
    assert main([*asked, "--demonstrations", "2"]) == 2
    assert "its environment has no expert to mislead (a method `misled()" in " ".join(capsys.readouterr().err.split())
    assert main([*asked, "--data", str(tmp_path / "some.npz")]) == 2
    assert "--miss: found 1.0, expected 0..1, with --demonstrations" in " ".join(capsys.readouterr().err.split())


def test_stage_0_learns_where_things_are_and_stage_1_goes_on_from_it(line: Path, tmp_path: Path) -> None:
    few = ["--steps", "4", "--out"]
    assert main(["train", "ground", "--env", str(line), "--pictures", "8", *few, str(tmp_path / "grounded")]) == 0
    told = json.loads((tmp_path / "grounded" / "training.json").read_text())
    assert (told["stage"], told["pictures"]) == ("ground", 8)
    model, prompt = load(tmp_path / "grounded", "line")
    assert int(prompt(["go right", "go left"])[1].sum()) == 4, "it knows the words of all tasks"
    data = str(line.parent / "policy" / "demonstrations.npz")
    asked = ["train", "sft", "--env", str(line), "--data", data, "--policy", str(tmp_path / "grounded")]
    assert main([*asked, "--batch", "4", "--evaluate-every", "4", "--held-out", "0.25", *few, str(tmp_path / "policy")]) == 0
    assert not torch.equal(load(tmp_path / "policy", "line")[0].connector.slots, model.connector.slots)


def test_stage_0_of_a_robot(tmp_path: Path) -> None:
    assert main(["train", "ground", "--pictures", "8", "--steps", "2", "--out", str(tmp_path / "grounded")]) == 0
    assert load(tmp_path / "grounded", "panda")[0].config.robot == "panda"


def test_an_environment_that_does_not_tell_where_things_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "line.py").write_text(ENVIRONMENT.replace("def ground", "def no"), encoding="utf-8")
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(LINE, sort_keys=False), encoding="utf-8")
    assert main(["train", "ground", "--env", str(tmp_path / "line.yaml"), "--out", str(tmp_path / "grounded")]) == 2
    assert "does not tell where things are (a method `ground(seed)" in capsys.readouterr().err


@pytest.mark.parametrize("points", ["[0.0, 0.0]", "[[np.nan, 0.0]]"])
def test_points_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], points: str) -> None:
    wrong = ENVIRONMENT.replace("[[((self.at + 1) * 14 + 2) / 16 - 1, 0.0]]", points)
    assert wrong != ENVIRONMENT
    (tmp_path / "line.py").write_text(wrong, encoding="utf-8")
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(LINE, sort_keys=False), encoding="utf-8")
    assert main(["train", "ground", "--env", str(tmp_path / "line.yaml"), "--out", str(tmp_path / "grounded")]) == 2
    assert re.search(
        r"line go-\w+: ground\(0\): found points .*, expected finite points \[1, 2\]", " ".join(capsys.readouterr().err.split())
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_practises_in_it(line: Path, tmp_path: Path, name: str) -> None:
    out, folder = tmp_path / name, line.parent
    asked = ["train", name, "--env", str(line), "--policy", str(folder / "policy"), "--out", str(out), "--per-update", "4"]
    asked += ["--episodes", "4", "--side-by-side", "1", "--tasks", "go-left"]
    if METHODS[name]:
        (tmp_path / "small.yaml").write_text(METHODS[name])
        asked += ["--config", str(tmp_path / "small.yaml")]
    if name == "improve":
        asked += ["--judge", str(folder / "judge")]
    elif name != "ppo":
        asked += ["--expert-data", str(folder / "policy" / "demonstrations.npz")]
    assert main(asked) == 0
    points = [json.loads(text) for text in (out / "log.jsonl").read_text().splitlines()]
    practised = [e for p in points for e in p["practised"]]
    assert [e["group"] for e in practised] == ["go-left"] * 4
    if name != "improve":
        assert all(p["go-left_true"] == p["go-left_detected"] for p in points if p["practised"]), "the truth ends episodes"
    assert len(WeightStore(out / "versions").numbers()) == 1 + len(points)
    assert load(out / "policy", "line")[0].config.robot == "line"


def test_demonstrations_of_two_tasks_with_the_same_words(line: Path) -> None:
    data = load_demonstrations(line.parent / "policy" / "demonstrations.npz")
    place = Place.of(argparse.Namespace(env=str(line), robot=None))
    twice = replace(place, tasks={**place.tasks, "go-right-again": place.tasks["go-right"]})
    assert set(by_task(twice, data, ["go-right-again"])) == {"go-right-again", "go-left"}
    with pytest.raises(VlaRosError, match="'go right' is of several tasks: go-right, go-right-again; choose with --tasks"):
        by_task(twice, data)


def test_a_judge_with_other_words_is_refused(line: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, data = tmp_path / "other", str(line.parent / "policy" / "demonstrations.npz")
    few = ["--steps", "2", "--batch", "4", "--evaluate-every", "2", "--held-out", "0.25", "--policy", "small", "--judge"]
    words = load_demonstrations(Path(data))
    save_demonstrations(tmp_path / "few.npz", replace(words, instructions=("do go right", "do go left")))
    assert main(["train", "sft", "--env", str(line), "--data", str(tmp_path / "few.npz"), "--out", str(other), *few]) == 0
    asked = ["train", "improve", "--env", str(line), "--policy", str(line.parent / "policy"), "--out", str(tmp_path / "out")]
    assert main([*asked, "--judge", str(other)]) == 2
    assert "its words are not those of --policy" in " ".join(capsys.readouterr().err.split())


def test_a_torn_log_and_a_run_that_a_rule_has_ended(line: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "ppo", line.parent
    (tmp_path / "small.yaml").write_text(METHODS["ppo"] + "stopping: {window: 1, patience: 1}\n")
    asked = ["train", "ppo", "--env", str(line), "--policy", str(folder / "policy"), "--out", str(out), "--per-update", "4"]
    asked += ["--side-by-side", "1", "--tasks", "go-left", "--config", str(tmp_path / "small.yaml"), "--episodes"]
    assert main([*asked, "40"]) == 0
    log = (out / "log.jsonl").read_text()
    assert len(log.splitlines()) < 10, "a plateau of one episode after another"
    kept = WeightStore(out / "versions").active()
    (out / "log.jsonl").write_text(log + '{"version": 9')
    capsys.readouterr()
    assert main([*asked, "80"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "the last line is torn and left out" in told
    assert "plateau had ended it" in told
    assert (out / "log.jsonl").read_text() == log
    again = WeightStore(out / "versions").active()
    assert kept
    assert again
    assert again.number == kept.number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--per-update", "0"], "--per-update: found 0, expected at least 1"),
        (["--tasks", "go-up"], "--tasks: found 'go-up', expected some of go-right, go-left"),
        (["--split", "held_out"], "--split is about the tabletop's cells"),
        (["--env", "nowhere"], "benchmark nowhere: "),
        (["--policy", "{panda}"], "checkpoint is for robot 'panda', running 'line'"),
    ],
)
def test_what_does_not_fit_is_named(
    line: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    import checkpoints

    panda = checkpoints.save(tmp_path / "panda", 0) if "{panda}" in change else tmp_path
    change = [word.format(panda=panda) for word in change]
    asked = ["train", "ppo", "--env", str(line), "--policy", str(line.parent / "policy"), "--out", str(tmp_path / "out")]
    assert main([*asked, *change]) == 2
    assert message in capsys.readouterr().err


def test_demonstrations_want_a_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", "sft", "--demonstrations", "2", "--policy", "small", "--out", str(tmp_path)]
    assert main(asked) == 2
    assert "--demonstrations: found no --env" in capsys.readouterr().err
    assert main(["train", "sft", "--policy", "small", "--out", str(tmp_path)]) == 2
    assert "--data: found none" in capsys.readouterr().err


def test_other_demonstrations_in_the_folder_are_not_taken_for_these(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", "sft", "--env", str(line), "--policy", "small", "--out", str(line.parent / "policy")]
    assert main([*asked, "--demonstrations", "5"]) == 2
    assert "'demonstrations': 4" in capsys.readouterr().err
