"""What in a cell has changed since practice began, from the recorded episodes: for whoever has to find out why success falls.

Three records are looked at; each says in numbers how the last episodes differ from the first ones:

    camera    the first picture of an episode (the arm is at home, only the blocks lie elsewhere) less r, the median of those of
              the reference: −dx ∂r/∂x − dy ∂r/∂y + turn (y ∂r/∂x − x ∂r/∂y) + blur/2 ∇²r + brightness + contrast (r − mean r)
    joint     how far it is from its command while it moves: q − q_command = offset − lag v − play sign v
    material  success of the present batch against that of the others, task by task

Both equations are linear, so an episode is kept as its normal equations. A window's figures are the least squares of all its
episodes together, because one reach moves a joint in one direction only; their standard errors come from leaving out one episode
after the other. A figure has left its band where it is ODD standard errors from the reference.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.episodes.trajectory import Trajectory
from vla_ros.errors import VlaRosError
from vla_ros.learning.statistics import fewer
from vla_ros.robots.contract import RobotContract
from vla_ros.types import Array, Image

ODD = 5.0  # standard errors; a cell has tens of figures, and an alarm must not send anybody to a sound part
ODD_MATERIAL = 3.0  # the same of success between batches: one question, and its test is exact
LEAST = 5  # episodes that a figure is taken from, at least
SMOOTH = 1.5  # px, of pictures before they are compared: a shift under it is in their first derivative
STEPS = 4  # of registration; the last one only linearises
FARTHEST = 8.0  # px, deg, that are looked for
MARGIN = 4  # px at the border, beyond which a moved picture shows what the reference does not
MOVING = 0.02  # of a joint's velocity limit; slower ones have no direction
TANGLED = 1e-3  # smallest eigenvalue of normalised equations that can be told apart
REMEMBERED = 500  # episodes, of materials
NOTHING = "nothing in the record stands out; look at gripper and material"


class Figure(NamedTuple):
    name: str
    floor: float  # of the standard error: differences under ODD times this are of no concern
    likely: str


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


class Equations(NamedTuple):
    """Normal equations A x = b of one episode; those of several add up. With x, c − 2 x b + x A x squares are left."""

    a: Array  # [k, k]
    b: Array  # [k]
    c: float = math.nan  # not needed of pictures


@dataclass(frozen=True)
class Examined:
    """What is kept of one episode."""

    pictures: Mapping[str, NDArray[np.float32]]  # [H, W] grey and smoothed, by camera
    joints: Mapping[str, Equations]  # only of joints that moved
    success: bool = False
    group: str = ""  # task; success is compared within it
    material: str = ""  # batch; empty: not known


@dataclass(frozen=True)
class Cause:
    part: str  # camera, joint or batch
    figure: str
    now: float
    before: float
    score: float  # standard errors between them
    likely: str

    def __str__(self) -> str:
        return f"{self.part}: {self.figure} {self.now:.3g}, was {self.before:.3g}: {self.likely}"


def examine(
    pictures: Mapping[str, Image], joints: Sequence[str], positions: Array, commands: Array, limit: Array, period: float,
    success: bool = False, group: str = "", material: str = "",
) -> Examined:  # fmt: skip
    """
    Args:
        pictures: [H, W, 3], the episode's first one of each camera.
        joints: names of n joints; a gripper is one of them.
        positions: [N, n] rad, m, measured.
        commands: [N, n] rad, m, at the same times.
        limit: [n] rad/s, m/s, of velocity.
        period: s between two of the N times.
    """
    grey = {name: cv2.GaussianBlur(p.mean(-1, dtype=np.float32), (0, 0), SMOOTH) for name, p in pictures.items()}
    v = np.diff(commands, axis=0) / period
    way = np.sign(v) * (np.abs(v) > MOVING * limit)
    steady = (way[1:] != 0) & (way[1:] == way[:-1])  # play is taken up only some way after a joint has turned round
    v, error = v[1:], (positions - commands)[2:]
    x = np.stack([np.ones_like(v), -v, -np.sign(v)], -1) * steady[..., None]  # [N - 2, n, 3]
    a, b, c = np.einsum("tni,tnj->nij", x, x), np.einsum("tni,tn->ni", x, error), (steady * error**2).sum(0)
    moved = {name: Equations(a[j], b[j], float(c[j])) for j, name in enumerate(joints) if a[j, 0, 0]}
    return Examined(grey, moved, success, group, material)


def of_trajectory(t: Trajectory, contract: RobotContract, success: bool) -> Examined:
    """A recorded episode of practice; `success` is the detector's, which labels may have overruled in `t`."""
    pictures = {camera: t.pictures(camera)[0] for camera in t.cameras}
    group, material = t.instruction.split(" ")[0], t.metadata.get("material", "")  # the verb stands for the task
    positions, period = t.positions[1:].astype(np.float64), 1.0 / contract.observation.rate
    commands, limit = t.commands[: len(positions)], contract.limits.velocity
    return examine(pictures, contract.joints, positions, commands, limit, period, success, group, material)


