"""Steps-to-go → progress, reward and debounced success (arXiv 2509.15155, section 2.2).

d(o, g) = E_p[steps-to-go]      r_t = d(o_t, g) - d(o_{t+1}, g)      success(o, g) = 1[d(o, g) <= s]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.policy.model import steps_to_go_moments
from vla_ros.policy.policy import Model, Words, inputs
from vla_ros.policy.prompt import Prompt
from vla_ros.types import ProgressEstimate

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """How the detector decides, and on what evidence; lies beside the judge's checkpoint."""

    threshold: float  # s, policy steps
    debounce: int  # consecutive frames at or under s
    false_positive_rate: float  # of held-out frames that are `margin` or more steps before the end
    recall: float  # of held-out final frames
    frames: int  # held-out frames behind the two figures
    rank_correlation: float  # d against true steps-to-go, held-out

    def save(self, folder: Path) -> None:
        (Path(folder) / CALIBRATION).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        path = Path(folder) / CALIBRATION
        if not path.is_file():
            raise VlaRosError(f"{path} is missing: a judge without calibration is not used; train it with `vla-ros demo`")
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise VlaRosError(f"{path}: not a calibration: {error}; train the judge again") from error


def calibrate(
    found: NDArray[np.float64], true: NDArray[np.int64], wanted_rate: float = 0.005, margin: int = 5, debounce: int = 2
) -> Calibration:
    """Largest threshold whose false-positive rate on held-out frames stays at or under `wanted_rate`.

    Labels need no ground truth: a demonstration's final frame is a success, frames `margin` or more steps before
    the end are not, and those between do not count.

    Args:
        found: [N] d(o, g) of held-out frames.
        true: [N] steps-to-go by the clock.
    """
    negative, positive = found[true >= margin], found[true == 0]
    if not len(negative) or not len(positive):
        raise VlaRosError(f"calibration needs frames before and at the end, found {len(negative)} and {len(positive)}")
    candidates = np.arange(0.25, margin, 0.05)
    rates = np.array([(negative <= s).mean() for s in candidates])
    good = np.flatnonzero(rates <= wanted_rate)
    if not len(good):
        raise VlaRosError(f"no threshold keeps false positives at {wanted_rate}: best is {rates.min():.4f}; train longer")
    threshold = float(candidates[good[-1]])
    ranks = np.corrcoef(found.argsort().argsort(), true.argsort().argsort())[0, 1]
    return Calibration(
        threshold, debounce, float(rates[good[-1]]), float((positive <= threshold).mean()), len(found), float(ranks)
    )


class Judge:
    """A frozen checkpoint that says how far the task is; the same for reward and for success."""

    def __init__(self, model: Model, prompt: Prompt, calibration: Calibration, version: int = 1):
        limit = model.config.steps_to_go_bins - 1
        if not 0 < calibration.threshold < limit:
            raise VlaRosError(f"{CALIBRATION}: threshold is {calibration.threshold}, expected within 0..{limit} steps")
        self.model = model.eval().requires_grad_(False)
        self.calibration = calibration
        self.version = version
        self._words = Words(prompt)
        self.begin("")

    def begin(self, text: str) -> None:
        """A new episode."""
        self.text = text
        self._last: float | None = None
        self._hits = 0

    @torch.inference_mode()
    def observe(self, stamp: float, image: NDArray[np.uint8], state: NDArray[np.float32]) -> ProgressEstimate:
        """One observation of the running episode, in order."""
        ids, mask = self._words(self.text)
        pixels = inputs(image, self.model)
        _, togo = self.model.read(self.model.encode(pixels, ids, mask, torch.from_numpy(state)[None]))
        logits = self.model.steps_to_go_head(togo)
        mean, spread = (float(m[0]) for m in steps_to_go_moments(logits))
        if not np.isfinite(mean):
            raise VlaRosError("the judge's steps-to-go is not finite; its checkpoint is broken")
        at_goal = float(logits.softmax(-1)[0, : int(self.calibration.threshold) + 1].sum())
        return self.estimate(stamp, mean, spread, at_goal)

    def estimate(self, stamp: float, mean: float, spread: float, at_goal: float) -> ProgressEstimate:
        self._hits = self._hits + 1 if mean <= self.calibration.threshold else 0
        reward = 0.0 if self._last is None else self._last - mean
        self._last = mean
        success = self._hits >= self.calibration.debounce
        return ProgressEstimate(stamp, mean, spread, at_goal, success, reward, self.version)


def detected(steps_to_go: Sequence[float], calibration: Calibration) -> int | None:
    """Index of the observation at which the detector fires on a whole episode, or None."""
    hits = 0
    for index, d in enumerate(steps_to_go):
        hits = hits + 1 if d <= calibration.threshold else 0
        if hits >= calibration.debounce:
            return index
    return None
