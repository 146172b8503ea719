"""Steps-to-go → progress, reward and debounced success (arXiv 2509.15155, section 2.2).

d(o, g) = E_p[steps-to-go]      r_t = d(o_t, g) - d(o_{t+1}, g)      success(o, g) = 1[d(o, g) <= s]
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.policy.model import steps_to_go_moments, steps_to_go_quantiles
from vla_ros.policy.policy import Model, Words, inputs
from vla_ros.policy.prompt import Prompt
from vla_ros.progress.calibration import CALIBRATION, Calibration, Detector, detected
from vla_ros.progress.evidence import CENTRAL, at_goal, calibrate
from vla_ros.types import ProgressEstimate

__all__ = ["CALIBRATION", "Calibration", "Judge", "calibrate", "detected"]


class Judge:
    """A frozen checkpoint that says how far the task is; the same for reward and for success."""

    def __init__(self, model: Model, prompt: Prompt, calibration: Calibration, version: int = 1):
        calibration.check_range(model.config.steps_to_go_bins)
        self.model = model.eval().requires_grad_(False)
        self.calibration = calibration
        self.version = version
        self._detector = Detector(calibration)
        self._words = Words(prompt)
        self.begin("")

    def begin(self, text: str) -> None:
        """A new episode."""
        self.text = text
        self._last: float | None = None
        self._detector.reset()

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
        probability = float(at_goal(logits.softmax(-1), self.calibration.threshold)[0])
        low, high = (float(q) for q in steps_to_go_quantiles(logits, CENTRAL)[0])
        return self.estimate(stamp, mean, spread, probability, low, high)

    def estimate(
        self, stamp: float, mean: float, spread: float, probability: float, low: float = math.nan, high: float = math.nan
    ) -> ProgressEstimate:
        reward = 0.0 if self._last is None else self._last - mean
        self._last = mean
        success = self._detector.step(mean)
        return ProgressEstimate(stamp, mean, spread, probability, success, reward, self.version, low, high)
