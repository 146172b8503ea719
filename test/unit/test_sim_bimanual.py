"""The bimanual cell: what is gripped well is held, what is not falls, the truth tells which; and the scripted demonstrator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recordings
import yaml

from vla_ros.cli.__main__ import main
from vla_ros.cli.train.place import Place
from vla_ros.cli.train.sft import read
from vla_ros.episodes.reader import EpisodeReader
from vla_ros.errors import VlaRosError
from vla_ros.nodes.sim_node import cell_of
from vla_ros.paths import resolve
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.bimanual_cell import BimanualCell
from vla_ros.sim.bimanual_expert import BimanualExpert, Manner
from vla_ros.sim.bimanual_model import GRASP
from vla_ros.sim.bimanual_tasks import OBJECTS, BimanualTasks, Scene
from vla_ros.sim.demonstrate import Demonstrator

ALOHA = RobotContract.load("aloha")
RATE = ALOHA.control.rate
STILL = Manner(pace=(1.0, 1.0), noise=0.0, aim=0.0)


@pytest.fixture(scope="module")
def cell() -> BimanualCell:
    return BimanualCell(ALOHA)


def demonstrate(cell: BimanualCell, scene: Scene, spoil: Callable[[float, np.ndarray], None] = lambda time, row: None) -> None:
    """Without a safety filter: physics alone."""
    cell.place_arm(cell.kinematics.home())
    cell.reset(scene)
    expert = BimanualExpert(ALOHA, cell.kinematics, scene, np.random.default_rng(0), STILL)
    for tick in range(round((expert.duration + 0.5) * RATE)):
        row = expert.row((tick + 1) / RATE)
        spoil(tick / RATE, row)
        cell.set_command(row)
        cell.step(1 / RATE)


def test_a_scene_is_its_seeds_and_held_out_places_are_apart(cell: BimanualCell) -> None:
    assert cell.sample(3) == cell.sample(3) != cell.sample(4)
    tasks = BimanualTasks.load()
    places = {
        split: np.array([tasks.sample(k, split, "transfer").objects["bar"] for k in range(200)])
        for split in ("train", "held_out")
    }
    (x, y, yaw), centre = tasks.tasks["transfer"].objects["bar"], np.array([0.02, -0.02])
    for found in places.values():
        assert (found >= [x[0], y[0], yaw[0]]).all()
        assert (found <= [x[1], y[1], yaw[1]]).all()
    assert (abs(places["held_out"][:, :2] - centre) < 0.015).all()
    assert (abs(places["train"][:, :2] - centre) >= 0.015).any(axis=1).all()
    assert {cell.sample(k).task for k in range(20)} == set(OBJECTS)


def test_an_object_at_rest_stays_and_is_nothing_done(cell: BimanualCell) -> None:
    for task, names in OBJECTS.items():
        scene = cell.sample(0, task=task)
        cell.place_arm(cell.kinematics.home())
        cell.reset(scene)
        for _ in range(100):
            cell.step(1 / RATE)
        for name in names:
            place, _ = cell.pose(name)
            np.testing.assert_allclose(place[:2], scene.objects[name][:2], atol=5e-4)
            assert cell.touching(name) == {"table"}
        success, left = cell.truth()
        assert not success
        assert left > 0.05
        assert cell.fallen() == []


def test_a_bar_gripped_well_is_handed_over(cell: BimanualCell) -> None:
    scene = cell.sample(1, task="transfer")
    demonstrate(cell, scene)
    assert cell.touching("bar") == {"left"}
    assert cell.truth() == (True, 0.0)
    held = cell.pose("bar")[0]
    for _ in range(400):
        cell.step(1 / RATE)
    assert cell.truth()[0], "it is held for two seconds more"
    np.testing.assert_allclose(cell.pose("bar")[0], held, atol=3e-3)
    cell.set_command(cell.commanded * np.where(ALOHA.limits.prismatic, 0.0, 1.0) + np.where(ALOHA.limits.prismatic, 0.05, 0.0))
    for _ in range(200):
        cell.step(1 / RATE)
    assert cell.touching("bar") == {"table"}, "a hand that opens lets it fall"
    assert not cell.truth()[0]


def test_a_bar_gripped_at_its_upper_edge_falls(cell: BimanualCell) -> None:
    """2.6 cm too high, so that some millimetres of the bar are between the fingers; the same motion else."""
    lift = 0.026

    def higher(time: float, row: np.ndarray) -> None:
        if time < 3.2:  # until it has closed
            q = cell.kinematics.tool("right_tool", row)
            right = cell.kinematics.reach(row, "right_tool", q[:3, 3] + [0, 0, lift], q[:3, :3])
            row[7:13] = right[7:13]

    demonstrate(cell, cell.sample(1, task="transfer"), higher)
    assert "left" not in cell.touching("bar")
    assert not cell.truth()[0]


def test_a_peg_in_the_socket(cell: BimanualCell) -> None:
    scene = cell.sample(2, task="insertion")
    demonstrate(cell, scene)
    success, left = cell.truth()
    assert success, left
    demonstrate(cell, scene, lambda time, row: row.__setitem__(7, row[7] + 0.04 * (time > 3.5)))  # 2 cm aside
    success, left = cell.truth()
    assert not success
    assert left > 0.01


def test_what_is_thrown_has_fallen_and_hands_are_kept_free(cell: BimanualCell) -> None:
    scene = cell.sample(0, task="transfer")
    cell.place_arm(cell.kinematics.home())
    cell.reset(scene)
    assert cell.throw() == "bar"
    for _ in range(200):
        cell.step(1 / RATE)
    assert cell.fallen() == ["bar"]
    tool = cell.kinematics.tool("right_tool", cell.kinematics.home())[:3, 3]
    q = cell.kinematics.reach(cell.kinematics.home(), "right_tool", tool * [1, 1, 0.5], np.diag([-1.0, -1.0, 1.0]))
    cell.place_arm(q)
    low = cell.kinematics.tool("right_tool", q)[:3, 3]
    below = replace(scene, objects={"bar": (float(low[0]), float(low[1]), 0.0)})
    assert cell.in_the_way(scene) == ""
    assert cell.in_the_way(below) == ("the bar would lie in the right hand; home the arms first" if low[2] < 0.15 else "")


def test_every_camera_of_the_contract_sees_the_bar(cell: BimanualCell) -> None:
    """Each picture changes when the bar is gripped; of the left hand's when it has it."""
    seen = {}
    for name in ALOHA.cameras:
        cell.place_arm(cell.kinematics.home())
        cell.reset(cell.sample(0, task="transfer"))
        seen[name] = cell.render(name, (64, 64)).astype(int)
        assert seen[name].std() > 10
    demonstrate(cell, cell.sample(0, task="transfer"))
    for name, before in seen.items():
        after = cell.render(name, (64, 64)).astype(int)
        assert (abs(after - before).max(axis=-1) > 40).sum() > 60, name
        if name != "cam_right_wrist":
            red = (after[..., 0] > after[..., 1] + 60).sum()
            assert red > 4, name


