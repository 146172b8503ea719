"""`vla-ros train improve --sim`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vla_ros.cli.train.practice_run import Run, console, judge_of, settings, side_by_side
from vla_ros.errors import VlaRosError
from vla_ros.learning.learner import load_config
from vla_ros.learning.practice import SimulatedPractice
from vla_ros.learning.workers import Crew, Place, Setup, Spawned
from vla_ros.policy import adapter, device
from vla_ros.policy import policy as checkpoint
from vla_ros.progress.calibration import Calibration


class _Improvement(SimulatedPractice):
    stage, due = "self_improvement", False

    def resume(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Nothing outlives a process but the weights."""


def run(args: argparse.Namespace) -> int:
    if args.workers < 0:
        raise VlaRosError(f"--workers: found {args.workers}, expected at least 0")
    with settings(args, here=not args.workers) as (place, config, envs):
        model, prompt = checkpoint.load(args.policy, place.name)
        place.check_model(model.config, args.policy)
        judge, calibration = judge_of(args, place, prompt)
        improve, stopping = load_config(args.config)
        torch.manual_seed(improve.seed)
        device.put(adapter.add(model), args.device)
        if not args.workers:  # each has a judge of its own
            device.put(judge, args.device)
        with _crew(args, calibration) as crew:
            taught = checkpoint.taught(args.policy)
            practice = _Improvement(model, judge, calibration, prompt, envs, config, improve, crew, taught)
            return Run(args, model, practice, practice, stopping).follow(args.episodes)


@contextlib.contextmanager
def _crew(args: argparse.Namespace, calibration: Calibration) -> Iterator[Crew | None]:
    """Workers that run the episodes; None where this process does."""
    if not args.workers:
        if args.ray:
            raise VlaRosError("--ray: found no --workers, expected how many")
        yield None
        return
    cells = side_by_side(args)
    if (groups := -(-args.per_update // cells)) < args.workers:
        wanted = -(-args.per_update // args.workers)
        console.print(f"an update has {groups} groups for {args.workers} workers: --side-by-side {wanted} would give each one")
    place: Place = _on_ray(args.ray) if args.ray else Spawned
    robot = str(Path(args.robot).resolve()) if Path(args.robot).is_file() else args.robot
    paths = args.policy.resolve(), args.judge.resolve()
    twin = args.twin.resolve() if args.twin else None
    setup = Setup(*paths, calibration, robot, args.split, cells, args.device, twin)
    crew = Crew(setup, args.workers, place, console.print)
    try:
        yield crew
    finally:
        crew.close()


def _on_ray(address: str) -> Place:
    try:
        from vla_ros.learning import ray_workers
    except ImportError as error:
        raise VlaRosError(f"--ray: {error}; pip install 'vla_ros[ray]', here and on the cluster's machines") from error
    ray_workers.connect(address)
    return ray_workers.OnRay
