"""Distances of the arm to itself, walls and obstacles, over the whole way of a stop.

Between two poses no point of one body moves further against another than the sum over the joints between them of lever
arm times travel. So where a clearance exceeds that way, nothing is touched on it and nothing need be computed; where it
does not, the clearance in the middle is, and so on. A thin obstacle cannot be stepped over. Pairs are grouped by the
joints between them: two links of one wrist stay close for long, and little that the shoulder does matters to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import inf

import coal
import numpy as np
import pinocchio as pin

from vla_ros.robots.contract import RobotContract
from vla_ros.robots.srdf import disabled_pairs
from vla_ros.safety.limits import Limits
from vla_ros.types import Array, Obstacle

POSES = 12  # measured in one tick, over all groups; a stop that needs more (fast and close) is refused
BETWEEN = 1 / 3  # of the clearance limit that the poses between two that were looked at may lose, by the estimate above
KINDS = 3  # of pairs within one chain, by where in it the first joint between them is


class _Group:
    """Pairs with much the same joints between them.

    Attributes:
        levers: [n] m per rad, the furthest that a point of one body is from a joint's axis, in any pose; 0 for joints
            that do not move the pair against each other.
    """

    def __init__(self, shapes: pin.GeometryModel, pairs: Sequence[tuple[int, int]], levers: Array) -> None:
        self.levers = levers
        self.pairs = pairs
        self.shapes = pin.GeometryModel()
        self.index = {i: k for k, i in enumerate(sorted({i for pair in pairs for i in pair}))}  # only what is needed
        for i in self.index:
            self.shapes.addGeometryObject(shapes.geometryObjects[i])
        for i, k in pairs:
            self.shapes.addCollisionPair(pin.CollisionPair(self.index[i], self.index[k]))
        self.data = self.shapes.createData()


class Distances:
    """Not thread-safe (pinocchio's work space).

    Attributes:
        links: collision shapes of the arm.
        between: m, that a clearance between two poses that were looked at may lie under those.
        left: measurements that are left in this tick; the caller sets it to POSES.

    Args:
        model: of the arm.
        shapes: its collision geometry; cylinders become the capsules around them, exact and fast to measure.
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
        self._reach = [_reach(model, shape) for shape in self.links]
        self.between = BETWEEN * limits.clearance
        self._world: dict[str, Obstacle] | None = None
        self.left = 0
        self.set_world(())

    def set_world(self, obstacles: Sequence[Obstacle]) -> None:
        """Replaces the obstacles that move; walls and obstacles of the safety files stay."""
        world = {**{o.name: o for o in obstacles}, **self._limits.world}
        if world == self._world:
            return
        kinds = [(o.name, o.shape, o.size) for o in world.values()]
        before = [(o.name, o.shape, o.size) for o in (self._world or {}).values()]
        if self._world is None or kinds != before:
            self._build(world)
        else:
            first = len(self.links) + len(self._limits.walls)
            for k, obstacle in enumerate(world.values()):
                for group in self._groups:
                    if (local := group.index.get(first + k)) is not None:
                        group.shapes.geometryObjects[local].placement = placement_of(obstacle)
        self._world = world
        self._forget()

    def _forget(self) -> None:
        self._anchors = np.zeros((len(self._groups), self._model.nv))
        self._clearances = np.full(len(self._groups), -inf)

    def _build(self, world: dict[str, Obstacle]) -> None:
        shapes = pin.GeometryModel()
        for link in self.links:
            shapes.addGeometryObject(link)
        for name, wall in self._limits.walls.items():
            normal = np.array(wall.normal)
            half = coal.Halfspace(normal, float(normal @ wall.point))
            shapes.addGeometryObject(pin.GeometryObject(name, 0, 0, pin.SE3.Identity(), half))
        for obstacle in world.values():
            shapes.addGeometryObject(pin.GeometryObject(obstacle.name, 0, 0, placement_of(obstacle), solid_of(obstacle)))
        self._names = [*self._link_names, *self._limits.walls, *world]
        members: dict[tuple[frozenset[int], int], list[tuple[int, int]]] = {}
        levers: dict[tuple[frozenset[int], int], Array] = {}
        for i, k in combinations(range(len(self._names)), 2):
            lever = self._lever(i, k)
            if lever is None:
                continue
            joints = np.flatnonzero(lever).tolist()
            roots = frozenset(map(self._root, joints))
            chain = [j for j in range(len(lever)) if self._root(j) in roots]
            key = roots, KINDS * chain.index(joints[0]) // len(chain)
            members.setdefault(key, []).append((i, k))
            levers[key] = np.maximum(levers.get(key, np.zeros_like(lever)), lever)
        self._groups = [_Group(shapes, pairs, levers[key]) for key, pairs in members.items()]
        self._levers = np.array([group.levers for group in self._groups])

    def _lever(self, i: int, k: int) -> Array | None:
        """Lever arms [n] of the joints between two shapes; None for a pair that is not watched."""
        count = len(self.links)
        if i >= count or frozenset((self._names[i], self._names[k])) in self._allowed:
            return None
        joints = [self.links[s].parentJoint if s < count else 0 for s in (i, k)]
        if self._names[i] == self._names[k] or joints[0] == joints[1]:
            return None  # nothing moves them against each other, so nothing can keep them apart
        above = [set(self._model.supports[joint]) for joint in joints]
        between = above[0] ^ above[1]
        lever = np.zeros(self._model.nv)
        for shape in (i, k):
            if shape < count:
                for j in range(self._model.nv):
                    if j + 1 in between:
                        lever[j] = max(lever[j], self._reach[shape][j])
        return lever

    def _root(self, joint: int) -> int:
        return int(self._model.supports[joint + 1][1])

    def nearest(self, q: Sequence[float] | Array) -> tuple[float, str]:
        """Least distance [m] at `q` [n] rad, negative inside, and the pair "link~object"."""
        pose = np.array(q, np.float64)
        return min((self._measure(g, pose) for g in range(len(self._groups))), default=(inf, ""))

    def _measure(self, g: int, q: Array) -> tuple[float, str]:
        """The same for one group, which is remembered."""
        self.left -= 1
        group = self._groups[g]
        pin.updateGeometryPlacements(self._model, self._data, group.shapes, group.data, q)
        pair = pin.computeDistances(group.shapes, group.data)
        distance = float(group.data.distanceResults[pair].min_distance)
        self._anchors[g], self._clearances[g] = q, distance
        i, k = group.pairs[pair]
        return distance, f"{self._names[i]}~{self._names[k]}"

    def look(self, pose: Callable[[float], Sequence[float]], time: float, turns: Array, floor: float) -> tuple[bool, float, str]:
        """Looks at the way of a stop.

        Args:
            pose: joint positions [n] rad at a time [s] of the stop.
            time: s, of its end.
            turns: [n] rad, what each joint travels more than from its first to its last position.
            floor: m, that every clearance must keep.

        Returns:
            whether it is kept, a lower bound of the least clearance, and the pair it belongs to where it was measured.
        """
        first, last = np.array(pose(0.0)), np.array(pose(time))
        ways = self._levers @ (abs(last - first) + turns)
        bounds = self._clearances - (self._levers * abs(last - self._anchors)).sum(axis=1)
        least, nearest = inf, ""
        for g, (way, bound) in enumerate(zip(ways.tolist(), bounds.tolist(), strict=True)):
            kept, clearance, pair = True, bound, ""
            if bound - way < floor:
                kept, clearance, pair = self._walk(g, pose, time, first, last, way, turns, floor)
            if not kept:
                return False, clearance, pair
            if clearance < least:
                least, nearest = clearance, pair or nearest
        return True, least, nearest

    def _walk(
        self, g: int, pose: Callable[[float], Sequence[float]], time: float, first: Array, last: Array, way: float,
        turns: Array, floor: float,
    ) -> tuple[bool, float, str]:  # fmt: skip
        """Measures as much of the way as group `g` needs, the end first."""
        end = self._measure(g, last)
        if end[0] < floor or end[0] - way >= floor:
            return end[0] >= floor, *end
        start = self._measure(g, first)
        extra = float(self._levers[g] @ turns)
        kept, least = self._between(g, pose, 0.0, first, start[0], time, last, end[0], floor, extra)
        return kept, *min(start, end, (least, end[1]))

    def _between(
        self, g: int, pose: Callable[[float], Sequence[float]], t0: float, q0: Array, c0: float,
        t1: float, q1: Array, c1: float, floor: float, extra: float,
    ) -> tuple[bool, float]:  # fmt: skip
        """Whether group `g` keeps `floor` - `between` between two poses, and the least clearance that was measured."""
        if c0 < floor or c1 < floor:
            return False, min(c0, c1)
        if float(self._levers[g].dot(abs(q1 - q0))) + extra <= c0 + c1 - 2.0 * (floor - self.between):
            return True, min(c0, c1)
        if self.left <= 0:
            return False, min(c0, c1)
        middle = 0.5 * (t0 + t1)
        q = np.array(pose(middle))
        clearance, _ = self._measure(g, q)
        kept, before = self._between(g, pose, t0, q0, c0, middle, q, clearance, floor, extra)
        if not kept:
            return False, before
        kept, after = self._between(g, pose, middle, q, clearance, t1, q1, c1, floor, extra)
        return kept, min(before, after)


def _reach(model: pin.Model, shape: pin.GeometryObject) -> list[float]:
    """[n] m per rad: the furthest that a point of `shape` can be from each joint's axis, in any pose; 1 for a prismatic
    joint, 0 for joints that do not carry it."""
    reach = [0.0] * model.nv
    shape.geometry.computeLocalAABB()
    far = float(np.linalg.norm(shape.placement.act(shape.geometry.aabb_center))) + shape.geometry.aabb_radius
    joint = shape.parentJoint
    while joint:
        prismatic = model.joints[joint].shortname().startswith("JointModelP")
        reach[joint - 1] = 1.0 if prismatic else far
        if prismatic:
            far += max(abs(model.lowerPositionLimit[joint - 1]), abs(model.upperPositionLimit[joint - 1]))
        far += float(np.linalg.norm(model.jointPlacements[joint].translation))
        joint = model.parents[joint]
    return reach


def placement_of(obstacle: Obstacle) -> pin.SE3:
    return pin.XYZQUATToSE3(np.array([*obstacle.position, *obstacle.quaternion]))


def solid_of(obstacle: Obstacle) -> coal.CollisionGeometry:
    size = obstacle.size
    if obstacle.shape == "box":
        return coal.Box(*size)
    if obstacle.shape == "sphere":
        return coal.Sphere(size[0] / 2.0)
    return coal.Capsule(size[0] / 2.0, size[1])  # the capsule around the cylinder
