"""The weight store: whole versions or none, checked on the way out, also while another process writes."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch

from vla_ros.errors import VlaRosError
from vla_ros.policy.store import RECORD, WEIGHTS, WeightStore, sha256


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((8, 4), value), "b": torch.full((3,), -value)}


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path / "store")


def test_write_load_record_latest(store: WeightStore) -> None:
    assert store.latest() is None
    assert store.numbers() == []
    first = store.write(weights(1.0), parent=0, stage="sft", metrics={})
    second = store.write(weights(2.0), parent=1, stage="self_improvement", metrics={"loss": -0.5})
    assert (first.number, second.number) == (1, 2)
    assert store.numbers() == [1, 2]
    assert store.latest() == second
    assert store.record(1) == first
    assert (second.parent, second.stage, second.metrics) == (1, "self_improvement", {"loss": -0.5})
    assert second.sha256 == sha256(Path(second.path) / WEIGHTS)
    for number in (1, 2):
        found = store.load(number, store.record(number).sha256)
        assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in weights(float(number)).items()}


def test_a_moved_store_still_finds_its_versions(store: WeightStore) -> None:
    store.write(weights(1.0), parent=0, stage="sft", metrics={})
    moved = store.folder.rename(store.folder.with_name("moved"))
    assert WeightStore(moved).record(1).path == str(moved / "000001")
    assert float(WeightStore(moved).load(1)["a"][0, 0]) == 1.0


def test_unknown_numbers_are_refused(store: WeightStore) -> None:
    store.write(weights(1.0), parent=0, stage="sft", metrics={})
    with pytest.raises(VlaRosError, match=r"parent version 7 is not in the store; it has \[1\]"):
        store.write(weights(2.0), parent=7, stage="self_improvement", metrics={})
    with pytest.raises(VlaRosError, match=r"no version 2; it has \[1\]"):
        store.load(2)
    assert store.numbers() == [1]


def test_a_flipped_bit_and_another_hash_are_refused(store: WeightStore) -> None:
    record = store.write(weights(1.0), parent=0, stage="sft", metrics={})
    with pytest.raises(VlaRosError, match="expected 0000000000000000: corrupt or foreign"):
        store.load(1, "0" * 64)
    path = Path(record.path) / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(VlaRosError, match=f"{WEIGHTS}: sha256 is .*expected {record.sha256[:16]}"):
        store.load(1)
    path.unlink()
    with pytest.raises(VlaRosError, match="sha256 is no file"):
        store.load(1)


@pytest.mark.parametrize("text", ["{", "[]", '{"number": 1}'])
def test_a_damaged_record_is_named(store: WeightStore, text: str) -> None:
    record = store.write(weights(1.0), parent=0, stage="sft", metrics={})
    (Path(record.path) / RECORD).write_text(text)
    with pytest.raises(VlaRosError, match=r"000001/version\.json"):
        store.load(1)


def test_what_a_crash_left_is_ignored(store: WeightStore) -> None:
    store.write(weights(1.0), parent=0, stage="sft", metrics={})
    for name in (".000002.part", "000009", "notes"):  # torn while written; a folder without record; not a version
        (store.folder / name).mkdir()
        (store.folder / name / WEIGHTS).write_bytes(b"half")
    assert store.numbers() == [1]
    assert store.latest() == store.record(1)
    assert store.write(weights(2.0), parent=1, stage="sft", metrics={}).number == 2
    assert float(store.load(2)["a"][0, 0]) == 2.0
    assert not (store.folder / ".000002.part").exists()


def test_a_full_disk_leaves_nothing_behind(store: WeightStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    store.write(weights(1.0), parent=0, stage="sft", metrics={})
    monkeypatch.setattr("vla_ros.policy.store.os.fsync", full)
    with pytest.raises(VlaRosError, match="version 2 was not written: .*No space left on device; free disk space"):
        store.write(weights(2.0), parent=1, stage="sft", metrics={})
    assert sorted(p.name for p in store.folder.iterdir()) == ["000001"]


def test_a_reader_sees_only_whole_versions(store: WeightStore) -> None:
    done, problems, seen = threading.Event(), list[str](), set[int]()

    def read() -> None:
        reader = WeightStore(store.folder)
        while not done.is_set():
            try:
                if latest := reader.latest():
                    value = float(reader.load(latest.number, latest.sha256)["a"][0, 0])
                    seen.add(latest.number)
                    if value != latest.number:
                        problems.append(f"version {latest.number} holds {value}")
            except (VlaRosError, OSError, json.JSONDecodeError) as error:
                problems.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1, 31):
        store.write(weights(float(number)), parent=number - 1, stage="sft", metrics={})
    done.set()
    thread.join()
    assert problems == []
    assert len(seen) > 3
