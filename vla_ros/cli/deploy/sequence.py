"""`vla-ros deploy`: checks, practice, trial, decision, as --help has them. The decision itself is vla_ros/learning/trial.py."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vla_ros
from vla_ros.cli import graph
from vla_ros.cli.deploy import report
from vla_ros.cli.deploy.cell import Facts, LiveCell, success
from vla_ros.cli.doctor import once
from vla_ros.cli.doctor import report as doctor
from vla_ros.cli.doctor.words import Words
from vla_ros.cli.safety.replay_command import console
from vla_ros.doctor.finding import failures
from vla_ros.errors import VlaRosError
from vla_ros.files import sha256
from vla_ros.learning.deployments import Deployment
from vla_ros.learning.trial import Ran, Trial, TrialConfig, Verdict
from vla_ros.policy.store import WeightStore
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.tasks import TASKS
from vla_ros.twin import file
from vla_ros.twin.parameters import Twin

if TYPE_CHECKING:
    from rclpy.node import Node

    from vla_ros.types import PolicyVersion

LOOK, LOOKS = 3.0, 2  # s of the doctor; a busy machine may lose messages in one of them
CHECKED = 20  # newest episodes that a twin is checked on; a camera wants 16


def run(args: argparse.Namespace) -> int:
    to, contract = console(), RobotContract.load(args.robot)
    config = TrialConfig(args.pairs, args.level, args.margin)
    if args.refit is not None and args.refit.exists():
        raise VlaRosError(f"--refit {args.refit}: exists already, expected a new file")
    if args.practice and args.twin is None:
        raise VlaRosError(f"{args.practice[0]}: options after -- are of practice, which --version leaves out")
    namespace: str = args.namespace

    twin = file.load(args.twin) if args.twin is not None else None
    pair: tuple[PolicyVersion, PolicyVersion] | None = None
    if twin is not None:
        with graph.hidden_node() as node:
            facts, _ = _ready(node, contract, namespace, args)
        for warning in _good(twin, contract, args, facts):
            to.print(warning, style="yellow", markup=False)
        if (pair := _practised(args, contract, config, facts)) is None:
            return 0 if args.dry_run else 1
    with graph.hidden_node() as node:  # practice takes its time: the cell may be another one now
        facts, simulated = _ready(node, contract, namespace, args)
        store = WeightStore(facts.store)
        if pair is None:
            report.plan(to, facts, config)
            if args.dry_run:
                return 0
            pair = _standing(store, facts, contract), store.record(args.version)
        old, new = pair
        if new.number == old.number:
            raise VlaRosError(f"--version {new.number}: runs already, expected another one of {store.numbers()}")
        if facts.sha256 and facts.running != old.number:
            raise VlaRosError(f"version {facts.running} runs, expected {old.number}: somebody has chosen it meanwhile")
        if not simulated:
            _confirm(args.yes)
        return _tried(node, args, contract, config, store, facts, old, new, twin)


def _practised(
    args: argparse.Namespace, contract: RobotContract, config: TrialConfig, facts: Facts
) -> tuple[PolicyVersion, PolicyVersion] | None:
    """The version that runs and a better one from the twin, in the cell's store; None: there is none, or it is a dry run."""
    from vla_ros.cli.deploy import practice

    asked = practice.arguments(args, facts, args.out or practice.folder(facts, args.twin))
    report.plan(console(), facts, config, asked)
    if args.dry_run:
        return None
    store = WeightStore(facts.store)
    old = _standing(store, facts, contract)
    new = practice.run(asked, store, old, f"twin {args.twin.name} {sha256(args.twin)[:8]}")
    if new is None:
        console().print(f"the best version in the twin is version {old.number}, which runs: nothing to try on the cell")
        return None
    return old, new


def _ready(node: Node, contract: RobotContract, namespace: str, args: argparse.Namespace) -> tuple[Facts, bool]:
    """What the cell has, and whether it is simulated.

    Raises:
        VlaRosError: it is not sound, or cannot run the batch that was asked for.
    """
    for _ in range(LOOKS):
        findings, observed = once.examine(node, Words(contract, namespace), LOOK)
        if not (bad := failures(findings)):
            break
    else:
        doctor.show(findings, f"{contract.robot}{namespace and f' in {namespace}'}", console(), brief=True)
        raise VlaRosError(f"the graph is not sound ({', '.join(each.check for each in bad)}): nothing was moved")
    facts = LiveCell(node, namespace, lambda told: None).facts()
    if facts.by_operator and not args.instruction:
        raise VlaRosError("--instruction is missing: on this cell a person lays out the scenes, and no reset instructs")
    if unknown := set(args.tasks or ()) - set(TASKS):
        raise VlaRosError(f"--tasks: found '{min(unknown)}', expected some of {', '.join(TASKS)}")
    return facts, observed.simulated


def _good(twin: Twin, contract: RobotContract, args: argparse.Namespace, facts: Facts) -> list[str]:
    """What is not known of a twin that is good enough.

    Raises:
        VlaRosError: it is not, or there is nothing to tell by.
    """
    if unknown := twin.unexcited(contract):
        remedy = "excite the cell (`vla-ros twin excite`) and fit again"
        raise VlaRosError(f"{args.twin}: not known: {'; '.join(unknown)}: {remedy}; nothing was moved")
    from vla_ros.twin import fit as fitting

    episodes = args.check or _others(twin, facts.episodes)
    verdicts = fitting.check(twin, contract, episodes)
    if poor := [v for v in verdicts if not v.good and v.part.twin == v.part.twin]:  # nan: not enough to tell
        told = "; ".join(f"{v.part.name}: {v.why}" for v in poor)
        raise VlaRosError(f"{args.twin}: not good enough to practise in: {told}: fit it again; nothing was moved")
    return [f"{v.part.name}: {v.why}" for v in verdicts if not v.good]


