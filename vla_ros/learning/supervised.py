"""Stage 1 of any policy on any demonstrations: one process or many by `accelerate`, resumable to the same result.

    L = -log p(a_t | o_t, g) - log p(T - t | o_t, g)                                     (arXiv 2509.15155, section 2.1)

Which frames a step sees, and how they are augmented, depends on seed and step only. So a run that was killed goes on from
its last state to the same weights, bit for bit where the arithmetic is (one process on a CPU).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from vla_ros.errors import VlaRosError
from vla_ros.learning import sft
from vla_ros.learning.data import Demonstrations, batches
from vla_ros.policy import adapter
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt
from vla_ros.progress import picture
from vla_ros.progress.calibration import Calibration
from vla_ros.progress.evidence import DEBOUNCE, MARGIN

Report = Callable[[int, dict[str, float]], None]  # step, figures
STATE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


@dataclass(frozen=True)
class SupervisedConfig:
    steps: int = 4000
    batch: int = 64  # frames per optimiser step, of all processes and accumulated parts together
    accumulate: int = 1  # parts that a process takes its share of a batch in
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: int = 50  # steps
    clip: float = 1.0  # gradient norm
    label_sigma: float = 1.0  # bins
    behaviour_weight: float = 1.0  # of the actions' loss; 0 trains a judge: steps-to-go only
    ema: float = 0.999  # of the weights that are evaluated and kept; 0: the last ones
    shift: float = 0.03  # share of the picture's edge by which it is moved at random
    light: float = 0.2  # brightness and contrast at random, share
    held_out: float = 0.1  # share of episodes
    evaluate_every: int = 250  # steps; the state is written as often
    patience: int = 6  # evaluations without a better one after which training stops; 0: never
    precision: str = "no"  # no | bf16 | fp16
    seed: int = 0

    def check(self) -> None:
        """
        Raises:
            VlaRosError: a value that cannot be.
        """
        for name, least in (("steps", 1), ("batch", 1), ("accumulate", 1), ("evaluate_every", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise VlaRosError(f"training: {name}: found {getattr(self, name)}, expected at least {least}")
        for name in ("ema", "held_out", "shift", "light"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise VlaRosError(f"training: {name}: found {getattr(self, name)}, expected 0 <= {name} < 1")


def augment(images: Tensor, c: SupervisedConfig, generator: torch.Generator) -> Tensor:
    """Every picture of [B, (cameras,) H, W, 3] uint8 moved (edges repeated), and its light changed, each in its own way."""
    height, width = images.shape[-3:-1]
    pictures = images.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float()
    count, reach = len(pictures), max(round(c.shift * max(height, width)), 0)
    if reach:
        padded = pad(pictures, (reach,) * 4, mode="replicate")
        dy, dx = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator)
        rows, columns = dy + torch.arange(height), dx + torch.arange(width)
        pictures = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if c.light:
        change = 1 + c.light * (2 * torch.rand((2, count, 1, 1, 1), generator=generator) - 1)
        mean = pictures.mean((1, 2, 3), keepdim=True)
        pictures = change[0] * ((pictures - mean) * change[1] + mean)
    return pictures.round().clamp(0, 255).byte().permute(0, 2, 3, 1).reshape(images.shape)


class Trainer:
    """
    Args:
        folder: of the checkpoint; the state to resume from lies there until training has ended.

    Raises:
        VlaRosError: no demonstrations, or the folder holds a run of other settings or data.
    """

    def __init__(self, model: Model, prompt: Prompt, data: Demonstrations, c: SupervisedConfig, folder: Path) -> None:
        c.check()
        self.config, self.folder, self.prompt = c, Path(folder), prompt
        self.training, self.held_out = data.split(c.held_out, c.seed)
        if not len(self.training.images):
            raise VlaRosError("training: found no episode besides the held-out ones, expected at least two")
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # of pre-training, or of the base's other uses
        self.accelerator = Accelerator(mixed_precision=c.precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
        self.plain = model
        self._trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        parameters = [p for _, p in self._trained]
        self.model, self.optimizer = self.accelerator.prepare(model, sft.adamw(model, c.learning_rate, c.weight_decay))
        self._average = [p.detach().clone() for p in parameters]
        self.step, self._best, self._since = 0, math.inf, 0
        self._inputs, self._labels = self.training.inputs(prompt), _Labels(self.training, model, c)
        self._key = json.dumps({**asdict(c), "frames": len(data.images), "episodes": len(set(data.episode.tolist()))})

    def resume(self) -> bool:
        """Goes on from the folder's state; False if there is none."""
        path = self.folder / STATE
        if not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise VlaRosError(f"{path}: cannot be read: {error}; remove it to begin anew") from error
        if about["key"] != self._key:
            raise VlaRosError(f"{path}: is of another run: found {about['key']}, expected {self._key}; take another --out")
        self.step, self._best, self._since = about["step"], about["best"], about["since"]
        with torch.no_grad():
            for k, (name, p) in enumerate(self._trained):
                p.copy_(tensors[f"weight.{name}"])
                self._average[k].copy_(tensors[f"average.{name}"])
                moments = {key: tensors[f"{key}.{name}"].to(p.device) for key in MOMENTS}
                self.optimizer.state[p] = {"step": torch.tensor(float(self.step)), **moments}
            for name, buffer in self._buffers():
                buffer.copy_(tensors[f"buffer.{name}"])
        return True

    def _buffers(self) -> list[tuple[str, Tensor]]:
        """What training changes besides weights: the statistics of batch normalisation."""
        kept = self.plain.state_dict().keys()
        return [(name, buffer) for name, buffer in self.plain.named_buffers() if name in kept]

    def run(self, report: Report) -> dict[str, float]:
        """Trains to the end; returns the best evaluation's figures. The checkpoint in the folder is that one's."""
        c = self.config
        order = batches(len(self.training.images), c.batch, torch.Generator().manual_seed(c.seed))
        figures = self._load_figures()
        started, began, mean = time.monotonic(), self.step, dict[str, float]()
        self.model.train()
        for index in islice(order, self.step, c.steps):
            for name, value in self._update(index).items():
                mean[name] = 0.95 * mean.get(name, value) + 0.05 * value
            self.step += 1
            rate = (self.step - began) * c.batch / (time.monotonic() - started)
            told = {**mean, "samples_per_second": rate, "learning_rate": self._rate()}
            if self.step % c.evaluate_every == 0 or self.step == c.steps:
                found = self.evaluate()
                told |= {f"held_out_{name}": value for name, value in found.items()}
                better = found["loss"] < self._best
                self._best, self._since = (found["loss"], 0) if better else (self._best, self._since + 1)
                if better:
                    figures = found
                    self._keep(figures)
                self._write_state()
            report(self.step, told)
            if c.patience and self._since >= c.patience:
                break
        self.model.eval()
        return figures

    def calibrate(self, margin: int = MARGIN, debounce: int = DEBOUNCE) -> Calibration:
        """The success detector of the checkpoint in the folder, from the held-out episodes; written beside it.

        Args:
            margin, debounce: as evidence.calibrate has them.

        Raises:
            VlaRosError: no threshold keeps false positives rare enough: the checkpoint can act, but not judge.
        """
        model, prompt = checkpoint.load(self.folder)
        found = sft.calibration_of(model, self.held_out.inputs(prompt), self.held_out, margin, debounce)
        found.save(self.folder)
        picture.draw(found, self.folder / picture.PICTURE)
        return found

    def _update(self, index: Tensor) -> dict[str, float]:
        """One optimiser step on the frames `index`, of which this process takes its share."""
        c, generator = self.config, torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        # The mean is over all frames of all processes, however they are split; accelerate averages over processes.
        units = self.plain.units
        running = torch.randint(0, units.prefix + 1, (len(index),), generator=generator)
        rows, processes = self._labels.rows(index, running), self.accelerator.num_processes
        whole = self._labels.counts(rows)
        parts = torch.arange(len(index)).tensor_split(processes)[self.accelerator.process_index].chunk(c.accumulate)
        for k, at in enumerate(parts):
            part = index[at]
            images, words, mask, state = self._inputs[part]
            state = units.pack(state, torch.from_numpy(self.training.actions[part.numpy(), : units.prefix]), running[at])
            moved = [t.to(self.accelerator.device) for t in (augment(images, c, generator), words, mask, state)]
            with self.accelerator.no_sync(self.model) if k < len(parts) - 1 else nullcontext():
                with self.accelerator.autocast():
                    out = self.model(*moved)
                losses = self._labels.losses(out, part, rows[at], whole)
                self.accelerator.backward(processes * sum(losses.values(), torch.zeros((), device=self.accelerator.device)))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + processes * float(value.detach())
        gradient = self.accelerator.clip_grad_norm_(self.model.parameters(), c.clip)
        if not math.isfinite(float(gradient)):
            raise VlaRosError(f"training: step {self.step}: the gradient is not finite; lower --lr or use --precision no")
        self.optimizer.step()
        decay = min(c.ema, (1 + self.step) / (10 + self.step))  # at the start the average would be of random weights
        torch._foreach_lerp_(self._average, [p.detach() for _, p in self._trained], 1.0 - decay)
        return {**sums, "gradient": float(gradient)}

    def _rate(self) -> float:
        c = self.config
        return c.learning_rate * sft.schedule(self.step, self.step / c.steps, c.warmup)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and figures of the averaged weights on the held-out episodes."""
        data, inputs = self.held_out, self.held_out.inputs(self.prompt)
        labels = _Labels(data, self.plain, self.config)
        everything = torch.arange(len(data.images))
        rows = labels.rows(everything, torch.zeros(len(everything), dtype=torch.long))
        whole, loss = labels.counts(rows), 0.0
        with self._averaged(), self.accelerator.autocast():
            self.plain.eval()
            for index in everything.split(self.config.batch):
                out = self.plain(*(t.to(self.accelerator.device) for t in inputs[index]))
                loss += float(sum(labels.losses(out, index, rows[index], whole).values()))
            figures = sft.evaluate(self.plain, inputs, data)
            self.model.train()
        return {"loss": loss, **figures}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the model."""
        live: list[Tensor] = [p for _, p in self._trained]
        kept = [p.detach().clone() for p in live]
        try:
            with torch.no_grad():
                torch._foreach_copy_(live, self._average)
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, kept)

    def _keep(self, figures: dict[str, float]) -> None:
        """Writes the checkpoint."""
        if self.accelerator.is_main_process:
            record = {
                "stage": "sft", "step": self.step, **asdict(self.config), **figures, "instructions": self.training.taught
            }  # fmt: skip
            with self._averaged():
                checkpoint.save(self.folder, self.plain, self.prompt, record, adapter.merged(self.plain))

    def _load_figures(self) -> dict[str, float]:
        """Those of the checkpoint that the run was resumed with."""
        if not self.step or not math.isfinite(self._best):
            return {}
        record = json.loads((self.folder / "training.json").read_text())
        settings = asdict(self.config).keys() | {"stage", "step", "instructions"}
        return {name: value for name, value in record.items() if name not in settings}

    def _write_state(self) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = {f"buffer.{name}": buffer for name, buffer in self._buffers()}
        for (name, p), average in zip(self._trained, self._average, strict=True):
            moments = self.optimizer.state[p]
            if not moments:
                raise VlaRosError(f"training: {name}: found no gradient, expected one or requires_grad False: freeze it")
            tensors |= {f"weight.{name}": p.detach(), f"average.{name}": average}
            tensors |= {f"{key}.{name}": moments[key] for key in MOMENTS}
        about = {"key": self._key, "step": self.step, "best": self._best, "since": self._since}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{STATE}.part"
        save_file({name: t.contiguous() for name, t in tensors.items()}, part, {"run": json.dumps(about)})
        part.replace(self.folder / STATE)


