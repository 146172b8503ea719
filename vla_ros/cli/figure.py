"""Figures to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_ros.errors import VlaRosError


def save(figure: Any, out: Path) -> None:
    """Writes a matplotlib figure and closes it.

    Raises:
        VlaRosError: the file cannot be written.
    """
    import matplotlib.pyplot as plt

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=110)
    except OSError as error:
        raise VlaRosError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        plt.close(figure)
