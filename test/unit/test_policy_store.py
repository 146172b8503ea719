"""The weight store: whole versions or none, checked on the way out, also while another process writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_ros.errors import VlaRosError
from vla_ros.policy.store import ACTIVE, RECORD, WEIGHTS, WeightStore, sha256


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
    store_before = sorted(p.name for p in store.folder.iterdir())
    with pytest.raises(VlaRosError, match="version 1 was not marked active: .*No space left on device; free disk space"):
        store.activate(1)
    assert store.active() is None
    assert store_before == ["000001"]


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


def test_the_marker_names_the_version_that_runs(store: WeightStore) -> None:
    for parent in (0, 1):
        store.write(weights(1.0), parent=parent, stage="sft", metrics={})
    assert store.active() is None
    store.activate(1)
    assert store.active() == store.record(1) == WeightStore(store.folder).active()
    store.activate(2)
    with pytest.raises(VlaRosError, match=r"no version 3; it has \[1, 2\]"):
        store.activate(3)
    assert store.active() == store.record(2)
    (store.folder / ACTIVE).write_text("two\n")
    with pytest.raises(VlaRosError, match=r"active: found 'two\\n', expected a version's number; .*activate"):
        store.active()
    (store.folder / ACTIVE).write_text("9\n")
    with pytest.raises(VlaRosError, match="no version 9"):
        store.active()


def test_a_kill_at_any_instant_leaves_a_whole_version_active(store: WeightStore) -> None:
    """A child writes and activates as fast as it can, and is killed at random."""
    store.write(weights(1.0), parent=0, stage="sft", metrics={})
    store.activate(1)
    random, active = np.random.default_rng(0), []
    for _ in range(30):
        child = os.fork()
        if child == 0:
            while True:
                parent = store.numbers()[-1]
                store.activate(store.write(weights(parent + 1.0), parent=parent, stage="sft", metrics={}).number)
        time.sleep(random.uniform(0.0, 0.04))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        running = store.active()
        assert running is not None
        assert float(store.load(running.number, running.sha256)["a"][0, 0]) == running.number
        newest = store.latest()
        assert newest is not None
        assert store.load(newest.number)
        assert store.lineage(running.number)[-1].number == 1
        active.append(running.number)
    assert active == sorted(active)
    assert active[-1] > 10, "the children did get somewhere"


def test_a_store_that_is_gone_or_cannot_be_written_is_named(store: WeightStore, tmp_path: Path) -> None:
    with pytest.raises(VlaRosError, match="/proc/store: cannot be made: .*is the file system there, and writable"):
        WeightStore(Path("/proc/store"))
    store.write(weights(1.0), parent=0, stage="sft", metrics={})
    store.activate(1)
    store.folder.rename(tmp_path / "elsewhere")
    for call in (
        store.numbers,
        store.latest,
        store.active,
        lambda: store.write(weights(2.0), 1, "sft", {}),
        lambda: store.activate(1),
    ):
        with pytest.raises(VlaRosError, match="store: cannot be read: No such file or directory; is the file system there"):
            call()


ON_A_SMALL_DISK = """
import json, subprocess, sys, torch
from vla_ros.errors import VlaRosError
from vla_ros.policy.store import WeightStore

def tell(call):
    try:
        call()
    except VlaRosError as error:
        print(error)

disk, size = sys.argv[1], sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
store = WeightStore(disk + "/store")
write = lambda: store.activate(store.write({"a": torch.ones(5000)}, (store.numbers() or [0])[-1], "sft", {}).number)
for _ in range(5):
    tell(write)
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
tell(write)
tell(lambda: store.activate(1))
tell(lambda: WeightStore(disk + "/other"))
active = store.active().number
print(json.dumps([active, float(store.load(active)["a"].sum()), sorted(p.name for p in store.folder.iterdir())]))
"""


@pytest.mark.parametrize("size", ["72k", "84k", "96k"])
def test_a_full_and_a_read_only_disk(tmp_path: Path, size: str) -> None:
    """Real ones, in a mount namespace of their own: the last whole version stays, and stays active."""
    apart = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no mount namespaces")
    command = [*apart, sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path), size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *told, last = done.stdout.splitlines()
    full = [line for line in told if "No space left on device" in line]
    assert full
    assert all("free disk space and retry" in line for line in full)
    assert sum("Read-only file system" in line for line in told) == 3
    active, total, files = json.loads(last)
    assert total == 5000
    assert files == [*(f"{k + 1:06d}" for k in range(len(files) - 1)), ACTIVE], "nothing half-written"
    assert 1 <= active <= len(files) - 1


def test_lineage_ends_at_the_first_version_or_says_what_is_missing(store: WeightStore) -> None:
    for parent in (0, 1, 2, 2):
        store.write(weights(1.0), parent=parent, stage="sft", metrics={})
    assert [r.number for r in store.lineage(4)] == [4, 2, 1]
    shutil.rmtree(store.folder / "000001")
    with pytest.raises(VlaRosError, match=r"version 2 has the unknown parent 1; the store has \[2, 3, 4\]"):
        store.lineage(4)


def test_diff_is_relative_to_each_tensor(store: WeightStore) -> None:
    first = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2), "c": torch.ones(2)}
    second = {"a": torch.tensor([3.0, 4.5]), "b": torch.ones(2), "c": torch.ones(2)}
    store.write(first, parent=0, stage="sft", metrics={})
    store.write(second, parent=1, stage="sft", metrics={})
    assert store.diff(1, 2) == pytest.approx({"a": 0.5 / (9 + 4.5**2) ** 0.5, "b": 1.0, "c": 0.0})
    assert store.diff(1, 2) == store.diff(2, 1)
    store.write({"a": torch.ones(3)}, parent=0, stage="sft", metrics={})
    with pytest.raises(VlaRosError, match="versions 1 and 3 hold different tensors"):
        store.diff(1, 3)
