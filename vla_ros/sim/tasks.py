"""Tabletop tasks: scenes with an instruction, and what success means; data in config/tasks/tabletop.yaml."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.paths import resolve
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.types import Array

SHAPES = ("cube", "cylinder", "cross")
TASKS = ("reach", "push")
SPLITS = ("train", "held_out")
BEHIND = 0.06  # m, room that the rod needs behind a block to push it
Point = tuple[float, float]


@dataclass(frozen=True)
class Block:
    """A block as laid out."""

    colour: str
    shape: str
    x: float  # m, centre
    y: float
    yaw: float  # rad

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Blocks on the table and what to do with them."""

    blocks: tuple[Block, ...]
    task: str  # reach | push
    instruction: str
    target: int  # index of the named block
    place: str = ""  # of a push
    goal: Point = (math.nan, math.nan)  # m, centre of the place


@dataclass(frozen=True)
class TaskSpec:
    share: float
    tolerance: float  # m
    time_limit: float  # s, cycle time; an episode that takes longer has failed
    verbs: tuple[str, ...]
    distance: Point = (0.0, math.inf)  # m, of a push


@dataclass(frozen=True)
class Tasks:
    """The task family; `vocabulary` holds every word that an instruction can have, sorted."""

    blocks: tuple[int, int]
    low: Point
    high: Point
    spacing: float
    corridor: float
    colours: dict[str, tuple[float, ...]]
    shapes: tuple[str, ...]
    places: dict[str, Point]
    tasks: dict[str, TaskSpec]
    held_out_objects: frozenset[str]
    held_out_places: frozenset[str]
    vocabulary: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        words = {"the", "to", *self.colours, *self.shapes}
        for text in (*self.places, *(verb for spec in self.tasks.values() for verb in spec.verbs)):
            words |= set(text.split())
        object.__setattr__(self, "vocabulary", tuple(sorted(words)))

    @staticmethod
    def load(path: str | Path = "config/tasks/tabletop.yaml") -> Tasks:
        """Raises VlaRosError on any key unknown, missing, or of a wrong kind."""
        return _load(str(resolve(path)))

    def instructions(self, split: str) -> tuple[str, ...]:
        """Every instruction of a split, sorted; `all` is the union."""
        texts = set()
        for colour in self.colours:
            for shape in self.shapes:
                name = f"{colour} {shape}"
                new = name in self.held_out_objects
                if split == "all" or new == (split == "held_out"):
                    texts |= {f"{verb} the {name}" for verb in self.tasks["reach"].verbs}
                for place in self.places:
                    either = new or place in self.held_out_places
                    if split == "all" or either == (split == "held_out"):
                        texts |= {f"{verb} the {name} to the {place}" for verb in self.tasks["push"].verbs}
        return tuple(sorted(texts))

    def outcome(self, scene: Scene, blocks: Array, tip: Array) -> tuple[bool, float]:
        """Success and distance [m] from the goal, of block poses [n, 2+] and the tip [2+]."""
        x, y = blocks[scene.target][:2]
        to = tip[:2] if scene.task == "reach" else scene.goal
        distance = math.hypot(x - to[0], y - to[1])
        return distance <= self.tasks[scene.task].tolerance, distance


@functools.cache
def _load(path: str) -> Tasks:
    top = load_yaml(Path(path)).check_keys(
        "blocks", "area", "spacing", "corridor", "colours", "shapes", "places", "tasks", "held_out"
    )
    fewest, most = (int(v) for v in top.numbers("blocks", 2))
    area = top.section("area").check_keys("x", "y")
    x, y = area.numbers("x", 2), area.numbers("y", 2)
    colours, places = top.section("colours"), top.section("places")
    shapes = top.texts("shapes")
    if unknown := set(shapes) - set(SHAPES):
        raise top.wrong("shapes", f"shapes that the cell can build ({', '.join(SHAPES)}), not '{min(unknown)}'")
    result = Tasks(
        blocks=(fewest, most), low=(x[0], y[0]), high=(x[1], y[1]),
        spacing=top.number("spacing", 0.06, 1), corridor=top.number("corridor", 0, 1),
        colours={name: colours.numbers(name, 3) for name in colours.keys()}, shapes=shapes,  # noqa: SIM118
        places={name: _point(places, name) for name in places.keys()},  # noqa: SIM118
        tasks=_specs(top.section("tasks").check_keys(*TASKS)),
        held_out_objects=frozenset(top.section("held_out").check_keys("objects", "places").texts("objects")),
        held_out_places=frozenset(top.section("held_out").texts("places")),
    )  # fmt: skip
    if not 1 <= fewest <= most <= len(result.colours):
        raise top.wrong("blocks", f"[fewest, most] with 1 <= fewest <= most <= {len(result.colours)} (one colour each)")
    names = {f"{c} {s}" for c in result.colours for s in shapes}
    if strange := (result.held_out_objects - names) | (result.held_out_places - set(result.places)):
        raise VlaRosError(f"{path}: held_out: '{min(strange)}' is no object or place of this file")
    return result