class _Labels:
    """What the network is asked about every frame."""

    def __init__(self, data: Demonstrations, model: Model, c: SupervisedConfig) -> None:
        self._actions = model.units.to_network(torch.from_numpy(data.actions).to(model.units.action.device)).cpu()
        self._counted = sft.rows_that_count(data)  # [N, chunk]
        self._togo = sft.steps_to_go_labels(data, model.config.steps_to_go_bins, c.label_sigma)
        self._head, self._sigma, self._weight = model.head, c.label_sigma, c.behaviour_weight

    def rows(self, index: Tensor, running: Tensor) -> Tensor:
        """[B, chunk] bool: rows that are asked for, of chunks whose first `running` [B] rows are given."""
        return self._counted[index] & (torch.arange(self._counted.shape[1]) >= running[:, None])

    def counts(self, rows: Tensor) -> tuple[int, int]:
        """Answers that are asked for: actions, steps-to-go."""
        return max(int(rows.sum()) * self._actions.shape[-1], 1), len(rows)

    def losses(self, out: dict[str, Tensor], index: Tensor, rows: Tensor, whole: tuple[int, int]) -> dict[str, Tensor]:
        """Of the frames `index`, as shares of the means over `whole` counts()."""
        device = out["action"].device
        each = self._head.loss(out["action"], self._actions[index].to(device), self._sigma)
        togo = cross_entropy(out["steps_to_go"], self._togo[index].to(device), reduction="sum")
        return {"action": self._weight * each[rows.to(device)].sum() / whole[0], "steps_to_go": togo / whole[1]}
