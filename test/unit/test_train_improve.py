"""`vla-ros train improve --sim`: versions, a log that a second call goes on from, and a checkpoint that can be launched."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pytest
import torch

from vla_ros.cli.__main__ import main
from vla_ros.cli.train import improve
from vla_ros.learning.stopping import Best, Stop, Stopping
from vla_ros.learning.workers import Worker
from vla_ros.policy import adapter
from vla_ros.policy.policy import load
from vla_ros.policy.store import WeightStore

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of eight episodes, and how it was asked for."""
    folder = tmp_path_factory.mktemp("improve")
    policy, judge = checkpoints.save(folder / "sft", 0), checkpoints.save(folder / "judge", 1, threshold=checkpoints.STRICT)
    asked = [
        "train", "improve", "--sim", "--policy", str(policy), "--judge", str(judge), "--out", str(folder / "out"),
        "--per-update", "4", "--tasks", "reach", "--audit", "1",
    ]  # fmt: skip
    assert main([*asked, "--episodes", "8"]) == 0
    return folder / "out", asked


def log(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_every_update_is_a_version(trained: tuple[Path, list[str]]) -> None:
    out, _ = trained
    store = WeightStore(out / "versions")
    assert [store.record(n).parent for n in store.numbers()[:3]] == [0, 1, 2]
    first, second = log(out)[:2]
    assert (first["version"], first["parent"], second["parent"]) == (2, 1, 2)
    assert len(first["practised"]) == 4
    assert {e["audited"] for e in first["practised"]} <= {True, False}
    assert store.active() is not None


def test_the_kept_version_is_a_checkpoint_of_its_own(trained: tuple[Path, list[str]]) -> None:
    out, asked = trained
    kept, prompt = load(out / "policy", "panda")
    store = WeightStore(out / "versions")
    running = store.active()
    assert running is not None
    model = adapter.add(load(Path(asked[4]), "panda")[0])
    adapter.swap(model, store.load(running.number))
    images, state = torch.zeros((1, 64, 64, 3), dtype=torch.uint8), torch.zeros((1, 2))
    inputs = (images, *prompt([checkpoints.TEXT]), state)
    with torch.inference_mode():
        torch.testing.assert_close(kept(*inputs)["action"], model(*inputs)["action"], atol=1e-4, rtol=1e-4)


def test_a_second_call_goes_on_with_other_scenes(trained: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    out, asked = trained
    before = log(out)
    assert main([*asked, "--episodes", "12"]) == 0
    assert "going on from version 3" in capsys.readouterr().err
    after = log(out)
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert after[-1]["parent"] == 3


def test_a_return_on_the_way_does_not_choose_the_version_in_the_end(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`worse` goes back to version 1 after the first update, and practice goes on; the best one is another then."""
    told = iter([Stop("worse", "it fell", 1, ends=False)])
    monkeypatch.setattr(Stopping, "episode", lambda self, **_: next(told, None))
    monkeypatch.setattr(Stopping, "best", Best(3, 0.9, 0.5, 1.0))
    _, asked = trained
    assert main([*asked, "--out", str(tmp_path / "out"), "--episodes", "8"]) == 0
    store = WeightStore(tmp_path / "out" / "versions")
    assert [store.record(n).parent for n in store.numbers()] == [0, 1, 1]
    running = store.active()
    assert running is not None
    assert running.number == 3


class InThisProcess(Worker):
    """A worker without a process of its own."""

    def ask(self, method: str, *arguments: object) -> object:
        return getattr(self, method)(*arguments)

    def close(self) -> None: ...


def test_workers_make_the_same_versions(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(improve, "Spawned", InThisProcess)
    out, asked = trained
    assert main([*asked, "--out", str(tmp_path / "out"), "--episodes", "4", "--workers", "3"]) == 0
    assert "an update has 2 groups for 3 workers: --side-by-side 2 would give each one" in capsys.readouterr().err
    assert log(tmp_path / "out") == log(out)[:1]
    mine, theirs = (WeightStore(folder / "versions").record(2).sha256 for folder in (tmp_path / "out", out))
    assert mine == theirs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--workers", "-1"], "--workers: found -1, expected at least 0"),
        (["--side-by-side", "0"], "--side-by-side: found 0, expected at least 1"),
        (["--ray"], "--ray: found no --workers, expected how many"),
        (["--device", "cuda:77"], "device 'cuda:77': "),
        (["--tasks", "fly"], "--tasks: found 'fly', expected some of reach, push"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_arguments_name_themselves(
    trained: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    _, asked = trained
    assert main([*asked, *change]) == 2
    assert message in capsys.readouterr().err


def test_a_share_of_the_episodes_is_for_robots(
    trained: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "canary.yaml"
    config.write_text("stopping: {canary: 0.3}\n")
    assert main([*trained[1], "--config", str(config)]) == 2
    assert "canary.yaml: stopping: canary is 0.3, expected 1 with --sim" in capsys.readouterr().err


def test_a_robot_practises_elsewhere(trained: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    _, asked = trained
    assert main([word for word in asked if word != "--sim"]) == 2
    assert "trainer_node practises" in capsys.readouterr().err


def test_a_judge_without_calibration_is_refused(
    trained: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, asked = trained
    judge = checkpoints.save(tmp_path / "judge", 1)
    (judge / "calibration.json").unlink(missing_ok=True)
    asked = [str(judge) if word == asked[6] else word for word in asked]
    assert main([*asked, "--out", str(tmp_path / "out")]) == 2
    assert "a judge without calibration is not used" in capsys.readouterr().err
