"""`vla-ros safety replay`: reads, replays, prints the table or JSON, draws the plot."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_ros.cli.safety import recording as recordings
from vla_ros.cli.safety.replay import Replay, replay, summary
from vla_ros.errors import VlaRosError

PLAIN_WIDTH = 120  # columns of a table that goes into a file or a pipe


def console() -> Console:
    """Tables for a terminal, or wide enough for a pipe."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def run(args: argparse.Namespace) -> int:
    """The whole command."""
    path = recordings.find(args.episode, args.runs)
    out = args.out or (None if args.json else Path(f"replay-{path.stem}.png"))
    if out is not None and out.suffix != ".png":
        raise VlaRosError(f"--out {out}: expected a file name that ends in .png")
    result = replay(recordings.load(path, args.robot), args.safety, args.as_recorded)
    figures = summary(result)
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        show(result, figures, console())
    if out is not None:
        from vla_ros.cli.safety.plot import draw

        draw(result, figures, out)
        if not args.json:
            print(f"plot: {out}")
    return 0


def show(result: Replay, figures: dict[str, Any], to: Console) -> None:
    """The tables."""
    then = figures["recorded"]
    instruction = result.recording.metadata.get("instruction", "")
    to.print(f"[bold]{escape(figures['episode'])}[/]  {figures['robot']}  {escape(instruction)}")
    to.print(f"limits:       {escape(figures['limits'])}", style="dim")
    to.print(f"joint states: {figures['joint_states']}, from the first one on {figures['start_from']}", style="dim")
    to.print(_overview(figures, then))
    to.print(_constraints(figures, then))
    to.print(_joints(figures, recordings.labels(result.recording.contract)))
    if figures["latched"]:
        to.print(f"latched: {figures['latched']}; nobody resets in a replay, so it stands from there on", style="bold red")
    if then is None:
        to.print("/safety/state was not recorded: no comparison with what was executed", style="yellow")


def _overview(figures: dict[str, Any], then: dict[str, Any] | None) -> Table:
    table = Table(title="the episode", title_justify="left")
    for name in ("", "replayed", "recorded"):
        table.add_column(name, justify="right" if name else "left")

    def row(label: str, now: str, before: str = "-") -> None:
        table.add_row(escape(label), now, before)

    chunks, rejected = figures["chunks"], "-" if then is None else str(then["chunks"]["rejected"])
    row("chunks accepted", str(chunks["accepted"]))
    row("chunks rejected", str(chunks["rejected"]), rejected)
    for reason, count in chunks["reasons"].items():
        row(f"  {reason}", str(count))
    row("control ticks", str(figures["ticks"]))
    row("  limited", _share(figures["limited_ticks"], figures["ticks"]), str(then["limited_ticks"]) if then else "-")
    for label, key in (("time lost [s]", "total"), ("  by slowing down", "slowed"), ("  by standing", "stopped")):
        row(label, f"{figures['time_lost'][key]:.3f}", f"{then['time_lost'][key]:.3f}" if then else "-")
    for mode in dict.fromkeys((*figures["modes"], *(then["modes"] if then else ()))):
        before = f"{then['modes'].get(mode, 0.0):.3f}" if then else "-"
        row(f"in {mode} [s]", f"{figures['modes'].get(mode, 0.0):.3f}", before)
    row("peak tip speed [m/s]", f"{figures['peak_tip_speed']:.3f}" if figures["peak_tip_speed"] else "not checked")
    row("peak torque share", f"{figures['peak_torque_share']:.0%}" if figures["peak_torque_share"] else "not checked")
    clearance = figures["least_clearance"]
    row("least clearance [m]", "not checked" if clearance is None else f"{clearance:.3f}")
    return table


def _constraints(figures: dict[str, Any], then: dict[str, Any] | None) -> Table:
    table = Table(title=r"active constraints \[s]", title_justify="left")
    for name in ("constraint", "replayed", "recorded"):
        table.add_column(name, justify="left" if name == "constraint" else "right")
    before = then["constraints"] if then else {}
    for name in dict.fromkeys((*figures["constraints"], *before)):
        now = figures["constraints"].get(name, 0.0)
        table.add_row(name, f"{now:.3f}", f"{before.get(name, 0.0):.3f}" if then else "-")
    if not table.row_count:
        table.add_row("none", "", "")
    return table


def _joints(figures: dict[str, Any], labels: Sequence[str]) -> Table:
    table = Table(title="per joint", title_justify="left")
    columns = ("joint", "worst |raw - executed| [rad]", "at [s]", "peak speed [rad/s]", "of its limit", "from recorded [rad]")
    for name in columns:
        table.add_column(escape(name), justify="left" if name == "joint" else "right")
    for name, j in zip(labels, figures["joints"].values(), strict=True):
        other = "-" if j["from_recorded"] is None else f"{j['from_recorded']:.4f}"
        share = f"{j['peak_velocity'] / j['velocity_limit']:.0%}"
        table.add_row(name, f"{j['worst_deviation']:.4f}", f"{j['worst_at']:.2f}", f"{j['peak_velocity']:.3f}", share, other)
    return table


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / max(whole, 1):.0%})"
