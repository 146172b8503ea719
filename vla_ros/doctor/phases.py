"""Guided bring-up: dry run, reduced speed, full speed; each only when the doctor is content, and one step back on any failure.

Nothing here moves: a phase ends with the instruction withdrawn, and in the dry run the safety filter is latched throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from vla_ros.doctor.finding import Finding, failures
from vla_ros.errors import VlaRosError


class Phase(Enum):
    """In this order."""

    DRY = "dry run"
    REDUCED = "reduced speed"
    FULL = "full speed"

    @property
    def before(self) -> Phase:
        """Where a failure leads back to; the dry run, which moves nothing, to itself."""
        every = list(Phase)
        return every[max(0, every.index(self) - 1)]


class Cell(Protocol):
    """What the guide asks of a cell. Each may raise VlaRosError; then the guide goes back."""

    def examine(self, phase: Phase | None) -> list[Finding]:
        """The doctor's look at a cell that is in this phase (None: in none yet)."""

    def enter(self, phase: Phase) -> list[Finding]:
        """Sets what the phase allows."""

    def watch(self, phase: Phase) -> list[Finding]:
        """Lets the policy act for a while and judges it; the policy stands still afterwards."""

    def retreat(self, phase: Phase) -> None:
        """Back in this phase, the arm standing: as fast as it goes, whatever has happened."""


Confirm = Callable[[Phase], bool]


class Tell(Protocol):
    """Shows a headline and the findings below it."""

    def __call__(self, headline: str, findings: Sequence[Finding] = (), brief: bool = False) -> None:
        """`brief`: those that are well need not be listed."""


def guide(cell: Cell, confirm: Confirm, tell: Tell) -> bool:
    """All phases; True when the last one went well.

    Args:
        confirm: asks the operator before each phase.
        tell: shows how it goes.
    """
    inside: Phase | None = None
    try:
        for phase in Phase:
            if not _sound(tell, f"before the {phase.value}", cell.examine(inside), brief=True):
                return _back(cell, tell, inside)
            if not confirm(phase):
                tell(f"declined; the cell {_state(inside)}")
                return False
            inside = phase  # also when entering fails half-way
            if not _sound(tell, f"{phase.value}: entered", cell.enter(phase)):
                return _back(cell, tell, inside)
            if not _sound(tell, f"{phase.value}: what the policy did", cell.watch(phase)):
                return _back(cell, tell, inside)
        if not _sound(tell, "afterwards", cell.examine(inside), brief=True):
            return _back(cell, tell, inside)
    except VlaRosError as error:
        tell(f"error: {error}")
        return _back(cell, tell, inside)
    except KeyboardInterrupt:
        _back(cell, tell, inside)
        raise
    tell(f"all phases went well; the cell {_state(inside)}")
    return True


def _sound(tell: Tell, headline: str, findings: Sequence[Finding], brief: bool = False) -> bool:
    tell(headline, findings, brief)
    return not failures(findings)


def _back(cell: Cell, tell: Tell, inside: Phase | None) -> bool:
    """One phase back; False, as what the guide returns."""
    if inside is None:
        tell("nothing was changed; mend what failed and call again")
        return False
    try:
        cell.retreat(inside.before)
    except VlaRosError as error:
        tell(f"USE THE HARDWARE E-STOP: going back from {inside.value} failed: {error}")
    else:
        tell(f"gone back: the cell {_state(inside.before)}")
    return False


def _state(phase: Phase | None) -> str:
    """How the cell is left."""
    return {
        None: "is as it was",
        Phase.DRY: "is latched; `vla-ros safety reset` goes on at the speed that is set",
        Phase.REDUCED: "stands, at reduced speed; /safety/reduced_speed false lifts it",
        Phase.FULL: "stands, at full speed",
    }[phase]
