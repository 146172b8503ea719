"""Runs `*.launch.yaml` files without ROS 2: the syntax of launch_yaml (Jazzy), the same nodes, the same arguments.

description = parse("launch/cell.launch.yaml", {"robot": "panda"})
with Launcher(description, on_line=lambda line: print(line.text)) as launcher:
    launcher.wait()
"""

from vla_ros.embedded.launch.description import Argument, LaunchDescription, ProcessSpec
from vla_ros.embedded.launch.interpreter import declared_arguments, parse
from vla_ros.embedded.launch.launcher import Launcher, OutputLine, ProcessResult

__all__ = [
    "Argument",
    "LaunchDescription",
    "Launcher",
    "OutputLine",
    "ProcessResult",
    "ProcessSpec",
    "declared_arguments",
    "parse",
]
