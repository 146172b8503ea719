"""What in a cell has changed since practice began, from the recorded episodes: for whoever has to find out why success falls.

An episode is kept as the normal equations of linear figures of its cameras, joints and grippers (examined.py); success is
compared by batch of material, task by task. A window's figures are the least squares of all its episodes together, because one
reach moves a joint in one direction only; their standard errors come from leaving out one episode after the other. A figure has
left its band where it is ODD standard errors from the reference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.learning.examined import CAMERA, OF_CAMERA, Equations, Examined, Figure, figures_of
from vla_ros.learning.statistics import fewer
from vla_ros.types import Array

ODD = 5.0  # standard errors; a cell has tens of figures, and an alarm must not send anybody to a sound part
ODD_MATERIAL = 3.0  # the same of success between batches: one question, and its test is exact
LEAST = 5  # episodes that a figure is taken from, at least
STEPS = 4  # of registration; the last one only linearises
FARTHEST = 8.0  # px, deg, that are looked for
MARGIN = 4  # px at the border, beyond which a moved picture shows what the reference does not
TANGLED = 1e-3  # smallest eigenvalue of normalised equations that can be told apart
REMEMBERED = 500  # episodes, of materials
NOTHING = "nothing in the record stands out; look at gripper and material"


@dataclass(frozen=True)
class Cause:
    part: str  # camera, joint, gripper or batch
    figure: str
    now: float
    before: float
    score: float  # standard errors between them
    likely: str

    def __str__(self) -> str:
        return f"{self.part}: {self.figure} {self.now:.3g}, was {self.before:.3g}: {self.likely}"


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
        seen = {f"{CAMERA}{name}": self._references[name].explain(picture) for name, picture in e.pictures.items()}
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
            figures, rest = figures_of(part)
            reference = _fit(before)
            if reference is None:
                continue
            causes = _apart(part, figures, reference, _fit(now))
            if not causes and rest:
                causes = _apart(part, rest, *(_left(episodes, reference[0]) for episodes in (before, now)))
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
    more = (now[0] - before[0]) / error
    score = np.where([figure.rises for figure in figures], more, np.abs(more))
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
