"""The safety filter for a simulator in the same process, with the call that vla_ros.sim.env takes as
`command_filter`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.safety.filter import SafetyFilter
from vla_ros.types import ActionChunk, Array, JointState


class TargetFilter:
    """One call per control tick; a new target is a chunk of one row. The episode's practice then feels the same limits
    as the live graph.

    Attributes:
        filter: the running SafetyFilter; a new one after each restart.
        rejected: targets that admission refused; the arm then goes on with the one before.
    """

    def __init__(self, contract: RobotContract, *files: str | Path) -> None:
        self._contract, self._files = contract, files
        self._period = 1.0 / contract.control.rate
        self.rejected = 0
        self.restart()

    def restart(self) -> None:
        """Forgets command and target: the simulator put the arm somewhere else."""
        self.filter = SafetyFilter.for_robot(self._contract, *self._files)
        self._target: Array | None = None
        self._command: Array = np.zeros(0)
        self._stamp = -np.inf

    def __call__(self, state: JointState, target: Array, due: float) -> Array:
        """The command [n] rad of this tick.

        Args:
            state: measured, one control period after the state of the call before; otherwise the filter restarts.
            target: [n] rad in the contract's order, where the arm shall be in `due` seconds.
        """
        moved = self._command.size and np.abs(state.position - self._command).max() > self.filter.limits.tracking_latch
        if moved or not 0.0 < state.stamp - self._stamp < self.filter.limits.state_silence:
            self.restart()
        if self._target is None:  # seeds the command; the tick of this state is the first one
            self._tick(JointState(state.stamp - self._period, state.names, state.position, state.velocity))
        if self._target is None or not np.array_equal(target, self._target):
            self._target = target.copy()
            stamp = state.stamp - self._period
            chunk = ActionChunk(stamp + due, due, self._contract.joints, target[None])
            self.rejected += bool(self.filter.submit(chunk, stamp))
        self._tick(state)
        return self._command

    def _tick(self, state: JointState) -> None:
        sent = self.filter.tick(state.stamp, state)
        if sent is not None:
            self._command = sent.command
        self._stamp = state.stamp
