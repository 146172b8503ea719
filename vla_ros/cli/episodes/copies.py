"""`vla-ros episodes merge` and `split`: copies of whole episodes with their labels, after everything has been checked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vla_ros.episodes.folder import EpisodeInfo, find_episodes, read_info
from vla_ros.episodes.writer import PART
from vla_ros.errors import VlaRosError

LABELS = ".labels.jsonl"


def merge(folders: Sequence[Path], out: Path) -> int:
    """Episodes of all folders into `out`, which must not exist."""
    episodes = collect(folders)
    copy(episodes, out)
    print(f"{out}: {len(episodes)} episodes of {len(folders)} folders")
    return 0


def split(folder: Path, out: Path, share: float, seed: int) -> int:
    """Episodes of a folder into out/train and out/held_out, drawn by episode: frames of one episode are never on both sides."""
    if not 0.0 < share < 1.0:
        raise VlaRosError(f"--share: found {share:g}, expected a number between 0 and 1")
    episodes = collect([folder])
    held_out = round(share * len(episodes))
    if not 0 < held_out < len(episodes):
        raise VlaRosError(
            f"--share {share:g} of {len(episodes)} episodes: found {held_out} held out, expected at least one on each side"
        )
    chosen = set(np.random.default_rng(seed).permutation(len(episodes))[:held_out].tolist())
    sides: dict[str, list[EpisodeInfo]] = {"train": [], "held_out": []}
    for index, episode in enumerate(episodes):
        sides["held_out" if index in chosen else "train"].append(episode)
    refuse_existing(out)
    for name, members in sides.items():
        copy(members, out / name)
        print(f"{out / name}: {len(members)} episodes")
    return 0


def collect(folders: Sequence[Path]) -> list[EpisodeInfo]:
    """Complete episodes of all folders, by id.

    Raises:
        VlaRosError: one is damaged, an id comes twice, or they are of different robots.
    """
    episodes: dict[str, EpisodeInfo] = {}
    for path in (path for folder in folders for path in find_episodes(folder)):
        episode = read_info(path)
        if episode.damage:
            raise VlaRosError(f"{path}: found {episode.damage}, expected a complete recording; see `vla-ros episodes check`")
        if episode.id in episodes:
            raise VlaRosError(
                f"episode '{episode.id}': found twice ({episodes[episode.id].path} and {path}), expected each id once"
            )
        episodes[episode.id] = episode
    robots = {episode.metadata.get("robot", ""): episode.path for episode in episodes.values()}
    if len(robots) > 1:
        found = "; ".join(f"{robot or 'none'} in {path}" for robot, path in sorted(robots.items()))
        raise VlaRosError(f"robots of the episodes: found {found}; expected one robot")
    for part in (part for folder in folders for part in sorted(folder.rglob(f"*.mcap{PART}"))):
        print(f"left out: {part}: not completed")
    return [episodes[name] for name in sorted(episodes)]


def copy(episodes: Sequence[EpisodeInfo], out: Path) -> None:
    """A copy has its name only once it is complete."""
    refuse_existing(out)
    out.mkdir(parents=True)
    for episode in episodes:
        labels = episode.path.with_suffix(LABELS)
        if labels.exists():
            shutil.copy2(labels, out / labels.name)
        part = out / (episode.path.name + PART)
        shutil.copy2(episode.path, part)
        part.rename(out / episode.path.name)


def refuse_existing(out: Path) -> None:
    if out.exists():
        raise VlaRosError(f"{out}: exists already; choose a new folder")