@dataclass
class _Reference:
    """What a camera saw at first, with the derivatives that a picture is explained by."""

    median: NDArray[np.float32]  # [H, W]
    weight: Array  # [H W] 1/levels²; small where blocks come and go
    weighted: Array = field(init=False)  # [k, H W], derivatives by figure, times weight
    a: Array = field(init=False)  # [k, k]

    @classmethod
    def of(cls, pictures: Sequence[NDArray[np.float32]]) -> _Reference:
        stack = np.stack(pictures)
        weight = 1.0 / (stack.var(axis=0, dtype=np.float64) + 1.0)
        weight[[*range(MARGIN), *range(-MARGIN, 0)]] = weight[:, [*range(MARGIN), *range(-MARGIN, 0)]] = 0.0
        return cls(np.median(stack, axis=0), weight.ravel())

    def __post_init__(self) -> None:
        r = self.median.astype(np.float64)
        dy, dx = np.gradient(r)
        y, x = np.indices(r.shape) - (np.array(r.shape) - 1)[:, None, None] / 2
        blurred = cv2.Laplacian(r, cv2.CV_64F) / 2
        turned = np.radians(y * dx - x * dy)
        columns = np.stack([-dx, -dy, turned, blurred, np.ones_like(r), r - r.mean()]).reshape(len(OF_CAMERA), -1)
        self.weighted = columns * self.weight
        self.a = self.weighted @ columns.T

    def explain(self, picture: NDArray[np.float32]) -> Equations:
        """Gauss and Newton's steps: linearised where the picture is after the motion that the last step has found."""
        if picture.shape != self.median.shape:
            raise VlaRosError(f"picture: found {picture.shape} px, expected {self.median.shape} as at first")
        motion = np.zeros(len(OF_CAMERA))  # of the figures; brightness and so on stay 0
        for step in range(STEPS):
            b = self.weighted @ (_back(picture, *motion[:3]) - self.median).ravel() + self.a @ motion
            if step < STEPS - 1:
                motion[:3] = np.clip(np.linalg.lstsq(self.a, b, rcond=None)[0][:3], -FARTHEST, FARTHEST)
        return Equations(self.a, b)


def _back(picture: NDArray[np.float32], right: float, down: float, turn: float) -> NDArray[np.float32]:
    """The picture [H, W] with this motion of its content (px, px, deg) undone."""
    height, width = picture.shape
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    rotation, centre = np.array([[c, -s], [s, c]]), np.array([width - 1, height - 1]) / 2
    there = np.column_stack([rotation, centre + np.array([right, down]) - rotation @ centre])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, there, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)


