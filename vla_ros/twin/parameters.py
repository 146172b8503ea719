"""What a twin consists of: named parameters with unit, bounds and nominal value, estimates of them, and draws from those."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.sim.physics import Physics
from vla_ros.types import Array

FITTED, NOT_EXCITED, NOT_SEEN = "fitted", "not excited", "not seen"
EXCITED = 0.25  # of a parameter's spread before; a standard error above it tells too little
OF_JOINT = {  # name: (unit, lower, upper bound, shortest step of finite differences)
    "friction": ("N m", 0.0, 20.0, 0.005),
    "damping": ("N m s/rad", 0.0, 100.0, 0.02),
    "gain": ("1", 0.3, 2.0, 4e-4),
}
OF_ARM = {"delay": ("s", 0.0, 0.12, 1e-4), "payload": ("kg", 0.0, 3.0, 6e-4)}
OF_CAMERA = dict.fromkeys(("pitch", "yaw", "roll"), ("rad", -0.1, 0.1, 2e-3))
SURE = 1.96  # standard errors of a 95 % interval


@dataclass(frozen=True)
class Parameter:
    """One number of a cell. Before anything was recorded it is anywhere between its bounds."""

    name: str  # friction.panda_joint1, delay, camera.front.right, ...
    unit: str
    nominal: float
    low: float
    high: float
    step: float  # of finite differences, at least: a rendered edge jumps from pixel to pixel

    @property
    def spread(self) -> float:
        """Standard deviation of what is anywhere between the bounds."""
        return (self.high - self.low) / math.sqrt(12.0)


def arm_parameters(contract: RobotContract) -> tuple[Parameter, ...]:
    """Friction, damping and gain of every joint; delay; payload."""
    nominal = Physics.nominal(contract)
    joints = [
        Parameter(f"{kind}.{joint}", unit, float(getattr(nominal, kind)[j]), low, high, step)
        for kind, (unit, low, high, step) in OF_JOINT.items()
        for j, joint in enumerate(contract.joints)
    ]
    return (*joints, *(Parameter(name, unit, 0.0, low, high, step) for name, (unit, low, high, step) in OF_ARM.items()))


def camera_parameters(camera: str) -> tuple[Parameter, ...]:
    """How far a camera is turned from where the model has it, about its own axes (x right, y up, z backwards).

    In a policy's small pictures a mount that was moved by 1 cm cannot be told from one that was turned by the angle under which
    that is seen: these stand for both.
    """
    return tuple(Parameter(f"camera.{camera}.{axis}", unit, 0.0, *rest) for axis, (unit, *rest) in OF_CAMERA.items())


def physics_of(values: Mapping[str, float], contract: RobotContract) -> Physics:
    """Of all arm parameters, and of none, some or all cameras."""
    of = {kind: np.array([values[f"{kind}.{joint}"] for joint in contract.joints]) for kind in OF_JOINT}
    names = dict.fromkeys(name.split(".")[1] for name in values if name.startswith("camera."))
    cameras = {name: turned(values, name) for name in names}
    return Physics(of["friction"], of["damping"], of["gain"], values["delay"], values["payload"], cameras)


def turned(values: Mapping[str, float], camera: str) -> Array:
    """[6] as Physics.cameras has it."""
    return np.array([0.0, 0.0, 0.0, *(values[f"camera.{camera}.{axis}"] for axis in OF_CAMERA)])


@dataclass(frozen=True)
class Estimate:
    """What is known of a parameter. One that is not fitted has its nominal value, and no error is claimed."""

    parameter: Parameter
    value: float
    error: float = math.nan  # standard error
    status: str = FITTED  # fitted | not excited | not seen
    why: str = ""  # it was not fitted, and what would help

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, inside the bounds; all of them where nothing was fitted."""
        p = self.parameter
        if self.status != FITTED:
            return p.low, p.high
        return max(p.low, self.value - SURE * self.error), min(p.high, self.value + SURE * self.error)


@dataclass(frozen=True)
class Part:
    """How far a joint or a camera is from its twin, root mean square, rad or px."""

    name: str  # a joint, or `camera front`
    unit: str
    nominal: float  # of the unfitted model
    twin: float
    noise: float  # of which the measurement's own noise; nan: cannot be told


@dataclass(frozen=True)
class Twin:
    """Estimates of one cell, and how well they explain what was recorded."""

    robot: str
    estimates: Mapping[str, Estimate]
    correlation: Array  # [k, k] of the fitted ones, in their order
    parts: tuple[Part, ...]
    episodes: tuple[tuple[str, str], ...]  # file name and sha256
    made: Mapping[str, str] = field(default_factory=dict)  # by what and when

    @property
    def fitted(self) -> list[Estimate]:
        return [e for e in self.estimates.values() if e.status == FITTED]

    def unexcited(self, contract: RobotContract) -> list[str]:
        """What practice needs and the episodes did not tell, each with the reason: the delay, and of every joint how it answers
        speed or acceleration (damping or gain)."""
        known = {name for name, e in self.estimates.items() if e.status == FITTED}
        wanted = [("delay",), *((f"damping.{joint}", f"gain.{joint}") for joint in contract.joints)]
        return [f"{any_of[-1]}: {self.estimates[any_of[-1]].why}" for any_of in wanted if not known.intersection(any_of)]

    def physics(self, contract: RobotContract, values: Mapping[str, float] | None = None) -> Physics:
        """The estimate's; `values` replace some of it. Raises VlaRosError where the twin is another robot's."""
        known = {name: e.value for name, e in self.estimates.items()}
        return physics_of({**known, **(values or {})}, contract)

    def draw(self, contract: RobotContract, rng: np.random.Generator) -> Physics:
        """A cell that the recordings allow as well: fitted parameters from their joint normal distribution, on their bound where
        that goes beyond it; what was not fitted stays nominal."""
        known = self.fitted
        error = np.array([e.error for e in known])
        drawn = rng.multivariate_normal(
            np.array([e.value for e in known]), self.correlation * np.outer(error, error), method="eigh",
            check_valid="ignore",  # the file's rounding takes the least eigenvalues below zero
        )  # fmt: skip
        limited = np.clip(drawn, [e.parameter.low for e in known], [e.parameter.high for e in known]).tolist()
        return self.physics(contract, dict(zip((e.parameter.name for e in known), limited, strict=True)))


def nominal_values(parameters: Sequence[Parameter]) -> dict[str, float]:
    return {p.name: p.nominal for p in parameters}
