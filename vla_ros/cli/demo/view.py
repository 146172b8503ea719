"""The terminal page: a bar for each phase, and the running episode below. Without a terminal, one line now and then."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from vla_ros import __version__

PHASES = {
    "grounding": "words and pictures", "demonstrations": "demonstrations", "policy": "stage 1: policy",
    "judge": "stage 1: judge", "before": "evaluation before", "practice": "practice", "after": "evaluation after",
    "held_out": "unseen objects", "live": "real time",
}  # fmt: skip
PLAIN_EVERY = 15.0  # s between lines of a phase where there is no terminal
MODES = {0: ("RUN", "green"), 1: ("BRAKE", "yellow"), 2: ("HELD", "cyan"), 3: ("LATCHED", "bold red")}


@dataclass
class Figures:
    """What the running episode shows; written by the graph's callbacks, read by the painter."""

    instruction: str = ""
    steps_to_go: float = float("nan")
    first: float = float("nan")  # steps-to-go at the episode's start, the bar's length
    success_probability: float = 0.0
    mode: int = 2
    reason: str = ""
    path_speed: float = 1.0
    active: tuple[str, ...] = ()
    ticks: int = 0
    missed: int = 0
    limited: int = 0
    version: int = 0
    swaps: int = 0
    message: str = ""
    outcomes: list[bool] = field(default_factory=list)  # detector's, of the phase that runs


class View:
    """Context manager; `phase` moves a bar, `figures` feeds the panel."""

    def __init__(self, title: str) -> None:
        self.console = Console()
        self.figures = Figures()
        self.title = title
        self._bars = Progress(
            TextColumn("{task.description:<20}"), BarColumn(bar_width=32), TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(), TextColumn("[dim]{task.fields[note]}"),
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._live = Live(get_renderable=self._page, console=self.console, refresh_per_second=6, transient=False)
        self._terminal = self.console.is_terminal

    def __enter__(self) -> View:
        if self._terminal:
            self._live.start()
        else:
            print(self.title, flush=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._terminal:
            self._live.stop()

    def phase(self, name: str, share: float, figures: dict[str, float] | None = None, note: str = "") -> None:
        """Show how far a phase is, 0..1; the first call starts its clock, 1 stops it."""
        note = note or "  ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in (figures or {}).items())
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(PHASES[name], total=1.0, note=note)
        known = self._bars.tasks[self._tasks[name]]
        self._bars.update(self._tasks[name], completed=share, note=note or known.fields["note"])
        now = time.monotonic()
        if not self._terminal and (share >= 1 or now - self._said.get(name, 0.0) >= PLAIN_EVERY):
            if self._said.get(name) == float("inf"):
                return
            self._said[name] = float("inf") if share >= 1 else now
            print(f"[{PHASES[name]}] {share:4.0%}  {note}", file=sys.stdout, flush=True)

    def say(self, text: str) -> None:
        """A line that stays above the page."""
        self.console.print(text, highlight=False)

    def _page(self) -> Group:
        head = Text(f"vla_ros {__version__}  {self.title}", style="bold")
        return Group(head, self._bars, self._panel())

    def _panel(self) -> Panel:
        f = self.figures
        mode, style = MODES.get(f.mode, ("?", "red"))
        rows = Table.grid(padding=(0, 2))
        rows.add_row("instruction", Text(f.instruction or "-", style="bold"))
        rows.add_row("steps to go", _bar(f.steps_to_go, f.first))
        limits = ", ".join(f.active) or "none"
        rows.add_row("safety", Text.assemble((mode, style), f"  {f.reason}" if f.reason else "", f"  limits: {limits}"))
        rows.add_row("control", f"{f.ticks} ticks, {f.missed} missed, {f.limited} limited")
        rows.add_row("policy", f"version {f.version}, {f.swaps} swaps")
        if f.outcomes:
            recent = f.outcomes[-40:]
            marks = Text.assemble(*[("●" if ok else "○", "green" if ok else "red") for ok in recent])
            rows.add_row("detected", Text.assemble(f"{sum(f.outcomes)}/{len(f.outcomes)}  ", marks))
        if f.message:
            rows.add_row("note", Text(f.message, style="yellow"))
        return Panel(rows, title="the cell, live", title_align="left", border_style="dim")


def _bar(value: float, first: float, width: int = 32) -> Text:
    if math.isnan(value):
        return Text("-")
    share = min(1.0, max(0.0, 1 - value / max(first, value, 1e-6)))
    done = round(share * width)
    return Text.assemble(("━" * done, "green"), ("━" * (width - done), "dim"), f"  {value:4.1f}")