def _others(twin: Twin, folder: Path) -> list[Path]:
    """The newest episodes of the cell's folder that the twin was not fitted to."""
    from vla_ros.episodes.folder import find_episodes

    fitted = {digest for _, digest in twin.episodes}
    found: list[Path] = []
    for path in sorted(find_episodes(folder), key=lambda path: path.stat().st_mtime, reverse=True):
        if len(found) < CHECKED and sha256(path) not in fitted:
            found.append(path)
    if not found:
        raise VlaRosError(f"{folder}: found only episodes that the twin was fitted to, expected others: give --check EPISODES")
    return found


def _standing(store: WeightStore, facts: Facts, contract: RobotContract) -> PolicyVersion:
    """The version that runs; a checkpoint that is none yet becomes the store's first.

    Raises:
        VlaRosError: the store is another one than the cell's.
    """
    if not facts.sha256:
        if store.numbers():
            found = f"a checkpoint that is no version, though there are versions {store.numbers()}"
            raise VlaRosError(f"{store.folder}: policy_node runs {found}: `vla-ros policy activate N` first")
        from vla_ros.cli.deploy import practice

        return practice.first_version(store, facts.policy, contract.robot)
    record = store.record(facts.running)
    if record.sha256 != facts.sha256:
        found = f"version {facts.running} has sha256 {record.sha256[:16]}"
        raise VlaRosError(f"{store.folder}: {found}, policy_node runs {facts.sha256[:16]}: this is not its store")
    return record


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise VlaRosError("stdin is not a terminal, so nobody can confirm; with a person at the hardware e-stop: --yes")
    console().print("THE ARM MOVES under a version that has not moved it before. Stand at the hardware e-stop.", style="bold")
    if input("yes, or anything else to end: ").strip().lower() != "yes":
        raise KeyboardInterrupt


def _tried(
    node: Node, args: argparse.Namespace, contract: RobotContract, config: TrialConfig, store: WeightStore, facts: Facts,
    old: PolicyVersion, new: PolicyVersion, twin: Twin | None,
) -> int:  # fmt: skip
    """The batch on the cell, and what comes of it."""
    to = console()
    cell = LiveCell(node, args.namespace, lambda told: to.print(told, style="yellow", markup=False))
    marked = store.active()
    if marked is None or marked.number != old.number or not facts.sha256:  # what is to come back must be marked
        cell.activate(old.number)
        cell.marked(store, old.number)
    if args.reduced_speed:
        cell.reduced_speed()
    now = datetime.now(timezone.utc)
    deployment = Deployment.begin(
        store.folder, now, by=args.by or getpass.getuser(), robot=contract.robot, package=vla_ros.__version__,
        old=_told(old), new=_told(new), config=dataclasses.asdict(config), seed=args.seed, reduced_speed=args.reduced_speed,
        twin={"file": str(args.twin), "sha256": sha256(args.twin), "made": dict(twin.made)} if twin is not None else {},
    )  # fmt: skip
    trial = Trial(old.number, new.number, config, _episodes(cell, args, old.number), success, args.seed)
    with report.bar(to, config.pairs) as shown:

        def tell(trial: Trial) -> None:
            deployment.episodes([{**dataclasses.asdict(r), "success": success(r)} for r in trial.ran])
            shown(trial)

        verdict: Verdict | None = None
        try:
            verdict = trial.conduct(tell)
            if verdict.accepted:
                cell.activate(new.number)
                cell.marked(store, new.number)
        except KeyboardInterrupt:
            changing = f"while version {new.number} was made active: `vla-ros policy list` tells which one is"
            deployment.end("interrupted", "", changing if verdict and verdict.accepted else f"version {old.number} stays")
            raise
        except VlaRosError as error:
            deployment.end("failed", "", str(error))
            raise
    deployment.end("accepted" if verdict.accepted else "rejected", verdict.rule, verdict.sentence)
    report.result(to, trial, verdict, deployment.path)
    if args.refit is not None:
        _refit(args.refit, contract, trial)
    return 0 if verdict.accepted else 1


def _episodes(cell: LiveCell, args: argparse.Namespace, old: int) -> Callable[[int, int], Ran]:
    """(version, number of the pair) -> the episode."""
    tasks, texts = args.tasks or list(TASKS), args.instruction or [""]

    def episode(version: int, k: int) -> Ran:
        goal: dict[str, Any] = {"seed": args.seed + k, "split": args.split, "time_limit": args.time_limit, "greedy": args.greedy}
        goal |= {"instruction": texts[k % len(texts)], "task": "" if args.instruction else tasks[k % len(tasks)]}
        return cell.episode(version, old, goal)

    return episode


def _told(record: PolicyVersion) -> dict[str, Any]:
    return {"number": record.number, "sha256": record.sha256, "origin": record.origin}


def _refit(path: Path, contract: RobotContract, trial: Trial) -> None:
    """A twin of the cell as it is now. The decision has been made: what does not fit changes nothing of it."""
    from vla_ros.twin import fit as fitting

    paths = [Path(r.file) for r in trial.ran if not r.stopped]
    try:
        twin = fitting.fit(contract, paths)
        file.save(path, twin)
    except VlaRosError as error:
        console().print(f"--refit: {error}", style="yellow", markup=False)
        return
    print(f"{path}: {len(twin.fitted)} of {len(twin.estimates)} parameters from the batch's {len(paths)} episodes")
