"""Where a camera looks, from the first pictures of episodes: they are compared with the modelled cell's, level by level.

What lies on the table is not known, and lies somewhere else every time: of each pixel's difference the median over all pictures
counts. Brightness and contrast are fitted along. This works where the modelled cell looks like the real one; where it explains
too little of the pictures, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.sim.cell import Cell
from vla_ros.sim.physics import move_camera
from vla_ros.sim.render import fixed_camera
from vla_ros.sim.tasks import Scene
from vla_ros.twin import solve
from vla_ros.twin.parameters import EXCITED, NOT_EXCITED, NOT_SEEN, Estimate, Part, camera_parameters, nominal_values, turned
from vla_ros.twin.recording import Picture
from vla_ros.types import Array

LEAST = 16  # pictures; of fewer the median keeps traces of what lies on the table (12: 2 mrad, seven errors)
MOST = 20  # pictures; each is rendered once a try
SMOOTH = 1.0  # px, of pictures before they are compared
EXPLAINED = 0.7  # share of the pictures' variance; under it the modelled cell does not look like the real one
ITERATIONS = 10
FROM_FAR = ((3.0, 2.0), (1.5, 2.0), (0.0, 1.0))  # px of further smoothing, and times the shortest steps of finite differences
MOST_ITERATIONS = len(FROM_FAR) * (ITERATIONS + 1)
FINE = (512, 512)  # px, of rendered pictures; at the recorded resolution edges would jump from pixel to pixel
SAME = 2e-3  # rad; arms that are closer share one picture
BLOCK = 8  # px, edge of the pieces of a picture whose errors are taken as independent
EMPTY = Scene((), "reach", "", 0)


@dataclass(frozen=True)
class Found:
    estimates: dict[str, Estimate]
    correlation: Array  # [k, k] of the fitted ones
    part: Part


class View:
    """One camera's pictures, and the same from the model with the camera anywhere."""

    def __init__(self, contract: RobotContract, camera: str, pictures: Sequence[Picture]) -> None:
        self.cell, self.camera = Cell(contract), camera
        chosen = np.unique(np.linspace(0, len(pictures) - 1, min(MOST, len(pictures))).round().astype(int))
        self.pictures = [pictures[k] for k in chosen]
        self.recorded = np.stack([_grey(p.image) for p in self.pictures])  # [k, H, W]
        self._frame = np.empty((*FINE, 3), np.uint8)
        m, self._index = self.cell.model, fixed_camera(self.cell.model, camera).fixedcamid
        self._mount = (m.cam_pos[self._index].copy(), m.cam_quat[self._index].copy())

    def place(self, values: Mapping[str, float]) -> None:
        """The camera to where these values have it."""
        m = self.cell.model
        m.cam_pos[self._index], m.cam_quat[self._index] = self._mount
        move_camera(m, self.camera, turned(values, self.camera))

    def differences(self, values: Mapping[str, float]) -> NDArray[np.float64]:
        """[k, H, W] levels, recorded less rendered with the recorded brightness and contrast."""
        self.place(values)
        arms: list[tuple[Array, NDArray[np.float32]]] = []
        for p in self.pictures:
            if not arms or np.abs(p.q - arms[-1][0]).max() > SAME:
                arms.append((p.q, self._render(p.q)))
            else:
                arms.append(arms[-1])
        rendered = np.stack([picture for _, picture in arms])
        middle, seen = np.median(rendered, 0), np.median(self.recorded, 0)
        contrast, brightness = np.polyfit(middle.ravel(), seen.ravel(), 1)
        return np.asarray(self.recorded - (contrast * rendered + brightness))

    def points(self, values: Mapping[str, float]) -> Array:
        """[n, 2] px, where points of the table are seen in a recorded picture."""
        self.place(values)
        self.cell.pose(EMPTY, self.pictures[0].q)
        (x0, y0), (x1, y1) = self.cell.contract.action.low, self.cell.contract.action.high
        table = np.array([[x, y, 0.0] for x in np.linspace(x0, x1, 3) for y in np.linspace(y0, y1, 3)])
        return self.cell.project(self.camera, table) * self.recorded.shape[1] / 2

    def _render(self, q: Array) -> NDArray[np.float32]:
        self.cell.pose(EMPTY, q)
        self.cell.render(self.camera, FINE, out=self._frame)
        height, width = self.recorded.shape[1:]
        return _grey(resize(self._frame, (height, width)))


def fit(contract: RobotContract, camera: str, pictures: Sequence[Picture], tick: solve.Tick = lambda: None) -> Found:
    """Its mount, or why that cannot be told."""
    ps = camera_parameters(camera)
    nominal = nominal_values(ps)
    if len(pictures) < LEAST:
        why = f"{len(pictures)} pictures of it, expected at least {LEAST}: record more episodes"
        return _nothing(camera, why, np.nan)
    view = View(contract, camera, pictures)

    def residual(values: Mapping[str, float], smooth: float = 0.0) -> Array:
        difference = np.median(view.differences(values), 0)
        return np.asarray((cv2.GaussianBlur(difference, (0, 0), smooth) if smooth else difference).ravel())

    values = nominal
    for smooth, coarse in FROM_FAR:
        found = solve.solve(partial(residual, smooth=smooth), ps, {}, values, ITERATIONS, True, tick, coarse)
        values = found.values
    before, after = (float(np.sqrt(np.mean(residual(v) ** 2))) for v in (nominal, found.values))
    seen = np.median(view.recorded, 0)
    if (explained := 1.0 - after**2 / float(seen.var())) < EXPLAINED:
        told = f"the modelled cell explains {max(explained, 0.0):.0%} of what it shows, expected {EXPLAINED:.0%}"
        return _nothing(camera, f"{told}: the real cell looks different; measure the camera's pose by hand", before)
    cov = solve.covariance(found, _scores(found, view.recorded.shape[1:]), True)
    error = np.sqrt(np.diag(cov))
    kept = error <= EXCITED
    tangled = solve.correlation(cov)
    left = "of what was uncertain before is left: record more episodes"
    estimates = {
        p.name: Estimate(p, found.values[p.name], float(error[k] * p.spread)) if kept[k]
        else Estimate(p, p.nominal, status=NOT_EXCITED, why=f"{error[k]:.0%} {left}")
        for k, p in enumerate(ps)
    }  # fmt: skip
    return Found(estimates, tangled[np.ix_(kept, kept)], Part(f"camera {camera}", "levels", before, after, np.nan))


def _scores(found: solve.Solution, size: tuple[int, int]) -> Array:
    """[blocks, 6] of the gradient."""
    row, column = np.indices(size) // BLOCK
    block = (row * (column.max() + 1) + column).ravel()
    return np.stack([np.bincount(block, part) for part in (found.jacobian * found.residual[:, None]).T], axis=1)


def _nothing(camera: str, why: str, before: float) -> Found:
    estimates = {p.name: Estimate(p, p.nominal, status=NOT_SEEN, why=why) for p in camera_parameters(camera)}
    return Found(estimates, np.zeros((0, 0)), Part(f"camera {camera}", "levels", before, before, np.nan))


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(image.mean(-1, dtype=np.float32), (0, 0), SMOOTH), np.float32)
