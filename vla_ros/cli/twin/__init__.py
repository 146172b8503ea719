"""Digital twin: the simulated cell's friction, damping, gains, delay, payload and cameras from recorded episodes.

examples:
  vla-ros twin excite --out runs/excited                     the arm moves: 4 motions of 8 s that tell most, recorded
  vla-ros twin fit runs/latest/episodes --out cell.yaml      drives and cameras as the episodes say, with 95 % intervals
  vla-ros twin check cell.yaml runs/today/episodes           is it good enough to practise in? other episodes than those of fit
  vla-ros exec sim_node --ros-args -p twin:=cell.yaml        the simulated cell with it
  vla-ros train improve --sim --twin cell.yaml ...           practice in cells drawn from its uncertainty

excite needs a running graph on which no policy acts. It sends joint positions to the safety filter, from where the arm is to the
contract's posture and round it, and stops when the filter latches or holds the arm, or anybody else sends chunks.

fit replays the recorded commands in MuJoCo, in windows of 1.6 s that begin at a recorded state: bounded least squares.
What the episodes do not tell is named, with the reason and what to record instead, and stays as modelled. Episodes tell most when
joint states and commands are recorded at the control rate: docs/twin.md says how.

exit status: 0 done, for check: good enough; 1 check found a joint or camera that is not, or excite was stopped; 2 bad input, or a
cell that is not ready.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.cli.graph import add_namespace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="excite|fit|check")
    excite = verbs.add_parser("excite", help="play and record motions that tell most, on a running cell")
    add_namespace(excite)
    excite.add_argument("--out", type=Path, default=Path("runs/excitation"), help="folder of the recordings (runs/excitation)")
    excite.add_argument("--count", type=int, default=4, help="motions, each another one (4)")
    excite.add_argument("--seconds", type=float, default=8.0, metavar="S", help="of a motion, after the approach (8)")
    excite.add_argument("--seed", type=int, default=0, help="of the first motion (0)")
    excite.add_argument("--yes", action="store_true", help="do not ask before a real arm moves; a person must be at its e-stop")
    fit = verbs.add_parser("fit", help="a twin from episodes")
    fit.add_argument("episodes", nargs="+", type=Path, metavar="EPISODES", help="*.mcap, or folders of them")
    fit.add_argument("--out", type=Path, default=Path("twin.yaml"), help="new file (twin.yaml)")
    check = verbs.add_parser("check", help="is a twin good enough, on other episodes")
    check.add_argument("twin", type=Path, help="file that fit has written")
    check.add_argument("episodes", nargs="+", type=Path, metavar="EPISODES", help="*.mcap, or folders of them")
    for verb in (excite, fit, check):
        verb.add_argument("--robot", default="panda", help="name in config/robots, or a path to a contract (panda)")


def run(args: argparse.Namespace) -> int:
    if args.verb == "excite":
        from vla_ros.cli.twin import excite

        return excite.run(args)
    from vla_ros.cli.twin import show

    return show.fit(args) if args.verb == "fit" else show.check(args)
