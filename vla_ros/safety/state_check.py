"""Judges joint states before the filter relies on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.safety.limits import Limits
from vla_ros.types import Array, JointState


@dataclass(frozen=True)
class Measured:
    """A valid joint state in the order of the limits' joints."""

    stamp: float  # s
    position: Array  # [n] rad
    velocity: Array  # [n] rad/s


class StateCheck:
    """Validity, age and tracking error of joint states."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._names: tuple[str, ...] | None = None
        self._order = np.empty(0, np.intp)
        self._brake, self._latch = np.array(limits.tracking_brake), np.array(limits.tracking_latch)
        self._missing = ""
        self._last_valid = -1.0
        self._first_fault = -1.0

    def measure(self, now: float, state: JointState | None) -> tuple[Measured | None, str]:
        """The state mapped by name and '', or None and the reason: `state_silence` (None came),
        `state_missing:<joint>`, `state_shape`, `state_non_finite:<joint>`, `state_stale` (stamp and clock differ by
        more than the limit)."""
        measured, fault = self._read(now, state)
        if not fault:
            self._last_valid, self._first_fault = now, -1.0
        elif self._first_fault < 0.0:
            self._first_fault = now
        return measured, fault

    def silent_for(self, now: float) -> float:
        """Time [s] since the last valid state, 0 while the states are valid or if none was ever seen."""
        if self._first_fault < 0.0 or self._last_valid < 0.0:
            return 0.0
        return now - self._last_valid

    def start(self, measured: Measured | None) -> str:
        """'' where commands may start, else `arm_moves:<joint>` or `state_outside:<joint>` (further beyond its limits than
        half their width: no pose of this arm)."""
        limits = self._limits
        if measured is None:
            return ""
        for name, q, v, low, high, still in zip(
            limits.joints, measured.position, measured.velocity, limits.lower, limits.upper, limits.standstill, strict=True
        ):
            if abs(v) > still:
                return f"arm_moves:{name}"
            if abs(2.0 * q - low - high) > 2.0 * (high - low):
                return f"state_outside:{name}"
        return ""

    def tracking(self, measured: Measured, command: Array) -> str:
        """'' while the arm follows its command [n] rad, else `tracking_brake:<joint>` or `tracking_latch:<joint>`."""
        error = abs(measured.position - command)
        for fault, limit in (("tracking_latch", self._latch), ("tracking_brake", self._brake)):
            worst = (error - limit).argmax()
            if error[worst] > limit[worst]:
                return f"{fault}:{self._limits.joints[worst]}"
        return ""

    def _read(self, now: float, state: JointState | None) -> tuple[Measured | None, str]:
        if state is None:
            return None, "state_silence"
        if state.names != self._names:
            self._map(state.names)
        if self._missing:
            return None, f"state_missing:{self._missing}"
        if len(state.position) != len(state.names) or len(state.velocity) != len(state.names):
            return None, "state_shape"
        measured = Measured(state.stamp, state.position[self._order], state.velocity[self._order])
        finite = np.isfinite(measured.position) & np.isfinite(measured.velocity)
        if not finite.all():
            return None, f"state_non_finite:{self._limits.joints[int(finite.argmin())]}"
        if not abs(now - state.stamp) <= self._limits.state_age:
            return None, "state_stale"
        return measured, ""

    def _map(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._missing = next((name for name in self._limits.joints if name not in names), "")
        if not self._missing:
            self._order = np.array([names.index(name) for name in self._limits.joints])
