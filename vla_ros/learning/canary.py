"""Which version runs the next episode.

A new version is on probation for its first episodes. With a share below 1 it runs only that share of them, drawn at random, and
the version that was proven last runs the others: fewer parts are at stake, and the two work in the same light, on the same
material, so that a cell that drifts is not mistaken for a bad version (rule `canary` of stopping.py).
"""

from __future__ import annotations

import random


class Canary:
    """
    Args:
        share: of the episodes, that a version on probation runs; 1: all.
        seed: of the draws.
    """

    def __init__(self, share: float, seed: int = 0) -> None:
        self.share = share
        self.newest = 0  # version that practice goes on from; 0: none yet
        self.left = 0  # episodes until it is proven
        self._proven = 0  # last version that was; 0: none to run beside the newest
        self._known = set[int]()  # versions that were seen through their probation
        self._random = random.Random(seed)

    def begin(self, version: int, probation: int) -> None:
        """Practice goes on from it; it has so many episodes of probation before it."""
        self.newest, self.left = version, probation
        if not probation:
            self._proven = version

    def alone(self) -> None:
        """Nothing runs beside the next version that begins, though it be on probation: an operator has chosen it."""
        self._proven = 0

    def ran(self, version: int) -> bool:
        """An episode that says something about the version that ran it; True: the last one of its probation."""
        if not self.left or version != self.newest:
            return False
        self.left -= 1
        if not self.left:
            self._proven = version
            self._known.add(version)
        return not self.left

    def knows(self, version: int) -> bool:
        """It has been seen through its probation here."""
        return version in self._known

    @property
    def trial(self) -> int:
        """The version that shares the episodes with the proven one; 0: none does."""
        return self.newest if self.share < 1 and self.left and self._proven else 0

    @property
    def settled(self) -> bool:
        """The next version may follow. Where two are to share the episodes it waits until this one is proven: beside it."""
        return self.share == 1 or not self.left

    def beside(self, version: int) -> int:
        """The version that an episode of this one is compared with; 0: none."""
        return self.trial if version != self.newest else 0

    @property
    def trusted(self) -> int:
        """Version for a task that somebody has asked for."""
        return self._proven if self.trial else self.newest

    def draw(self) -> int:
        """Version for the next episode of practice. Drawn: the cell may have a rhythm of its own, as of two fixtures in turn."""
        return self.newest if self._random.random() < self.share else self.trusted

    @property
    def sentence(self) -> str:
        """For an operator; empty while one version runs all."""
        if not self.trial:
            return ""
        share = f"it runs {self.share:.0%} of all, version {self._proven} the others"
        return f"version {self.newest} is on probation for {self.left} more episodes: {share}"
