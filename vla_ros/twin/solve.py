"""Nonlinear least squares over named parameters, where dry friction makes kinks and jumps; and what the data say of each of them.

A derivative at a point sees the last kink only, and along a valley (a longer delay with less damping) the kinks of all parameters
hide the slope. Gauss-Newton takes its Jacobian therefore by statistical linearisation: from differences across as much as is
still uncertain, along the directions in which it is (posterior linearisation: García-Fernández, Svensson, Morelande and Särkkä,
IEEE Transactions on Signal Processing 63(20), 2015). Steps are short where the data say much and long where they say little, and
shorten as the fit closes in.

Everything is in units of a parameter's spread: 0 is nominal, and before any data its standard deviation is 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from vla_ros.twin.parameters import Parameter
from vla_ros.types import Array

WIDTHS = (10.0, 5.0, 3.0, 2.0)  # standard errors that differences are taken across; in turn, where a step gains nothing
GAIN = 1.0  # of log-likelihood; a step that gains less has gained nothing
EXACT = 1e-9  # errors are not taken for smaller: a simulation may be replayed without any
LENGTHS = (1.0, 0.5, 0.25, 0.1)  # of a step that are tried

Residual = Callable[[Mapping[str, float]], Array]  # values by name -> [m, k]: a column has errors of one size, which is not known
Tick = Callable[[], None]  # after an iteration
Each = Callable[..., Iterable[Array]]  # as the builtin map; an executor's calls a residual that allows it beside itself


@dataclass(frozen=True)
class Solution:
    parameters: tuple[Parameter, ...]
    z: Array  # [p]
    residual: Array  # [m k] in units of its column's errors
    jacobian: Array  # [m k, p]
    likelihood: float  # its logarithm, with the prior's where there was one

    @property
    def values(self) -> dict[str, float]:
        return {p.name: float(p.nominal + z * p.spread) for p, z in zip(self.parameters, self.z, strict=True)}


def solve(
    residual: Residual, parameters: Sequence[Parameter], fixed: Mapping[str, float], start: Mapping[str, float], iterations: int,
    prior: bool, tick: Tick = lambda: None, coarse: float = 1.0, each: Each = map,
) -> Solution:  # fmt: skip
    """The most likely values, of normal errors.

    Args:
        fixed: values of parameters that are not fitted.
        start: values of those that are.
        iterations: at most.
        prior: also draw each parameter to its nominal value, as one recorded value of spread's standard deviation would: what no
            data say anything of has a solution, then.
        coarse: times the parameters' shortest steps, for the first Jacobian.
    """
    ps, unit = tuple(parameters), float(prior)
    spread, nominal = np.array([p.spread for p in ps]), np.array([p.nominal for p in ps])
    low, high = ((np.array([getattr(p, side) for p in ps]) - nominal) / spread for side in ("low", "high"))

    def at(z: Array) -> Array:
        x = nominal + z * spread
        return residual({**fixed, **{p.name: float(v) for p, v in zip(ps, x, strict=True)}})

    def likelihood(z: Array, r: Array) -> float:
        return float(-len(r) * np.log(_size(r)).sum() - 0.5 * unit * z @ z)

    def jacobian(z: Array, size: Array, across: Array) -> Array:
        """[m k, p] from differences along the columns of across [p, p]."""
        ends = np.clip(z + np.concatenate([across.T, -across.T]), low, high)
        seen = np.stack([(r / size).ravel() for r in each(at, ends)])
        n = len(z)
        return np.asarray(np.linalg.lstsq(ends[:n] - ends[n:], seen[:n] - seen[n:], rcond=None)[0].T)

    z = (np.array([start[p.name] for p in ps]) - nominal) / spread
    least = np.array([p.step for p in ps]) / spread
    r, across, widths = at(z), np.diag(coarse * least), deque(WIDTHS)
    idle = 0  # steps in a row that gained nothing
    for _ in range(iterations):
        size = _size(r)
        j = jacobian(z, size, across)
        gram, slope = j.T @ j + unit * np.eye(len(ps)), j.T @ (r / size).ravel() + unit * z
        step = _bounded(gram, slope, low - z, high - z)
        ahead = [z + length * step for length in LENGTHS]
        best = max(zip(ahead, each(at, ahead), strict=True), key=lambda pair: likelihood(*pair))
        gain = likelihood(*best) - likelihood(z, r)
        if gain > 0.0:
            z, r = best
        tick()
        idle = idle + 1 if gain < GAIN else 0
        if idle == len(widths):
            break
        if idle:
            widths.rotate(-1)
        variance, axes = np.linalg.eigh(np.linalg.pinv(gram, hermitian=True))
        shortest = 1.0 / (abs(axes) / least[:, None]).max(0)
        across = axes * np.maximum(widths[0] * np.sqrt(np.minimum(variance, 1.0)), shortest)
    size = _size(r)
    return Solution(ps, z, (r / size).ravel(), jacobian(z, size, across), likelihood(z, r))


def _size(r: Array) -> Array:
    """[k] root mean square of each column."""
    return np.asarray(np.maximum(EXACT, np.sqrt((r**2).mean(0))))


def _bounded(gram: Array, slope: Array, low: Array, high: Array) -> Array:
    """[p] the step that lowers the quadratic most, within bounds."""
    n = len(slope)
    step, factor, index = np.zeros(n), np.zeros((n, n + 7)), np.zeros(n, np.int32)
    if mujoco.mju_boxQP(step, factor, index, gram, slope, low, high) < 0:
        step = np.clip(-np.linalg.pinv(gram) @ slope, low, high)  # it has directions of which nothing is known
    return step


def covariance(found: Solution, scores: Array, prior: bool) -> Array:
    """[p, p] of z, robust: residuals need neither be independent nor of the assumed size.

    Args:
        scores: [c, p], the gradient's parts from c independent pieces of the record.
        prior: as the solution was found.
    """
    count, size = scores.shape
    gram = found.jacobian.T @ found.jacobian
    unit = np.eye(size) if prior else np.zeros((size, size))
    inverse = np.linalg.pinv(gram + unit)
    meat = scores.T @ scores * count / max(1, count - 1)
    robust = inverse @ (meat + unit) @ inverse
    plain = inverse @ (gram * float(np.mean(found.residual**2)) + unit) @ inverse
    # With few pieces the robust one is too small now and then.
    wider = np.sqrt(np.maximum(1.0, np.diag(plain) / np.maximum(np.diag(robust), 1e-30)))
    return np.asarray(robust * np.outer(wider, wider))


def correlation(cov: Array) -> Array:
    error = np.sqrt(np.diag(cov))
    return np.asarray(cov / np.outer(error, error))
