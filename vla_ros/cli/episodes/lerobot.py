"""`vla-ros episodes export` and `import`: recordings to LeRobotDataset v3.0 and back."""

from __future__ import annotations

import shutil
from pathlib import Path

from vla_ros.episodes.demonstration import write_demonstration
from vla_ros.episodes.folder import find_episodes, read_info
from vla_ros.episodes.lerobot import LeRobotReader
from vla_ros.episodes.lerobot_meta import contract_of
from vla_ros.episodes.lerobot_writer import LeRobotWriter
from vla_ros.episodes.trajectory import load_trajectory
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract


def export(folder: Path, out: Path, robot: str, video: bool, skip_bad: bool) -> int:
    """Episodes of a folder into a new LeRobot set; 1 if some were left out."""
    files = find_episodes(folder)
    contract = RobotContract.load(robot or _robot(files))
    skipped = 0
    with LeRobotWriter(out, contract, video) as writer:
        for file in files:
            try:
                trajectory = load_trajectory(file, contract)
            except VlaRosError as error:
                if not skip_bad:
                    raise
                print(f"skipped: {error}")
                skipped += 1
            else:
                writer.add(trajectory)
    print(f"{out}: LeRobotDataset v3.0, {writer.episodes} episodes, {writer.frames} frames at {writer.fps} Hz; {skipped} skipped")
    return 1 if skipped else 0


def import_set(folder: Path, out: Path, robot: str, skip_bad: bool) -> int:
    """Episodes of a LeRobot set into a new folder of recordings; 1 if some were left out."""
    contract = contract_of(folder, robot)
    if out.exists():
        raise VlaRosError(f"{out}: exists already; choose a new folder")
    reader = LeRobotReader(folder, contract, skip_bad)
    count = undecodable = 0
    try:
        for episode in reader:
            try:
                write_demonstration(out, episode, contract)
                count += 1
            except VlaRosError as error:
                if not skip_bad or contract.action.semantics != "joint_position":
                    raise
                print(f"skipped: {error}")
                undecodable += 1
    except VlaRosError:
        shutil.rmtree(out, ignore_errors=True)  # it can be made again from the set
        raise
    for finding in reader.skipped:
        print(f"skipped: {finding}")
    skipped = undecodable + len(reader.skipped)
    print(f"{out}: {count} episodes; {skipped} skipped")
    return 1 if skipped else 0


def _robot(files: list[Path]) -> str:
    for file in files:
        if robot := read_info(file).metadata.get("robot", ""):
            return robot
    raise VlaRosError(f"{files[0].parent}: metadata: robot: found none in {len(files)} files, expected its name; give --robot")
