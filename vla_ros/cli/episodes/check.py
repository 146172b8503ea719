"""`vla-ros episodes check`: every fault of recordings and LeRobot sets; exit status 1 if there is one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vla_ros.episodes.check import Finding, check_episode
from vla_ros.episodes.folder import find_episodes
from vla_ros.episodes.lerobot import LeRobotReader
from vla_ros.episodes.lerobot_meta import contract_of, is_lerobot
from vla_ros.errors import VlaRosError


def run(paths: Sequence[Path], robot: str, as_json: bool) -> int:
    """The whole command."""
    findings: list[Finding] = []
    checked = 0
    for path in paths:
        if is_lerobot(path):
            count, found = check_lerobot(path, robot)
            checked += count
            findings += found
            continue
        for file in find_episodes(path, with_parts=True) if path.is_dir() else [path]:
            findings += check_episode(file, robot)
            checked += 1
    if as_json:
        listed = [{**asdict(finding), "file": str(finding.file)} for finding in findings]
        print(json.dumps({"checked": checked, "findings": listed}, indent=2))
    else:
        for finding in findings:
            print(finding)
        print(f"{checked} episodes checked, {len(findings)} findings in {len({finding.file for finding in findings})} files")
    return 1 if findings else 0


def check_lerobot(folder: Path, robot: str = "") -> tuple[int, list[Finding]]:
    """Number of episodes and their faults; a fault of the whole set is the only finding then. Every image is decoded."""
    contract = contract_of(folder, robot)
    try:
        reader = LeRobotReader(folder, contract, skip_bad=True)
    except VlaRosError as error:
        return 0, [Finding(folder, "", "", str(error), f"a set that fits {contract.path}")]
    findings = []
    for episode in reader:
        try:
            for _ in episode.frames():
                pass
        except VlaRosError as error:
            findings.append(Finding(folder, "", f"episode {episode.index}", str(error), "images that can be decoded"))
    return len(reader), [*reader.skipped, *findings]
