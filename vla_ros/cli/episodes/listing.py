"""`vla-ros episodes list`: one line per episode."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from vla_ros.cli.safety.replay_command import console
from vla_ros.episodes.folder import EpisodeInfo, find_episodes, read_info

COLUMNS = ("id", "robot", "instruction", "policy", "steps", "seconds", "success", "label", "size", "damage")
NUMBERS = ("policy", "steps", "seconds", "size")


def run(folder: Path) -> int:
    """The whole command."""
    episodes = [read_info(path) for path in find_episodes(folder, with_parts=True)]
    table = Table()
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold", no_wrap=name == "id")
    for episode in episodes:
        table.add_row(*map(escape, _row(episode)), style="red" if episode.damage else None)
    to = console()
    to.print(table)
    good = sum(episode.metadata.get("outcome") == "success" for episode in episodes)
    damaged = sum(bool(episode.damage) for episode in episodes)
    size = sum(episode.size for episode in episodes)
    to.print(f"{len(episodes)} episodes, {good} successful, {damaged} damaged, {megabytes(size)}")
    return 0


def _row(episode: EpisodeInfo) -> tuple[str, ...]:
    known = episode.metadata
    return (
        episode.id, known.get("robot", "-"), known.get("instruction", "-"), known.get("policy_version", "-"),
        str(episode.steps), f"{episode.seconds:.1f}", outcome(known.get("outcome", "")),
        episode.label.get("outcome", "-"), megabytes(episode.size), episode.damage or "-",
    )  # fmt: skip


def outcome(recorded: str) -> str:
    """The judge's verdict in a word."""
    return {"success": "yes", "failure": "no", "": "-"}.get(recorded, recorded)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
