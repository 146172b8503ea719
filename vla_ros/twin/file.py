"""A twin as a commented YAML file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.sim.physics import Physics
from vla_ros.twin.parameters import FITTED, NOT_EXCITED, NOT_SEEN, Estimate, Parameter, Part, Twin

HEAD = """\
# Digital twin of a cell, written by `vla-ros twin fit`. For sim_node's parameter `twin` and `vla-ros train improve --sim --twin`.
# friction N m, damping N m s/rad, gain in units of the model's drive, delay s, payload kg, camera angles rad about its own axes.
# error: standard error; interval: 95 %. `not excited`, `not seen`: the recordings do not tell; the value is the model's.
"""
PARTS = """\
# How far joints (rad) and cameras (levels of 255) are from the model as it was and from this twin, root mean square over the
# episodes below; noise: the measurement's own share; null: cannot be told.
"""
CORRELATION = "# Of the fitted parameters' errors, in their order: practice draws cells from it.\n"
STATUS = (FITTED, NOT_EXCITED, NOT_SEEN)


def save(path: Path, twin: Twin) -> None:
    """Raises VlaRosError where it cannot be written, or exists."""
    if path.exists():
        raise VlaRosError(f"{path}: exists already, expected a new file")
    parameters = {name: _estimate(e) for name, e in twin.estimates.items()}
    figures = ("nominal", "twin", "noise")
    parts = {p.name: {"unit": p.unit, **{key: _short(getattr(p, key)) for key in figures}} for p in twin.parts}
    text = HEAD + _dump({"robot": twin.robot, "made": dict(twin.made), "parameters": parameters})
    text += PARTS + _dump({"parts": parts})
    text += CORRELATION + _dump({"correlation": [[round(float(c), 4) for c in row] for row in twin.correlation]})
    text += _dump({"episodes": dict(twin.episodes)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VlaRosError(f"{path}: cannot be written: {error.strerror or error}") from error


def load(path: str | Path) -> Twin:
    """Raises VlaRosError on a file that is missing, or any key unknown, missing or of a wrong kind."""
    top = load_yaml(Path(path)).check_keys("robot", "made", "parameters", "parts", "correlation", "episodes")
    section = top.section("parameters")
    estimates = {name: _read(section.section(name), name) for name in section.keys()}  # noqa: SIM118 (Section is no dict)
    count = sum(e.status == FITTED for e in estimates.values())
    rows = top.mapping("episodes")
    correlation = np.array(_rows(top, count), np.float64).reshape(count, count)
    listed = top.section("parts")
    parts = tuple(_part(listed.section(name), name) for name in listed.keys())  # noqa: SIM118
    made = {k: str(v) for k, v in top.mapping("made").items()}
    return Twin(top.text("robot"), estimates, correlation, parts, tuple((k, str(v)) for k, v in rows.items()), made)


def physics(path: str | Path, contract: RobotContract, rng: np.random.Generator | None = None) -> Physics:
    """Of a twin's file: the estimate, or with `rng` a draw from what the recordings allow.

    Raises:
        VlaRosError: the file is damaged, or another robot's.
    """
    twin = load(path)
    if twin.robot != contract.robot:
        raise VlaRosError(f"{path}: robot: found '{twin.robot}', expected '{contract.robot}'")
    found = twin.physics(contract) if rng is None else twin.draw(contract, rng)
    found.check(contract)
    return found


def _rows(top: Section, count: int) -> list[list[float]]:
    """The correlation's [count] rows of [count]."""
    rows = top.raw("correlation")
    if not isinstance(rows, list) or len(rows) != count or any(not isinstance(r, list) or len(r) != count for r in rows):
        raise VlaRosError(f"{top.path}: correlation: expected {count} rows of {count} numbers, one for each fitted parameter")
    return rows


def _estimate(e: Estimate) -> dict[str, Any]:
    p = e.parameter
    own: dict[str, Any] = {"value": _short(e.value), "unit": p.unit, "status": e.status}
    if e.status == FITTED:
        own |= {"error": _short(e.error), "interval": [_short(x) for x in e.interval]}
    else:
        own |= {"why": e.why}
    return {**own, "nominal": _short(p.nominal), "bounds": [p.low, p.high]}


def _read(s: Section, name: str) -> Estimate:
    s.check_keys("value", "unit", "status", "error", "interval", "why", "nominal", "bounds")
    low, high = s.numbers("bounds", 2)
    parameter = Parameter(name, s.text("unit"), s.number("nominal"), low, high, math.nan)
    status, value = s.choice("status", STATUS), s.number("value", low, high)
    if status == FITTED:
        return Estimate(parameter, value, s.number("error", 0.0), status)
    return Estimate(parameter, value, status=status, why=s.text("why"))


def _part(s: Section, name: str) -> Part:
    s.check_keys("unit", "nominal", "twin", "noise")
    figures = (math.nan if s.raw(key) is None else s.number(key, 0.0) for key in ("nominal", "twin", "noise"))
    return Part(name, s.text("unit"), *figures)


def _short(x: float) -> float | None:
    return None if math.isnan(x) else float(f"{x:.6g}")


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=160, allow_unicode=True)

