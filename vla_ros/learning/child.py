"""The trainer's end of the learner process (vla_ros/learning/learner.py): ask, and look later whether it has answered."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla_ros.errors import VlaRosError


class LearnerProcess:
    """A learner on a weight store. One request at a time."""

    def __init__(self, policy: Path, store: Path, robot: str, config: str) -> None:
        command = [
            sys.executable, "-m", "vla_ros.learning.learner", "--policy", str(policy), "--store", str(store),
            "--robot", robot, "--config", config,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._out, selectors.EVENT_READ)

    def submit(self, paths: list[str], version: int | None = None, corrected: Sequence[str] = ()) -> None:
        """Learn from episodes that this version (None: the last one written) has practised, and from what people did in the
        `corrected` ones, which it keeps; go on from that version."""
        try:
            self._in.write(json.dumps({"episodes": paths, "version": version, "corrected": list(corrected)}) + "\n")
            self._in.flush()
        except BrokenPipeError as error:
            raise VlaRosError(f"the learner process has ended (exit status {self._process.poll()})") from error

    def answer(self, timeout: float) -> dict[str, Any] | None:
        """The next answer, or None when there is none within `timeout` s.

        Raises:
            VlaRosError: the learner reports an error or has died.
        """
        if not self._ready.select(timeout):
            return None
        line = self._out.readline()
        if not line:
            raise VlaRosError(f"the learner process has ended (exit status {self._process.wait()}); see its messages above")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise VlaRosError(f"learner: {found['error']}")
        return found

    def close(self) -> None:
        if self._in and not self._in.closed:
            with contextlib.suppress(BrokenPipeError):  # of a request that a dead learner never took
                self._in.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._ready.close()
