"""Practise in the twin, try the new version on the cell in a small batch, accept it or keep the old one. On a running graph.

examples:
  vla-ros deploy --twin cell.yaml --dry-run             checks cell and twin, tells what would happen; nothing moves or is written
  vla-ros deploy --twin cell.yaml                       practice in the twin, 20 pairs of episodes on the cell, decision
  vla-ros deploy --twin cell.yaml -- --episodes 960 --workers 2          what follows -- is of `vla-ros train improve`
  vla-ros deploy --twin cell.yaml --refit next.yaml     and a new twin from the batch's recordings, for the next turn
  vla-ros deploy --version 7                            no practice: a version that the store has, on trial
  vla-ros deploy --twin cell.yaml --instruction 'push the red cube to the left'      where a person lays out the scenes

1 checks   the graph is sound (as `vla-ros doctor`), joints and delay of the twin are known, and it is good on episodes of this
           cell that it was not fitted to (--check; else the newest of the cell's folder)
2 practice from the version that runs, in cells drawn from the twin; a call that was interrupted goes on where it was
3 trial    the new version is added to the cell's store. Old and new run the same scenes in pairs, in random order; between two
           episodes policy_node swaps. The new one is on probation (tip at most `probation_speed`). The judge's word counts, an
           operator's label (/episodes/label) more. Episodes in which a person took over, or that broke off, are run again
4 decision vla_ros/learning/trial.py: significantly worse, or stopped by the safety filter: rejected at once. In the end,
           accepted if the new version's successes are not fewer than the old one's by more than --margin. 20 pairs accept one
           that is as good in 56 % of all trials, one that is 20 points better in 94 %, 20 worse in 13 %, 30 worse in 3.5 %
           (beside an old one of 60 %)

Only an accepted version is marked active. Until then a restart of any node resumes the old one, and when this command ends, by
Ctrl-C or otherwise, the trainer has the old one back after the episode. STORE/deployments has a record of every trial.

Policy, judge, store and episodes are where the nodes have them: run it in the folder in which the cell was launched.

exit status: 0 accepted (or a dry run that found all well); 1 the old version stays; 2 bad input, or not ready; 130 interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.cli.graph import add_namespace
from vla_ros.learning.trial import TrialConfig

DEFAULT = TrialConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--robot", default="panda", help="name in config/robots, or a path to a contract (panda)")
    add_namespace(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--twin", type=Path, metavar="FILE", help="of `vla-ros twin fit`: practise in it")
    what.add_argument("--version", type=int, metavar="N", help="of the store: no practice, this one on trial")
    parser.add_argument("--check", nargs="+", type=Path, metavar="EPISODES", help="of this cell, that the twin was not fitted to")
    parser.add_argument("--out", type=Path, help="folder of the practice (runs/deploy/VERSION-TWIN)")
    parser.add_argument("--pairs", type=int, default=DEFAULT.pairs, help=f"of episodes, at most ({DEFAULT.pairs})")
    level = f"share of equal versions that are rejected as significantly worse ({DEFAULT.level:g})"
    parser.add_argument("--level", type=float, default=DEFAULT.level, help=level)
    margin = f"success rate that the new version may lose; below 0: must gain ({DEFAULT.margin:g})"
    parser.add_argument("--margin", type=float, default=DEFAULT.margin, help=margin)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--instruction", action="append", metavar="TEXT", help="of the batch, in turn where given several times")
    given.add_argument("--tasks", nargs="+", metavar="TASK", help="of the batch, in turn; the cell instructs (reach push)")
    parser.add_argument("--split", choices=("train", "held_out"), default="train", help="of the batch's scenes (train)")
    parser.add_argument("--seed", type=int, default=400_000, help="of the batch's first scene (400000)")
    parser.add_argument("--time-limit", type=float, default=0.0, metavar="S", help="of an episode (the task's)")
    parser.add_argument("--greedy", action="store_true", help="the most probable action in place of a sample")
    parser.add_argument("--reduced-speed", action="store_true", help="of the arm, for both versions; stays on afterwards")
    parser.add_argument("--refit", type=Path, metavar="FILE", help="new file: a twin from the batch's recordings")
    parser.add_argument("--by", default="", metavar="NAME", help="who decides, for the record (the login name)")
    parser.add_argument("--dry-run", action="store_true", help="checks only: nothing moves, nothing is written")
    parser.add_argument("--yes", action="store_true", help="do not ask before a real arm moves; a person must be at its e-stop")
    told = "options of `vla-ros train improve`: --episodes, --per-update, --workers, --config, ..."
    parser.add_argument("practice", nargs="*", metavar="-- OPTION", help=told)


def run(args: argparse.Namespace) -> int:
    from vla_ros.cli.deploy import sequence

    return sequence.run(args)
