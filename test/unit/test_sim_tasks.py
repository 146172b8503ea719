"""Scenes, instructions and splits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.paths import share
from vla_ros.sim.tasks import BEHIND, Scene, Tasks, sample_scene

TASKS = Tasks.load()


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Scene]]:
    return {split: [sample_scene(TASKS, seed, split) for seed in range(400)] for split in ("train", "held_out")}


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_instruction_names_target_and_goal(scenes: dict[str, list[Scene]], split: str) -> None:
    for scene in scenes[split]:
        named = scene.blocks[scene.target].name
        assert f"the {named}" in scene.instruction
        assert sum(block.colour == named.split()[0] for block in scene.blocks) == 1
        assert set(scene.instruction.split()) <= set(TASKS.vocabulary)
        assert scene.instruction in TASKS.instructions(split)
        if scene.task == "push":
            assert scene.instruction.endswith(f" to the {scene.place}")
            assert scene.goal == TASKS.places[scene.place]
        else:
            assert scene.place == ""


def test_splits_are_disjoint(scenes: dict[str, list[Scene]]) -> None:
    for scene in scenes["train"]:
        assert not {block.name for block in scene.blocks} & TASKS.held_out_objects
        assert scene.place not in TASKS.held_out_places
    kinds = set()
    for scene in scenes["held_out"]:
        kinds.add((scene.blocks[scene.target].name in TASKS.held_out_objects, scene.place in TASKS.held_out_places))
    assert (False, False) not in kinds
    assert {(True, False), (False, True), (True, True)} <= kinds
    assert not set(TASKS.instructions("train")) & set(TASKS.instructions("held_out"))
    assert set(TASKS.instructions("all")) == set(TASKS.instructions("train")) | set(TASKS.instructions("held_out"))


def test_held_out_words_occur_in_training() -> None:
    trained = {word for text in TASKS.instructions("train") for word in text.split()}
    assert trained == set(TASKS.vocabulary)


def test_layout_leaves_room(scenes: dict[str, list[Scene]]) -> None:
    for scene in scenes["train"]:
        points = [(block.x, block.y) for block in scene.blocks]
        assert TASKS.blocks[0] <= len(points) <= TASKS.blocks[1]
        for k, point in enumerate(points):
            assert TASKS.low[0] <= point[0] <= TASKS.high[0]
            assert TASKS.low[1] <= point[1] <= TASKS.high[1]
            assert all(math.dist(point, other) >= TASKS.spacing for other in points[:k])
            assert math.dist(point, (0.36, 0.0)) >= TASKS.spacing
        if scene.task == "push":
            start = points[scene.target]
            length = math.dist(start, scene.goal)
            assert 0.08 <= length <= 0.22
            behind = np.array(start) - (np.array(scene.goal) - start) / length * BEHIND
            assert (behind > (0.30, -0.26)).all()
            assert (behind < (0.70, 0.26)).all()


def test_mixture_has_the_configured_shares(scenes: dict[str, list[Scene]]) -> None:
    pushes, share = sum(scene.task == "push" for scene in scenes["train"]), TASKS.tasks["push"].share
    assert abs(pushes - 400 * share) < 4 * math.sqrt(400 * share * (1 - share))  # 4 standard deviations of 400 draws


def test_same_seed_same_scene() -> None:
    assert sample_scene(TASKS, 7, "train", "push") == sample_scene(TASKS, 7, "train", "push")
    assert sample_scene(TASKS, 7, "train", "push") != sample_scene(TASKS, 8, "train", "push")
    assert sample_scene(TASKS, 7, "train", "reach").task == "reach"


def test_outcome_is_by_distance() -> None:
    scene = sample_scene(TASKS, 3, "train", "push")
    poses = np.array([[block.x, block.y, 0.0] for block in scene.blocks])
    tip = np.zeros(3)
    assert not TASKS.outcome(scene, poses, tip)[0]
    poses[scene.target, :2] = np.add(scene.goal, (0.05, 0))
    assert TASKS.outcome(scene, poses, tip) == (True, pytest.approx(0.05))
    poses[scene.target, :2] = np.add(scene.goal, (0.0, 0.07))
    assert not TASKS.outcome(scene, poses, tip)[0]
    reach = sample_scene(TASKS, 3, "train", "reach")
    poses = np.array([[block.x, block.y, 0.0] for block in reach.blocks])
    assert TASKS.outcome(reach, poses, poses[reach.target] + (0.075, 0, 0))[0]
    assert not TASKS.outcome(reach, poses, poses[reach.target] + (0.085, 0, 0))[0]


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("purple cube]", "pink cube]", "'pink cube' is no object"),
        ("shapes: [cube, cylinder, cross]", "shapes: [cube, cone]", "cone"),
        ("spacing: 0.105", "spacings: 0.105", "did you mean 'spacing'"),
        ("blocks: [3, 4]", "blocks: [4, 3]", "fewest <= most"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, old: str, new: str, part: str) -> None:
    text = (share() / "config" / "tasks" / "tabletop.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "tasks.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(VlaRosError, match=part):
        Tasks.load(path)


def test_unknown_split_and_task() -> None:
    with pytest.raises(VlaRosError, match="split: found 'test'"):
        sample_scene(TASKS, 0, "test")
    with pytest.raises(VlaRosError, match="task: found 'lift'"):
        sample_scene(TASKS, 0, "train", "lift")
