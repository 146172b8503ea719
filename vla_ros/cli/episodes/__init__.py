"""Recorded episodes: look at them, check them, put them together, export to LeRobot's format, import what others recorded.

examples:
  vla-ros episodes list runs/latest/episodes                      one line per episode
  vla-ros episodes show latest                                    topics, rates, gaps and the curve of steps-to-go
  vla-ros episodes check runs/latest/episodes                     every fault with file, topic and frame
  vla-ros episodes split runs/latest/episodes --out data --share 0.1 --seed 1     data/train and data/held_out, whole episodes
  vla-ros episodes merge monday tuesday --out week                copies recordings and labels into one folder
  vla-ros episodes export week --format lerobot --out week_lerobot    LeRobotDataset v3.0
  vla-ros episodes demonstrate --task transfer --episodes 50 --out demos     ALOHA's scripted demonstrator in simulation
  vla-ros episodes import aloha_set --robot aloha --out demos     a LeRobot v3.0 set as recordings (demonstrations)
  vla-ros episodes import my_bag --robot fr3 --instruction 'push the red cube' --pause 2 --out demos     a ROS 2 bag
  vla-ros episodes import my_bag --robot fr3 --instruction-topic /task --actions states --map /joint_states:=/joints --out demos
  vla-ros episodes import act_data --instruction 'fold the cloth' --out demos        ALOHA's HDF5 files

`check` takes recordings, folders of them and LeRobot sets. `export` and `import` stop at the first faulty episode;
--skip-bad leaves faulty ones out, lists and counts them. An interrupted import of bags and HDF5 files goes on where it was.

exit status: 0 done; 1 check has found something, or export/import left episodes out; 2 bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One verb each; their modules are imported when they are used."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|check|merge|split|demonstrate|export|import")
    listing = verbs.add_parser("list", help="a table of a folder's episodes")
    listing.add_argument("folder", type=Path, help="recordings (*.mcap) in it and below it")
    show = verbs.add_parser("show", help="one episode in detail")
    show.add_argument("episode", help="path of an .mcap, or `latest` or an episode id under <runs>/latest/episodes")
    show.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (runs)")
    show.add_argument("--plot", type=Path, metavar="PNG", help="steps-to-go and rewards as a picture")
    check = verbs.add_parser("check", help="faults of recordings or LeRobot sets")
    check.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="*.mcap, a folder of them, or a LeRobot set")
    check.add_argument("--robot", default="", help="contract; default: as the recording says")
    check.add_argument("--json", action="store_true", help="findings as JSON")
    merge = verbs.add_parser("merge", help="copy the episodes of several folders into one")
    merge.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="recordings in them and below them")
    merge.add_argument("--out", type=Path, required=True, help="new folder")
    split = verbs.add_parser("split", help="copy a folder's episodes into <out>/train and <out>/held_out")
    split.add_argument("folder", type=Path, help="recordings in it and below it")
    split.add_argument("--out", type=Path, required=True, help="new folder")
    split.add_argument("--share", type=float, default=0.1, help="of the episodes that are held out (0.1)")
    split.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    shown = verbs.add_parser("demonstrate", help="record the scripted demonstrator of the simulated bimanual cell")
    shown.add_argument("--robot", default="aloha", help="name in config/robots, or a path to a contract (aloha)")
    shown.add_argument("--task", default="", help="transfer | insertion (the mixture of config/tasks/bimanual.yaml)")
    shown.add_argument("--split", choices=("train", "held_out"), default="train", help="of places (train)")
    shown.add_argument("--episodes", type=int, default=50, help="successful ones, with those that are there already (50)")
    shown.add_argument("--seed", type=int, default=0, help="of the first scene (0)")
    told = "probability that it first grips over the bar and goes through the motions, no success for a judge to see (0)"
    shown.add_argument("--miss", type=float, default=0.0, metavar="P", help=told)
    shown.add_argument("--out", type=Path, required=True, help="folder of the recordings")
    export = verbs.add_parser("export", help="recordings to a LeRobot set")
    export.add_argument("folder", type=Path, help="recordings in it and below it, all of one robot")
    export.add_argument("--format", choices=("lerobot",), default="lerobot", help="LeRobotDataset v3.0 (lerobot)")
    export.add_argument("--images", action="store_true", help="PNG instead of video: larger, exactly equal")
    imported = verbs.add_parser("import", help="a LeRobot v3.0 set, a ROS 2 bag or ALOHA's HDF5 files to recordings")
    imported.add_argument("source", type=Path, help="root of the set; bag; file or folder of files")
    imported.add_argument("--format", choices=("lerobot", "bag", "aloha"), help="default: by what lies there")
    imported.add_argument("--instruction", default="", metavar="TEXT", help="bag, aloha: what is done in it")
    imported.add_argument("--instruction-topic", default="", metavar="TOPIC", help="bag: each text on it begins an episode")
    imported.add_argument(
        "--pause", type=float, default=0.0, metavar="S", help="bag: so long without joint states ends an episode"
    )
    imported.add_argument(
        "--actions", choices=("commands", "states"), default="commands", help="bag: states, if it has no commands"
    )
    more = "OURS:=THEIRS"
    imported.add_argument("--map", action="append", default=[], metavar=more, help="bag: name of a topic; aloha: of a camera")
    imported.add_argument(
        "--grippers", choices=("shares", "metres"), default="shares", help="aloha: unit of the grippers (shares)"
    )
    imported.add_argument("--bgr", action="store_true", help="aloha: pictures are blue, green, red")
    for verb in (export, imported):
        verb.add_argument("--out", type=Path, required=True, help="new folder")
        verb.add_argument("--robot", default="", help="contract; default: as the recordings or the set say")
        verb.add_argument("--skip-bad", action="store_true", help="leave out faulty episodes, list and count them")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    if args.verb == "list":
        from vla_ros.cli.episodes import listing

        return listing.run(args.folder)
    if args.verb == "show":
        from vla_ros.cli.episodes import show

        return show.run(args.episode, args.runs, args.plot)
    if args.verb == "check":
        from vla_ros.cli.episodes import check

        return check.run(args.paths, args.robot, args.json)
    if args.verb in ("merge", "split"):
        from vla_ros.cli.episodes import copies

        if args.verb == "merge":
            return copies.merge(args.folders, args.out)
        return copies.split(args.folder, args.out, args.share, args.seed)
    if args.verb == "demonstrate":
        from vla_ros.cli.episodes import demonstrate

        return demonstrate.run(args.robot, args.task, args.split, args.episodes, args.seed, args.miss, args.out)
    if args.verb == "export":
        from vla_ros.cli.episodes import lerobot

        return lerobot.export(args.folder, args.out, args.robot, not args.images, args.skip_bad)
    from vla_ros.cli.episodes import imports

    return imports.run(args)
