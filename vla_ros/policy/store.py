"""The weight store: numbered versions with hash, parent and metrics, and the one that runs.

A version is there whole or not at all, and so is the marker of the running one: both are written beside and renamed, so
that neither a kill nor a power cut leaves anything half-written.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla_ros import files
from vla_ros.errors import VlaRosError
from vla_ros.files import sha256
from vla_ros.types import PolicyVersion

WEIGHTS, RECORD, ACTIVE = "weights.safetensors", "version.json", "active"


def _remedy(error: Exception) -> str:
    full = any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))  # safetensors' has the text alone
    return "free disk space and retry" if full else "is the file system there, and writable?"


def parse(text: str, source: str) -> PolicyVersion:
    """The record of a version from its JSON.

    Raises:
        VlaRosError: it is not one; names `source`.
    """
    try:
        return PolicyVersion(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise VlaRosError(f"{source}: not the record of a version: {error}") from error


class WeightStore:
    """Folder of versions `000001/`, `000002/`, …, and a file `active` with the number of the one that runs.

    Raises:
        VlaRosError: the folder is not there and cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VlaRosError(f"{self.folder}: cannot be made: {error.strerror}; {_remedy(error)}") from error

    def numbers(self) -> list[int]:
        """Raises VlaRosError when the folder has gone."""
        try:
            return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit() and (p / RECORD).is_file())
        except OSError as error:
            raise VlaRosError(f"{self.folder}: cannot be read: {error.strerror}; {_remedy(error)}") from error

    def write(self, weights: dict[str, Tensor], parent: int, stage: str, metrics: dict[str, float]) -> PolicyVersion:
        """Add a version; returns its record.

        Raises:
            VlaRosError: unknown parent, or the disk does not take it (nothing half-written stays).
        """
        numbers = self.numbers()
        if parent and parent not in numbers:
            raise VlaRosError(f"{self.folder}: parent version {parent} is not in the store; it has {numbers}")
        number = max(numbers, default=0) + 1

        def save(path: Path) -> PolicyVersion:
            save_file({k: v.detach().contiguous() for k, v in weights.items()}, path)
            return PolicyVersion(number, parent, sha256(path), stage, "", metrics)

        return self._add(number, save)

    def receive(self, record: PolicyVersion, pieces: Iterable[bytes]) -> PolicyVersion:
        """Add a version of another store under its number there; those that it descends from need not be here.

        Args:
            pieces: of its weights file, in order.

        Raises:
            VlaRosError: the number is taken by another version, the pieces have not the record's hash, or the disk does not
                take them (nothing half-written stays).
        """
        if record.number in self.numbers():
            if (here := self.record(record.number).sha256) != record.sha256:
                found = f"version {record.number} has sha256 {here[:16]}, expected {record.sha256[:16]}"
                raise VlaRosError(f"{self.folder}: {found}: this store belongs to another trainer; choose an empty folder")
            return self.record(record.number)

        def save(path: Path) -> PolicyVersion:
            files.write(path, pieces, record.sha256, f"version {record.number}")
            return record

        return self._add(record.number, save)

    def adopt(self, record: PolicyVersion, parent: int, origin: str) -> PolicyVersion:
        """Add a version of another store on this machine under the next number here; what was adopted before is not added again.

        Raises:
            VlaRosError: its weights are not those of its record, or as receive().
        """
        for number in self.numbers():
            if ((here := self.record(number)).parent, here.sha256) == (parent, record.sha256):
                return here
        number = max(self.numbers(), default=0) + 1
        path = Path(record.path) / WEIGHTS
        try:
            with path.open("rb") as file:
                pieces = iter(lambda: file.read(1 << 20), b"")
                return self.receive(dataclasses.replace(record, number=number, parent=parent, origin=origin), pieces)
        except OSError as error:
            raise VlaRosError(f"{path}: cannot be read: {error.strerror or error}") from error

    def _add(self, number: int, save: Callable[[Path], PolicyVersion]) -> PolicyVersion:
        """A version as a whole; `save` writes its weights file and returns its record."""
        final, draft = self.folder / f"{number:06d}", self.folder / f".{number:06d}.part"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            record = dataclasses.replace(save(draft / WEIGHTS), path=str(final))
            (draft / RECORD).write_text(json.dumps(dataclasses.asdict(record), indent=1))
            for path in (draft / WEIGHTS, draft / RECORD, draft):
                files.sync(path)
            draft.rename(final)
            files.sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise VlaRosError(f"{self.folder}: version {number} was not written: {error}; {_remedy(error)}") from error
        except VlaRosError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return record

    def record(self, number: int) -> PolicyVersion:
        path = self.folder / f"{number:06d}" / RECORD
        if not path.is_file():
            raise VlaRosError(f"{self.folder}: no version {number}; it has {self.numbers()}")
        try:
            text = path.read_text()
        except OSError as error:
            raise VlaRosError(f"{path}: cannot be read: {error.strerror}; {_remedy(error)}") from error
        return dataclasses.replace(parse(text, str(path)), path=str(path.parent))

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

    # -- the running version --------------------------------------------------------------------------------------

    def activate(self, number: int) -> None:
        """Mark the version that runs, and that a restart resumes.

        Raises:
            VlaRosError: no such version, or the disk does not take the marker; the one before stays.
        """
        self.record(number)
        marker = self.folder / ACTIVE
        try:
            files.replace(marker, f"{number}\n")
        except OSError as error:
            raise VlaRosError(f"{marker}: version {number} was not marked active: {error}; {_remedy(error)}") from error

    def active(self) -> PolicyVersion | None:
        """The version that ran last; None where none was ever marked.

        Raises:
            VlaRosError: the folder has gone, the marker is damaged, or names a version that is not there.
        """
        marker = self.folder / ACTIVE
        try:
            text = marker.read_text()
        except FileNotFoundError:
            self.numbers()  # raises where it is the folder that is not there
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise VlaRosError(f"{marker}: cannot be read: {error}; {_remedy(error)}") from error
        if not text.strip().isdecimal():
            raise VlaRosError(
                f"{marker}: found {text[:20]!r}, expected a version's number; `vla-ros policy activate` writes it anew"
            )
        return self.record(int(text))

    def lineage(self, number: int) -> list[PolicyVersion]:
        """The version, its parent, and so on to the first.

        Raises:
            VlaRosError: a parent is not in the store, so that nothing could be rolled back to it.
        """
        chain = [self.record(number)]
        numbers = self.numbers()
        while parent := chain[-1].parent:
            child = chain[-1].number
            if parent not in numbers or parent >= child:
                raise VlaRosError(f"{self.folder}: version {child} has the unknown parent {parent}; the store has {numbers}")
            chain.append(self.record(parent))
        return chain

    def diff(self, a: int, b: int) -> dict[str, float]:
        """|b - a| over the larger of |a| and |b| (Frobenius) of each tensor: 0 unchanged, 1 where one of the two is zero.

        Raises:
            VlaRosError: versions of different policies.
        """
        old, new = self.load(a), self.load(b)
        if {n: t.shape for n, t in old.items()} != {n: t.shape for n, t in new.items()}:
            raise VlaRosError(f"{self.folder}: versions {a} and {b} hold different tensors; they are not of the same policy")
        sizes = {name: max(float(old[name].norm()), float(new[name].norm())) for name in old}
        return {name: float((new[name] - old[name]).norm()) / size if size else 0.0 for name, size in sizes.items()}
