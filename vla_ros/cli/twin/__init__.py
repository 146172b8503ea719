"""Digital twin: the simulated cell's friction, damping, gains, delay, payload and cameras from recorded episodes.

examples:
  vla-ros twin fit runs/latest/episodes --out cell.yaml      drives and cameras as the episodes say, with 95 % intervals
  vla-ros twin check cell.yaml runs/today/episodes           is it good enough to practise in? other episodes than those of fit
  vla-ros exec sim_node --ros-args -p twin:=cell.yaml        the simulated cell with it
  vla-ros train improve --sim --twin cell.yaml ...           practice in cells drawn from its uncertainty

fit replays the recorded commands in MuJoCo, in windows of 1.6 s that begin at a recorded state: bounded least squares.
What the episodes do not tell is named, with the reason and what to record instead, and stays as modelled. Episodes tell most when
joint states and commands are recorded at the control rate: docs/twin.md says how.

exit status: 0 done, for check: good enough; 1 check found a joint or camera that is not; 2 bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="fit|check")
    fit = verbs.add_parser("fit", help="a twin from episodes")
    fit.add_argument("episodes", nargs="+", type=Path, metavar="EPISODES", help="*.mcap, or folders of them")
    fit.add_argument("--out", type=Path, default=Path("twin.yaml"), help="new file (twin.yaml)")
    check = verbs.add_parser("check", help="is a twin good enough, on other episodes")
    check.add_argument("twin", type=Path, help="file that fit has written")
    check.add_argument("episodes", nargs="+", type=Path, metavar="EPISODES", help="*.mcap, or folders of them")
    for verb in (fit, check):
        verb.add_argument("--robot", default="panda", help="name in config/robots, or a path to a contract (panda)")


def run(args: argparse.Namespace) -> int:
    from vla_ros.cli.twin import show

    return show.fit(args) if args.verb == "fit" else show.check(args)
