"""Where the package's own files (config/, launch/, msg/, urdf/) are: a ROS 2 install, a pip install or the checkout."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from vla_ros.errors import VlaRosError


def share() -> Path:
    """Folder that holds config/, launch/, msg/ and urdf/.

    Raises:
        VlaRosError: none of the known places has them.
    """
    places = [Path(__file__).resolve().parent.parent, Path(sys.prefix) / "share" / "vla_ros"]
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        pass
    else:
        with contextlib.suppress(PackageNotFoundError):
            places.insert(0, Path(get_package_share_directory("vla_ros")))
    for place in places:
        if (place / "urdf").is_dir() and (place / "config").is_dir():
            return place
    raise VlaRosError(f"vla_ros' share folder not found; looked for config/ and urdf/ in {', '.join(map(str, places))}")


def resolve(path: str | Path) -> Path:
    """A path as given, or relative to share() if it is `package://vla_ros/...` or does not exist as given."""
    text = str(path)
    if text.startswith("package://vla_ros/"):
        return share() / text.removeprefix("package://vla_ros/")
    given = Path(text).expanduser()
    return given if given.is_absolute() or given.exists() else share() / given
