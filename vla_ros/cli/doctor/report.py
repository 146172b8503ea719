"""Findings as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_ros.doctor.finding import Finding, Level, failures

STYLES = {Level.OK: "green", Level.WARNING: "bold yellow", Level.FAILURE: "bold white on red"}


def show(findings: Sequence[Finding], title: str, to: Console, brief: bool = False) -> None:
    """One row per finding, `brief`: only where something is wrong; the remedy stands under what was found."""
    rows = [each for each in findings if not brief or each.level is not Level.OK]
    table = Table(title=title, title_justify="left", show_lines=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found, and what to do", ratio=2, overflow="fold")
    table.add_column("expected", ratio=1, overflow="fold")
    for each in rows:
        text = escape(each.found) + (f"\n[bold]fix:[/] {escape(each.fix)}" if each.fix else "")
        level = f"[{STYLES[each.level]}]{each.level.name.lower()}[/]"
        table.add_row(escape(each.check), level, text, f"[dim]{escape(each.expected)}[/]")
    if rows:
        to.print(table)
    to.print(verdict(findings) if rows else f"{escape(title)}: {verdict(findings)}")


def verdict(findings: Sequence[Finding]) -> str:
    """The last line."""
    bad = len(failures(findings))
    warned = sum(each.level is Level.WARNING for each in findings)
    if bad:
        return f"[bold red]{bad} of {len(findings)} checks failed[/], {warned} with warnings"
    return f"[bold green]sound[/]: {len(findings)} checks, {warned} with warnings"


def as_json(findings: Sequence[Finding], **more: Any) -> dict[str, Any]:
    """Ready for json.dumps."""
    rows = [{**asdict(each), "level": each.level.name.lower()} for each in findings]
    return {**more, "sound": not failures(findings), "findings": rows}
