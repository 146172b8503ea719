"""Machine code for the arithmetic of a control tick.

numpy costs more per call than such an arm's numbers per operation, and Python more still; numba compiles the same code.
What it compiled is kept beside the source (or in the user's cache folder), so only the first start after a change takes
seconds. numba looks at one file only to see whether it changed: functions that call each other belong into one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(signature: Any, nogil: bool = False) -> Callable[[F], F]:
    """Compiles a function for the types of `signature` (numba's) and no others, now: never in a control tick. `nogil`: other
    threads run meanwhile.

    Where nothing can be kept, or what was kept is damaged (a full disk, a power cut), it is compiled at each start.
    """

    def decorate(function: F) -> F:
        try:
            return numba.njit(signature, cache=True, nogil=nogil)(function)  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001  (of many kinds; an error in the function itself comes again)
            return numba.njit(signature, nogil=nogil)(function)  # type: ignore[no-any-return]

    return decorate
