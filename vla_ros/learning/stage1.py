"""Stage 1 in the simulated cell: demonstrations and grounding, then policy and judge, each a checkpoint on disk.

Two lanes that run side by side on two cores:

    grounding pictures → stage 0 ─┬→ policy: behaviour cloning + steps-to-go
    expert episodes ──────────────┴→ judge: steps-to-go alone, on noisier and more episodes, then its calibration

The judge is a network of its own because a policy's own head, trained on the few clean demonstrations, calls success
where there is none; that ends practice before it begins (see docs/methods.md).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vla_ros.errors import VlaRosError
from vla_ros.files import sync
from vla_ros.learning import sft
from vla_ros.learning.data import Demonstrations, Inputs
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.model import VlaConfig, VlaModel
from vla_ros.policy.prompt import Prompt, WordPrompt
from vla_ros.progress import picture
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.collect import ExpertData, GroundingData, collect, grounding_samples
from vla_ros.sim.tasks import Tasks

Report = Callable[[float, dict[str, float]], None]


@dataclass(frozen=True)
class Stage1Config:
    """How much of everything. Training stops after its seconds of CPU time, so that the demo fits its quarter of an hour."""

    demonstrations: int = 600
    judge_episodes: int = 1000
    judge_noise: tuple[float, ...] = (0.25, 0.5, 0.8, 1.0)  # wide coverage: the judge must know states off the path
    grounding_pictures: int = 20000
    ground_seconds: float = 80.0
    ground_steps: int = 10**6  # whichever comes first
    policy_seconds: float = 110.0
    judge_seconds: float = 130.0
    learning_rate: float = 1e-3
    frozen: float = 0.6  # share of the policy's and the judge's time in which the grounded trunk is frozen and cached
    held_out: float = 0.1  # share of episodes for figures and calibration
    seed: int = 1


def ground(folder: Path, robot: str, c: Stage1Config, report: Report) -> None:
    """Pictures and phrases → a model that knows what the words point at."""
    half = 0.25  # of this phase's bar is rendering
    data = grounding_samples(robot, c.grounding_pictures, c.seed, progress=lambda k, n: report(half * k / n, {"pictures": k}))
    config = sft.SftConfig(steps=c.ground_steps, seconds=c.ground_seconds, seed=c.seed)
    ground_on(folder, data, *fresh(robot, c.seed), config, lambda share, figures: report(half + (1 - half) * share, figures))


def ground_on(folder: Path, data: GroundingData, model: VlaModel, prompt: Prompt, c: sft.SftConfig, report: Report) -> None:
    """Stage 0 of a model on these pictures."""
    inputs = Inputs.of(data.images, data.instruction, data.instructions, data.states, prompt)
    positions = torch.from_numpy(data.positions[:, : model.config.ground_dim])
    sft.ground(model, inputs, torch.from_numpy(data.points), positions, c, report)
    checkpoint.save(folder, model, prompt, {"stage": "ground", "pictures": len(data.images), "seed": c.seed})


def fresh(robot: str, seed: int) -> tuple[VlaModel, WordPrompt]:
    """The small model with random weights, in the shapes of a robot's contract, and how it reads the tasks' words."""
    contract = RobotContract.load(robot)
    prompt = WordPrompt.of(Tasks.load().vocabulary)
    torch.manual_seed(seed)
    language = {**VlaConfig().language, "vocab_size": len(prompt.tokenizer)}
    action = contract.action
    config = VlaConfig(
        language=language, robot=contract.robot, bins=action.bins, chunk=action.chunk,
        image_size=contract.observation.size, state_dim=len(contract.observation.state),
    )  # fmt: skip
    return VlaModel(config), prompt


def demonstrate(robot: str, c: Stage1Config, report: Report) -> tuple[Demonstrations, Demonstrations]:
    """Expert episodes: the policy's (human-like) and the judge's (noisier, more)."""
    total = c.demonstrations + c.judge_episodes
    policy = collect(
        robot, c.demonstrations, c.seed, workers=1,
        progress=lambda k, n: report(k / total, {"episodes": k}),
    )  # fmt: skip
    judge = collect(
        robot, c.judge_episodes, c.seed + 1, noises=c.judge_noise, workers=1,
        progress=lambda k, n: report((c.demonstrations + k) / total, {"episodes": c.demonstrations + k}),
    )  # fmt: skip
    return demonstrations(policy), demonstrations(judge)


def demonstrations(d: ExpertData) -> Demonstrations:
    return Demonstrations(d.images, d.states, d.actions, d.steps_to_go, d.instruction, d.instructions, d.episode)


def train_policy(start: Path, folder: Path, data: Demonstrations, c: Stage1Config, report: Report) -> dict[str, float]:
    """Behaviour cloning and steps-to-go from the grounded model; returns held-out figures."""
    return _train(start, folder, data, c, c.policy_seconds, 1.0, report)


def train_judge(start: Path, folder: Path, data: Demonstrations, c: Stage1Config, report: Report) -> dict[str, float]:
    """Steps-to-go alone, then the success threshold from held-out episodes; returns held-out figures."""
    return _train(start, folder, data, c, c.judge_seconds, 0.0, report)


def _train(
    start: Path, folder: Path, data: Demonstrations, c: Stage1Config, seconds: float, behaviour: float, report: Report
) -> dict[str, float]:
    model, prompt = checkpoint.load(start)
    training, held_out = data.split(c.held_out, c.seed)
    settings = sft.SftConfig(
        steps=10**6, seconds=seconds, learning_rate=c.learning_rate, behaviour_weight=behaviour, seed=c.seed, frozen=c.frozen
    )
    sft.clone(model, training.inputs(prompt), training, settings, report)
    inputs = held_out.inputs(prompt)
    figures = sft.evaluate(model, inputs, held_out)
    if not behaviour:
        calibration = sft.calibration_of(model, inputs, held_out)
        figures |= {"threshold": calibration.threshold, "recall": calibration.recall}
    record = {
        "stage": "sft" if behaviour else "judge", "episodes": int(data.episode.max()) + 1, "seed": c.seed, **figures,
        "instructions": training.taught,
    }  # fmt: skip
    checkpoint.save(folder, model, prompt, record)
    if not behaviour:
        calibration.save(folder)
        picture.draw(calibration, folder / picture.PICTURE)
    return figures


def save_demonstrations(path: Path, data: Demonstrations) -> None:
    """Arrays as a compressed .npz, to be read by the other lane and by later runs; whole, or not there under this name."""
    fields = {name: getattr(data, name) for name in Demonstrations.__dataclass_fields__}
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        np.savez_compressed(file, **fields)
    sync(draft)
    draft.replace(path)


def load_demonstrations(path: Path) -> Demonstrations:
    """
    Raises:
        VlaRosError: no file, or arrays missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in Demonstrations.__dataclass_fields__}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise VlaRosError(f"{path}: not a demonstrations file: {error}") from error
    return Demonstrations(**{**arrays, "instructions": tuple(str(t) for t in arrays["instructions"])})
