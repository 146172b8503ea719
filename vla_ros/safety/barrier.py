"""Evasion of moving obstacles: the joint velocity nearest to the wanted one that keeps a control barrier.

For a link point p and an obstacle at distance d, n the unit vector from the obstacle to the link (Ames et al., "Control
barrier functions", ECC 2019, with h = d - distance):

    n . (J(p) v - v_obstacle) >= -gain (d - distance)

It is no guarantee but a courtesy on top of one: the checks of arm.py judge what comes out, too. So a row gives way where
the arm cannot evade, and every doubt returns the wanted velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite

import daqp
import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from vla_ros.safety.distances import body_of, placement_of, wall_of
from vla_ros.safety.limits import Limits
from vla_ros.safety.surroundings import check
from vla_ros.types import Array, Obstacle

FAILED = "barrier_failed"
PAIRS, FIXED = 4, 2  # rows at most, the nearest; more cost time and say much the same
# m²/rad², rho: a row is kept up to its share rho / (|n J|² + rho), the damping of a damped pseudoinverse (Nakamura & Hanafusa
# 1986). Joints with a lever arm far below its root, 3 cm, are not thrown about to gain a millimetre.
SOFTNESS = 1e-3
POSES = 8  # at random, in which a pair's distance is compared
FREE = 1e30  # no bound, as daqp says it
TOLERANCE = 1e-6  # rad/s, of the solver

SMOOTHING = 0.05  # s, of the estimated velocities; a tracked position is noisy
FASTEST = 2.0  # m/s that an estimate may reach: a person's reach in ISO 13855
TELEPORT = 10.0  # m/s; more is another body under the old name
STANDING = 0.1  # s at one place until an obstacle counts as standing; a message about another one repeats this one's place
FORGOTTEN = 0.5  # s; an older position says nothing about the velocity now


@dataclass
class _Track:
    """An obstacle's velocity [3] m/s, from its places [3] m at successive times [s]; unknown is 0."""

    place: Array
    time: float
    velocity: Array

    def saw(self, place: Array, now: float) -> None:
        passed = now - self.time
        way = place - self.place
        moved = float(np.linalg.norm(way))
        if not 0.0 <= passed <= FORGOTTEN or moved > TELEPORT * passed:
            self.velocity = np.zeros(3)
        elif moved == 0.0:
            if passed <= STANDING:
                return  # the time of its last move stays
            self.velocity = np.zeros(3)
        else:
            seen = way * (min(1.0, FASTEST * passed / moved) / passed)
            self.velocity = self.velocity + (1.0 - exp(-passed / SMOOTHING)) * (seen - self.velocity)
        self.place, self.time = place, now


class _Pairs:
    """Every link against every body, [links x bodies] with the links running fastest.

    Attributes:
        names: "barrier:link~body".
        results: of coal, with witness points.
        velocities: [3] m/s of each body.
    """

    def __init__(self, model: pin.Model, links: Sequence[pin.GeometryObject], bodies: Sequence[pin.GeometryObject]) -> None:
        self._model, self._first = model, len(links)
        self._shapes = pin.GeometryModel()
        for shape in (*links, *bodies):
            self._shapes.addGeometryObject(shape)
        self.names = []
        for k, body in enumerate(bodies, start=len(links)):
            for i, link in enumerate(links):
                self._shapes.addCollisionPair(pin.CollisionPair(i, k))
                self.names.append(f"barrier:{model.frames[link.parentFrame].name}~{body.name}")
        self._data = self._shapes.createData()
        self.results = list(self._data.distanceResults)  # views: computeDistances writes into them
        self._watched = list(range(len(self.results)))
        self.velocities = [[0.0, 0.0, 0.0]] * len(bodies)

    def leave_out_constant(self, poses: Array) -> None:
        """Watches only pairs whose distance differs between `poses` [k, n] rad: no joint can do anything about the
        others (a base that turns on its table), and they would take the rows of those that matter."""
        data, gaps = self._model.createData(), []
        for q in poses:
            pin.forwardKinematics(self._model, data, q)
            self.measure(data)
            gaps.append([result.min_distance for result in self.results])
        self._watched = np.flatnonzero(np.ptp(gaps, axis=0) > 1e-6).tolist()

    def place(self, k: int, placement: pin.SE3) -> None:
        self._shapes.geometryObjects[self._first + k].placement = placement

    def measure(self, data: pin.Data) -> float:
        """The least distance [m] at the pose that `data` holds."""
        pin.updateGeometryPlacements(self._model, data, self._shapes, self._data)
        return float(self.results[pin.computeDistances(self._shapes, self._data)].min_distance)

    def near(self, within: float, most: int) -> list[tuple[float, int]]:
        """The nearest pairs: distance [m] and index."""
        results = self.results
        return sorted((d, p) for p in self._watched if not (d := results[p].min_distance) >= within)[:most]


