"""Packages of an installed ROS 2, found as ament_index does: through AMENT_PREFIX_PATH, without importing anything of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vla_ros.errors import VlaRosError
from vla_ros.paths import share

MARKERS = Path("share") / "ament_index" / "resource_index" / "packages"


def share_of(package: str, environment: Mapping[str, str]) -> Path:
    """The package's share folder.

    Raises:
        VlaRosError: it is not installed.
    """
    return share() if package == "vla_ros" else _prefix(package, environment) / "share" / package


def executable_of(package: str, name: str, environment: Mapping[str, str]) -> Path:
    """A program of an installed package.

    Raises:
        VlaRosError: the package is not installed, or has no such program.
    """
    folder = _prefix(package, environment) / "lib" / package
    path = folder / name
    if not (path.is_file() and os.access(path, os.X_OK)):
        known = ", ".join(sorted(p.name for p in folder.glob("*") if os.access(p, os.X_OK))) if folder.is_dir() else ""
        raise VlaRosError(f"package {package!r} has no program {name!r} in {folder} (there are: {known or 'none'})")
    return path


def _prefix(package: str, environment: Mapping[str, str]) -> Path:
    prefixes = [Path(entry) for entry in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    for prefix in prefixes:
        if (prefix / MARKERS / package).is_file():
            return prefix
    distro = environment.get("ROS_DISTRO", "<distro>")
    debian = f"ros-{distro}-{package.replace('_', '-')}"
    if not prefixes:
        raise VlaRosError(
            f"package {package!r} is not known without ROS 2: AMENT_PREFIX_PATH is empty. Install {debian} and source ROS 2's "
            "setup.bash; a driver that runs elsewhere on the network is not started here (cell.launch.yaml: drivers:=running)"
        )
    raise VlaRosError(
        f"package {package!r} is not installed in {', '.join(map(str, prefixes))}: sudo apt-get install {debian}, or build it in "
        "a workspace and source that; a driver that runs elsewhere is not started here (cell.launch.yaml: drivers:=running)"
    )
