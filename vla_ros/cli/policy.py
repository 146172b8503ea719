"""Versions of a policy in a weight store: what descends from what, how they differ, which one runs, and back to another.

examples:
  vla-ros policy list --store runs/store              one line per version; the marked one runs
  vla-ros policy show 7 --store runs/store            its ancestors and figures
  vla-ros policy diff 1 7 --store runs/store          how far each tensor has moved
  vla-ros policy activate 5                           the running policy_node changes over, between two ticks
  vla-ros policy rollback                             ... to the parent of the version that it runs
  vla-ros policy activate 5 --store runs/store        and without one: the version that its next start resumes

`activate` and `rollback` ask the policy_node on the graph, which checks the weights and proves them on its last observation
before it takes them; --store sets the store's marker as well, and alone where no node answers. During practice an operator's
rollback holds: the next update goes on from the version that runs.

The marked version is what a restart resumes: the one that runs, or, while a new one shares the episodes with it on probation
(`canary` in config/training), the proven one. An operator's choice ends that.

`from` is where a version was learned, `cell` or a twin (`vla-ros deploy`); `show` has its trials on the cell as well.

A version's success is the detector's, over the episodes that its successor has learned from; the newest has none yet.

exit status: 0 done; 1 the policy_node refused the version; 2 bad input.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.graph import add_namespace
from vla_ros.errors import VlaRosError
from vla_ros.learning import deployments

if TYPE_CHECKING:
    from vla_ros.policy.store import WeightStore
    from vla_ros.types import PolicyVersion

SERVICE = "policy/activate"  # in the cell's namespace
DEFAULT_STORE = Path("runs/store")  # the launch files'
ANSWER = 60.0  # s; loading and checking a large version takes its time
MOST = 20  # tensors of a diff, those that moved most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One verb each."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|diff|activate|rollback")
    listing = verbs.add_parser("list", help="a table of all versions")
    show = verbs.add_parser("show", help="one version: ancestors and figures")
    show.add_argument("version", type=int, nargs="?", help="number (the running one)")
    diff = verbs.add_parser("diff", help="relative change of each tensor between two versions")
    diff.add_argument("a", type=int, metavar="A")
    diff.add_argument("b", type=int, metavar="B")
    diff.add_argument("--all", action="store_true", help=f"all tensors, not only the {MOST} that moved most")
    for verb in (listing, show, diff):
        verb.add_argument("--store", type=Path, default=DEFAULT_STORE, help=f"folder of the weight store ({DEFAULT_STORE})")
    activate = verbs.add_parser("activate", help="change over to a version")
    activate.add_argument("version", type=int, help="number")
    rollback = verbs.add_parser("rollback", help="change over to the parent of the running version")
    for verb in (activate, rollback):
        verb.add_argument("--store", type=Path, help="weight store whose marker is set where no policy_node answers")
        add_namespace(verb)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    if args.verb in ("activate", "rollback"):
        return _change(None if args.verb == "rollback" else args.version, args.store, args.namespace)
    store = _opened(args.store)
    if args.verb == "list":
        _list(store)
    elif args.verb == "show":
        _show(store, args.version)
    else:
        _diff(store, args.a, args.b, args.all)
    return 0


def _opened(folder: Path) -> WeightStore:
    from vla_ros.policy.store import WeightStore

    if not folder.is_dir():  # looking at a store must not make one
        raise VlaRosError(f"--store {folder}: no such folder")
    return WeightStore(folder)


def _list(store: WeightStore) -> None:
    from rich.table import Table

    from vla_ros.cli.safety.replay_command import console

    numbers = store.numbers()
    if not numbers:
        raise VlaRosError(f"{store.folder}: holds no versions")
    running, records = store.active(), [store.record(number) for number in numbers]
    success = _success(records)
    table = Table()
    for name in ("", "version", "parent", "stage", "success", "date", "sha256", "from"):
        table.add_column(name, justify="right" if name in ("version", "parent", "success") else "left", no_wrap=True)
    for r in records:
        parent = "-" if not r.parent else str(r.parent) if r.parent in numbers else f"{r.parent} is missing"
        marked = running is not None and running.number == r.number
        row = ["active" if marked else "", str(r.number), parent, r.stage, success.get(r.number, "-"), _date(r), r.sha256[:12]]
        table.add_row(*row, r.origin.partition(",")[0] or "cell", style="bold" if marked else None)
    console().print(table)


def _show(store: WeightStore, number: int | None) -> None:
    from vla_ros.cli.safety.replay_command import console

    running = store.active()
    if number is None:
        if running is None:
            raise VlaRosError(f"{store.folder}: no version is marked active; give a number")
        number = running.number
    r = store.record(number)
    success = _success([store.record(n) for n in store.numbers()])
    to = console()
    to.print(f"[bold]version {r.number}[/]  {r.stage}  {_date(r)}{'  active' if running == r else ''}")
    to.print(f"lineage:  {' <- '.join(str(e.number) for e in store.lineage(r.number))}")
    to.print(f"success:  {success.get(number, '-')}")
    to.print(f"sha256:   {r.sha256}\nfolder:   {r.path}")
    to.print(f"from:     {r.origin or 'the cell of this store'}", markup=False)
    for d in (each.content for each in deployments.load(store.folder) if each.content["new"]["number"] == number):
        to.print(f"trial:    {d['decision']} {d['at']} by {d.get('by', '?')}: {d.get('reason', '')}", markup=False)
    for name, value in sorted(r.metrics.items()):
        to.print(f"  {name:<20} {value:.6g}")


def _diff(store: WeightStore, a: int, b: int, every: bool) -> None:
    from rich.table import Table

    from vla_ros.cli.safety.replay_command import console

    moved = sorted(store.diff(a, b).items(), key=lambda item: -item[1])
    shown = moved if every else moved[:MOST]
    table = Table("tensor", "relative change", title=f"version {a} to {b}")
    table.columns[1].justify = "right"
    for name, change in shown:
        table.add_row(name, f"{change:.2%}")
    to = console()
    to.print(table)
    still = sum(change == 0 for _, change in moved)
    to.print(f"{len(moved)} tensors, {still} unchanged, {len(moved) - len(shown)} not shown")


def _success(records: list[PolicyVersion]) -> dict[int, str]:
    """By version, from the newest one that was learned from its episodes; those in which a person took over do not count."""
    known = [(r.parent, r.metrics) for r in records if "parent_success" in r.metrics]
    return {n: f"{m['parent_success']:.0%} of {m['episodes'] - m.get('corrected_episodes', 0):.0f}" for n, m in known}


def _date(record: PolicyVersion) -> str:
    written = Path(record.path).stat().st_mtime
    return f"{datetime.fromtimestamp(written).astimezone():%Y-%m-%d %H:%M:%S}"


def _change(number: int | None, folder: Path | None, namespace: str) -> int:
    """To that version, None being the parent of the running one: on the graph, else in the store."""
    from vla_ros.cli import graph

    store = _opened(folder) if folder is not None else None
    with graph.hidden_node(namespace) as node:
        service = graph.own(node, SERVICE)
        cells = graph.settled(lambda: graph.cells_with(node, SERVICE))
        if namespace in cells:
            kind = graph.interface("srv", "vla_ros/srv/ActivatePolicy")
            request = kind.Request(number=number or 0, rollback=number is None)
            answer = graph.call(node, kind, service, request, ANSWER)
            print(f"version {answer.number} runs{'' if answer.success else f': {answer.message}'}")
            if answer.success and store is not None:
                store.activate(answer.number)  # the trainer does so as well, where there is one
            return 0 if answer.success else 1
    if cells and not namespace:
        others = ", ".join(cells)
        raise VlaRosError(f"no policy_node answers on {service}, but there is one in {others}; say whose with --namespace")
    if store is None:
        raise VlaRosError(f"no policy_node answers on {service}; give --store to set the version that its next start resumes")
    number = number if number is not None else _parent(store)
    store.load(number)  # a damaged version is not worth resuming
    store.activate(number)
    print(f"no policy_node answers on {service}; its next start resumes version {number} of {store.folder}")
    return 0


def _parent(store: WeightStore) -> int:
    """Of the version that ran last."""
    running = store.active() or store.latest()
    if running is None:
        raise VlaRosError(f"{store.folder}: holds no versions")
    if not running.parent:
        raise VlaRosError(f"{store.folder}: version {running.number} has no parent to go back to")
    return running.parent
