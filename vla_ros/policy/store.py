"""The weight store: numbered versions with hash, parent and metrics; a version is there whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla_ros.errors import VlaRosError
from vla_ros.types import PolicyVersion

WEIGHTS, RECORD = "weights.safetensors", "version.json"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(path)


def _sha256(path: Path) -> str:  # Python 3.10 has no file_digest
    return hashlib.sha256(path.read_bytes()).hexdigest()


class WeightStore:
    """Folder of versions `000001/`, `000002/`, …, each written beside and renamed into place."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def numbers(self) -> list[int]:
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit() and (p / RECORD).is_file())

    def write(self, weights: dict[str, Tensor], parent: int, stage: str, metrics: dict[str, float]) -> PolicyVersion:
        """Add a version; returns its record.

        Raises:
            VlaRosError: unknown parent, or the disk does not take it (nothing half-written stays).
        """
        numbers = self.numbers()
        if parent and parent not in numbers:
            raise VlaRosError(f"{self.folder}: parent version {parent} is not in the store; it has {numbers}")
        number = max(numbers, default=0) + 1
        final, draft = self.folder / f"{number:06d}", self.folder / f".{number:06d}.part"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            save_file({k: v.detach().contiguous() for k, v in weights.items()}, draft / WEIGHTS)
            record = PolicyVersion(number, parent, sha256(draft / WEIGHTS), stage, str(final), metrics)
            (draft / RECORD).write_text(json.dumps(dataclasses.asdict(record), indent=1))
            for name in (WEIGHTS, RECORD):
                with (draft / name).open("rb") as file:
                    os.fsync(file.fileno())
            draft.rename(final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise VlaRosError(f"{self.folder}: version {number} was not written: {error}; free disk space and retry") from error
        return record

    def record(self, number: int) -> PolicyVersion:
        path = self.folder / f"{number:06d}" / RECORD
        if not path.is_file():
            raise VlaRosError(f"{self.folder}: no version {number}; it has {self.numbers()}")
        try:
            return PolicyVersion(**{**json.loads(path.read_text()), "path": str(path.parent)})
        except (OSError, ValueError, TypeError) as error:
            raise VlaRosError(f"{path}: not the record of a version: {error}") from error

    def load(self, number: int, expected_sha256: str = "") -> dict[str, Tensor]:
        """Weights of a version, after checking the hash against its record (and the announcement, if given).

        Raises:
            VlaRosError: no such version, or the file is not the one that was written.
        """
        record = self.record(number)
        path = Path(record.path) / WEIGHTS
        found = sha256(path) if path.is_file() else "no file"
        for wanted in {record.sha256, expected_sha256 or record.sha256}:
            if found != wanted:
                raise VlaRosError(f"{path}: sha256 is {found[:16]}, expected {wanted[:16]}: corrupt or foreign weights")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise VlaRosError(f"{path}: not a safetensors file: {error}") from error

    def latest(self) -> PolicyVersion | None:
        numbers = self.numbers()
        return self.record(numbers[-1]) if numbers else None
