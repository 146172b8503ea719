"""The picture of a replay: raw against executed per joint, and below what limited it, how much, and how near things were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from vla_ros.cli.figure import save
from vla_ros.cli.safety.replay import Replay
from vla_ros.types import Array, SafetyMode

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

RAW, EXECUTED, THEN = "#d1495b", "#1b4965", "#8d99ae"
MODES = {SafetyMode.RUN: "#7fb685", SafetyMode.BRAKE: "#edae49", SafetyMode.HELD: "#9ad1d4", SafetyMode.LATCHED: "#d1495b"}
KINDS = {
    "velocity": "#f4a261", "acceleration": "#6a4c93", "jerk": "#b5838d", "position": "#c1121f", "torque": "#e9c46a",
    "workspace": "#2a9d8f", "collision": "#4cc9f0", "people": "#f72585",
}  # fmt: skip
MORE = ("#8ac926", "#1982c4", "#ff595e", "#6d6875", "#a98467")  # for kinds that are not in the table
MOST_LANES = 12
WIDEST = 34  # characters of a lane's name
SHORT = 0.004  # of the axis: spans narrower than this are widened, or a single tick would not be seen

Span = tuple[float, float]  # (begin, width) s


def draw(result: Replay, figures: dict[str, Any], out: Path) -> None:
    """Writes the PNG.

    Raises:
        VlaRosError: it cannot be written.
    """
    joints = result.recording.contract.joints
    columns = 4 if len(joints) <= 8 else 5
    rows = math.ceil((len(joints) + 1) / columns)  # one cell is the legend's
    names = list(figures["constraints"])[:MOST_LANES]
    rejected = figures["chunks"]["rejected"] > 0
    lanes = 2 + rejected + max(1, len(names))
    checked = bool(np.isfinite(result.column("clearance")).any()), bool(result.column("torque_share").any())
    heights = [1.9] * rows + [0.26 * lanes + 0.2, 1.1, *(1.1 if there else 0.4 for there in checked)]
    figure = plt.figure(figsize=(3.3 * columns, sum(heights) + 1.4), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    colors = _colors(figures["constraints"])
    duration, in_metres = figures["duration"], result.recording.contract.grippers
    shared: Axes | None = None
    for j, name in enumerate(joints):
        axes = figure.add_subplot(grid[j // columns, j % columns], sharex=shared)
        shared = shared or axes
        _joint(axes, result, j, colors)
        axes.set_title(name, fontsize=9, loc="left", pad=3)
        axes.set_ylabel("m" if name in in_metres else "rad", fontsize=7, labelpad=1)
        if j + columns < len(joints):
            axes.tick_params(labelbottom=False)
    capped = bool((result.column("speed_cap") < 1.0).any())
    _legend(figure.add_subplot(grid[rows - 1, columns - 1]), colors, bool(result.recording.executed), capped)
    strips = [figure.add_subplot(grid[rows + k, :], sharex=shared) for k in range(4)]
    _lanes(strips[0], result, names, colors, duration)
    _speed(strips[1], result)
    _clearance(strips[2], result)
    _torque(strips[3], result)
    for axes in strips[:3]:
        axes.tick_params(labelbottom=False)
    strips[3].set_xlabel("time [s]")
    strips[3].set_xlim(0.0, max(duration, result.period))
    figure.suptitle(_title(result, figures), fontsize=11, x=0.01, ha="left")
    save(figure, out)


def _title(result: Replay, figures: dict[str, Any]) -> str:
    files = " + ".join(Path(part).name for part in result.limits.source.split(" + "))
    lost, chunks, then = figures["time_lost"]["total"], figures["chunks"], figures["recorded"]
    before = f" (recorded: {then['time_lost']['total']:.2f} s)" if then else ""
    instruction = result.recording.metadata.get("instruction", "")
    return (
        f"{figures['episode']}   {figures['robot']}   {instruction}\n{files}, joint states {figures['joint_states']}\n"
        f"{chunks['accepted']} chunks accepted, {chunks['rejected']} rejected, {figures['limited_ticks']} of "
        f"{figures['ticks']} ticks limited, {lost:.2f} s lost{before}"
    )


def _joint(axes: Axes, result: Replay, j: int, colors: dict[str, str]) -> None:
    times, command = result.times, result.command[:, j]
    due, raw = result.due, result.asked[:, j]
    executed = [s for s in result.recording.executed if s.stamp >= result.recording.start]
    then = np.array([s.command[j] for s in executed])
    low, high = result.limits.lower[j], result.limits.upper[j]
    values = np.concatenate([raw[due <= times[-1]], command, then])
    middle, reach = (values.max() + values.min()) / 2, max((values.max() - values.min()) * 0.58, 0.02)
    active = {name: spans for name, spans in _active(result).items() if _concerns(name, j, result)}
    for constraint, spans in active.items():
        for begin, width in spans:
            axes.axvspan(begin, begin + width, color=colors[_kind(constraint)], alpha=0.28, lw=0, zorder=0)
    for bound in (low, high):
        axes.axhline(bound, color="#c1121f", lw=1.0, ls=(0, (1, 1)))
    if len(then):
        axes.plot([s.stamp - result.recording.start for s in executed], then, color=THEN, lw=2.6, alpha=0.75)
    axes.plot(due, raw, color=RAW, lw=0.9, marker=".", ms=3.5)
    axes.plot(times, command, color=EXECUTED, lw=1.4)
    axes.set_ylim(middle - reach, middle + reach)
    _plain(axes)


def _lanes(axes: Axes, result: Replay, names: Sequence[str], colors: dict[str, str], duration: float) -> None:
    """Mode of the replay and of the recording, then each constraint while it was active."""
    rejected = [arrival - result.recording.start for arrival, reason in result.verdicts if reason]
    extra = ["chunks rejected"] if rejected else []
    rows = ["mode, replayed", "mode, recorded", *extra, *(names or ["no constraint was active"])]
    start, executed = result.recording.start, result.recording.executed
    least = SHORT * duration
    now = [(tick.mode, tick.stamp - start, result.period) for tick in result.ticks]
    stamps = [state.stamp - start for state in executed]
    then = [(s.mode, a, b - a) for s, a, b in zip(executed, stamps, [*stamps[1:], duration], strict=True)]
    for lane, entries in enumerate((now, then)):
        for mode, color in MODES.items():
            spans = [(begin, width) for entry, begin, width in entries if entry == mode]
            axes.broken_barh(_joined(spans), (lane - 0.4, 0.8), color=color, lw=0)
    if rejected:
        axes.plot(rejected, [2] * len(rejected), "|", color=RAW, ms=9, mew=1.5)
    active = _active(result)
    for lane, name in enumerate(names, start=2 + len(extra)):
        wide = [(begin, max(width, least)) for begin, width in active[name]]
        axes.broken_barh(wide, (lane - 0.35, 0.7), color=colors[_kind(name)], lw=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [text if len(text) <= WIDEST else text[: WIDEST - 1] + "…" for text in rows])
    _plain(axes)
    axes.grid(visible=False, axis="y")


def _speed(axes: Axes, result: Replay) -> None:
    executed, start = result.recording.executed, result.recording.start
    if executed:
        times = [s.stamp - start for s in executed]
        axes.step(times, [s.path_speed for s in executed], where="post", color=THEN, lw=1.8, alpha=0.75)
    axes.fill_between(result.times, result.column("path_speed"), step="post", color=EXECUTED, alpha=0.15, lw=0)
    axes.step(result.times, result.column("path_speed"), where="post", color=EXECUTED, lw=1.3)
    cap = result.column("speed_cap")
    if (cap < 1.0).any():
        axes.step(result.times, cap, where="post", color=RAW, lw=0.9, ls="--")
    axes.set_ylim(-0.03, 1.05)
    axes.set_ylabel("path\nspeed", fontsize=8)
    _plain(axes)


def _clearance(axes: Axes, result: Replay) -> None:
    values = result.column("clearance")
    values[~np.isfinite(values)] = np.nan  # nothing near
    _plain(axes)
    if np.isnan(values).all():
        _note(axes, "clearance is not checked in this envelope")
        return
    axes.set_ylabel("clearance\n[m]", fontsize=8)
    axes.plot(result.times, values, color=EXECUTED, lw=1.3)
    least = int(np.nanargmin(values))
    where = f"least: {values[least]:.3f} m at {result.times[least]:.2f} s, {result.ticks[least].nearest}"
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
    axes.text(0.995, 0.97, where, transform=axes.transAxes, fontsize=7, ha="right", va="top", bbox=box)
    axes.plot(result.times[least], values[least], "o", ms=3, color=RAW)
    axes.set_ylim(min(0.0, float(np.nanmin(values))), 1.35 * float(np.nanmax(values)) + 1e-3)


def _torque(axes: Axes, result: Replay) -> None:
    values: Array = result.column("torque_share")
    _plain(axes)
    if not values.any():
        _note(axes, "torque is not checked in this envelope")
        return
    axes.set_ylabel("torque\nshare", fontsize=8)
    axes.plot(result.times, values, color=EXECUTED, lw=1.3)
    axes.axhline(1.0, color="#c1121f", lw=1.0, ls=(0, (1, 1)))
    axes.set_ylim(0.0, max(1.08, 1.05 * float(values.max())))


def _legend(axes: Axes, colors: dict[str, str], recorded: bool, capped: bool) -> None:
    axes.axis("off")
    handles: list[Any] = [
        Line2D([], [], color=RAW, lw=0.9, marker=".", label="raw: the policy's rows"),
        Line2D([], [], color=EXECUTED, lw=1.8, label="executed, replayed"),
    ]
    if recorded:
        handles.append(Line2D([], [], color=THEN, lw=2.6, alpha=0.75, label="executed, recorded"))
    handles.append(Line2D([], [], color="#c1121f", lw=1.0, ls=(0, (1, 1)), label="limit"))
    if capped:
        handles.append(Line2D([], [], color=RAW, lw=0.9, ls="--", label="cap of the path speed"))
    handles += [Patch(color=color, alpha=0.5, label=f"limited by {kind}") for kind, color in colors.items()]
    modes = [Patch(color=color, label=mode.name) for mode, color in MODES.items()]
    axes.legend(handles=[*handles, *modes], loc="center", fontsize=7, frameon=False, ncols=1 if len(handles) < 7 else 2)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7, length=2, pad=2)
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8, color="0.45")
    axes.set_yticks([])


# -- constraints ----------------------------------------------------------------------------------------------------


def _kind(constraint: str) -> str:
    return constraint.partition(":")[0]


def _concerns(constraint: str, joint: int, result: Replay) -> bool:
    """Whether it is that joint's, or that of a place which concerns all (workspace, collision)."""
    where = constraint.partition(":")[2]
    joints = result.recording.contract.joints
    return bool(where) and (where == joints[joint] or where not in joints)


def _colors(constraints: Iterable[str]) -> dict[str, str]:
    kinds = list(dict.fromkeys(_kind(name) for name in constraints))
    others = [kind for kind in kinds if kind not in KINDS]
    return {kind: KINDS.get(kind) or MORE[others.index(kind) % len(MORE)] for kind in kinds}


def _active(result: Replay) -> dict[str, list[Span]]:
    """Spans in which each constraint was active."""
    ticks: dict[str, list[Span]] = {}
    for tick in result.ticks:
        for name in tick.active:
            ticks.setdefault(name, []).append((tick.stamp - result.recording.start, result.period))
    return {name: _joined(spans) for name, spans in ticks.items()}


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Neighbours made one, for a plot of thousands of ticks."""
    out: list[Span] = []
    for begin, width in spans:
        if out and begin - (out[-1][0] + out[-1][1]) < 0.5 * width:
            out[-1] = out[-1][0], begin + width - out[-1][0]
        else:
            out.append((begin, width))
    return out
