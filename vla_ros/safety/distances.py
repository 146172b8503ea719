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

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.srdf import disabled_pairs
from vla_ros.safety.limits import Limits
from vla_ros.safety.surroundings import check
from vla_ros.types import Array, Obstacle

Pair = tuple[int, int]

POSES = 12  # measured in one tick, over all groups; a stop that needs more (fast and close) is refused
BETWEEN = 1 / 3  # of the clearance limit that the poses between two that were looked at may lose, by the estimate above
ROUNDING = 1e-9  # m
KINDS = 3  # of pairs within one chain, by where in it the first joint between them is


class _Group:
    """Pairs with much the same joints between them.

    Attributes:
        levers: [n] m per rad, the furthest that a point of one body is from a joint's axis, in any pose; 0 for joints
            that do not move the pair against each other.
    """

    def __init__(self, shapes: pin.GeometryModel, pairs: Sequence[Pair], levers: Array) -> None:
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

    Args:
        model: of the arm.
        shapes: its collision geometry; cylinders become the capsules around them, exact and fast to measure.

    Attributes:
        links: collision shapes of the arm.
        between: m, that a clearance between two poses that were looked at may lie under those.
        left: measurements that are left in this tick; the caller sets it to POSES.
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
        self.left = 0
        self.between = BETWEEN * limits.clearance
        self._world: dict[str, Obstacle] | None = None
        self._fixed = [self._lever(i, None) for i in range(len(self.links))]
        self._relatives: dict[Pair, tuple[Array, object]] = {
            (i, k): lever
            for i, k in combinations(range(len(self.links)), 2)
            if (lever := self._lever(i, k)) is not None
        }  # fmt: skip
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
            for k, obstacle in enumerate(world.values()):
                self._shapes.geometryObjects[first + k].placement = placement_of(obstacle)
                for group in self._groups:
                    if (local := group.index.get(first + k)) is not None:
                        group.shapes.geometryObjects[local].placement = placement_of(obstacle)
            self._forget()
        self._world = world

    def _forget(self) -> None:
        self._anchors = np.zeros((len(self._groups), self._model.nv))
        self._clearances = np.full(len(self._groups), -inf)

    def _build(self, world: dict[str, Obstacle]) -> None:
        """All shapes and the pairs to watch."""
        self._shapes = pin.GeometryModel()
        for link in self.links:
            self._shapes.addGeometryObject(link)
        for name, wall in self._limits.walls.items():
            normal = np.array(wall.normal)
            half = coal.Halfspace(normal, float(normal @ wall.point))
            self._shapes.addGeometryObject(pin.GeometryObject(name, 0, 0, pin.SE3.Identity(), half))
        for obstacle in world.values():
            shape = pin.GeometryObject(obstacle.name, 0, 0, placement_of(obstacle), solid_of(obstacle))
            self._shapes.addGeometryObject(shape)
        self._names = [*self._link_names, *self._limits.walls, *world]
        self._watched = dict(self._relatives)
        for i, fixed in enumerate(self._fixed):
            for k in range(len(self.links), len(self._names)):
                if fixed is not None and frozenset((self._names[i], self._names[k])) not in self._allowed:
                    self._watched[i, k] = fixed
        self._regroup({})

    def _regroup(self, near: dict[Pair, float]) -> None:
        """Groups of all pairs; those that are too `near` already are watched one by one, each with a limit of its own,
        so that they do not loosen it for others."""
        members: dict[object, list[Pair]] = {}
        levers: dict[object, Array] = {}
        for pair, (lever, kind) in self._watched.items():
            key = pair if pair in near else kind
            members.setdefault(key, []).append(pair)
            levers[key] = np.maximum(levers[key], lever) if key in levers else lever
        self._groups = [_Group(self._shapes, pairs, levers[key]) for key, pairs in members.items()]
        self._levers = np.array([group.levers for group in self._groups])
        self._near, self._floors = near, self._start_floors(near)
        self._forget()

    def _start_floors(self, near: dict[Pair, float]) -> list[float]:
        """[groups] m, what each must keep."""
        return [min(self._limits.clearance, near.get(group.pairs[0], inf)) for group in self._groups]

    def _kind(self, lever: Array) -> object:
        """What pairs of one group have in common."""
        joints = np.flatnonzero(lever).tolist()
        roots = frozenset(map(self._root, joints))
        chain = [j for j in range(len(lever)) if self._root(j) in roots]
        return roots, KINDS * chain.index(joints[0]) // len(chain)

    def _lever(self, i: int, k: int | None) -> tuple[Array, object] | None:
        """Lever arms [n] of the joints between two links, or between a link and what stands still (None), and their kind;
        None for a pair that is not watched, as it is allowed to touch or nothing moves it."""
        others = () if k is None else (k,)
        if k is not None:
            names = self._link_names[i], self._link_names[k]
            if names[0] == names[1] or frozenset(names) in self._allowed:
                return None
        above = [set(self._model.supports[self.links[s].parentJoint]) for s in (i, *others)]
        between = above[0] ^ above[1] if others else above[0] - {0}
        lever = np.zeros(self._model.nv)
        for shape in (i, *others):
            for j in range(self._model.nv):
                if j + 1 in between:
                    lever[j] = max(lever[j], self._reach[shape][j])
        return (lever, self._kind(lever)) if lever.any() else None

    def _root(self, joint: int) -> int:
        return int(self._model.supports[joint + 1][1])

    def nearest(self, q: Sequence[float] | Array) -> tuple[float, str]:
        """Least distance [m] at `q` [n] rad, negative inside, and the pair "link~object"."""
        pose = np.array(q, np.float64)
        return min((self._measure(g, pose) for g in range(len(self._groups))), default=(inf, ""))

    def settle(self, q: Sequence[float] | Array, anew: bool) -> tuple[float, str]:
        """The arm stands at `q`: a pair that is nearer than the limit may stay as near, all others keep the limit.

        `anew`: by how much does not matter; otherwise, after a stop of our own, it is `between` at most.

        Returns:
            nearest().
        """
        nearest = self.nearest(q)
        if anew:
            near = {}
            if nearest[0] < self._limits.clearance or self._near:
                for group in self._groups:
                    for pair, result in zip(group.pairs, group.data.distanceResults, strict=True):
                        if not result.min_distance >= self._limits.clearance:
                            near[pair] = float(result.min_distance) - ROUNDING
            if near.keys() != self._near.keys():
                self._regroup(near)
            else:
                self._near, self._floors = near, self._start_floors(near)
            return nearest
        for g, distance in enumerate(self._clearances.tolist()):
            lowest = min(self._floors[g], self._limits.clearance - self.between)
            self._floors[g] = max(min(self._limits.clearance, distance - ROUNDING), lowest)
        return nearest

    def keep(self) -> None:
        """The way looked at last is the arm's now: limits of pairs that were too near rise with their clearance."""
        for g, clearance in enumerate(self._looked):
            self._floors[g] = min(self._limits.clearance, max(self._floors[g], clearance - self.between))

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

    def look(
        self, pose: Callable[[float], Sequence[float]], time: float, first: Array, last: Array, turns: Array
    ) -> tuple[bool, float, str]:
        """Looks at the way of a stop.

        Args:
            pose: joint positions [n] rad at a time [s] of the stop.
            time: s, of its end.
            first, last: [n] rad, the poses at its ends.
            turns: [n] rad, what each joint travels more than from its first to its last position.

        Returns:
            whether every pair keeps its limit, a lower bound of the least clearance, and the pair it belongs to where it
            was measured.
        """
        ways = self._levers @ (abs(last - first) + turns)
        bounds = self._clearances - (self._levers * abs(last - self._anchors)).sum(axis=1)
        least, nearest = inf, ""
        self._looked = []
        for g, (way, bound) in enumerate(zip(ways.tolist(), bounds.tolist(), strict=True)):
            kept, clearance, pair = True, bound, ""
            if not bound - way >= self._floors[g]:
                kept, clearance, pair = self._walk(g, pose, time, first, last, way, turns, self._floors[g])
            if not kept:
                return False, clearance, pair
            self._looked.append(clearance)
            if clearance < least:
                least, nearest = clearance, pair or nearest
        return True, least, nearest

    def _walk(
        self, g: int, pose: Callable[[float], Sequence[float]], time: float, first: Array, last: Array, way: float,
        turns: Array, floor: float,
    ) -> tuple[bool, float, str]:  # fmt: skip
        """Measures as much of the way as group `g` needs, the end first."""
        end = self._measure(g, last)
        if not end[0] >= floor or end[0] - way >= floor:
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
        if not (c0 >= floor and c1 >= floor):
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
