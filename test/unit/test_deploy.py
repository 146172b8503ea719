"""`vla-ros deploy` before anything moves: dry run, and what it refuses. The graph is a stand-in; test/graph has the real one."""

from __future__ import annotations

import argparse
import contextlib
import math
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest

from vla_ros.cli import deploy, graph
from vla_ros.cli.__main__ import main
from vla_ros.cli.deploy import practice, sequence
from vla_ros.cli.deploy.cell import Facts
from vla_ros.errors import VlaRosError
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.twin import file
from vla_ros.twin.parameters import NOT_EXCITED, Estimate, Twin, arm_parameters

PANDA = RobotContract.load("panda")


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """A sound cell that runs version 1; nothing can be moved on it."""
    store = WeightStore(tmp_path / "store")
    checkpoints.tune(store, 1, 0)
    checkpoints.tune(store, 2, 1)
    store.activate(1)
    folders = tmp_path / "policy", tmp_path / "judge", store.folder, tmp_path / "episodes"
    found = Facts(*folders, by_operator=False, running=1, sha256=store.record(1).sha256)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(graph, "hidden_node", contextlib.nullcontext)
    monkeypatch.setattr(sequence, "_ready", lambda *_: (found, True))
    monkeypatch.setattr(sequence, "_tried", lambda *_: pytest.fail("it would move"))
    return found


def twin(path: Path, *not_excited: str) -> Path:
    known = {p.name: Estimate(p, p.nominal, 1e-3) for p in arm_parameters(PANDA)}
    known |= {n: replace(known[n], error=math.nan, status=NOT_EXCITED, why="it stood still") for n in not_excited}
    file.save(path, Twin("panda", known, np.eye(len(known) - len(not_excited)), (), ()))
    return path


def test_a_dry_run_tells_the_plan(facts: Facts, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(facts.store.parent.rglob("*"))
    assert main(["deploy", "--version", "2", "--dry-run", "--pairs", "10"]) == 0
    told = capsys.readouterr().out
    assert "runs now: version 1" in told
    assert "10 pairs of episodes at most; 7 more lost than gained reject at once" in told
    assert "59.0%" in told
    assert sorted(facts.store.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--version", "1"], "--version 1: runs already, expected another one of [1, 2]"),
        (["--version", "9"], "no version 9"),
        (["--version", "2", "--pairs", "0"], "pairs: found 0, expected at least 1"),
        (["--version", "2", "--margin", "2"], "margin: found 2.0, expected above -1 and under 1"),
        (["--version", "2", "--refit", "store"], "--refit store: exists already, expected a new file"),
        (["--version", "2", "--", "--episodes", "4"], "--episodes: options after -- are of practice, which --version leaves out"),
        (["--twin", "nowhere.yaml"], "nowhere.yaml"),
        (["--twin", "cell.yaml"], "episodes: found no such folder"),
    ],
)
def test_bad_input_names_itself(facts: Facts, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    twin(facts.store.parent / "cell.yaml")
    assert main(["deploy", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_twin_of_too_little_excitation_is_named_with_the_remedy(facts: Facts, capsys: pytest.CaptureFixture[str]) -> None:
    twin(facts.store.parent / "still.yaml", "delay", "damping.panda_joint2", "gain.panda_joint2", "gain.panda_joint3")
    assert main(["deploy", "--twin", "still.yaml"]) == 2
    told = capsys.readouterr().err
    assert "still.yaml: not known: delay: it stood still; gain.panda_joint2: it stood still: excite the cell (" in told
    assert "`vla-ros twin excite`) and fit again; nothing was moved" in told
    assert "joint3" not in told, "its damping is known"


def test_a_store_of_another_cell_is_refused(facts: Facts) -> None:
    store = WeightStore(facts.store)
    with pytest.raises(VlaRosError, match=r"version 1 has sha256 .*this is not its store"):
        sequence._standing(store, replace(facts, sha256="0" * 64), PANDA)
    with pytest.raises(VlaRosError, match=r"a checkpoint that is no version, though there are versions \[1, 2\]"):
        sequence._standing(store, replace(facts, sha256=""), PANDA)


def test_practice_goes_on_only_where_it_began(facts: Facts, tmp_path: Path) -> None:
    """In a folder of its own for each version and twin, with what came after `--`."""
    path = twin(tmp_path / "cell.yaml")
    parser = argparse.ArgumentParser()
    deploy.add_arguments(parser)
    args = parser.parse_args(["--twin", str(path), "--", "--episodes", "96", "--workers", "2"])
    out = practice.folder(facts, path)
    assert out.parts[:2] == ("runs", "deploy")
    assert out.name.startswith("1-")
    asked = practice.arguments(args, facts, out)
    assert (asked.twin, asked.policy, asked.episodes, asked.workers, asked.out) == (path, facts.policy, 96, 2, out)
    checkpoints.tune(WeightStore(out / "versions"), 9, 0)
    other = replace(WeightStore(facts.store).record(1), number=4)
    with pytest.raises(VlaRosError, match=r"found practice that began with version 1, expected 4: choose another folder"):
        practice.run(asked, WeightStore(facts.store), other, "twin")