def _specs(section: Section) -> dict[str, TaskSpec]:
    reach = section.section("reach").check_keys("share", "tolerance", "time_limit", "verbs")
    push = section.section("push").check_keys("share", "tolerance", "time_limit", "verbs", "distance")
    specs = {
        name: TaskSpec(
            s.number("share", 0, 1), s.number("tolerance", 1e-3, 1), s.number("time_limit", 0.1, 3600), s.texts("verbs")
        )
        for name, s in (("reach", reach), ("push", push))
    }
    if sum(spec.share for spec in specs.values()) <= 0:
        raise push.wrong("share", "shares that do not all vanish")
    p = specs["push"]
    specs["push"] = TaskSpec(p.share, p.tolerance, p.time_limit, p.verbs, _point(push, "distance"))
    return specs


def _point(section: Section, key: str) -> Point:
    a, b = section.numbers(key, 2)
    return a, b


def sample_scene(
    tasks: Tasks,
    rng: np.random.Generator | int,
    split: str = "train",
    task: str | None = None,
    keep_clear: Point = (0.36, 0.0),
) -> Scene:
    """Draws a scene; the same seed, split and task give the same one.

    Args:
        split: `train` never shows a held-out object nor names a held-out place; `held_out` always names one of them.
        task: `reach`, `push`, or None (or empty) for the mixture.
        keep_clear: [m] where the tip starts.

    Raises:
        VlaRosError: unknown split or task, or no layout found (area too small for the blocks).
    """
    if split not in SPLITS:
        raise VlaRosError(f"split: found '{split}', expected {' or '.join(SPLITS)}")
    if task and task not in TASKS:
        raise VlaRosError(f"task: found '{task}', expected {', '.join(TASKS)} or empty")
    rng = np.random.default_rng(rng)
    if not task:
        push = tasks.tasks["push"].share
        task = "push" if rng.random() < push / (push + tasks.tasks["reach"].share) else "reach"
    names = _choose_objects(tasks, rng, split, task)
    place = names.pop() if task == "push" else ""
    verbs = tasks.tasks[task].verbs
    verb = verbs[int(rng.integers(len(verbs)))]
    for _ in range(200):
        points = _lay_out(tasks, rng, len(names), place, keep_clear)
        if points:
            break
    else:
        raise VlaRosError(f"no layout for {len(names)} blocks found; tasks file: enlarge `area` or reduce `spacing`")
    order = rng.permutation(len(names))
    blocks = []
    for k in order:
        colour, shape = names[k].split()
        x, y = points[k]
        blocks.append(Block(colour, shape, x, y, float(rng.uniform(0, math.pi / 2))))
    instruction = f"{verb} the {names[0]}" + (f" to the {place}" if place else "")
    goal = tasks.places[place] if place else (math.nan, math.nan)
    return Scene(tuple(blocks), task, instruction, int(np.argmin(order)), place, goal)


def _choose_objects(tasks: Tasks, rng: np.random.Generator, split: str, task: str) -> list[str]:
    """Block names, the named one first; for a push the place is appended."""
    everything = [f"{c} {s}" for c in tasks.colours for s in tasks.shapes]
    old = [n for n in everything if n not in tasks.held_out_objects]
    places = [p for p in tasks.places if p not in tasks.held_out_places]
    new_object = new_place = False
    if split == "held_out":
        kind = int(rng.integers(3)) if task == "push" else 0
        new_object, new_place = kind != 1, kind != 0
    targets = sorted(tasks.held_out_objects) if new_object else old
    target = targets[int(rng.integers(len(targets)))]
    colours = [c for c in tasks.colours if c != target.split()[0]]
    names = [target]
    for k in rng.permutation(len(colours))[: int(rng.integers(tasks.blocks[0], tasks.blocks[1] + 1)) - 1]:
        options = [n for n in (old if split == "train" else everything) if n.split()[0] == colours[k]]
        names.append(options[int(rng.integers(len(options)))])
    if task == "push":
        where = sorted(tasks.held_out_places) if new_place else places
        names.append(where[int(rng.integers(len(where)))])
    return names


def _lay_out(tasks: Tasks, rng: np.random.Generator, count: int, place: str, keep_clear: Point) -> list[Point]:
    """Centres of `count` blocks, the target first; empty if this try failed."""
    draws = rng.uniform(tasks.low, tasks.high, (40, 2)).tolist()
    points: list[Point] = []
    start = end = (0.0, 0.0)
    for x, y in draws:
        if math.dist((x, y), keep_clear) < tasks.spacing or any(math.dist((x, y), p) < tasks.spacing for p in points):
            continue
        if place and not points:
            goal = tasks.places[place]
            length = math.dist((x, y), goal)
            low, high = tasks.tasks["push"].distance
            if not low <= length <= high:
                continue
            start = tuple(a - (b - a) / length * BEHIND for a, b in zip((x, y), goal, strict=True))  # type: ignore[assignment]
            end = goal
        elif place and _distance_to_segment((x, y), start, end) < tasks.corridor:
            continue
        points.append((x, y))
        if len(points) == count:
            return points
    return []


def _distance_to_segment(p: Point, a: Point, b: Point) -> float:
    ab = (b[0] - a[0], b[1] - a[1])
    t = ((p[0] - a[0]) * ab[0] + (p[1] - a[1]) * ab[1]) / (ab[0] ** 2 + ab[1] ** 2)
    t = min(max(t, 0.0), 1.0)
    return math.dist(p, (a[0] + t * ab[0], a[1] + t * ab[1]))
