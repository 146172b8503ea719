"""Figures of a run, for TensorBoard and for whoever reads files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

LOG = "log.jsonl"


def tensorboard(out: Path) -> Callable[[int, dict[str, float]], None]:
    """Writes figures of a step, where TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return lambda step, figures: None
    writer = SummaryWriter(str(out / "tensorboard"))

    def write(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    return write
