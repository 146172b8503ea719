"""Which recordings practice keeps."""

from __future__ import annotations

from pathlib import Path

from recordings import record

from vla_ros.episodes import label
from vla_ros.episodes.folder import Shelf
from vla_ros.robots.contract import RobotContract

CONTRACT = RobotContract.load("panda")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.mcap"))


def test_the_newest_stay_and_what_people_gave(tmp_path: Path) -> None:
    for k in range(6):
        record(tmp_path / f"{k}.mcap", CONTRACT, corrected_steps="2" if k == 1 else "0")
    record(tmp_path / "improve-1" / "0.mcap", CONTRACT)
    label(tmp_path, "2", "success")
    shelf = Shelf(tmp_path, 2)
    assert shelf.clear() == 2
    assert names(tmp_path) == ["1.mcap", "2.mcap", "4.mcap", "5.mcap", "improve-1/0.mcap"], "a fleet's are its own affair"
    assert shelf.clear() == 0
    record(tmp_path / "6.mcap", CONTRACT)
    assert shelf.clear() == 1
    assert names(tmp_path) == ["1.mcap", "2.mcap", "5.mcap", "6.mcap", "improve-1/0.mcap"]


def test_zero_keeps_all(tmp_path: Path) -> None:
    for k in range(3):
        record(tmp_path / f"{k}.mcap", CONTRACT)
    assert Shelf(tmp_path, 0).clear() == 0
    assert len(names(tmp_path)) == 3
