"""`vla-ros policy` without a graph: what the store holds, and the version that the next start resumes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from vla_ros.cli import __main__ as cli
from vla_ros.policy.store import ACTIVE, WEIGHTS, WeightStore


def run(*words: object) -> int:
    return cli.main(["policy", *map(str, words)])


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    """1 <- 2 <- 3, and 4 from 2 after a return to it, which runs."""
    store = WeightStore(tmp_path / "store")
    for number, parent in enumerate((0, 1, 2, 2), start=1):
        weights = {"head": torch.full((2, 2), float(number)), "lora": torch.zeros(3)}
        metrics = {"parent_success": 0.25 * number, "episodes": 8, "loss": -0.5} if parent else {}
        store.write(weights, parent, "self_improvement" if parent else "sft", metrics)
    store.activate(4)
    return store


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--help")
    assert ended.value.code == 0
    assert "examples:\n  vla-ros policy list" in capsys.readouterr().out


def test_list(store: WeightStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--store", store.folder) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.count("│") == 9]
    assert [row[:5] for row in rows] == [
        ["", "1", "-", "sft", "50% of 8"],
        ["", "2", "1", "self_improvement", "100% of 8"],
        ["", "3", "2", "self_improvement", "-"],
        ["active", "4", "2", "self_improvement", "-"],
    ]
    assert rows[3][6:] == [store.record(4).sha256[:12], "cell"]
    shutil.rmtree(store.folder / "000001")
    assert run("list", "--store", store.folder) == 0
    assert "1 is missing" in capsys.readouterr().out


def test_episodes_that_a_person_helped_in_are_not_counted(store: WeightStore, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"parent_success": 0.2, "episodes": 8, "corrected_episodes": 3}
    store.write({"head": torch.zeros(2)}, 4, "self_improvement", metrics)
    assert run("list", "--store", store.folder) == 0
    assert "20% of 5" in capsys.readouterr().out


def test_show(store: WeightStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "--store", store.folder) == 0
    out = capsys.readouterr().out
    assert "version 4" in out
    assert "  active" in out
    assert "lineage:  4 <- 2 <- 1" in out
    assert store.record(4).sha256 in out
    assert "loss                 -0.5" in out
    assert run("show", 9, "--store", store.folder) == 2
    assert "no version 9; it has [1, 2, 3, 4]" in capsys.readouterr().err
    shutil.rmtree(store.folder / "000001")
    assert run("show", 2, "--store", store.folder) == 2
    assert "version 2 has the unknown parent 1" in capsys.readouterr().err


def test_diff(store: WeightStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("diff", 1, 4, "--store", store.folder) == 0
    out = capsys.readouterr().out
    assert "head" in out
    assert "75.00%" in out
    assert "2 tensors, 1 unchanged, 0 not shown" in out


def test_without_a_policy_node_the_marker_is_set(store: WeightStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rollback", "--store", store.folder) == 0
    assert "its next start resumes version 2" in capsys.readouterr().out
    running = store.active()
    assert running is not None
    assert running.number == 2
    (store.folder / ACTIVE).write_text("what")
    assert run("rollback", "--store", store.folder) == 2
    assert "expected a version's number; `vla-ros policy activate` writes it anew" in capsys.readouterr().err
    assert run("activate", 1, "--store", store.folder) == 0
    capsys.readouterr()
    assert run("rollback", "--store", store.folder) == 2
    assert "version 1 has no parent to go back to" in capsys.readouterr().err
    path = store.folder / "000003" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    assert run("activate", 3, "--store", store.folder) == 2
    assert "corrupt or foreign weights" in capsys.readouterr().err
    running = store.active()
    assert running is not None
    assert running.number == 1


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--store", tmp_path / "none") == 2
    assert "none: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert run("list", "--store", tmp_path) == 2
    assert "holds no versions" in capsys.readouterr().err
    assert run("show", "--store", tmp_path) == 2
    assert "no version is marked active; give a number" in capsys.readouterr().err
    assert run("activate", 3) == 2
    assert "no policy_node answers on /policy/activate; give --store" in capsys.readouterr().err
