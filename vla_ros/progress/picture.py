"""A calibration as one picture: are the probabilities right, does d follow the clock, where does success begin and end."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from vla_ros.errors import VlaRosError
from vla_ros.progress.calibration import Calibration

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PICTURE = "calibration.png"


def draw(calibration: Calibration, path: Path) -> None:
    """Write a PNG. Raises VlaRosError for a calibration that was set by hand and shows nothing."""
    if calibration.evidence is None:
        raise VlaRosError(f"{path}: the calibration has no evidence to draw")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    e = calibration.evidence
    reliability(left, e.reliability, f"{calibration.frames} frames", "tab:blue")
    left.set_title(f"success: AUC {e.auc:.3f}, recall {calibration.recall:.0%}, too early {e.early:.1%} of {e.episodes}")
    course(right, calibration)
    right.set_title(f"rank correlation {calibration.rank_correlation:.2f}, 80 % interval holds {e.coverage:.0%}")
    for panel in (left, right):
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def reliability(axes: Axes, rows: tuple[tuple[float, float, int], ...], label: str, colour: str) -> None:
    """Predicted against observed; a point's area grows with its frames."""
    predicted, observed, frames = zip(*rows, strict=True)
    area = [10 + 150 * (n / max(frames)) ** 0.5 for n in frames]
    axes.plot([0, 1], [0, 1], color="0.7", lw=1, zorder=0)
    axes.plot(predicted, observed, color=colour, lw=1, label=label)
    axes.scatter(predicted, observed, area, color=colour, alpha=0.6)
    axes.set(xlabel="predicted success probability", ylabel="share observed", xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))


def course(axes: Axes, calibration: Calibration) -> None:
    """d against the true steps-to-go, with the two levels of the detector."""
    if calibration.evidence is None:
        return
    true, low, middle, high = zip(*calibration.evidence.course, strict=True)
    axes.fill_between(true, low, high, color="tab:green", alpha=0.2, label="10..90 % of the frames")
    axes.plot(true, middle, "o-", color="tab:green", ms=3, label="median")
    axes.plot([0, max(true)], [0, max(true)], color="0.7", lw=1, zorder=0)
    axes.axhline(calibration.threshold, color="tab:red", lw=1, label=f"success at {calibration.threshold:.2f}")
    if calibration.release is not None:
        axes.axhline(calibration.release, color="tab:orange", lw=1, ls="--", label=f"until {calibration.release:.2f}")
    axes.set(xlabel="true steps-to-go", ylabel="d, expected steps-to-go")
