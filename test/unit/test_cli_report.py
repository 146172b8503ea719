"""`vla-ros report`: one page of what a run's folder holds, and a clear word where it holds nothing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from recordings import record

from vla_ros.cli.__main__ import main
from vla_ros.episodes import label
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract


def rendered(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_versions_show_lineage_and_which_one_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = WeightStore(tmp_path / "versions")
    store.write({"w": torch.zeros(2)}, 0, "sft", {})
    store.write({"w": torch.ones(2)}, 1, "self_improvement", {"loss": 0.25})
    store.activate(1)
    page = rendered(tmp_path, capsys)
    assert "<tr class=runs><td>1</td><td>–</td><td>sft</td>" in page
    assert f"<tr><td>2</td><td>1</td><td>self_improvement</td><td>{store.record(2).sha256[:12]}</td><td>loss 0.25</td>" in page


def test_logs_become_curves_and_alarms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = [{"version": k, "reach_detected": 0.1 * k, "loss": -0.1, "practised": [{}, {}]} for k in range(1, 4)]
    points[-1]["warnings"] = ["reward: none"]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
    (tmp_path / "graph.log").write_text("[a] [INFO] [1] fine\n[a] [ERROR] [2] broken <here>\n")
    page = rendered(tmp_path, capsys)
    assert page.count("data:image/png;base64,") == 2  # success, loss
    assert "broken &lt;here&gt;" in page
    assert "log.jsonl: version 3: reward: none" in page
    assert "2 warnings and errors" in page
    assert "fine" not in page


def test_recordings_are_counted_by_version_and_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "episodes").mkdir()
    for k, outcome in enumerate(("success", "failure", "success")):
        path = tmp_path / "episodes" / f"e{k}.mcap"
        record(path, RobotContract.load("panda"), steps=2, outcome=outcome, policy_version=str(1 + k // 2))
    label(tmp_path / "episodes", "e0", "failure", "not quite")
    page = rendered(tmp_path, capsys)
    assert "3 recorded episodes, 0 aborted or damaged, 2 successful by the detector" in page
    assert "1 labelled by a person, who agrees with 0" in page
    assert "<tr><td>1</td><td>2</td><td>50% [" in page
    assert "<tr><td>2</td><td>1</td><td>100% [" in page


def test_pictures_are_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    assert '<img src="data:image/png;base64,' in rendered(tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("", "", "no run"),
        ("log.jsonl", "{}\nnonsense\n", "log.jsonl: line 2: not JSON"),
        ("summary.json", "{}", "summary.json: not a demo's summary"),
    ],
)
def test_what_cannot_be_told_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    if name:
        (tmp_path / name).write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
