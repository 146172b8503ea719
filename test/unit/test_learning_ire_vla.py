"""iRe-VLA: Algorithm 1 in a corridor, what each stage leaves alone, and what a restart finds again."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import corridor
import pytest
import torch
from test_learning_ppo import digest

from vla_ros.errors import VlaRosError
from vla_ros.learning.absorb import Samples, pick, plan
from vla_ros.learning.cells import flat
from vla_ros.learning.ire_vla import IreConfig, IreVla
from vla_ros.learning.kept import Kept
from vla_ros.learning.ppo import PpoConfig
from vla_ros.policy import adapter

PPO = PpoConfig(epochs=2, batch=64, learning_rate=1e-2, critic_rate=3e-3, warmup=1)
HEAD = ("action_head.", "token_learner.")
FEW = IreConfig(batches=2, steps=20, batch=32, learning_rate=3e-3)


def method(folder: Path, config: IreConfig, per_update: int = 24, **model: object) -> IreVla:
    torch.manual_seed(0)
    acting = adapter.add(corridor.model(**model))
    expert = {"push": corridor.demonstrations("push", 6)}
    return IreVla(corridor.cells(acting, per_update), expert, config, PPO, folder)


def test_sources_keep_their_shares_whatever_their_sizes() -> None:
    rows = plan([10, 1000, 7], [0.5, 0.25, 0.25], 400, torch.Generator().manual_seed(0))
    first, second, third = rows < 10, (rows >= 10) & (rows < 1010), rows >= 1010
    assert (int(first.sum()), int(second.sum()), int(third.sum())) == (200, 100, 100)
    assert rows[first].bincount().tolist() == [20] * 10, "each of its rows equally often"
    assert len(rows[second].unique()) == 100
    assert int(rows[third].max()) == 1016


def test_rows_bring_their_own_actions() -> None:
    model, prompt = corridor.model(), checkpoints.prompt()
    sources = [Samples.of(model, corridor.demonstrations(task, 2), prompt) for task in ("reach", "push")]
    acted = len(sources[0])
    trunk, actions = pick(sources, torch.tensor([0, acted, acted + 1]))
    assert actions.flatten().tolist() == [1, -1, 0]
    torch.testing.assert_close(trunk.points[1:], sources[1].trunk.points[:2])


def test_the_stages_follow_each_other_and_train_what_they_may(tmp_path: Path) -> None:
    ire = method(tmp_path, FEW)
    vlm = digest(ire.model, HEAD)
    frozen = {name: t.clone() for name, t in ire.model.state_dict().items() if name not in adapter.state(ire.model)}
    stages, critics = [], set()
    for _ in range(3):
        found, figures = ire.iterate()
        stages.append(ire.stage)
        critics.add(id(ire.ppo))
        if ire.stage == "ire_vla_1":
            assert set(found) == {"reach"}, "one task after another"
            assert figures["feature_error"] < 1e-3
            assert digest(ire.model, HEAD) == vlm, "stage 1 leaves the VLM alone"
        else:
            assert found == {}
            assert figures["successes"] > 0
            assert digest(ire.model, HEAD) != vlm, "stage 2 trains LoRA"
    assert stages == ["ire_vla_1", "ire_vla_1", "ire_vla_2"]
    found, figures = ire.iterate()
    assert set(found) == {"push"}
    assert figures["feature_error"] < 1e-3, "features of the new VLM"
    assert len(critics | {id(ire.ppo)}) == 2, "a new critic for the new task"
    for name, tensor in frozen.items():
        assert torch.equal(ire.model.state_dict()[name], tensor), f"{name} is neither LoRA nor head"


def test_frozen_stage_2_trains_the_head_alone(tmp_path: Path) -> None:
    ire = method(tmp_path, IreConfig(**{**FEW.__dict__, "freeze": True}))
    ire.iterate()
    vlm, head = digest(ire.model, HEAD), digest(ire.model)
    figures = ire.consolidate()
    assert figures["absorbed_loss"] > 0
    assert digest(ire.model, HEAD) == vlm
    assert digest(ire.model) != head


def test_stage_2_makes_what_was_kept_of_the_vlm_invalid(tmp_path: Path) -> None:
    ire = method(tmp_path, IreConfig(**{**FEW.__dict__, "steps": 60, "learning_rate": 1e-2}))
    batch = flat(ire.cells.batch())
    ire.ppo.update(batch)
    ire.found.add({"reach": batch}, 24)
    ire.consolidate()
    with pytest.raises(VlaRosError, match="its weights have changed"):
        ire.ppo.update(batch)
    assert ire.ppo.update(flat(ire.cells.batch()))["feature_error"] < 1e-3


def test_without_a_success_stage_2_has_nothing_to_absorb(tmp_path: Path) -> None:
    ire = method(tmp_path, FEW)
    before = digest(ire.model)
    assert ire.consolidate() == {"successes": 0.0}
    assert digest(ire.model) == before


def test_a_restart_finds_its_successes_and_its_place(tmp_path: Path) -> None:
    ire = method(tmp_path, FEW)
    points = []
    for _ in range(4):
        ire.iterate()
        points.append({"stage": ire.stage})
    again = method(tmp_path, FEW)
    again.cells.skip(ire.cells.episodes)
    again.resume(points)
    assert again.found.count(success=True) == ire.found.count(success=True) > 0
    again.iterate()
    assert again.stage == "ire_vla_1"
    again.iterate()
    assert again.stage == "ire_vla_2", "the second round's second batch was the last one of its stage 1"
    earlier = Kept(tmp_path, failures=False)
    earlier.load(24)
    assert 0 < earlier.count(success=True) < ire.found.count(success=True), "what a kill left over is not read"


@pytest.mark.parametrize("model", [{}, {"head": "gaussian", "token_learner": 2}])
def test_a_task_that_was_never_demonstrated_is_learned(tmp_path: Path, model: dict[str, object]) -> None:
    ire = method(tmp_path, IreConfig(batches=6, steps=200, batch=64, learning_rate=5e-3, label_sigma=0.0), 48, **model)
    before = corridor.success(ire.model)
    for _ in range(6):
        ire.iterate()
    assert corridor.success(ire.model) > before + 0.4
    assert corridor.success(ire.model, "push") < 0.3, "what the head alone has learned is the task at hand"
    ire.iterate()
    assert ire.stage == "ire_vla_2"
    assert corridor.success(ire.model) > before + 0.4
    assert corridor.success(ire.model, "push") > 0.8, "stage 2 brings the demonstrated one back beside it"
