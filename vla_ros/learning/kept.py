"""Practised episodes that are learned from again: by task and outcome, in memory and on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vla_ros.learning.cells import Practised
from vla_ros.learning.data import Demonstrations, together
from vla_ros.learning.stage1 import load_demonstrations, save_demonstrations

OUTCOMES = {True: "success", False: "failure"}


class Kept:
    """A file `EPISODES-TASK-OUTCOME.npz` for each batch, of how many episodes had been practised with it.

    Args:
        failures: are kept, too.
    """

    def __init__(self, folder: Path, failures: bool) -> None:
        self._folder, self._outcomes = Path(folder), (True, False) if failures else (True,)
        self.of: dict[tuple[str, bool], list[Demonstrations]] = {}  # task, success: batch by batch

    def add(self, found: Mapping[str, Sequence[Practised]], practised: int) -> None:
        """A batch; one that is practised again after a kill has the same files."""
        for task, episodes in found.items():
            for success in self._outcomes:
                if own := [e.demonstration() for e in episodes if e.episode.detected == success]:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self.of.setdefault((task, success), []).append(together(own))
                    path = self._folder / f"{practised:06d}-{task}-{OUTCOMES[success]}.npz"
                    save_demonstrations(path, self.of[task, success][-1])

    def load(self, practised: int) -> None:
        """All that lies there of the first `practised` episodes."""
        self.of = {}
        for path in sorted(self._folder.glob("*.npz")):
            count, _, rest = path.stem.partition("-")
            task, _, outcome = rest.rpartition("-")
            if int(count) <= practised:
                self.of.setdefault((task, outcome == OUTCOMES[True]), []).append(load_demonstrations(path))

    def count(self, success: bool) -> int:
        """Episodes."""
        return sum(len(np.unique(data.episode)) for (_, own), sets in self.of.items() if own == success for data in sets)
