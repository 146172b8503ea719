"""Run any script that imports rclpy: under ROS 2 with the real one, otherwise with the embedded runtime.

examples:
  vla-ros run my_node.py
  vla-ros run my_node.py --ros-args -r chatter:=/other -p rate:=5
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from vla_ros import embedded
from vla_ros.errors import VlaRosError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Script and everything behind it."""
    parser.add_argument("script", metavar="SCRIPT", help="Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="handed to the script")


def run(args: argparse.Namespace) -> int:
    """Runs the script as __main__, with its own folder first on the path, as `python SCRIPT` would."""
    script = Path(args.script)
    if not script.is_file():
        raise VlaRosError(f"script not found: {script}")
    embedded.activate()
    sys.argv = [str(script), *args.arguments]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")
    return 0
