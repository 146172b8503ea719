"""How large the demo is. The full one takes a quarter of an hour on two cores, the quick one 4 minutes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vla_ros.learning.stage1 import Stage1Config

EVALUATION_SEED = 900_000  # scenes that nothing else ever uses, neither training nor tuning
PRACTICE_SEED = 300_000
TRAINING = "config/training/demo.yaml"


@dataclass(frozen=True)
class DemoSettings:
    stage1: Stage1Config = field(default_factory=Stage1Config)
    evaluation: int = 120  # held-out episodes before, and the same ones after; both tasks
    practice: int = 240
    episodes_per_update: int = 48
    live_seconds: float = 20.0  # in real time, with swaps under load
    held_out: int = 24  # episodes with objects and places that no demonstration showed
    # The judge's steps-to-go follows the true distance well when reaching (rank correlation 0.93) and badly when pushing
    # (0.5): practising both drowns what it can tell in what it cannot.
    practice_task: str = "reach"
    greedy: bool = True  # how evaluation picks actions; practice always samples

    @classmethod
    def quick(cls) -> DemoSettings:
        stage1 = Stage1Config(
            demonstrations=120, judge_episodes=200, grounding_pictures=4000, ground_seconds=20, policy_seconds=25,
            judge_seconds=30,
        )  # fmt: skip
        return cls(stage1=stage1, evaluation=12, practice=24, episodes_per_update=8, live_seconds=10, held_out=4)


@dataclass(frozen=True)
class RunFolder:
    """Where one demo run keeps everything."""

    root: Path

    @property
    def grounded(self) -> Path:
        return self.root / "checkpoints" / "grounded"

    @property
    def policy(self) -> Path:
        return self.root / "checkpoints" / "policy"

    @property
    def judge(self) -> Path:
        return self.root / "checkpoints" / "judge"

    @property
    def store(self) -> Path:
        return self.root / "versions"

    @property
    def episodes(self) -> Path:
        return self.root / "episodes"

    @property
    def log(self) -> Path:
        return self.root / "graph.log"
