"""The safety envelope at work: stop the arm, watch it, read the limits, and run a recorded episode through another envelope.

examples:
  vla-ros safety watch                                     live; SPACE or e stops the arm, r releases and resets, q quits
  vla-ros safety estop                                     stop at once, from any terminal; vla-ros safety reset goes on
  vla-ros safety watch --namespace a                       one cell of several; estop without it stops every cell
  vla-ros safety limits --robot panda --safety panda slow.yaml       every limit, and the file that it comes from
  vla-ros safety replay latest --safety panda slow.yaml --out replay.png    what slow.yaml would have done to that episode

`--safety` takes what safety_node's parameter `safety` takes: names in config/safety or paths, each tightening the one
before; the first must be complete. Without it: config/safety/<robot>.yaml.

exit status: 0 done; 1 the arm is latched (state, watch), is not (estop), or the reset was refused; 2 bad input, or no
safety node answers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.cli.graph import add_namespace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One verb each; their modules are imported when they are used."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="watch|estop|reset|state|limits|replay")
    watch = verbs.add_parser("watch", help="live view with an e-stop key")
    estop = verbs.add_parser("estop", help="latch: the arm brakes and stands until the reset; without --namespace every cell's")
    reset = verbs.add_parser("reset", help="the operator's reset of the latch")
    reset.add_argument("--release", action="store_true", help="first publish /estop false, if whoever held it is gone")
    state = verbs.add_parser("state", help="mode, reason, active constraints and margins, once")
    for live in (watch, estop, reset, state):
        add_namespace(live)
    limits = verbs.add_parser("limits", help="the limits in force and the file that each comes from")
    limits.add_argument("--robot", default="panda", help="name in config/robots, or a path to a contract (panda)")
    add_safety(limits)
    replay = verbs.add_parser("replay", help="a recorded episode's chunks through another envelope, offline")
    replay.add_argument("episode", help="path of an .mcap, or `latest` or an episode id under <runs>/latest/episodes")
    add_safety(replay)
    replay.add_argument("--robot", default="", help="contract; default: as the episode's metadata says")
    replay.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (runs)")
    replay.add_argument("--out", type=Path, metavar="PNG", help="plot (replay-<episode>.png; with --json only when given)")
    replay.add_argument("--json", action="store_true", help="the figures as JSON instead of the table")
    replay.add_argument(
        "--as-recorded", action="store_true",
        help="feed the recorded joint states instead of an arm that follows the replayed commands; tracking faults may appear",
    )  # fmt: skip


def add_safety(parser: argparse.ArgumentParser) -> None:
    """The envelope's files."""
    parser.add_argument("--safety", nargs="+", default=[], metavar="FILE", help="safety files, the first one complete")


def run(args: argparse.Namespace) -> int:
    """Runs the verb; those that need the graph do so on a hidden node."""
    if args.verb == "limits":
        from vla_ros.cli.safety import limits

        return limits.show(args.robot, args.safety)
    if args.verb == "replay":
        from vla_ros.cli.safety import replay_command

        return replay_command.run(args)
    from vla_ros.cli import graph
    from vla_ros.cli.safety import live, watch

    with graph.hidden_node(args.namespace) as node:
        if args.verb == "watch":
            return watch.watch(node)
        if args.verb == "reset":
            return live.reset(node, args.release)
        return {"estop": live.estop, "state": live.state}[args.verb](node)
