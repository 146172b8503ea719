"""Start one node of this package, as `ros2 run vla_ros NAME` does.

examples:
  vla-ros exec policy_node --ros-args -p robot:=panda -r __node:=policy
  vla-ros exec safety_node --ros-args --params-file safety.yaml
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from vla_ros import embedded, nodes
from vla_ros.errors import VlaRosError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Name and everything behind it."""
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(available())}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="handed to the node (--ros-args ...)")


def available() -> list[str]:
    """Names of the nodes in vla_ros/nodes."""
    return sorted(file.stem for folder in nodes.__path__ for file in Path(folder).glob("*_node.py"))


def run(args: argparse.Namespace) -> int:
    """Calls the node's main() with the remaining words as sys.argv, and returns what it returns."""
    if args.name not in available():
        raise VlaRosError(f"no node {args.name!r} in vla_ros; known: {', '.join(available()) or 'none'}")
    embedded.activate()
    sys.argv = [args.name, *args.arguments]
    return int(importlib.import_module(f"vla_ros.nodes.{args.name}").main() or 0)