@pytest.mark.parametrize("miss", [0.0, 1.0])
def test_recorded_demonstrations_are_what_training_reads(tmp_path: Path, miss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    text = yaml.safe_load(recordings.small_aloha(tmp_path).path.read_text())
    text["observation"] |= {"rate": 10, "max_skew": 0.05}
    text["action"] |= {"rate": 10, "chunk": 3}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(text))
    contract = RobotContract.load(tmp_path / "c.yaml")
    words = ["episodes", "demonstrate", "--robot", str(contract.path), "--task", "transfer", "--out", str(tmp_path / "demos")]
    assert main([*words, "--episodes", "1", "--miss", str(miss)]) == 0
    assert main([*words, "--episodes", "2", "--miss", str(miss)]) == 0
    files = sorted((tmp_path / "demos").glob("*.mcap"))
    assert [file.stem for file in files] == ["transfer-000000", "transfer-000001"], "the second call goes on"
    assert main(["episodes", "check", str(tmp_path / "demos"), "--robot", str(contract.path)]) == 0
    data = read([tmp_path / "demos"], Place.robot(contract), skip_bad=False)
    assert data.images.shape[1:] == (2, 32, 48, 3)
    assert data.actions.shape[1:] == (3, 14)
    lengths = np.bincount(data.episode)
    assert (lengths > (80 if miss else 50)).all()
    grip = data.actions[data.episode == 0, 0, 13]
    closings = int((np.diff(grip) < -0.01).sum())
    assert closings == (2 if miss else 1), "a miss is gripped again"
    reader = EpisodeReader(files[0])
    assert reader.metadata["outcome"] == "success"
    states = reader.of("/safety/state")
    assert len(states) > 2 * lengths[0]
    assert all(message.clearance > 0.009 for message in states if message.clearance < 1)
    with pytest.raises(VlaRosError, match=r"transfer-000000\.mcap: exists already"):
        Demonstrator(contract).record(tmp_path / "demos", 0, "transfer")