class Health:
    """Fed with every episode of practice; asked when something has become worse.

    Args:
        reference: first episodes, which are the cell as it should be.
        window: last episodes, which are compared with them.
    """

    def __init__(self, reference: int = 50, window: int = 20) -> None:
        self.reference, self.window = reference, window
        self._before: list[dict[str, Equations]] = []
        self._now: deque[dict[str, Equations]] = deque(maxlen=window)
        self._first: list[Examined] = []  # until there are enough of them
        self._references: dict[str, _Reference] = {}
        self._batches: deque[tuple[str, str, bool]] = deque(maxlen=REMEMBERED)  # material, group, success

    def episode(self, e: Examined) -> None:
        """
        Raises:
            VlaRosError: its pictures have another size than those of the reference.
        """
        if e.material:
            self._batches.append((e.material, e.group, e.success))
        if self._before:
            self._now.append(self._equations(e))
            return
        self._first.append(e)
        if len(self._first) == self.reference:
            # One half makes the reference picture, the other half says how far sound ones are from it.
            half = self.reference // 2
            cameras = self._first[0].pictures
            self._references = {c: _Reference.of([first.pictures[c] for first in self._first[:half]]) for c in cameras}
            self._before = [*(dict(e.joints) for e in self._first[:half]), *map(self._equations, self._first[half:])]
            self._first = []

    def _equations(self, e: Examined) -> dict[str, Equations]:
        seen = {f"camera {name}": self._references[name].explain(picture) for name, picture in e.pictures.items()}
        return {**seen, **e.joints}

    def causes(self) -> list[Cause]:
        """What has left its band, the clearest first; of a part and a likely cause only the clearest figure."""
        found: dict[tuple[str, str], Cause] = {}
        for cause in sorted(self._changed(), key=lambda c: c.score, reverse=True):
            found.setdefault((cause.part, cause.likely), cause)
        return list(found.values())

    def sentence(self) -> str:
        """The causes for an operator."""
        if causes := self.causes():
            return "; ".join(map(str, causes))
        if len(self._now) < LEAST:
            have = self.reference + len(self._now) if self._before else len(self._first)
            return f"the record of {have} episodes is too short to say what has changed"
        return NOTHING

    def _changed(self) -> list[Cause]:
        changed = self._material()
        for part in sorted({part for e in self._now for part in e}):
            before, now = ([e[part] for e in episodes if part in e] for episodes in (self._before, self._now))
            figures = OF_CAMERA if part.startswith("camera ") else OF_JOINT
            reference = _fit(before)
            if reference is None:
                continue
            causes = _apart(part, figures, reference, _fit(now))
            if not causes and figures is OF_JOINT:
                causes = _apart(part, (REST,), *(_left(episodes, reference[0]) for episodes in (before, now)))
            changed += causes
        return changed

    def _material(self) -> list[Cause]:
        """Of the batch that is on the table now; what else has changed with it, nobody can tell."""
        if not self._batches:
            return []
        last, strata = self._batches[-1][0], []
        for group in sorted({group for _, group, _ in self._batches}):
            others, own = ([ok for m, g, ok in self._batches if g == group and (m == last) == its] for its in (False, True))
            strata.append((sum(others), len(others), sum(own), len(own)))
        a, n, b, m = (sum(column) for column in zip(*strata, strict=True))
        score = -NormalDist().inv_cdf(min(max(fewer(strata), 1e-300), 0.5)) if n else 0.0
        if score < ODD_MATERIAL:
            return []
        return [Cause(f"material {last}", "success", b / m, a / n, score, "this batch differs from those before it")]


Fit = tuple[Array, Array]  # figures [k] and their standard errors [k]


def _apart(part: str, figures: Sequence[Figure], before: Fit | None, now: Fit | None) -> list[Cause]:
    """Those that have left their band."""
    if before is None or now is None:
        return []
    error = np.sqrt(before[1] ** 2 + now[1] ** 2 + np.array([figure.floor for figure in figures]) ** 2)
    score = np.abs(now[0] - before[0]) / error
    return [
        Cause(part, f.name, float(now[0][k]), float(before[0][k]), float(score[k]), f.likely)
        for k, f in enumerate(figures)
        if score[k] > ODD
    ]


def _left(episodes: Sequence[Equations], x: Array) -> Fit | None:
    """Root mean square [1] of what `x` [k] does not explain; the first column of a joint's equations counts its steps."""
    squares = [Equations(e.a[:1, :1], np.array([e.c - 2 * x @ e.b + x @ e.a @ x])) for e in episodes]
    if (mean := _fit(squares)) is None:
        return None
    root = np.sqrt(np.maximum(mean[0], 1e-18))
    return root, mean[1] / (2 * root)


def _fit(episodes: Sequence[Equations]) -> Fit | None:
    """Least squares [k] of all together and its standard errors [k] (jackknife by episode); None if they do not tell."""
    if len(episodes) < LEAST:
        return None
    each_a, each_b = np.stack([e.a for e in episodes]), np.stack([e.b for e in episodes])
    a, b = each_a.sum(0), each_b.sum(0)
    a, b = np.concatenate([a[None], a - each_a]), np.concatenate([b[None], b - each_b])  # [1 + n, ...]: all, then all but one
    size = np.sqrt(np.diagonal(a, axis1=1, axis2=2))
    if not size.all() or np.linalg.eigvalsh(a / (size[:, :, None] * size[:, None, :])).min() < TANGLED:
        return None
    x = np.linalg.solve(a, b[..., None])[..., 0]
    n = len(episodes)
    return x[0], np.sqrt((n - 1) / n * ((x[1:] - x[1:].mean(0)) ** 2).sum(0))
