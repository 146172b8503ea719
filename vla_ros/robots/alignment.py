"""Frames and joint states that belong together: sets whose stamps differ by no more than the contract allows."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.types import Image, JointState, Observation

FRAMES = 8  # of one camera that wait for their partners
STATES = 512  # joint states that wait for a frame: half a second at 1 kHz
JUMP = 1.0  # s; a stamp this far behind the newest observation means that the clock was set back


@dataclass
class AlignmentCounters:
    """Since start. Every frame of the reference camera ends as emitted, skipped, dropped or stale."""

    emitted: int = 0
    skipped: int = 0  # faster than the contract's observation rate
    dropped: int = 0  # no partner within max_skew
    stale: int = 0  # came behind an observation that was already emitted
    clock_jumps: int = 0  # a clock was set back


class Aligner:
    """Forms observations at the contract's rate; never waits, and holds a bounded number of frames.

    The first camera of `observation.cameras` is the reference. Its frame goes out as soon as every other camera has one
    within max_skew and the closest joint state has come, so the result does not depend on the order of arrival. That the
    newest is the closest shows before the next one comes, from how far apart they are. Frames are made small as they come:
    the observation then waits for the last one's only. Not thread-safe.
    """

    def __init__(self, contract: RobotContract) -> None:
        spec = contract.observation
        self.counters = AlignmentCounters()
        self._size, self._skew = spec.size, spec.max_skew
        self._period = 1.0 / spec.rate
        self._state_period = 1.0 / contract.control.rate
        self._reference, *self._others = spec.cameras
        self._joints = contract.joints
        self._frames: dict[str, deque[tuple[float, Image]]] = {name: deque(maxlen=FRAMES) for name in self._others}
        self._pending: deque[tuple[float, Image]] = deque()
        self._states: deque[JointState] = deque(maxlen=STATES)
        self._newest = -np.inf  # stamp of the last observation

    def image(self, camera: str, stamp: float, rgb: Image) -> Observation | None:
        """Takes a frame [H, W, 3] of any size; returns the observation that it completes, if any.

        Raises:
            VlaRosError: not one of the contract's observation.cameras.
        """
        if camera == self._reference:
            self._check_clock(stamp)
            if stamp <= self._newest:
                self.counters.stale += 1
            elif stamp < self._newest + self._period - self._skew:
                self.counters.skipped += 1
            else:
                self._pending.append((stamp, resize(rgb, self._size)))
                if len(self._pending) > FRAMES:
                    self._pending.popleft()
                    self.counters.dropped += 1
        elif camera in self._frames:
            self._frames[camera].append((stamp, resize(rgb, self._size)))
        else:
            known = ", ".join((self._reference, *self._others))
            raise VlaRosError(f"camera '{camera}' is no part of the observation; expected one of {known}")
        return self._emit()

    def joints(self, state: JointState) -> Observation | None:
        """Takes a joint state; returns the observation that it completes, if any. Stamps must rise.

        Raises:
            VlaRosError: a joint is missing, or a position or velocity is not finite: it is not used.
        """
        if missing := [name for name in self._joints if name not in state.names]:
            raise VlaRosError(f"joint state: '{missing[0]}' is missing; found {', '.join(state.names) or 'no joints'}")
        if not len(state.names) == len(state.position) == len(state.velocity):
            found = f"{len(state.position)} positions and {len(state.velocity)} velocities"
            raise VlaRosError(f"joint state: found {found} for {len(state.names)} names, expected one each")
        if not (np.isfinite(state.position).all() and np.isfinite(state.velocity).all()):
            raise VlaRosError("joint state: found a value that is not finite; it is not used")
        self._check_clock(state.stamp)
        if self._states and state.stamp < self._states[-1].stamp - JUMP:  # those before came from a clock that was ahead
            self._states.clear()
            self.counters.clock_jumps += 1
        if self._states and state.stamp <= self._states[-1].stamp:
            return None
        self._states.append(state)
        return self._emit()

    def _check_clock(self, stamp: float) -> None:
        if stamp < self._newest - JUMP:
            self.counters.clock_jumps += 1
            self._newest = -np.inf
            self._pending.clear()
            self._states.clear()
            for frames in self._frames.values():
                frames.clear()

    def _emit(self) -> Observation | None:
        """The newest complete set; reference frames before it, and those that can no longer be completed, are
        dropped."""
        complete = None
        while self._pending:
            stamp, rgb = self._pending[0]
            joints, waiting = self._closest_state(stamp)
            images = {self._reference: rgb}
            skew = abs(joints.stamp - stamp) if joints else 0.0
            for name in self._others:
                match, late = self._closest_frame(name, stamp)
                waiting = waiting or late
                if match is not None:
                    images[name] = match[1]
                    skew = max(skew, abs(match[0] - stamp))
            if joints is not None and len(images) == 1 + len(self._others):
                if complete is not None:
                    self.counters.dropped += 1
                complete = (stamp, images, joints, skew)
            elif waiting:
                break
            else:
                self.counters.dropped += 1
            self._pending.popleft()
        if complete is None:
            return None
        stamp, images, joints, skew = complete
        self._newest = stamp
        self.counters.emitted += 1
        return Observation(stamp, images, joints, skew)

    def _closest_state(self, stamp: float) -> tuple[JointState | None, bool]:
        """The closest joint state within max_skew, and whether it must still be waited for."""
        if not self._states or (self._states[-1].stamp < stamp and not self._next_is_farther(stamp)):
            return None, True
        at = bisect_left(self._states, stamp, key=lambda state: state.stamp)
        near = [self._states[k] for k in (at - 1, at) if 0 <= k < len(self._states)]
        best = min(near, key=lambda state: abs(state.stamp - stamp))
        return (best if abs(best.stamp - stamp) <= self._skew else None), False

    def _next_is_farther(self, stamp: float) -> bool:
        """A joint state that comes after `stamp` would not be closer than the newest: they come as the last two did, and at
        least at the contract's rate."""
        if len(self._states) < 2:
            return False
        spacing = min(self._states[-1].stamp - self._states[-2].stamp, self._state_period)
        return stamp - self._states[-1].stamp <= min(0.5 * spacing, self._skew)

    def _closest_frame(self, camera: str, stamp: float) -> tuple[tuple[float, Image] | None, bool]:
        """The camera's closest frame within max_skew, and whether one may still come."""
        frames = self._frames[camera]
        if not frames:
            return None, True
        best = min(frames, key=lambda frame: abs(frame[0] - stamp))
        if abs(best[0] - stamp) <= self._skew:
            return best, False
        return None, max(frame[0] for frame in frames) < stamp