class Barrier:
    """Not thread-safe (pinocchio's work space).

    Args:
        model: of the arm.
        links: its collision geometry as distances.py has it, capsules for cylinders.
        limits: with a section `barrier`. Walls and fixed obstacles have rows only beside those of moving ones, so that
            the arm evades along the table and not into it.
    """

    def __init__(self, model: pin.Model, links: Sequence[pin.GeometryObject], limits: Limits) -> None:
        assert limits.barrier is not None
        self._config, self._clearance, self._known = limits.barrier, limits.clearance, frozenset(limits.world)
        self._lower, self._upper = np.array(limits.lower), np.array(limits.upper)
        self._braking = np.array(limits.acceleration)
        self._model, self._data = model, model.createData()
        self._links = [link for link in links if link.parentJoint]
        self._away = np.zeros((len(self._links), model.nv))  # -1 where a joint carries a link
        for row, link in zip(self._away, self._links, strict=True):
            row[[joint - 1 for joint in model.supports[link.parentJoint] if joint]] = -1.0
        self._tracks: dict[tuple[str, str, tuple[float, ...]], _Track] = {}
        self._invalid = False
        self._problems = {k: _problem(model.nv, k) for k in range(1, PAIRS + FIXED + 1)}
        fixed = [*map(wall_of, limits.walls, limits.walls.values()), *map(body_of, limits.world.values())]
        self._fixed = _Pairs(model, self._links, fixed)
        if fixed:
            poses = np.random.default_rng(0).uniform(self._lower, self._upper, (POSES, model.nv))
            self._fixed.leave_out_constant(poses)
        self._moving = _Pairs(model, self._links, [])

    def set_world(self, obstacles: Sequence[Obstacle], now: float) -> None:
        """Replaces the moving obstacles; `now` [s] is when they are where they are said to be."""
        obstacles = list({o.name: o for o in obstacles if o.name not in self._known}.values())
        self._invalid = not isfinite(now) or any(check(o) for o in obstacles)
        if self._invalid:
            obstacles = []
        tracks = {}
        for o in obstacles:
            key, place = (o.name, o.shape, o.size), np.array(o.position)
            tracks[key] = self._tracks.get(key) or _Track(place, now, np.zeros(3))
            tracks[key].saw(place, now)
        same = list(tracks) == list(self._tracks)
        self._tracks = tracks
        if same:
            for k, obstacle in enumerate(obstacles):
                self._moving.place(k, placement_of(obstacle))
        else:
            self._moving = _Pairs(self._model, self._links, [body_of(o) for o in obstacles])
        self._moving.velocities = [track.velocity.tolist() for track in tracks.values()]

    @property
    def velocities(self) -> dict[str, Array]:
        """The estimates [3] m/s by obstacle."""
        return {name: track.velocity for (name, *_), track in self._tracks.items()}

    def adjust(self, q: Array, wanted: Array, low: Array, high: Array) -> tuple[Array, tuple[str, ...]]:
        """
        Args:
            q: [n] rad.
            wanted: [n] rad/s.
            low, high: [n] rad/s, what can be had in this tick, `wanted` among it.

        Returns:
            the velocity [n] rad/s, `wanted` itself where nothing is to be done; and "barrier:link~obstacle" of the rows
            that `wanted` breaks, or "barrier_failed" with `wanted` where no answer can be trusted.
        """
        if not self._tracks and not self._invalid:
            return wanted, ()
        if self._invalid or not isfinite(float(q @ q)) or not ((low <= wanted) & (wanted <= high)).all():
            return wanted, (FAILED,)
        pin.computeJointJacobians(self._model, self._data, q)
        if self._moving.measure(self._data) >= self._config.activation:
            return wanted, ()
        matrix, need, names = self._rows(wanted)
        gaps = need[: len(names)].tolist()
        if not isfinite(float(need @ need)):
            return wanted, (FAILED,)
        if max(gaps) <= 0.0:
            return wanted, ()
        v = self._solve(matrix, need, wanted, *self._stoppable(q, wanted, low, high))
        if v is None:
            return wanted, (FAILED,)
        return v, tuple(name for name, gap in zip(names, gaps, strict=True) if gap > 0.0)

    def _rows(self, wanted: Array) -> tuple[Array, Array, list[str]]:
        """n J [k, n], what each row lacks at `wanted` [k] m/s, and the names of those of moving obstacles, which are
        first."""
        within, count = self._config.activation, len(self._links)
        moving = self._moving.near(within, PAIRS)
        near = [(self._moving, p, distance - self._config.distance) for distance, p in moving]
        if self._fixed.results and self._fixed.measure(self._data) < within:
            near += [(self._fixed, p, distance - self._clearance) for distance, p in self._fixed.near(within, FIXED)]
        twists, floors, which = [], [], []
        for pairs, p, room in near:
            body, link = divmod(p, count)
            nx, ny, nz = pairs.results[p].normal.tolist()  # from link to obstacle, so it is -n
            x, y, z = pairs.results[p].getNearestPoint1().tolist()
            twists.append((nx, ny, nz, y * nz - z * ny, z * nx - x * nz, x * ny - y * nx))
            vx, vy, vz = pairs.velocities[body]
            # a retreat is not counted on: the estimate is old when it has turned round
            floors.append(max(0.0, -nx * vx - ny * vy - nz * vz) - self._config.gain * room)
            which.append(link)
        matrix: Array = (np.array(twists) @ self._data.J) * self._away[which]
        return matrix, np.array(floors) - matrix @ wanted, [self._moving.names[p] for _, p in moving]

    def _stoppable(self, q: Array, wanted: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """The interval without what runs into a position limit: a joint near its end leaves the evasion to the others.
        Half the acceleration, as jerk takes its share."""
        up = np.sqrt(self._braking * np.maximum(self._upper - q, 0.0))
        down = -np.sqrt(self._braking * np.maximum(q - self._lower, 0.0))
        return np.maximum(low, np.minimum(down, wanted)), np.minimum(high, np.maximum(up, wanted))

    def _solve(self, matrix: Array, need: Array, wanted: Array, low: Array, high: Array) -> Array | None:
        """min |v - wanted|² + |e|² / rho with matrix (v - wanted) + e >= need and low <= v <= high; None: not solved."""
        k, n = matrix.shape
        cost, zero, rows, lower, upper, sense = self._problems[k]
        rows[:, :n], lower[:n], upper[:n], lower[n:] = matrix, low - wanted, high - wanted, need
        x, _, flag, _ = daqp.solve(cost, zero, rows, upper, lower, sense)
        size = float(x @ x)
        if flag not in (1, 2) or not isfinite(size):  # with NaN in the data, flag 1 comes with NaN
            return None
        v = wanted + x[:n]
        inside: Array = np.minimum(np.maximum(v, low), high)
        given_in = np.maximum(need, 0.0)  # an answer is no worse than giving in to every row
        if (
            abs(inside - v).max() > TOLERANCE
            or (rows @ x - need).min() < -TOLERANCE
            or size > float(given_in @ given_in) * ((1.0 + TOLERANCE) / SOFTNESS)
        ):
            return None
        return inside


def _problem(n: int, k: int) -> tuple[Array, Array, Array, Array, Array, NDArray[np.int32]]:
    """Work space of daqp for n joints and k rows, in v - wanted and e / sqrt(rho), for which the cost is the identity."""
    rows = np.hstack((np.zeros((k, n)), SOFTNESS**0.5 * np.eye(k)))
    return np.eye(n + k), np.zeros(n + k), rows, np.zeros(n + k), np.full(n + k, FREE), np.zeros(n + k, np.int32)
