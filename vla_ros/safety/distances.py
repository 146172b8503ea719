"""Distances of the arm to itself, walls and obstacles, over the whole way of a stop.

Between two poses no point of one body moves further against another than the sum over the joints between them of lever
arm times travel. So where a clearance exceeds that way, nothing is touched on it and nothing need be computed; where it
does not, the clearance in the middle is, and so on. A thin obstacle cannot be stepped over. Each pair has its own levers:
two links of one wrist stay close for long, and nothing that the shoulder does matters to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product
from math import inf

import coal
import numpy as np
import pinocchio as pin
from numba import boolean, float64, int64
from numba.types import Tuple
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.srdf import disabled_pairs
from vla_ros.safety.compiled import compiled
from vla_ros.safety.limits import Limits
from vla_ros.safety.surroundings import Wall, check
from vla_ros.types import Array, Obstacle

Indices = NDArray[np.int64]

POSES = 12  # measured in one tick; a stop that needs more (fast and close) is refused
BETWEEN = 1 / 3  # of the clearance limit that the poses between two that were looked at may lose, by the estimate above
ROUNDING = 1e-9  # m
MANY = 1 / 4  # of all pairs: more than these are measured all at once


class Distances:
    """Not thread-safe (pinocchio's work space).

    Args:
        model: of the arm.
        shapes: its collision geometry; cylinders become the capsules around them, exact and fast to measure.

    Attributes:
        links: collision shapes of the arm.
        between: m, that a clearance between two poses that were looked at may lie under those.
        left: poses that may still be measured in this tick; the caller sets it to POSES.
    """

    def __init__(self, contract: RobotContract, limits: Limits, model: pin.Model, shapes: pin.GeometryModel) -> None:
        self._model, self._data = model, model.createData()
        self._limits = limits
        self._allowed = disabled_pairs(contract.srdf)
        self.links = list(shapes.geometryObjects)
        for shape in self.links:
            if isinstance(shape.geometry, coal.Cylinder):
                shape.geometry = coal.Capsule(shape.geometry.radius, 2.0 * shape.geometry.halfLength)
        self._link_names = [model.frames[shape.parentFrame].name for shape in self.links]
        self._reach = np.array([_reach(model, shape) for shape in self.links])
        self.left = 0
        self.between = BETWEEN * limits.clearance
        self._world: dict[str, Obstacle] | None = None
        self.set_world(())

    def set_world(self, obstacles: Sequence[Obstacle]) -> None:
        """Replaces the obstacles that move; walls and obstacles of the safety files stay.

        Raises:
            VlaRosError: an obstacle that is none, or one of the name of a link, a wall or another obstacle.
        """
        taken = {*self._link_names, *self._limits.walls, *self._limits.world}
        for obstacle in obstacles:
            if complaint := check(obstacle) or (obstacle.name in taken and "the name is taken, expected one of its own"):
                raise VlaRosError(f"obstacle '{obstacle.name}': {complaint}")
            taken.add(obstacle.name)
        world = {**self._limits.world, **{o.name: o for o in obstacles}}
        if world == self._world:
            return
        kinds = [(o.name, o.shape, o.size) for o in world.values()]
        before = [(o.name, o.shape, o.size) for o in (self._world or {}).values()]
        if self._world is None or kinds != before:
            self._build(world)
        else:
            first = len(self.links) + len(self._limits.walls)
            for k, (obstacle, old) in enumerate(zip(world.values(), self._world.values(), strict=True), start=first):
                if obstacle != old:
                    self._shapes.geometryObjects[k].placement = placement_of(obstacle)
                    self._clearances[self._others == k] = -inf
        self._world = world

    def _build(self, world: dict[str, Obstacle]) -> None:
        """All shapes and the pairs to watch."""
        self._shapes = pin.GeometryModel()
        for shape in self.links:
            self._shapes.addGeometryObject(shape)
        for name, wall in self._limits.walls.items():
            self._shapes.addGeometryObject(wall_of(name, wall))
        for obstacle in world.values():
            self._shapes.addGeometryObject(body_of(obstacle))
        names = [*self._link_names, *self._limits.walls, *world]
        levers, others, self._pairs = [], [], []
        for i, k in combinations(range(len(names)), 2):
            if i < len(self.links) and (lever := self._lever(i, k, names)).any():
                self._shapes.addCollisionPair(pin.CollisionPair(i, k))
                self._pairs.append(f"{names[i]}~{names[k]}")
                levers.append(lever)
                others.append(k)
        # [n, pairs]: compiled loops over pairs are several times as fast as over joints
        self._levers, self._others = np.ascontiguousarray(np.reshape(levers, (-1, self._model.nv)).T), np.array(others)
        self._found = self._shapes.createData()
        self._all = np.arange(len(levers))
        self._results = list(self._found.distanceResults)  # views: pinocchio writes into them
        self._anchors = np.zeros_like(self._levers)  # rad, at which the pairs were measured last
        self._clearances = np.full(len(levers), -inf)  # m, there
        self._floors = np.full(len(levers), self._limits.clearance)  # m, that each pair must keep
        self._loose = False  # some are under the limit
        self._looked = self._floors

    def _lever(self, i: int, k: int, names: Sequence[str]) -> Array:
        """Lever arms [n] m per rad of the joints between two shapes: the furthest that a point of one is from a joint's
        axis, in any pose; 0 for pairs that may touch, too."""
        if names[i] == names[k] or frozenset((names[i], names[k])) in self._allowed:
            return np.zeros(self._model.nv)
        lever = self._reach[i].copy()
        if k < len(self.links):
            moved = [set(self._model.supports[self.links[s].parentJoint]) for s in (i, k)]
            lever = np.maximum(lever, self._reach[k])
            lever[[joint - 1 for joint in moved[0] & moved[1] if joint]] = 0.0
        return lever

    def _measure(self, q: Array, pairs: Indices) -> Array:
        """Distances [m] of `pairs` at `q` [n] rad, negative inside."""
        self.left -= 1
        shapes, found, results = self._shapes, self._found, self._results
        pin.updateGeometryPlacements(self._model, self._data, shapes, found, q)
        if len(pairs) <= MANY * len(results):
            return np.array([pin.computeDistance(shapes, found, pair).min_distance for pair in pairs.tolist()])
        pin.computeDistances(shapes, found)
        return np.array([results[pair].min_distance for pair in pairs.tolist()])

    def nearest(self, q: Array) -> tuple[float, str]:
        """Least distance [m] at `q` [n] rad, negative inside, and the pair "link~object"."""
        return self._nearest(self._measure(q, self._all))

    def _nearest(self, distances: Array) -> tuple[float, str]:
        """The same of what was measured."""
        if not len(distances):
            return inf, ""
        pair = int(distances.argmin())
        return float(distances[pair]), self._pairs[pair]

    def settle(self, q: Array, anew: bool) -> tuple[float, str]:
        """The arm stands at `q`: a pair that is nearer than the limit may stay as near, all others keep the limit.

        `anew`: by how much does not matter; otherwise, after a stop of our own, it is `between` at most.

        Returns:
            nearest().
        """
        limit = self._limits.clearance
        distances = self._measure(q, self._all)
        self._anchors[:], self._clearances = q[:, None], distances
        floors = np.minimum(limit, distances - ROUNDING)
        self._floors = floors if anew else np.maximum(floors, np.minimum(self._floors, limit - self.between))
        self._loose = bool((self._floors < limit).any())
        return self._nearest(distances)

    def keep(self) -> None:
        """The way looked at last is the arm's now: limits of pairs that were too near rise with their clearance."""
        if self._loose:
            limit = self._limits.clearance
            self._floors = np.minimum(limit, np.maximum(self._floors, self._looked - self.between))
            self._loose = bool((self._floors < limit).any())

    def look(
        self, pose: Callable[[float], Array], time: float, first: Array, last: Array, turns: Array
    ) -> tuple[bool, float, str]:
        """Looks at the way of a stop.

        Args:
            pose: joint positions [n] rad at a time [s] of the stop.
            time: s, of its end.
            first, last: [n] rad, the poses at its ends.
            turns: [n] rad, what each joint travels more than from its first to its last position.

        Returns:
            whether every pair keeps its limit, a lower bound of the least clearance, and its pair.
        """
        ways, bounds, pairs = _doubtful(self._levers, self._anchors, self._clearances, self._floors, first, last, turns)
        self._looked = bounds
        if not len(pairs):
            return True, *self._nearest(bounds)
        ends = self._measure(last, pairs)
        worst, near, ends = _ended(self._anchors, self._clearances, self._floors, bounds, ways, pairs, ends, last)
        if worst >= 0:
            return False, float(bounds[worst]), self._pairs[worst]
        kept = True
        if len(near):
            starts = self._measure(first, near)
            kept = self._between(pose, near, (0.0, first, starts), (time, last, ends), turns)
        return kept, *self._nearest(bounds)

    def _between(self, pose: Callable[[float], Array], pairs: Indices, start: _Place, end: _Place, turns: Array) -> bool:
        """Whether `pairs` keep their limit less `between` from one pose to another, both measured; what is measured
        in between counts in `_looked`."""
        (t0, q0, c0), (t1, q1, c1) = start, end
        kept, pairs, c0, c1 = _open(self._levers, self._floors, self._looked, pairs, c0, c1, abs(q1 - q0) + turns, self.between)
        if not (kept and len(pairs)):
            return kept
        if self.left <= 0:
            return False
        middle = 0.5 * (t0 + t1)
        q = pose(middle)
        here = middle, q, self._measure(q, pairs)
        return self._between(pose, pairs, (t0, q0, c0), here, turns) and self._between(pose, pairs, here, (t1, q1, c1), turns)


_Place = tuple[float, Array, Array]  # of a stop: s, [n] rad, [pairs] m


_row, _rows, _indices = float64[::1], float64[:, ::1], int64[::1]


@compiled(Tuple((_row, _row, _indices))(_rows, _rows, _row, _row, _row, _row, _row))
def _doubtful(
    levers: Array, anchors: Array, clearances: Array, floors: Array, first: Array, last: Array, turns: Array
) -> tuple[Array, Array, Indices]:
    """[pairs] m: the ways from the pose `first` [n] to `last`, and the least clearances at `last` after `clearances` at
    the poses `anchors` [n, pairs]; and which pairs have to be measured: those that could be under their `floors`, and the
    one that could be nearest of all, so that what is reported is true where it matters."""
    ways, bounds, doubtful = np.zeros(len(floors)), clearances.copy(), np.empty(len(floors), np.int64)
    for j in range(len(first)):
        travel, q = abs(last[j] - first[j]) + turns[j], last[j]
        for p in range(len(floors)):
            ways[p] += levers[j, p] * travel
            bounds[p] -= levers[j, p] * abs(q - anchors[j, p])
    count, nearest = 0, 0
    for p in range(len(floors)):
        if bounds[p] < bounds[nearest]:
            nearest = p
        if not bounds[p] - ways[p] >= floors[p]:
            doubtful[count] = p
            count += 1
    if count == 0 and len(floors):
        doubtful[0], count = nearest, 1
    return ways, bounds, doubtful[:count].copy()


@compiled(Tuple((int64, _indices, _row))(_rows, _row, _row, _row, _row, _indices, _row, _row))
def _ended(
    anchors: Array, clearances: Array, floors: Array, bounds: Array, ways: Array, pairs: Indices, ends: Array, last: Array
) -> tuple[int, Indices, Array]:
    """Takes what was measured of `pairs` at the end of a stop, the pose `last` [n]: [pairs] m into `anchors`, `clearances`
    and `bounds`. Returns the pair that is worst, -1 if each keeps its limit; those that might not on their way, and their
    clearances at its end."""
    worst, least, count = -1, 0.0, 0
    near, left = np.empty(len(pairs), np.int64), np.empty(len(pairs))
    for k in range(len(pairs)):
        p, end = pairs[k], ends[k]
        anchors[:, p], clearances[p], bounds[p] = last, end, end
        room = end - floors[p]
        if not room >= 0.0 and not (worst >= 0 and room >= least):
            worst, least = p, room
        if not room >= ways[p]:
            near[count], left[count] = p, end
            count += 1
    return worst, near[:count].copy(), left[:count].copy()


@compiled(Tuple((boolean, _indices, _row, _row))(_rows, _row, _row, _indices, _row, _row, _row, float64))
def _open(
    levers: Array, floors: Array, looked: Array, pairs: Indices, c0: Array, c1: Array, travel: Array, between: float
) -> tuple[bool, Indices, Array, Array]:
    """Whether `pairs` keep their `floors` at clearances `c0` and `c1` [m] of two poses, `travel` [n] rad apart; and those
    that could lose more than `between` on the way from one to the other. Notes the clearances in `looked`."""
    kept, count = True, 0
    near, before, after = np.empty(len(pairs), np.int64), np.empty(len(pairs)), np.empty(len(pairs))
    for k in range(len(pairs)):
        p = pairs[k]
        lowest = min(c0[k], c1[k])
        looked[p] = min(looked[p], lowest)
        kept = kept and lowest >= floors[p]
        way = 0.0
        for j in range(len(travel)):
            way += levers[j, p] * travel[j]
        if not way <= c0[k] + c1[k] - 2.0 * (floors[p] - between):
            near[count], before[count], after[count] = p, c0[k], c1[k]
            count += 1
    return kept, near[:count].copy(), before[:count].copy(), after[:count].copy()


def _reach(model: pin.Model, shape: pin.GeometryObject) -> list[float]:
    """[n] m per rad: the furthest that a point of `shape` can be from each joint's axis, in any pose; 1 for a prismatic
    joint, 0 for joints that do not carry it."""
    reach = [0.0] * model.nv
    shape.geometry.computeLocalAABB()
    box = shape.geometry.aabb_local
    corners = np.array([shape.placement.act(np.array(c)) for c in product(*zip(box.min_, box.max_, strict=True))])
    joint, far = shape.parentJoint, float(np.linalg.norm(corners, axis=1).max())
    while joint:
        kind = model.joints[joint]
        if kind.shortname().startswith("JointModelP"):
            reach[joint - 1] = 1.0
            low, high = model.lowerPositionLimit[joint - 1], model.upperPositionLimit[joint - 1]
            far += max(abs(low), abs(high)) + 0.5 * (high - low)  # so far beyond its limits an arm may start
        elif joint == shape.parentJoint:  # which way its axis points is known
            moved = kind.createData()
            kind.calc(moved, np.zeros(1))
            axis = np.ravel(moved.S)[3:]
            reach[joint - 1] = float(np.linalg.norm(np.cross(corners, axis), axis=1).max())
        else:
            reach[joint - 1] = far
        far += float(np.linalg.norm(model.jointPlacements[joint].translation))
        joint = model.parents[joint]
    return reach


def placement_of(obstacle: Obstacle) -> pin.SE3:
    turn = np.array(obstacle.quaternion)
    return pin.XYZQUATToSE3(np.append(obstacle.position, turn / np.linalg.norm(turn)))


def body_of(obstacle: Obstacle) -> pin.GeometryObject:
    size = obstacle.size
    if obstacle.shape == "box":
        solid = coal.Box(*size)
    elif obstacle.shape == "sphere":
        solid = coal.Sphere(size[0] / 2.0)
    else:
        solid = coal.Capsule(size[0] / 2.0, size[1])  # the capsule around the cylinder
    return pin.GeometryObject(obstacle.name, 0, 0, placement_of(obstacle), solid)


def wall_of(name: str, wall: Wall) -> pin.GeometryObject:
    normal = np.array(wall.normal)
    return pin.GeometryObject(name, 0, 0, pin.SE3.Identity(), coal.Halfspace(normal, float(normal @ wall.point)))
