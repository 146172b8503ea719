"""Practice of `vla-ros deploy`: `vla-ros train improve --sim --twin`, from the version that runs on the cell."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from vla_ros.cli import train
from vla_ros.cli.deploy.cell import Facts
from vla_ros.cli.train import improve
from vla_ros.cli.train.practice_run import VERSIONS
from vla_ros.errors import VlaRosError
from vla_ros.files import sha256
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.store import WEIGHTS, WeightStore
from vla_ros.types import PolicyVersion


def folder(facts: Facts, twin: Path | None) -> Path:
    """One for each version and twin, so that only an interrupted call goes on in it."""
    return Path("runs/deploy") / f"{facts.running}-{sha256(twin)[:8] if twin else ''}"


def arguments(args: argparse.Namespace, facts: Facts, out: Path) -> argparse.Namespace:
    """Of `vla-ros train improve`; argparse itself refuses what it does not know."""
    parser = argparse.ArgumentParser(prog="vla-ros deploy ... -- (vla-ros train)", allow_abbrev=False)
    train.add_arguments(parser)
    own = {"robot": args.robot, "twin": args.twin, "policy": facts.policy, "judge": facts.judge, "out": out}
    words = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    return parser.parse_args(["improve", "--sim", *words, *args.practice])


def first_version(store: WeightStore, policy: Path, robot: str) -> PolicyVersion:
    """The checkpoint as version 1, as the learner of the cell would have it."""
    torch.manual_seed(0)
    model = adapter.add(checkpoint.load(policy, robot)[0])
    return store.write(adapter.state(model), 0, "sft", {})


def run(asked: argparse.Namespace, store: WeightStore, old: PolicyVersion, twin: str) -> PolicyVersion | None:
    """Practises; the best version, in the cell's store. None: that is the old one.

    Raises:
        VlaRosError: bad arguments, or a folder of another version's practice.
    """
    versions = WeightStore(asked.out / VERSIONS)
    if (there := versions.numbers()) and there[0] != old.number:
        found = f"practice that began with version {there[0]}, expected {old.number}"
        raise VlaRosError(f"--out {asked.out}: found {found}: choose another folder")
    versions.receive(old, [(Path(old.path) / WEIGHTS).read_bytes()])
    improve.run(asked)
    best = versions.active()
    if best is None or best.number == old.number:
        return None
    figures = {f"twin_{name}": value for name, value in best.metrics.items()}  # they say nothing of the cell
    origin = f"{twin}, version {best.number} of {asked.out}"
    return store.adopt(dataclasses.replace(best, metrics=figures), old.number, origin)
