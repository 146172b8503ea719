"""One of the package's nodes as a process of its own, as a launch file would start it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rclpy.executors import SingleThreadedExecutor


class NodeProcess:
    """Starts `vla-ros exec NAME` with remapping rules and parameters; a context manager that ends it."""

    def __init__(self, name: str, *rules: str, **parameters: Any) -> None:
        values = [word for rule in rules for word in ("-r", rule)]
        values += [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
        command = [sys.executable, "-m", "vla_ros.cli", "exec", name, "--ros-args", *values]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Sends a signal; returns exit status and what the process wrote."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self, seconds: float = 15.0) -> tuple[int, str]:
        """Exit status and output of a process that ends by itself; killed and reported as an error if it does not."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
            raise AssertionError(f"the process did not end within {seconds} s; it wrote:\n{output}") from None
        return self.process.returncode, output


def spin_until(executor: SingleThreadedExecutor, condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Serves callbacks until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        executor.spin_once(timeout_sec=0.01)
