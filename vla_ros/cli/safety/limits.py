"""`vla-ros safety limits`: every limit in force, with the file that it comes from.

Where a value comes from is found by loading the files one after the other: it is the last one that changed it. Units and
meanings are read from the comments of the safety files, which are the reference manual.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from vla_ros import paths
from vla_ros.cli.safety.recording import labels
from vla_ros.cli.safety.replay_command import console
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.limits import Limits

COMMENT = re.compile(r"^\s*(?:#\s*)?(\w+):[^#]*#\s*(?:\[([^\]]+)\]\s*)?(.*)$", re.MULTILINE)
MOTION = {
    "lower": "rad", "upper": "rad", "velocity": "rad/s", "acceleration": "rad/s²", "jerk": "rad/s³", "torque": "N m",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One value in force."""

    value: Any
    origin: int  # 0: the URDF, k: the k-th safety file; -1: no file limits it


@dataclass(frozen=True)
class Provenance:
    """Limits with the origin of each value, by `field`, `field.joint` or `workspace.frame.axis`."""

    limits: Limits
    sources: tuple[str, ...]
    entries: dict[str, Entry]


def provenance(contract: RobotContract, files: Sequence[str | Path] = ()) -> Provenance:
    """Loads the files one after the other and compares.

    Raises:
        VlaRosError: as Limits.load.
    """
    files = list(files) or [contract.robot]
    bounds = contract.limits
    urdf = {"lower": bounds.lower, "upper": bounds.upper, "velocity": bounds.velocity, "torque": bounds.effort}
    before = {f"{key}.{name}": float(v) for key, row in urdf.items() for name, v in zip(contract.joints, row, strict=True)}
    entries = {key: Entry(value, 0) for key, value in before.items()}
    for k in range(1, len(files) + 1):
        limits = Limits.load(contract, *files[:k])
        for key, value in _flat(limits).items():
            if key not in entries or entries[key].value != value:
                endless = isinstance(value, float) and math.isinf(value)
                entries[key] = Entry(value, -1 if endless else k)
    return Provenance(limits, (_short(contract.urdf), *map(_file, files)), {k: entries[k] for k in _flat(limits)})


def _flat(limits: Limits) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in fields(limits):
        value = getattr(limits, field.name)
        if field.name in ("robot", "joints", "source"):
            continue
        if isinstance(value, tuple) and len(value) == len(limits.joints) and all(isinstance(v, float) for v in value):
            flat |= {f"{field.name}.{name}": v for name, v in zip(limits.joints, value, strict=True)}
        elif field.name == "workspace":
            flat |= {f"workspace.{frame}.{axis}": box[k] for frame, box in value.items() for k, axis in enumerate("xyz")}
        else:
            flat |= _leaves(field.name, value)
    return flat


def _leaves(name: str, value: Any) -> dict[str, Any]:
    """Numbers, texts and tuples inside mappings and value objects (walls, obstacles, payload, people), by dotted name."""
    if is_dataclass(value):
        inner = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, Mapping):
        inner = dict(value)
    else:
        return {} if value is None else {name: value}
    return {key: leaf for part, content in inner.items() for key, leaf in _leaves(f"{name}.{part}", content).items()}


def _file(name: str | Path) -> str:
    text = str(name)
    if text.endswith((".yaml", ".yml")):
        return text
    return f"config/safety/{text}.yaml"


def _short(path: Path) -> str:
    return str(path.relative_to(paths.share())) if path.is_relative_to(paths.share()) else str(path)


def comments(files: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Unit and meaning by key, from the files' comments; the first file that tells wins."""
    told: dict[str, tuple[str, str]] = {}
    for name in files:
        for key, unit, text in COMMENT.findall(paths.resolve(name).read_text(encoding="utf-8")):
            told.setdefault(key, (unit, text.strip()))
    return told


def show(robot: str, files: Sequence[str]) -> int:
    """Prints the tables."""
    contract = RobotContract.load(robot)
    known = provenance(contract, files)
    base = f"config/safety/{contract.robot}.yaml"
    told = comments([*known.sources[1:], *([base] if paths.resolve(base).is_file() else [])])
    to = console()
    to.print(f"[bold]{contract.robot}[/]: limits in force")
    for k, source in enumerate(known.sources):
        to.print(f"  \\[{k}] {source}")
    rows, _alike = _rows(known)
    to.print(_joints(known, labels(contract), "per joint", [key for key in rows if key in MOTION], MOTION))
    if watched := [key for key in rows if key not in MOTION]:
        units = {key: told.get(key, ("", ""))[0] for key in watched}
        to.print(_joints(known, labels(contract), "per joint: admission and watchdogs", watched, units))
    boxes = _workspace(known)
    if boxes.row_count:
        to.print(boxes)
    to.print(_others(known, told))
    return 0


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}" if abs(value) >= 1000.0 else f"{value:.4g}"
    return escape(str(value))


def _cell(entry: Entry) -> str:
    return f"{_value(entry.value)} [dim]\\[{entry.origin}][/]" if entry.origin >= 0 else "no limit"


def _rows(known: Provenance) -> tuple[list[str], list[str]]:
    """Fields with one value per joint: those that differ (and the limits of motion), and those alike for all joints."""
    names = known.limits.joints
    every = [key.removesuffix(f".{names[0]}") for key in known.entries if key.endswith(f".{names[0]}")]
    rows = [key for key in every if "." not in key]
    alike = [k for k in rows if k not in MOTION and len({known.entries[f"{k}.{name}"] for name in names}) == 1]
    return [*(k for k in MOTION if k in rows), *(k for k in rows if k not in alike and k not in MOTION)], alike


def _joints(known: Provenance, shown: Sequence[str], title: str, rows: Sequence[str], units: Mapping[str, str]) -> Table:
    table = Table(title=f"{title}: value \\[file]", title_justify="left")
    table.add_column("joint", no_wrap=True)
    for key in rows:
        table.add_column(f"{key}\n\\[{units[key]}]" if units[key] else key, justify="right", no_wrap=True)
    for label, name in zip(shown, known.limits.joints, strict=True):
        table.add_row(label, *(_cell(known.entries[f"{key}.{name}"]) for key in rows))
    return table


def _workspace(known: Provenance) -> Table:
    table = Table(title="workspace \\[m, base frame]", title_justify="left")
    for name in ("frame", "x", "y", "z"):
        table.add_column(name)
    for frame in known.limits.workspace:
        sides = [known.entries[f"workspace.{frame}.{axis}"] for axis in "xyz"]
        table.add_row(frame, *(f"{e.value[0]:g} .. {e.value[1]:g} [dim]\\[{e.origin}][/]" for e in sides))
    return table


def _others(known: Provenance, told: dict[str, tuple[str, str]]) -> Table:
    table = Table(title="all else", title_justify="left")
    for name in ("", "value", "unit", "file", "what it bounds"):
        table.add_column(name)
    names = known.limits.joints
    rows, alike = _rows(known)
    shown = {key: known.entries[f"{key}.{names[0]}"] for key in alike}
    per_joint = {f"{key}.{name}" for key in (*rows, *alike) for name in names}
    shown |= {k: e for k, e in known.entries.items() if k not in per_joint and not k.startswith("workspace.")}
    for key, entry in shown.items():
        unit, meaning = told.get(key.rpartition(".")[2], ("", ""))
        value = _value(entry.value) + (" each" if key in alike else "")
        origin = f"\\[{entry.origin}]" if entry.origin >= 0 else "none"
        table.add_row(escape(key), value, escape(unit), origin, escape(meaning))
    return table
