"""Scripted demonstrator on the true state: goes to a block, or behind it and pushes. Human-like: slow, noisy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.sim.model import REACH
from vla_ros.sim.tasks import Point, Scene
from vla_ros.types import Array

ROD = 0.012  # m, radius of the pusher
KEEP_OUT = 0.056  # m, tip to block centre while passing by
STAND_OFF = 0.058  # m, tip behind the block's centre before it pushes


@dataclass(frozen=True)
class Manner:
    """How the demonstrator moves. Shares are of the contract's max_step."""

    speed: tuple[float, float] = (0.25, 0.7)  # drawn per episode
    noise: float = 0.25  # standard deviation of the executed action, in shares of the episode's own step
    pause: float = 0.02  # probability per step that a pause begins
    pause_steps: tuple[int, int] = (2, 5)
    reach_tolerance: float = 0.0525  # m, rod touching any side of any block; both end well inside the success tolerance
    push_tolerance: float = 0.025  # m
    astray: int = 0  # most steps in which somebody else has moved tip and blocks before the demonstration begins


# For a judge, which has to know from every state how far it is: from anywhere, and at one pace. A pace and a share of noise that
# differ from one demonstration to the next are in no picture, and leave steps-to-go as uncertain as they are.
STEADY = Manner(speed=(0.5, 0.5), noise=0.1, pause=0.0, astray=20)

NEAR = 0.08  # m, around the named block
ASTRAY = 5  # steps to one point


def stray(contract: RobotContract, block: Array, rng: np.random.Generator) -> Point:
    """Where the tip goes while it is astray, m: near a block [2+], which a straight way passes by, runs into or pushes off; or,
    half of the time, anywhere. Else a judge takes the tip's distance from home for progress."""
    low, high = np.array(contract.action.low), np.array(contract.action.high)
    near = np.clip(block[:2] + rng.uniform(-NEAR, NEAR, 2), low, high)
    x, y = rng.uniform(low, high) if rng.random() < 0.5 else near
    return float(x), float(y)


class Expert:
    """Demonstrates one scene.

    Args:
        rng: draws the speed, noise and pauses of this episode.
    """

    def __init__(self, contract: RobotContract, scene: Scene, rng: np.random.Generator, manner: Manner | None = None) -> None:
        self.manner = manner or Manner()
        self._scene = scene
        self._rng = rng
        self._step = float(rng.uniform(*self.manner.speed)) * contract.action.max_step
        self._low, self._high = contract.action.low, contract.action.high
        self._contact = REACH[scene.blocks[scene.target].shape] + ROD
        self._pushing = False
        self._pause = 0

    def done(self, tip: Array, blocks: Array) -> bool:
        """The demonstration is complete: tip [2+] m, blocks [n, 2+] m."""
        x, y = blocks[self._scene.target][:2].tolist()
        if self._scene.task == "reach":
            return math.dist((x, y), tip[:2].tolist()) <= self.manner.reach_tolerance
        return math.dist((x, y), self._scene.goal) <= self.manner.push_tolerance

    def step(self, tip: Array, blocks: Array) -> tuple[Array, Array]:
        """Displacements of the tip [2] m: the clean one (the label) and the one to execute (noisy, or a pause)."""
        others = [(float(b[0]), float(b[1])) for b in blocks]
        block = others.pop(self._scene.target)
        here = (float(tip[0]), float(tip[1]))
        move = self._reach(here, block, others) if self._scene.task == "reach" else self._push(here, block, others)
        clean = np.array(move)
        if self._pause == 0 and self._rng.random() < self.manner.pause:
            self._pause = int(self._rng.integers(self.manner.pause_steps[0], self.manner.pause_steps[1] + 1))
        noise = self._rng.normal(0, self.manner.noise * self._step, 2)
        if self._pause:
            self._pause -= 1
            return clean, np.zeros(2)
        return clean, clean + noise

    def _reach(self, tip: Point, block: Point, others: list[Point]) -> Point:
        way = self._around(tip, block, others)
        return self._toward(tip, way, self._step)

    def _push(self, tip: Point, block: Point, others: list[Point]) -> Point:
        goal = self._scene.goal
        distance = math.dist(block, goal) or 1e-9
        ux, uy = (goal[0] - block[0]) / distance, (goal[1] - block[1]) / distance
        rx, ry = tip[0] - block[0], tip[1] - block[1]
        along, lateral = rx * ux + ry * uy, ux * ry - uy * rx
        self._pushing = along < -0.02 and abs(lateral) < (0.020 if self._pushing else 0.009)
        if self._pushing:
            gap = max(-along - self._contact, 0.0)
            forward = min(self._step, distance + gap)
            side = max(-0.6 * forward, min(0.6 * forward, -0.8 * lateral))
            scale = forward / math.hypot(forward, side)
            return (ux * forward - uy * side) * scale, (uy * forward + ux * side) * scale
        behind = (block[0] - ux * STAND_OFF, block[1] - uy * STAND_OFF)
        way = self._around(tip, behind, [block, *others])
        return self._toward(tip, way, self._step)

    def _toward(self, tip: Point, way: Point, step: float) -> Point:
        distance = math.dist(tip, way)
        scale = min(step, distance) / max(distance, 1e-9)
        return (way[0] - tip[0]) * scale, (way[1] - tip[1]) * scale

    def _around(self, tip: Point, end: Point, obstacles: list[Point]) -> Point:
        """The next way point that keeps off the obstacles: `end`, or a point beside the first one in the way."""
        length = math.dist(tip, end)
        if length < 1e-6:
            return end
        dx, dy = (end[0] - tip[0]) / length, (end[1] - tip[1]) / length
        in_the_way = (o for o in obstacles if self._blocks(tip, (dx, dy), length, o))
        first = min(in_the_way, key=lambda o: math.dist(tip, o), default=None)
        if first is None:
            return end
        ox, oy = first[0] - tip[0], first[1] - tip[1]
        off = math.hypot(ox, oy)
        cross = dx * oy - dy * ox  # > 0: the obstacle lies to the left of the way
        radius = KEEP_OUT
        candidates = []
        for side in (-1.0, 1.0):
            if off > radius + 0.002:
                angle = math.atan2(oy, ox) + side * math.asin(radius / off) * 1.05
                reach = math.sqrt(off * off - radius * radius)
            else:  # too close: along the circle and outwards
                angle = math.atan2(oy, ox) + side * (math.pi / 2 + min(1.0, (radius + 0.004 - off) * 60))
                reach = self._step
            point = (tip[0] + reach * math.cos(angle), tip[1] + reach * math.sin(angle))
            outside = sum(max(lo - p, p - hi, 0.0) for p, lo, hi in zip(point, self._low, self._high, strict=True))
            rest = math.dist(point, end) + reach + 20 * outside
            candidates.append((rest - (1e-3 if side * cross < 0 else 0.0), point))
        return min(candidates)[1]

    @staticmethod
    def _blocks(tip: Point, direction: Point, length: float, obstacle: Point) -> bool:
        ox, oy = obstacle[0] - tip[0], obstacle[1] - tip[1]
        along = ox * direction[0] + oy * direction[1]
        if along <= 0:
            return False
        along = min(along, length)
        return math.hypot(ox - along * direction[0], oy - along * direction[1]) < KEEP_OUT - 0.001
