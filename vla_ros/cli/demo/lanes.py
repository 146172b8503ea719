"""Stage 1 in two processes side by side, reporting to the terminal view through a queue."""

from __future__ import annotations

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any

from vla_ros.cli.demo.settings import RunFolder
from vla_ros.errors import VlaRosError
from vla_ros.learning.stage1 import Stage1Config

View = Callable[[str, float, dict[str, float]], None]  # phase, share done, figures
WAIT = 900.0  # s that one lane waits for the other; longer means that it died


@dataclass(frozen=True)
class _Job:
    robot: str
    folder: RunFolder
    config: Stage1Config
    queue: Any  # multiprocessing queue of (phase, share, figures) and ("error" | "done", text, …)
    demonstrated: Event
    grounded: Event

    def report(self, phase: str) -> Callable[[float, dict[str, float]], None]:
        return lambda share, figures: self.queue.put((phase, share, figures))


def stage1(robot: str, folder: RunFolder, config: Stage1Config, view: View) -> dict[str, dict[str, float]]:
    """Run both lanes to their end; returns each one's held-out figures.

    Raises:
        VlaRosError: a lane failed; the message is its own.
    """
    context = multiprocessing.get_context("spawn")  # a process must not fork after OpenGL was used
    job = _Job(robot, folder, config, context.Queue(), context.Event(), context.Event())
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited: two threads on two busy cores are many times slower
    lanes = [context.Process(target=_run, args=(lane, job), daemon=True) for lane in ("policy", "judge")]
    for lane in lanes:
        lane.start()
    figures: dict[str, dict[str, float]] = {}
    try:
        while len(figures) < len(lanes):
            try:
                kind, share, values = job.queue.get(timeout=2.0)
            except queue.Empty:
                dead = [p.exitcode for p in lanes if p.exitcode]
                if dead:
                    raise VlaRosError(f"a training process ended with exit status {dead[0]} (out of memory?)") from None
                continue
            if kind == "error":
                raise VlaRosError(str(share))
            if kind == "done":
                figures[str(share)] = values
            else:
                view(kind, share, values)
    finally:
        for lane in lanes:
            if len(figures) < len(lanes):
                lane.terminate()
            lane.join()
    return figures


def _run(lane: str, job: _Job) -> None:
    try:
        job.queue.put(("done", lane, {"policy": _policy, "judge": _judge}[lane](job)))
    except VlaRosError as error:
        job.queue.put(("error", str(error), {}))
    except Exception:  # noqa: BLE001 (the parent must learn of anything that ends this process)
        job.queue.put(("error", traceback.format_exc(), {}))


def _torch() -> None:
    import torch

    torch.set_num_threads(1)


def _policy(job: _Job) -> dict[str, float]:
    _torch()
    from vla_ros.learning import stage1 as s

    s.ground(job.folder.grounded, job.robot, job.config, job.report("grounding"))
    job.grounded.set()
    _wait(job.demonstrated, "demonstrations")
    data = s.load_demonstrations(job.folder.root / "demonstrations.npz")
    return s.train_policy(job.folder.grounded, job.folder.policy, data, job.config, job.report("policy"))


def _judge(job: _Job) -> dict[str, float]:
    _torch()
    from vla_ros.learning import stage1 as s

    policy, judge = s.demonstrate(job.robot, job.config, job.report("demonstrations"))
    s.save_demonstrations(job.folder.root / "demonstrations.npz", policy)
    job.demonstrated.set()
    _wait(job.grounded, "grounding")
    return s.train_judge(job.folder.grounded, job.folder.judge, judge, job.config, job.report("judge"))


def _wait(event: Event, what: str) -> None:
    if not event.wait(WAIT):
        raise VlaRosError(f"{what} did not finish within {WAIT:g} s")
