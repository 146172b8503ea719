"""Follows joint trajectories as ros2_control's joint_trajectory_controller does: linear between points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.types import Array


def ordered(values: Sequence[float], names: Sequence[str], joints: Sequence[str]) -> Array:
    """`values` [n] rad of `names`, in the order of `joints`.

    Raises:
        VlaRosError: other joints, another length, or not finite.
    """
    if set(names) != set(joints) or len(names) != len(joints):
        raise VlaRosError(f"trajectory: joint_names: found {list(names)}, expected {list(joints)} in any order")
    command = checked(values, len(joints))
    return command[[names.index(name) for name in joints]]


def checked(values: Sequence[float], count: int) -> Array:
    """A command [n] rad.

    Raises:
        VlaRosError: another length, or not finite.
    """
    command = np.array(values, np.float64)
    if command.shape != (count,):
        raise VlaRosError(f"command: found {len(values)} values, expected {count} joint positions")
    if not np.isfinite(command).all():
        raise VlaRosError(f"command: found {command.tolist()}, expected finite numbers")
    return command


class JointTarget:
    """The command at any time: a position that stays, or a trajectory's interpolation."""

    def __init__(self, q: Array) -> None:
        self._times: Array = np.zeros(1)
        self._rows: Array = np.array(q, np.float64)[None]

    def set_position(self, q: Array) -> None:
        """Go to `q` [n] at once; replaces a trajectory."""
        self._times, self._rows = np.zeros(1), q[None]

    def set_trajectory(self, now: float, due: Sequence[float], rows: Sequence[Array]) -> None:
        """Move through `rows` [T][n] rad, row k at time due[k] s, starting from the present command.

        Raises:
            VlaRosError: no points, or times that do not rise.
        """
        times = np.array([now, *due])
        if len(rows) == 0 or len(rows) != len(due):
            raise VlaRosError(f"trajectory: found {len(rows)} points, expected at least one")
        if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise VlaRosError(f"trajectory: time_from_start: found {due!r} from {now:g}, expected rising times ahead")
        self._rows = np.array([self.at(now), *rows])
        self._times = times

    def at(self, time: float) -> Array:
        """[n] rad."""
        if len(self._times) == 1 or time >= self._times[-1]:
            return self._rows[-1]
        k = max(int(np.searchsorted(self._times, time, side="right")), 1)
        share = (time - self._times[k - 1]) / (self._times[k] - self._times[k - 1])
        return np.asarray(self._rows[k - 1] + max(share, 0.0) * (self._rows[k] - self._rows[k - 1]))
