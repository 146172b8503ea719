"""`vla-ros episodes import`: what others recorded, as recordings of ours."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from vla_ros.episodes.aloha import SUFFIXES, AlohaFiles
from vla_ros.episodes.bag import Bag, BagOptions
from vla_ros.episodes.demonstration import Incoming, write_new
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract


def run(args: argparse.Namespace) -> int:
    """1 if some were left out."""
    kind = args.format or recognised(args.source)
    if kind == "lerobot":
        from vla_ros.cli.episodes import lerobot

        return lerobot.import_set(args.source, args.out, args.robot, args.skip_bad)
    names = dict(_pair(word) for word in args.map)
    if kind == "bag":
        if not args.robot:
            raise VlaRosError(f"{args.source}: --robot is missing: a bag does not say which contract's topics it holds")
        contract = RobotContract.load(args.robot)
        options = BagOptions(args.instruction, args.instruction_topic, args.pause, args.actions, names)
        episodes: Iterable[Incoming] = Bag(args.source, contract, options)
    else:
        contract = RobotContract.load(args.robot or "aloha")
        episodes = AlohaFiles(args.source, contract, args.instruction, names, args.grippers, args.bgr)
    return write_all(episodes, args.out, contract, args.skip_bad)


def recognised(source: Path) -> str:
    """The format of a file or folder, by what lies in it.

    Raises:
        VlaRosError: none of those that are known.
    """
    if source.suffix in SUFFIXES or (source.is_dir() and any(f.suffix in SUFFIXES for f in source.rglob("*"))):
        return "aloha"
    if source.suffix in (".mcap", ".db3") or (source / "metadata.yaml").is_file():
        return "bag"
    if (source / "meta" / "info.json").is_file():
        return "lerobot"
    expected = "meta/info.json (LeRobot), metadata.yaml, *.mcap or *.db3 (ROS 2 bag), or *.hdf5 (ALOHA)"
    raise VlaRosError(f"{source}: found none of the formats that can be imported, expected {expected}")


def write_all(episodes: Iterable[Incoming], out: Path, contract: RobotContract, skip_bad: bool) -> int:
    """Each file is complete or not there, so that an import that was interrupted goes on where it was."""
    written = present = skipped = 0
    for episode in episodes:
        try:
            new = write_new(out, episode, contract)
        except VlaRosError as error:
            if not skip_bad:
                kept = f" ({written + present} episodes before it are in {out})" if written + present else ""
                raise VlaRosError(f"{error}{kept}; --skip-bad leaves such episodes out") from error
            print(f"skipped: {error}")
            skipped += 1
        else:
            written, present = written + new, present + (not new)
    print(f"{out}: {written} episodes; {present} were there already; {skipped} skipped")
    return 1 if skipped else 0


def _pair(word: str) -> tuple[str, str]:
    ours, sign, theirs = word.partition(":=")
    if not (ours and sign and theirs):
        raise VlaRosError(f"--map {word}: expected OURS:=THEIRS")
    return ours, theirs
