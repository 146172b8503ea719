"""Around a filter under test: the arm that it moves, tip poses apart from its code, and a clock on its calls.

Why it stands in test/: see safety_judge.py.
"""

from __future__ import annotations

from time import perf_counter, thread_time
from typing import Any, Protocol

import numpy as np
import pinocchio as pin
from safety_judge import Array

from vla_ros.memory import Collector
from vla_ros.robots.contract import RobotContract
from vla_ros.types import ActionChunk, JointState, SafetyMode


class Arm(Protocol):
    """vla_ros.sim.arena.Arena is one."""

    def reset(self, q: Array) -> None: ...
    def step(self, command: Array) -> None: ...
    def position(self) -> Array: ...
    def velocity(self) -> Array: ...
    def contacts(self) -> list[tuple[str, str]]: ...
    def __hash__(self) -> int: ...


class ExactArm:
    """An arm that is where it is told to be, and touches nothing."""

    def __init__(self, contract: RobotContract) -> None:
        self._dt = 1.0 / contract.control.rate
        self.reset(np.array(contract.posture))

    def reset(self, q: Array) -> None:
        self._q, self._v = np.array(q), np.zeros(len(q))

    def step(self, command: Array) -> None:
        self._q, self._v = np.array(command), (command - self._q) / self._dt

    def position(self) -> Array:
        return self._q

    def velocity(self) -> Array:
        return self._v

    def contacts(self) -> list[tuple[str, str]]:
        return []


class Tips:
    """Poses of the end effectors, on a pinocchio model of its own."""

    def __init__(self, contract: RobotContract) -> None:
        full = pin.buildModelFromUrdf(str(contract.urdf))
        locked = [full.getJointId(name) for name in full.names[1:] if name not in contract.joints]
        self._model = pin.buildReducedModel(full, locked, pin.neutral(full)) if locked else full
        self._data = self._model.createData()
        self._order = [contract.joints.index(name) for name in self._model.names[1:]]
        self.names = tuple(contract.tips)
        self._frames = [self._model.getFrameId(name) for name in self.names]

    def places(self, q: Array) -> list[Any]:
        pin.forwardKinematics(self._model, self._data, q[self._order])
        return [pin.updateFramePlacement(self._model, self._data, frame) for frame in self._frames]

    def poses(self, rows: Array) -> Array:
        """[T, 7 tips] of rows [T, n]."""
        return np.array([np.concatenate([pin.SE3ToXYZQUAT(place) for place in self.places(q)]) for q in rows])

    def deltas(self, start: Array, rows: Array) -> Array:
        """[T, 6 tips]: translation and rotation vector from row to row, in the base frame's axes."""
        before, out = [place.copy() for place in self.places(start)], []
        for q in rows:
            after = [place.copy() for place in self.places(q)]
            moves = zip(before, after, strict=True)
            parts = [np.r_[b.translation - a.translation, pin.log3(b.rotation @ a.rotation.T)] for a, b in moves]
            out.append(np.concatenate(parts))
            before = after
        return np.array(out)

    def travel(self, positions: Array) -> float:
        """Length [m] of the longest way of a tip along positions [T, n]."""
        if len(positions) < 2:
            return 0.0
        points = np.array([[place.translation.copy() for place in self.places(q)] for q in positions])  # [T, tips, 3]
        return float(np.linalg.norm(np.diff(points, axis=0), axis=2).sum(axis=0).max())


class Timed:
    """A filter that notes what its calls cost: processor time of all together [s], and with `processor` wall and
    processor time of each. `collector`: runs after each tick."""

    def __init__(self, safety: Any, processor: bool = False) -> None:
        self.safety = safety
        self.seconds = 0.0
        self._pending = 0.0
        self._processor = processor
        self.collector: Collector | None = None
        self.tick_wall: list[float] = []
        self.tick_cpu: list[float] = []
        self.submit_wall: list[float] = []
        self.accepted_wall: list[float] = []
        self.both_wall: list[float] = []
        self.moving: list[bool] = []  # the tick followed a path or braked

    def __getattr__(self, name: str) -> Any:
        return getattr(self.safety, name)

    def submit(self, chunk: ActionChunk, now: float) -> str:
        start_cpu, start = thread_time(), perf_counter()
        reason: str = self.safety.submit(chunk, now)
        took = perf_counter() - start
        self.seconds += thread_time() - start_cpu
        if self._processor:
            self.submit_wall.append(took)
            if not reason:
                self.accepted_wall.append(took)
            self._pending += took
        return reason

    def tick(self, now: float, state: JointState | None) -> Any:
        if self._processor:
            return self._tick_measured(now, state)
        start = thread_time()
        sent = self.safety.tick(now, state)
        self.seconds += thread_time() - start
        return sent

    def _tick_measured(self, now: float, state: JointState | None) -> Any:
        cpu, start = thread_time(), perf_counter()
        sent = self.safety.tick(now, state)
        took = perf_counter() - start
        self.tick_cpu.append(thread_time() - cpu)
        self.tick_wall.append(took)
        self.both_wall.append(took + self._pending)
        self.moving.append(sent is not None and sent.mode in (SafetyMode.RUN, SafetyMode.BRAKE))
        self._pending = 0.0
        self.seconds += took
        if self.collector is not None:
            self.collector.between()
        return sent
