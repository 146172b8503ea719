"""The words of `vla-ros doctor`: NAME:=VALUE, as launch files and nodes have them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros.cli.graph import cell
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract

PHASES = "phases"
NAMES = {
    "robot": "name in config/robots, or a path to a contract",
    "namespace": "of the cell, one of several on the network",
    "safety": "files that safety_node must have (names or paths, comma between); else those that it has",
    "device": "that the policy must run on: cuda, cuda:1, auto; asks for a GPU on this machine",
    "instruction": "of the phases: what the policy is to do",
}


@dataclass(frozen=True)
class Words:
    """What was given."""

    contract: RobotContract
    namespace: str = ""  # '' or '/a'
    safety: tuple[str, ...] = ()
    device: str = ""
    instruction: str = ""
    phases: bool = False


def parse(words: Sequence[str]) -> Words:
    """
    Raises:
        VlaRosError: a word that is not NAME:=VALUE, an unknown name, no robot, or one that is not known.
    """
    phases = list(words[:1]) == [PHASES]
    given: dict[str, str] = {}
    for word in words[phases:]:
        name, assign, value = word.partition(":=")
        if not assign:
            raise VlaRosError(f"found {word!r}, expected NAME:=VALUE, or `{PHASES}` as the first word")
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise VlaRosError(f"unknown argument {name!r}; {hint}known: {', '.join(NAMES)}")
        given[name] = value
    if not given.get("robot"):
        raise VlaRosError(f"robot:= is missing, expected one of {', '.join(RobotContract.known())} or a path to a contract")
    if "instruction" in given and not phases:
        raise VlaRosError(f"instruction:= is of the phases, which move the arm: vla-ros doctor {PHASES} robot:=...")
    return Words(
        RobotContract.load(given["robot"]), cell(given.get("namespace", "")),
        tuple(name.strip() for name in given.get("safety", "").split(",") if name.strip()),
        given.get("device", ""), given.get("instruction", ""), phases,
    )  # fmt: skip
