"""Looks at a running graph and tells what is wrong with it, each time with the remedy: nodes, joint states, cameras, clocks, QoS,
the way of the commands, limits and e-stop, disk, DDS settings, GPU. It moves nothing and publishes nothing.

examples:
  vla-ros doctor robot:=panda                              three seconds, then the table
  vla-ros doctor robot:=aloha --seconds 10 --json          for scripts
  vla-ros doctor robot:=panda safety:=panda,cell.yaml      also: does safety_node have these files?
  vla-ros doctor robot:=panda device:=cuda                 also: is there a GPU, and does policy_node use it?
  vla-ros doctor robot:=panda --estop                      triggers the e-stop of a standing arm, times every answer, resets
  vla-ros doctor phases robot:=panda instruction:='push the red cube to the left'
      dry run (latched: what would it ask for?), then reduced speed, then full; each only when all is sound and you said yes

exit status: 0 all is sound (warnings may be left); 1 a check failed, or a phase went wrong or was declined; 2 bad input.
docs/doctor.md has every check.
"""

from __future__ import annotations

import argparse

from vla_ros.errors import VlaRosError

INTERMIXED = True
SECONDS = 3.0  # of a look: /diagnostics comes once a second, and other machines must be discovered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words and options."""
    parser.add_argument(
        "words", nargs="+", metavar="[phases] NAME:=VALUE",
        help="robot:=NAME, and where wanted namespace:=, safety:=, device:=; of the phases also instruction:=",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="how long to look, and each phase lasts (3)")
    parser.add_argument("--json", action="store_true", help="the findings as JSON in place of the table")
    parser.add_argument("--estop", action="store_true", help="try the e-stop of a standing arm, and reset it")
    parser.add_argument("--yes", action="store_true", help="of the phases: do not ask; a person must be at the hardware e-stop")


def run(args: argparse.Namespace) -> int:
    """Looks, prints, and says by the exit status whether all is sound."""
    from vla_ros.cli import graph
    from vla_ros.cli.doctor import words

    given = words.parse(args.words)
    if not 0.2 <= args.seconds <= 600.0:
        raise VlaRosError(f"--seconds is {args.seconds:g}, expected 0.2 to 600")
    if given.phases and (args.json or args.estop):
        raise VlaRosError("the phases have no --json, and try the e-stop by themselves: leave --json and --estop away")
    if args.yes and not given.phases:
        raise VlaRosError("--yes is of the phases: a look asks nothing")
    with graph.hidden_node() as node:
        if given.phases:
            from vla_ros.cli.doctor import phases

            return phases.run(node, given, args.seconds, args.yes)
        from vla_ros.cli.doctor import once

        return once.run(node, given, args.seconds, args.estop, args.json)
