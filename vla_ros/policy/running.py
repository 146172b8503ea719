"""What the arm still executes of the last chunk while the next one is computed: the rows that the next one continues.

Of an observation at t, a chunk's rows are due at t + period, t + 2 period, ... When it arrives after `delay`, the rows until
then are past. They come from the chunk before, so they are given to the network instead of being guessed again, and so is the
one that the arm is on its way to: what follows joins without a jump (real-time chunking, arXiv 2506.07339; the network is
trained for it as in arXiv 2512.05964, see heads.Units).
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

RECENT = 10  # answers whose longest delay the next one is expected to take


class RunningChunk:
    """
    Args:
        period: s between rows.
        most: rows that the network can be given; 0: it is never given any.
    """

    def __init__(self, period: float, most: int) -> None:
        self._period, self._most = period, most
        self.reset()

    def reset(self) -> None:
        """Another instruction: the arm is to do something else."""
        self._stamp, self._action = -np.inf, np.zeros((0, 0), np.float32)
        self._delays: deque[float] = deque(maxlen=RECENT)

    def rows(self, stamp: float) -> NDArray[np.float32] | None:
        """[n, D] in the contract's units: the first rows of the chunk that answers an observation at `stamp` [s]; None where
        nothing runs, or runs out before."""
        if not self._most or not self._delays:
            return None
        first = round((stamp - self._stamp) / self._period)
        count = min(int(max(self._delays) / self._period) + 1, self._most)
        found = self._action[first : first + count] if first >= 0 else self._action[:0]
        return found if len(found) else None

    def sent(self, stamp: float, action: NDArray[np.float32], delay: float) -> None:
        """A chunk [rows, D] that answers the observation at `stamp` went out `delay` seconds after it."""
        self._stamp, self._action = stamp, action
        self._delays.append(delay)
