"""Which links of a robot may touch or come close: the SRDF beside its URDF, in MoveIt's format."""

from __future__ import annotations

from pathlib import Path

from vla_ros.errors import VlaRosError
from vla_ros.robots.strict import load_xml


def disabled_pairs(path: Path) -> set[frozenset[str]]:
    """The pairs of names in `<disable_collisions link1= link2= reason=/>`; walls and obstacles are named like links.

    Raises:
        VlaRosError: the file is missing, is not XML, or an entry lacks a name.
    """
    pairs = set()
    for entry in load_xml(path).findall("disable_collisions"):
        names = [entry.get(key, "") for key in ("link1", "link2")]
        if not all(names):
            raise VlaRosError(f"{path}: disable_collisions: found {entry.attrib}, expected link1 and link2")
        pairs.add(frozenset(names))
    return pairs
