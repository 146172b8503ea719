"""One result of the doctor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad it is; only a failure keeps the arm from moving, and makes the exit status 1."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name, `kind` or `kind:part` (`camera_rate:front`); the same one in the table, in JSON and in docs/doctor.md.
        found, expected: with units.
        fix: what to do; empty when all is well.
    """

    check: str
    level: Level
    found: str
    expected: str = ""
    fix: str = ""


def ok(check: str, found: str, expected: str = "") -> Finding:
    return Finding(check, Level.OK, found, expected)


def warning(check: str, found: str, expected: str, fix: str) -> Finding:
    return Finding(check, Level.WARNING, found, expected, fix)


def failure(check: str, found: str, expected: str, fix: str) -> Finding:
    return Finding(check, Level.FAILURE, found, expected, fix)


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Those that keep the arm from moving."""
    return [each for each in findings if each.level is Level.FAILURE]
