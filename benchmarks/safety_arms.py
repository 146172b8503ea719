"""The commands of safety_comparison.py's arms: the same rows of a chunk, sent on in five ways at the control rate.

    direct   the interpolated row as it is
    clip     velocity, then acceleration, then position clipped per joint and per tick (as libfranka's limitRate does)
    qp       min |v - v_des|² inside velocity, acceleration and braking bounds and control-barrier rows of the workspace
    qp_tip   the same with the error of the tip's velocity weighted far above the rest, which bends the path less
    path     the package's SafetyFilter: as fast along the path as the limits allow

All but the last follow the same smooth curve through the rows as the filter would (or, asked so, straight lines), are
given the same limits object, and know nothing of what the filter does besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import daqp
import numpy as np
import pinocchio as pin

from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.safety.filter import SafetyFilter
from vla_ros.types import ActionChunk, Array, JointState, SafetyMode

ARMS = ("direct", "clip", "qp", "qp_tip", "path")
AGAIN = "again"  # the unfiltered arm once more, with commands off by OFFSET: what chance alone does to the same scenes
OFFSET = 1e-5  # rad
NAMES = {
    "direct": "unfiltered", AGAIN: "unfiltered, 0.01 mrad off", "clip": "clipped per step", "qp": "projected by QP",
    "qp_tip": "QP, tip weighted", "path": "slowed along the path",
}  # fmt: skip
# 1/s, of the QP's return to the curve, and (rad/m)², weight of the tip's velocity. Chosen in the QP's favour on pilot
# scenes, out of 10, 20, 50, 200 = 1/dt and 30, 1000.
QP = {"qp": (20.0, 0.0), "qp_tip": (50.0, 30.0)}
BARRIER = 5.0  # 1/s: a frame may approach a side of its box by this share of the distance left per second


class Curve:
    """Rows at their due times as a function of time: a monotone cubic (Fritsch and Carlson), or straight lines.

    Args:
        times: [K + 1] s, now and the rows' due times.
        rows: [K + 1, n] rad, the command now and the rows.
        velocity: [n] rad/s, of the command now.
    """

    def __init__(self, times: Array, rows: Array, velocity: Array, linear: bool) -> None:
        self._times, self._rows, self._linear = times, rows, linear
        slopes = np.diff(rows, axis=0) / np.diff(times)[:, None]
        tangents = np.zeros_like(rows)
        tangents[0] = velocity
        before, after = slopes[:-1], slopes[1:]
        same = before * after > 0
        total = np.where(same, before + after, 1.0)
        tangents[1:-1] = np.where(same, 2 * before * after / total, 0.0)
        tangents[-1] = slopes[-1]
        self._slopes, self._tangents = slopes, tangents

    def at(self, time: float) -> tuple[Array, Array]:
        """Position [n] rad and velocity [n] rad/s; at rest on the last row after its due time."""
        times = self._times
        if time >= times[-1]:
            return self._rows[-1], np.zeros_like(self._rows[-1])
        k = max(0, int(np.searchsorted(times, time, side="right")) - 1)
        h, t = times[k + 1] - times[k], time - times[k]
        if self._linear:
            return self._rows[k] + t * self._slopes[k], self._slopes[k]
        m0, m1, slope = self._tangents[k], self._tangents[k + 1], self._slopes[k]
        c2, c3 = (3 * slope - 2 * m0 - m1) / h, (m0 + m1 - 2 * slope) / (h * h)
        return self._rows[k] + t * (m0 + t * (c2 + t * c3)), m0 + t * (2 * c2 + 3 * t * c3)


class Arm(Protocol):
    """One way of sending chunks on. `limited` and `events` are of all ticks so far."""

    limited: int
    events: dict[str, int]

    def submit(self, chunk: ActionChunk, now: float) -> None: ...

    def tick(self, now: float, state: JointState) -> Array: ...


class Direct:
    """The interpolated rows, whatever they are; base of clip and qp, which change the step that it would take."""

    def __init__(self, start: Array, dt: float, linear: bool = False) -> None:
        self.limited = 0
        self.events: dict[str, int] = {}
        self._q, self._v, self._dt, self._linear = start.copy(), np.zeros_like(start), dt, linear
        self._curve: Curve | None = None

    def submit(self, chunk: ActionChunk, now: float) -> None:
        times = np.concatenate([[now], chunk.stamp + chunk.period * np.arange(len(chunk.rows))])
        self._curve = Curve(times, np.vstack([self._q, chunk.rows]), self._v, self._linear)

    def tick(self, now: float, state: JointState) -> Array:
        del state
        if self._curve is not None:
            q = self._step(now)
            self._v = (q - self._q) / self._dt
            self._q = q
        return self._q

    def _step(self, now: float) -> Array:
        assert self._curve is not None
        return self._curve.at(now + self._dt)[0]

    def _count(self, event: str) -> None:
        self.events[event] = self.events.get(event, 0) + 1


class Clip(Direct):
    """Chases the interpolated row; each joint's step is cut to its velocity, acceleration and position limits."""

    def __init__(self, start: Array, dt: float, limits: Any, linear: bool = False) -> None:
        super().__init__(start, dt, linear)
        self._most, self._change = np.array(limits.velocity), np.array(limits.acceleration) * dt
        self._lower, self._upper = np.array(limits.lower), np.array(limits.upper)

    def _step(self, now: float) -> Array:
        asked = (super()._step(now) - self._q) / self._dt
        v = np.clip(np.clip(asked, -self._most, self._most), self._v - self._change, self._v + self._change)
        q = np.clip(self._q + v * self._dt, self._lower, self._upper)
        self.limited += bool(np.abs(v - asked).max() > 1e-6)
        return q


