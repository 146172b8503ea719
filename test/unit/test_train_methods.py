"""`vla-ros train ppo|ire-vla|recap --sim`: versions, log, restart, checkpoint, report, and clear words about bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest

from vla_ros.cli.__main__ import main
from vla_ros.learning.data import Demonstrations
from vla_ros.learning.stage1 import save_demonstrations
from vla_ros.policy.policy import load
from vla_ros.policy.store import WeightStore

pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = ("reach the red cube", "push the red cube to the left")
SMALL = {
    "ppo": "warmup: 0\nepochs: 1\n",
    "ire-vla": "batches: 1\nsteps: 2\nbatch: 4\nppo: {warmup: 0, epochs: 1}\n",
    "recap": "steps: 2\nbatch: 4\nvalue_steps: 2\n",
}
STAGES = {"ppo": ["ppo"] * 2, "ire-vla": ["ire_vla_1", "ire_vla_2"] * 2, "recap": ["recap"] * 2}


def frames(text: int, count: int = 4) -> Demonstrations:
    random, none = np.random.default_rng(text), np.zeros(count, np.int32)
    return Demonstrations(
        random.integers(0, 255, (count, 64, 64, 3), np.uint8), np.zeros((count, 2), np.float32),
        np.zeros((count, 1, 2), np.float32), np.arange(count - 1, -1, -1, dtype=np.int32), none + text, TEXTS, none + text,
    )  # fmt: skip


def both() -> Demonstrations:
    a, b = frames(0), frames(1)
    return Demonstrations(
        *(np.concatenate([getattr(a, n), getattr(b, n)]) for n in ("images", "states", "actions", "steps_to_go", "instruction")),
        TEXTS, np.concatenate([a.episode, b.episode]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Each method's command, on a judge that sees success at once."""
    folder = tmp_path_factory.mktemp("methods")
    policy, judge = checkpoints.save(folder / "sft", 0), checkpoints.save(folder / "judge", 1, threshold=checkpoints.EASY)
    save_demonstrations(folder / "expert.npz", both())
    out = {}
    for name, text in SMALL.items():
        (folder / f"{name}.yaml").write_text(text)
        out[name] = [
            "train", name, "--sim", "--policy", str(policy), "--judge", str(judge), "--out", str(folder / name),
            "--per-update", "2", "--config", str(folder / f"{name}.yaml"), "--tasks", "reach",
            *(() if name == "ppo" else ("--expert-data", str(folder / "expert.npz"))),
        ]  # fmt: skip
    return out


def out_of(asked: list[str]) -> Path:
    return Path(asked[asked.index("--out") + 1])


@pytest.mark.parametrize("name", SMALL)
def test_a_run_is_a_folder_that_a_second_call_goes_on_with(
    asked: dict[str, list[str]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, out = asked[name], out_of(asked[name])
    for episodes in ("2", "4"):
        assert main([*command, "--episodes", episodes]) == 0
    assert "going on from version" in capsys.readouterr().err
    points = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [p["stage"] for p in points] == STAGES[name]
    store = WeightStore(out / "versions")
    assert [store.record(p["version"]).parent for p in points] == [p["parent"] for p in points]
    assert [store.record(n).stage for n in store.numbers()] == ["sft", *STAGES[name]]
    kept, _ = load(out / "policy", "panda")
    assert kept.config.robot == "panda"
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert STAGES[name][0] in page


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ppo", {"trained": "some"}, "trained is 'some', expected one of head, all"),
        ("ppo", {"epochs": "true"}, "epochs is True, expected int"),
        ("ire-vla", {"freeze": "1"}, "freeze is 1, expected bool"),
        ("ire-vla", {"ppo": "{trained: all}"}, "ppo: trained is 'all', expected head"),
        ("recap", {"drop": "2.0"}, "drop is 2.0, expected more than 0"),
    ],
)
def test_a_configuration_that_cannot_be_names_file_and_key(
    asked: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: dict[str, str],
    message: str,
) -> None:  # fmt: skip
    path = tmp_path / "wrong.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in change.items()))
    assert main([*asked[name], "--config", str(path), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert str(path) in told
    assert message in told


def test_shaping_wants_a_judge(asked: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, command = tmp_path / "shaped.yaml", list(asked["ppo"])
    path.write_text("shaping: 0.1\n")
    at = command.index("--judge")
    del command[at : at + 2]
    assert main([*command, "--config", str(path)]) == 2
    assert "shaping is 0.1: of the steps-to-go of a frozen --judge; found none" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ire-vla", "recap"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"steps_to_go": 1}, "found no episode that ends in success (steps_to_go 0), expected demonstrations"),
        ({"instructions": ("reach the red cube", "fly to the moon")}, "instruction 'fly to the moon' is of no task"),
    ],
)
def test_expert_data_that_cannot_be_used_is_refused(
    asked: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, spoil: dict[str, object],
    message: str,
) -> None:  # fmt: skip
    data = both()
    changed = {k: data.steps_to_go + v if k == "steps_to_go" else v for k, v in spoil.items()}  # type: ignore[operator]
    save_demonstrations(tmp_path / "spoilt.npz", replace(data, **changed))  # type: ignore[arg-type]
    assert main([*asked[name], "--expert-data", str(tmp_path / "spoilt.npz"), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
