"""What `vla-ros deploy` tells: the plan, the batch while it runs, and how it ended."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vla_ros.cli.deploy.cell import Facts, success
from vla_ros.learning.statistics import wilson
from vla_ros.learning.trial import Trial, TrialConfig, Verdict, accepted

OLD = 0.6  # success rate that the plan's error rates are told for
APART = (-0.3, -0.2, 0.0, 0.2, 0.3)


def plan(to: Console, facts: Facts, config: TrialConfig, practice: argparse.Namespace | None = None) -> None:
    running = f"version {facts.running}" if facts.sha256 else f"the checkpoint {facts.policy}, which becomes version 1"
    to.print(f"runs now: {running}; store {facts.store}", markup=False)
    if practice is not None:
        to.print(f"practice: {practice.episodes} episodes at most in cells of {practice.twin}, in {practice.out}", markup=False)
    to.print(f"trial:    {config.pairs} pairs of episodes at most; {config.bound} more lost than gained reject at once")
    table = Table(title=f"how often is a new version accepted, beside one of {OLD:.0%}?", title_justify="left")
    for apart in APART:
        table.add_column(f"{100 * apart:+.0f} points" if apart else "as good", justify="right")
    table.add_row(*(f"{accepted(config, OLD, OLD + apart):.1%}" for apart in APART))
    to.print(table)


@contextlib.contextmanager
def bar(to: Console, pairs: int) -> Iterator[Callable[[Trial], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[told]}"), console=to) as progress:
        task = progress.add_task("pairs", total=pairs, told="")

        def shown(trial: Trial) -> None:
            last, outcomes = trial.ran[-1], trial.outcomes()
            word = {True: "success", False: "failure", None: last.void or "aborted by its label"}[success(last)]
            told = f"version {last.version}: {word}; old {sum(o.old for o in outcomes)}, new {sum(o.new for o in outcomes)}"
            progress.update(task, completed=len(outcomes), told=told)

        yield shown


def result(to: Console, trial: Trial, verdict: Verdict, record: Path) -> None:
    table = Table(title="the batch", title_justify="left")
    for name in ("version", "", "success", "95 %", "safety stops", "left out"):
        table.add_column(name, justify="left" if not name else "right")
    outcomes = trial.outcomes()
    for version, role in ((trial.old, "old"), (trial.new, "new")):
        good = sum(getattr(o, role) for o in outcomes)
        low, high = wilson(good, len(outcomes))
        stops = sum(getattr(o, f"{role}_stopped") for o in outcomes)
        void = sum(r.version == version and success(r) is None for r in trial.ran)
        table.add_row(str(version), role, f"{good} of {len(outcomes)}", f"{low:.0%} to {high:.0%}", str(stops), str(void))
    to.print(table)
    word = "accepted" if verdict.accepted else "rejected"
    to.print(f"{word}: {verdict.sentence}", style="bold green" if verdict.accepted else "bold red", markup=False)
    print(f"version {trial.new if verdict.accepted else trial.old} runs; record {record}")
