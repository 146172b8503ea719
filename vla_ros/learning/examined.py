"""What is kept of a recorded episode to tell what in a cell has changed (health.py), and what its figures are called.

Three records are looked at; each says in numbers how episodes differ from others:

    camera    the first picture of an episode (the arm is at home, only the blocks lie elsewhere) less r, the median of those of
              the reference: −dx ∂r/∂x − dy ∂r/∂y + turn (y ∂r/∂x − x ∂r/∂y) + blur/2 ∇²r + brightness + contrast (r − mean r)
    joint     how far it is from its command while it moves: q − q_command = offset − lag v − play sign v
    gripper   the same while its fingers move, too, which what they hold prevents; the share of steps in which they stand though
              the command moves; and how far they are from a command that stands at closed: q − q_command = gap

All equations are linear, so an episode is kept as its normal equations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vla_ros.episodes.trajectory import Trajectory
from vla_ros.learning.stopping import task_of
from vla_ros.robots.contract import RobotContract
from vla_ros.types import Array, Image

SMOOTH = 1.5  # px, of pictures before they are compared: a shift under it is in their first derivative
MOVING = 0.02  # of a joint's velocity limit; slower ones have no direction
CLOSED = 0.1  # of a gripper's way, from its lower limit: a command in it closes the fingers
HELD = 0.2  # s that it stands there until the fingers must have come
CAMERA, GRIPPER, CLOSED_AT, MOVED_AT = "camera ", "gripper ", ", closed", ", moving"  # of a part's name


class Figure(NamedTuple):
    name: str
    floor: float  # of the standard error: differences under ODD times this are of no concern
    likely: str
    rises: bool = False  # only more of it is a fault


MOVED = "camera was moved, or its mount is loose"
LIGHT = "other light or exposure"
OF_CAMERA = (
    Figure("shift right [px]", 0.05, MOVED),  # of what is seen
    Figure("shift down [px]", 0.05, MOVED),
    Figure("turn [deg]", 0.05, MOVED),  # clockwise
    Figure("blur [px²]", 0.04, "lens dirty or out of focus"),  # variance of the added point spread
    Figure("brightness [levels]", 0.5, LIGHT),  # of 255
    Figure("contrast", 0.01, LIGHT),
)
OF_JOINT = (
    Figure("offset [rad, m]", 2e-4, "joint's zero has moved: encoder, coupling, or a collision"),
    Figure("lag [s]", 1e-3, "joint follows late: friction, load, or weak gains"),
    Figure("play [rad, m]", 2e-4, "backlash or friction in the joint: gear, belt, gripper finger"),  # half of the hysteresis
)
# What the reference's three do not explain, root mean square; asked for where none of the three stands out: a joint that sticks
# more than it moves has no direction.
REST = Figure("error [rad, m]", 2e-4, "joint does not follow: friction, weak drive, or something blocks it")


WORN = "gripper fingers worn, or gripper drive loose"
OF_GRIPPER = (
    Figure("offset [m]", 5e-5, "gripper's zero has moved: its drive slips, or its fingers were refitted"),
    Figure("lag [s]", 1e-3, "gripper follows late: friction in its guide, or a weak drive"),
    Figure("play [m]", 5e-5, f"{WORN}: play or friction in its guide"),
)
# What is held stops the fingers and leaves a gap, too; but who fails more often holds less.
STANDS = Figure("share that it stands", 0.02, "gripper does not follow: friction, weak drive, or something blocks it", True)
GAP = Figure("gap [m]", 5e-5, f"{WORN}: they no longer close; or thicker parts", True)


class Equations(NamedTuple):
    """Normal equations A x = b of one episode; those of several add up. With x, c − 2 x b + x A x squares are left."""

    a: Array  # [k, k]
    b: Array  # [k]
    c: float = math.nan  # not needed of pictures


@dataclass(frozen=True)
class Examined:
    """What is kept of one episode."""

    pictures: Mapping[str, NDArray[np.float32]]  # [H, W] grey and smoothed, by camera
    joints: Mapping[str, Equations]  # by part; only of joints that moved, and of grippers that closed
    success: bool = False
    group: str = ""  # task; success is compared within it
    material: str = ""  # batch; empty: not known


def examine(
    pictures: Mapping[str, Image], joints: Sequence[str], positions: Array, commands: Array, limit: Array, period: float,
    success: bool = False, group: str = "", material: str = "", grippers: Mapping[str, tuple[float, float]] | None = None,
) -> Examined:  # fmt: skip
    """
    Args:
        pictures: [H, W, 3], the episode's first one of each camera.
        joints: names of n joints.
        positions: [N, n] rad, m, measured.
        commands: [N, n] rad, m, at the same times.
        limit: [n] rad/s, m/s, of velocity.
        period: s between two of the N times.
        grippers: lower and upper limit [m] of those joints that are grippers.
    """
    grippers = grippers or {}
    grey = {name: cv2.GaussianBlur(p.mean(-1, dtype=np.float32), (0, 0), SMOOTH) for name, p in pictures.items()}
    v = np.diff(commands, axis=0) / period
    way = np.sign(v) * (np.abs(v) > MOVING * limit)
    steady = (way[1:] != 0) & (way[1:] == way[:-1])  # play is taken up only some way after a joint has turned round
    stuck = steady & (np.diff(positions, axis=0)[1:] * way[1:] <= MOVING * limit * period)
    steady &= ~(stuck & np.isin(joints, list(grippers)))
    v, error = v[1:], (positions - commands)[2:]
    x = np.stack([np.ones_like(v), -v, -np.sign(v)], -1) * steady[..., None]  # [N - 2, n, 3]
    a, b, c = np.einsum("tni,tnj->nij", x, x), np.einsum("tni,tn->ni", x, error), (steady * error**2).sum(0)
    parts = [f"{GRIPPER}{name}" if name in grippers else name for name in joints]
    moved = {part: Equations(a[j], b[j], float(c[j])) for j, part in enumerate(parts)}
    window = math.ceil(HELD / period)
    held: NDArray[np.bool_] = np.zeros((0, len(joints)), bool)
    if len(way) >= window:
        held = np.asarray(sliding_window_view(way == 0, window, axis=0).all(-1))
    end = len(commands) - len(held)
    for name, (lower, upper) in grippers.items():
        j = joints.index(name)
        closed = held[:, j] & (commands[end:, j] <= lower + CLOSED * (upper - lower))
        moved[f"{GRIPPER}{name}{CLOSED_AT}"] = _mean((positions - commands)[end:, j][closed])
        moved[f"{GRIPPER}{name}{MOVED_AT}"] = _mean(stuck[:, j][steady[:, j] | stuck[:, j]])
    return Examined(grey, {part: e for part, e in moved.items() if e.a[0, 0]}, success, group, material)


def _mean(values: NDArray[Any]) -> Equations:
    """Its equation, a step a value."""
    return Equations(np.array([[float(len(values))]]), np.array([float(values.sum())]))


def of_trajectory(t: Trajectory, contract: RobotContract, success: bool) -> Examined:
    """A recorded episode of practice; `success` is the detector's, which labels may have overruled in `t`."""
    pictures = {camera: t.pictures(camera)[0] for camera in t.cameras}
    group, material = task_of(t.instruction), t.metadata.get("material", "")
    positions, period = t.positions[1:].astype(np.float64), 1.0 / contract.observation.rate
    commands, limit = t.commands[: len(positions)], contract.limits.velocity
    grippers = gripper_limits(contract)
    return examine(pictures, contract.joints, positions, commands, limit, period, success, group, material, grippers)


def gripper_limits(contract: RobotContract) -> dict[str, tuple[float, float]]:
    """m, closed and open."""
    limits = zip(contract.joints, contract.limits.lower.tolist(), contract.limits.upper.tolist(), strict=True)
    return {name: (lower, upper) for name, lower, upper in limits if name in contract.grippers}


def figures_of(part: str) -> tuple[Sequence[Figure], Sequence[Figure]]:
    """What a part's equations say, and what is asked of the rest that they leave."""
    if part.startswith(CAMERA):
        return OF_CAMERA, ()
    if not part.startswith(GRIPPER):
        return OF_JOINT, (REST,)
    return ((GAP,) if part.endswith(CLOSED_AT) else (STANDS,) if part.endswith(MOVED_AT) else OF_GRIPPER), ()
