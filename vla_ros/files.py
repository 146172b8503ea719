"""Files that are there whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from vla_ros.errors import VlaRosError


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(path)


def _sha256(path: Path) -> str:  # Python 3.10 has no file_digest
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sync(path: Path) -> None:
    """A file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, text: str) -> None:
    """A file of which a reader, and a crash, find the old content or the new. Raises OSError; the old one stays then."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def write(path: Path, pieces: Iterable[bytes], digest: str, what: str) -> None:
    """A file from pieces that come in order, some of them from another machine.

    Raises:
        VlaRosError: the pieces have not this sha256; names `what`.
        OSError: the disk does not take them.
    """
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    if (found := sha256(path)) != digest:
        raise VlaRosError(f"{what}: sha256 is {found[:16]}, expected {digest[:16]}: not taken")


def receive(path: Path, pieces: Iterable[bytes], digest: str) -> None:
    """The same under a name that appears once the file is whole and on the disk; its folder is made.

    Raises:
        VlaRosError: the pieces stop coming or have not this sha256, or the disk does not take them; nothing stays of them.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft, pieces, digest, str(path))
        sync(draft)
        draft.rename(path)
        sync(path.parent)
    except OSError as error:
        raise VlaRosError(f"{path}: was not written: {error.strerror or error}; free disk space and retry") from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or never made
            draft.unlink()