class Projection(Direct):
    """The admissible joint velocity nearest to the wanted one. No solution: every joint brakes."""

    def __init__(
        self, start: Array, dt: float, limits: Any, contract: RobotContract, boxes: Mapping[str, Any],
        gain: float, tip_weight: float, linear: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(start, dt, linear)
        self._gain = gain
        self._lower, self._upper = np.array(limits.lower), np.array(limits.upper)
        self._most, self._change = np.array(limits.velocity), np.array(limits.acceleration) * dt
        self._model = Kinematics(contract).model
        self._data = self._model.createData()
        self._frames = [(self._model.getFrameId(name), np.array(box).T) for name, box in boxes.items()]
        self._tip, self._tip_weight = self._model.getFrameId(contract.tip), tip_weight

    def _step(self, now: float) -> Array:
        assert self._curve is not None
        row, ahead = self._curve.at(now + self._dt)
        asked = ahead + self._gain * (row - ahead * self._dt - self._q)
        low, high = self._bounds()
        matrix, least = self._barriers()
        upper = np.concatenate([high, np.full(len(least), 1e30)])
        lower = np.concatenate([low, least])
        hessian = np.eye(len(asked))
        if self._tip_weight:
            jacobian = pin.computeFrameJacobian(self._model, self._data, self._q, self._tip, pin.LOCAL_WORLD_ALIGNED)
            hessian += self._tip_weight * jacobian.T @ jacobian
        v, _, flag, _ = daqp.solve(hessian, -hessian @ asked, matrix, upper, lower, np.zeros(len(upper), np.int32))
        if flag not in (1, 2) or not np.isfinite(v).all() or (matrix @ v < least - 1e-6).any():
            self._count("infeasible")
            v = np.sign(self._v) * np.maximum(np.abs(self._v) - self._change, 0.0)
        v = np.clip(v, low, high)  # the solver's tolerance
        self.limited += bool(np.abs(v - asked).max() > 1e-6)
        return self._q + v * self._dt

    def _bounds(self) -> tuple[Array, Array]:
        """Velocities [n] that the velocity and acceleration limits allow and that can still stop before the position's."""
        low, high = np.maximum(-self._most, self._v - self._change), np.minimum(self._most, self._v + self._change)
        up, down = self._stoppable(self._upper - self._q), -self._stoppable(self._q - self._lower)
        return np.minimum(np.maximum(low, down), high), np.maximum(np.minimum(high, up), low)

    def _stoppable(self, room: Array) -> Array:
        """Largest velocity [n] of the next tick after which braking, tick by tick, still ends within `room` [n]."""
        change, dt = self._change, self._dt
        scaled = np.maximum(room, 0.0) / (change * dt)
        n = np.floor(0.5 * (np.sqrt(1 + 8 * scaled) - 1))
        return np.asarray(change * (scaled + 0.5 * n * (n + 1)) / (n + 1))

    def _barriers(self) -> tuple[Array, Array]:
        """Rows [m, n] and [m]: matrix @ v >= least, per frame and side of its box: dh/dt >= -BARRIER h."""
        rows, least = [], []
        for frame, (low, high) in self._frames:
            jacobian = pin.computeFrameJacobian(self._model, self._data, self._q, frame, pin.LOCAL_WORLD_ALIGNED)[:3]
            at = pin.updateFramePlacement(self._model, self._data, frame).translation
            rows += [jacobian, -jacobian]
            least += [-BARRIER * (at - low), -BARRIER * (high - at)]
        if not rows:
            return np.zeros((0, len(self._q))), np.zeros(0)
        return np.vstack(rows), np.maximum(np.concatenate(least), -1e30)


class SlowDown:
    """The package's safety filter."""

    def __init__(self, start: Array, safety: SafetyFilter) -> None:
        self.limited = 0
        self.events: dict[str, int] = {}
        self._q, self._safety = start.copy(), safety
        self._waiting: ActionChunk | None = None

    def submit(self, chunk: ActionChunk, now: float) -> None:
        if self._safety.seeded:
            self._admit(chunk, now)
        else:  # a filter knows the arm's state after its first tick
            self._waiting = chunk

    def tick(self, now: float, state: JointState) -> Array:
        answer = self._safety.tick(now, state)
        if self._waiting is not None:
            self._admit(self._waiting, now)
            self._waiting = None
        if answer is not None:
            self._q = np.array(answer.command)
            if answer.active:
                self.limited += 1
                for kind in {a.split(":")[0] for a in answer.active}:
                    self.events[kind] = self.events.get(kind, 0) + 1
            if answer.mode in (SafetyMode.BRAKE, SafetyMode.LATCHED):
                name = f"{answer.mode.name}:{answer.reason.split(':')[0]}"
                self.events[name] = self.events.get(name, 0) + 1
        return self._q

    def _admit(self, chunk: ActionChunk, now: float) -> None:
        reason = self._safety.submit(chunk, now)
        if reason:
            name = f"rejected:{reason.split(':')[0]}"
            self.events[name] = self.events.get(name, 0) + 1


class Violations:
    """What a sequence of commands exceeds, by finite differences over the control period.

    `ticks` and `worst` per limit: number of ticks, and the largest share of the limit (of `position`: rad beyond it).
    """

    def __init__(self, start: Array, dt: float, limits: Any) -> None:
        self._dt = dt
        self._limits = {"velocity": np.array(limits.velocity), "acceleration": np.array(limits.acceleration)}
        jerk = getattr(limits, "jerk", None)
        if jerk is not None and np.isfinite(jerk).all():
            self._limits["jerk"] = np.array(jerk)
        self._lower, self._upper = np.array(limits.lower), np.array(limits.upper)
        self._last = [start.copy(), np.zeros_like(start), np.zeros_like(start)]
        self.ticks = dict.fromkeys(("position", *self._limits), 0)
        self.worst = dict.fromkeys(("position", *self._limits), 0.0)
        self.any = 0

    def add(self, q: Array) -> None:
        beyond = False
        outside = float(np.maximum(self._lower - q, q - self._upper).max())
        self.worst["position"] = max(self.worst["position"], outside)
        if outside > 1e-9:
            self.ticks["position"] += 1
            beyond = True
        value, derivatives = q, [q]
        for (name, limit), last in zip(self._limits.items(), self._last, strict=False):
            value = (value - last) / self._dt
            derivatives.append(value)
            share = float((np.abs(value) / limit).max())
            self.worst[name] = max(self.worst[name], share)
            if share > 1 + 1e-5:
                self.ticks[name] += 1
                beyond = True
        self._last = [derivatives[k] if k < len(derivatives) else last for k, last in enumerate(self._last)]
        self.any += beyond


def off_polyline(point: Array, line: Array) -> float:
    """Distance [m] of a point [3] from a polyline [m, 3]."""
    start, way = line[:-1], np.diff(line, axis=0)
    length = np.maximum((way * way).sum(1), 1e-18)
    share = np.clip(((point - start) * way).sum(1) / length, 0.0, 1.0)
    return math.sqrt(float(((start + share[:, None] * way - point) ** 2).sum(1).min()))