def test_the_demonstrator_succeeds(tmp_path: Path) -> None:
    demonstrator = Demonstrator(ALOHA_10 := _slow(tmp_path))
    assert ALOHA_10.observation.rate == 10
    done = [demonstrator.record(tmp_path, seed, "transfer", "held_out")[1] for seed in range(500, 504)]
    assert sum(done) >= 3, done


def _slow(folder: Path) -> RobotContract:
    text = yaml.safe_load(ALOHA.path.read_text())
    text["observation"] |= {"rate": 10, "cameras": ["cam_high"], "size": [32, 32], "max_skew": 0.05}
    text["action"] |= {"rate": 10}
    (folder / "slow.yaml").write_text(yaml.safe_dump(text))
    return RobotContract.load(folder / "slow.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(held_out=2), r"held_out: found 2, expected"),
        (lambda t: t["tasks"].pop("insertion"), r"tasks\.yaml: key .tasks\.insertion. is missing"),
        (lambda t: t["tasks"]["transfer"]["objects"].update(cube=1), r"unknown key .*objects\.cube.; valid keys: bar"),
        (lambda t: t["tasks"]["transfer"]["objects"]["bar"].update(x=[0.1, 0.0]), r"bar\.x: found \[0\.1, 0\.0\], expected"),
        (lambda t: [s.update(share=0) for s in t["tasks"].values()], r"share: found 0, expected shares that do not all vanish"),
    ],
)
def test_a_wrong_tasks_file_is_refused(change: Callable[..., object], message: str, tmp_path: Path) -> None:
    text = yaml.safe_load(resolve("config/tasks/bimanual.yaml").read_text())
    change(text)
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(VlaRosError, match=message):
        BimanualTasks.load(tmp_path / "tasks.yaml")


def test_what_the_cell_cannot_do_is_said(cell: BimanualCell, tmp_path: Path) -> None:
    with pytest.raises(VlaRosError, match=r"parameter twin: found 't\.yaml', expected none: .* aloha has a bimanual one"):
        cell_of(ALOHA, "t.yaml")
    with pytest.raises(VlaRosError, match=r"panda\.yaml: found 1 tips and 0 grippers, expected two arms with a gripper each"):
        BimanualCell(RobotContract.load("panda"))
    with pytest.raises(VlaRosError, match="task: found 'push', expected transfer, insertion or empty"):
        cell.sample(0, task="push")
    with pytest.raises(VlaRosError, match="split: found 'test', expected train or held_out"):
        cell.sample(0, split="test")
    with pytest.raises(VlaRosError, match="camera 'front': not in the cell; expected one of cam_high"):
        cell.render("front")
    with pytest.raises(VlaRosError, match="the cell has no scene yet"):
        BimanualCell(ALOHA).truth()
    far = Scene("transfer", "hand over the bar", {"bar": (0.9, 0.0, 0.0)})
    with pytest.raises(VlaRosError, match=r"aloha: tip at .* m of right_tool, turned as wanted, (is not reachable|needs)"):
        BimanualExpert(ALOHA, cell.kinematics, far, np.random.default_rng(0))
    assert main(["episodes", "demonstrate", "--out", str(tmp_path), "--task", "push"]) == 2
    assert main(["episodes", "demonstrate", "--out", str(tmp_path), "--episodes", "0"]) == 2
    assert GRASP["bar"]["left"] == -GRASP["bar"]["right"]
