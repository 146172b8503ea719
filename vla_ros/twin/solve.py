"""Bounded nonlinear least squares (mujoco.minimize) over named parameters, and what the data say of each of them.

Everything is in units of a parameter's spread: 0 is nominal, and before any data its standard deviation is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mujoco import minimize

from vla_ros.twin.parameters import Parameter
from vla_ros.types import Array

MU_FACTOR = 8.0  # of the damping from one try to the next; the default's 1.26 takes a hundred tries, each a replay

Residual = Callable[[Mapping[str, float]], Array]  # values by name -> [m], of unit variance
Tick = Callable[[], None]  # after an iteration


@dataclass(frozen=True)
class Solution:
    parameters: tuple[Parameter, ...]
    z: Array  # [p]
    residual: Array  # [m]
    jacobian: Array  # [m, p]

    @property
    def values(self) -> dict[str, float]:
        return {p.name: float(p.nominal + z * p.spread) for p, z in zip(self.parameters, self.z, strict=True)}


def solve(
    residual: Residual, parameters: Sequence[Parameter], fixed: Mapping[str, float], start: Mapping[str, float], iterations: int,
    prior: bool, tick: Tick = lambda: None, coarse: float = 1.0,
) -> Solution:  # fmt: skip
    """
    Args:
        fixed: values of parameters that are not fitted.
        start: values of those that are.
        iterations: at most.
        prior: also draw each parameter to its nominal value, as one recorded value of spread's standard deviation would: what no
            data say anything of has a solution, then.
        coarse: times the parameters' steps of finite differences: long ones see over the kinks that friction makes.
    """
    ps = tuple(parameters)
    spread, nominal = np.array([p.spread for p in ps]), np.array([p.nominal for p in ps])
    low, high = (np.array([getattr(p, side) for p in ps]) for side in ("low", "high"))

    def one(z: Array) -> Array:
        x = nominal + z * spread
        r = residual({**fixed, **{p.name: float(v) for p, v in zip(ps, x, strict=True)}})
        return np.concatenate([r, z]) if prior else r

    def many(z: Array) -> Array:
        return np.stack([one(column) for column in z.T], axis=1)

    def jacobian(z: Array, r: Array) -> Array:
        columns = []
        for k, p in enumerate(ps):
            step = coarse * p.step / p.spread
            step = step if nominal[k] + (z[k, 0] + step) * p.spread <= p.high else -step
            moved = z[:, 0].copy()
            moved[k] += step
            columns.append((one(moved) - r[:, 0]) / step)
        tick()
        return np.stack(columns, axis=1)

    x0 = (np.array([start[p.name] for p in ps]) - nominal) / spread
    bounds = ((low - nominal) / spread, (high - nominal) / spread)
    z, _ = minimize.least_squares(
        x0[:, None], many, bounds, jacobian, xtol=1e-3, mu_factor=MU_FACTOR, max_iter=iterations,
        verbose=minimize.Verbosity.SILENT,
    )
    r = many(z)
    j, m = jacobian(z, r), len(r) - len(ps) if prior else len(r)
    return Solution(ps, z[:, 0], r[:m, 0], j[:m])


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
