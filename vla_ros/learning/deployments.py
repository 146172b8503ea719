"""The record of every trial of a version on a cell, in the cell's store: versions, twin, episodes, decision, who and why."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from vla_ros import files
from vla_ros.errors import VlaRosError

FOLDER = "deployments"


class Deployment:
    """One file, replaced as a whole whenever something is added, so that a kill leaves what was known before it: without a
    decision, then (`running`)."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content

    @classmethod
    def begin(cls, store: Path, at: datetime, **what: Any) -> Deployment:
        """Raises VlaRosError where the disk does not take it."""
        path = store / FOLDER / f"{at:%Y%m%d-%H%M%S-%f}.json"
        new = cls(path, {"at": at.isoformat(timespec="seconds"), **what, "episodes": [], "decision": "running"})
        new._save()
        return new

    def episodes(self, ran: list[dict[str, Any]]) -> None:
        self.content["episodes"] = ran
        self._save()

    def end(self, decision: str, rule: str, reason: str) -> None:
        """
        Args:
            decision: accepted | rejected | interrupted | failed.
        """
        self.content |= {"decision": decision, "rule": rule, "reason": reason}
        self._save()

    def _save(self) -> None:
        try:
            self.path.parent.mkdir(exist_ok=True)
            files.replace(self.path, json.dumps(self.content, indent=1))
        except OSError as error:
            raise VlaRosError(f"{self.path}: was not written: {error.strerror or error}; free disk space and retry") from error


def load(store: Path) -> list[Deployment]:
    """All of a store, oldest first.

    Raises:
        VlaRosError: a file is damaged.
    """
    found = []
    for path in sorted((store / FOLDER).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["new"]["number"], content["decision"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VlaRosError(f"{path}: not the record of a deployment: {error}") from error
        found.append(Deployment(path, content))
    return found
