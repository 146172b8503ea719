"""Operators' verdicts on recorded episodes: a file beside the recording, which itself is never touched."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

from vla_ros.errors import VlaRosError

OUTCOMES = ("success", "failure", "aborted")


def label(folder: str | Path, episode_id: str, outcome: str, note: str = "") -> Path:
    """Adds a verdict to `<episode>.labels.jsonl`; the last one counts, earlier ones stay.

    Raises:
        VlaRosError: unknown outcome or episode, or the file cannot be written.
    """
    if outcome not in OUTCOMES:
        raise VlaRosError(f"label of {episode_id}: found outcome '{outcome}', expected one of {', '.join(OUTCOMES)}")
    names = [file for file in Path(folder).rglob("*.mcap") if file.stem == episode_id]
    if not names:
        raise VlaRosError(f"{folder}: no episode '{episode_id}' (no file {episode_id}.mcap)")
    entry = {"outcome": outcome, "note": note, "stamp": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    path = names[0].with_suffix(".labels.jsonl")
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise VlaRosError(f"{path}: cannot write the label: {error.strerror or error}") from error
    return path


def read_label(episode: str | Path) -> dict[str, str]:
    """The last verdict on an episode file: outcome, note, stamp; empty if there is none.

    Raises:
        VlaRosError: the label file is damaged.
    """
    path = Path(episode).with_suffix(".labels.jsonl")
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return {key: str(value) for key, value in json.loads(lines[-1]).items()}
    except (IndexError, ValueError, AttributeError) as error:
        raise VlaRosError(f"{path}: last line is no label ({error}); expected JSON with outcome and note") from error
