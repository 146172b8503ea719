"""`vla-ros twin fit` and `check`: a bar while it works, then tables."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.twin import file
from vla_ros.twin import fit as fitting
from vla_ros.twin.parameters import FITTED, NOT_SEEN, Part, Twin

PLAIN_WIDTH = 120  # columns of a table that goes into a file or a pipe


def fit(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise VlaRosError(f"--out {args.out}: exists already, expected a new file")
    contract = RobotContract.load(args.robot)
    with _bar() as progress:
        twin = fitting.fit(contract, args.episodes, progress)
    file.save(args.out, twin)
    out = _console()
    out.print(_estimates(twin))
    out.print(_parts(twin.parts, "explained (root mean square)"))
    for told in _not_known(twin):
        out.print(told, style="yellow")
    print(f"{args.out}: {len(twin.fitted)} of {len(twin.estimates)} parameters from {len(twin.episodes)} episodes")
    return 0


def check(args: argparse.Namespace) -> int:
    twin, contract = file.load(args.twin), RobotContract.load(args.robot)
    with _bar() as progress:
        verdicts = fitting.check(twin, contract, args.episodes, progress)
    out = _console()
    words = ["good" if v.good else "[red]poor[/]" for v in verdicts]
    out.print(_parts([v.part for v in verdicts], f"{args.twin} on other episodes (root mean square)", words))
    poor = [v for v in verdicts if not v.good]
    for v in poor:
        out.print(escape(f"{v.part.name}: {v.why}"), style="yellow")
    print("good enough to practise in" if not poor else f"not good enough: {', '.join(v.part.name for v in poor)}; fit it again")
    return 1 if poor else 0


@contextlib.contextmanager
def _bar() -> Iterator[fitting.Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = {}

        def progress(what: str, done: int, most: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=most)
            bar.update(tasks[what], completed=done)

        yield progress


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _estimates(twin: Twin) -> Table:
    table = Table(title="the twin", title_justify="left")
    for name in ("parameter", "unit", "model", "twin", "95 %"):
        table.add_column(name, justify="left" if name in ("parameter", "unit") else "right")
    for name, e in twin.estimates.items():
        low, high = e.interval
        fitted = e.status == FITTED
        row = (f"{e.value:.4g}", f"{low:.4g} .. {high:.4g}") if fitted else (e.status, f"({low:g} .. {high:g})")
        table.add_row(name, e.parameter.unit, f"{e.parameter.nominal:.4g}", *row, style="" if fitted else "yellow")
    return table


def _parts(parts: Sequence[Part], title: str, verdicts: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("joint or camera", "unit", "model", "twin", "of it noise", *(("verdict",) if verdicts else ())):
        table.add_column(name, justify="left" if name in ("joint or camera", "unit", "verdict") else "right")
    for k, p in enumerate(parts):
        figures = ("-" if math.isnan(x) else f"{x:.2g}" for x in (p.nominal, p.twin, p.noise))
        table.add_row(p.name, p.unit, *figures, *verdicts[k : k + 1])
    return table


def _not_known(twin: Twin) -> list[str]:
    """A line for every reason."""
    reasons: dict[str, list[str]] = {}
    for name, e in twin.estimates.items():
        if e.status != FITTED:
            reasons.setdefault(e.why if e.status == NOT_SEEN else f"{name}: {e.why}", []).append(name)
    return [escape(f"{why} ({', '.join(names)})" if len(names) > 1 else f"not known: {why}") for why, names in reasons.items()]
