"""No policy: the arm stands where it was left, and only a person moves it. For demonstrations before there is a policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.policy.policy import Decision
from vla_ros.robots.contract import RobotContract


class Nobody:
    """Stands still. Where actions are positions it stands on what was asked for last: on what is measured, an arm that hangs a
    little below its command would sink step by step."""

    prefix = 1  # rows of the running chunk that it is given

    def __init__(self, contract: RobotContract) -> None:
        self._rows, self._moves_tip = contract.action.chunk, contract.action.tip_plane is not None

    def seed(self, seed: int) -> None:
        """It draws nothing."""

    def infer(
        self,
        image: NDArray[np.uint8],
        text: str,
        state: NDArray[np.float32],
        greedy: bool,
        temperature: float = 1.0,
        running: NDArray[np.float32] | None = None,
    ) -> Decision:
        """See VlaPolicy.infer."""
        stand = np.zeros(2, np.float32) if self._moves_tip else state if running is None else running[0]
        return Decision(np.tile(stand, (self._rows, 1)), np.zeros((self._rows, 0), np.int16), 0.0, 0.0, 0.0, 0.0, 0.0)
