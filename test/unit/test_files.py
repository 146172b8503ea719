"""Files that come in pieces are there whole or not at all; copies of a checkpoint have one fingerprint."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import Tiny, tiny_checkpoints  # noqa: F401

from vla_ros import files
from vla_ros.errors import VlaRosError
from vla_ros.policy.policy import fingerprint

PIECES = [b"first", b"second", b"third"]
DIGEST = hashlib.sha256(b"".join(PIECES)).hexdigest()


def broken() -> Iterator[bytes]:
    yield PIECES[0]
    raise VlaRosError("nobody answers")


def test_a_received_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cell" / "practice" / "episode.mcap"
    files.receive(path, PIECES, DIGEST)
    assert path.read_bytes() == b"firstsecondthird"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("pieces", "expected"), [(PIECES[:2], "sha256 is .*, expected .*: not taken"), (broken(), "nobody answers")]
)
def test_a_broken_transfer_leaves_nothing(tmp_path: Path, pieces: Iterator[bytes], expected: str) -> None:
    path = tmp_path / "episode.mcap"
    with pytest.raises(VlaRosError, match=expected):
        files.receive(path, pieces, DIGEST)
    assert list(tmp_path.iterdir()) == []
    files.receive(path, PIECES, DIGEST)
    assert path.read_bytes() == b"firstsecondthird", "the next attempt succeeds"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cell").write_text("a file")
    with pytest.raises(VlaRosError, match=r"episode\.mcap: was not written: .*; free disk space and retry"):
        files.receive(tmp_path / "cell" / "episode.mcap", PIECES, DIGEST)


def test_copies_of_a_checkpoint_have_one_fingerprint(tiny: Tiny, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny.policy, tmp_path / "copy"))
    (copy / "training.json").write_text("{}")  # says how it came about, not what it is
    assert fingerprint(copy) == fingerprint(tiny.policy)
    assert fingerprint(tiny.judge) != fingerprint(tiny.policy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert fingerprint(copy) != fingerprint(tiny.policy)
    weights.unlink()
    with pytest.raises(VlaRosError, match=r"copy: found no \*\.safetensors"):
        fingerprint(copy)
