"""Python's cyclic garbage collector, kept out of control loops."""

from __future__ import annotations

import gc

FULL = 1000  # rounds between looks at everything that is younger than the start


class Collector:
    """Collects between the rounds of a loop, never inside one, where it would cost a tenth of a control tick at times.

    What lives at the start is not looked at again. A round's own garbage is nearly all freed by reference counting; cycles
    of longer life (futures, tracebacks) wait for the next full look.
    """

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()
        self._rounds = 0

    def between(self) -> None:
        """The loop waits for its next round now."""
        self._rounds += 1
        gc.collect(2 if self._rounds % FULL == 0 else 0)

    def close(self) -> None:
        """Back to collections at any time."""
        gc.unfreeze()
        gc.enable()
