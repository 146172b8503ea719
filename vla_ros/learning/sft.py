"""Stage 1 (arXiv 2509.15155, section 2.1): behaviour cloning and steps-to-go on one network, after grounding pre-training.

stage 0   generated image + phrase -> where is it?      stands in for the VLM's multimodal pre-training
stage 1   L = -log p(a_t | o_t, g) - log p(T - t | o_t, g)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, smooth_l1_loss

from vla_ros.learning.data import Demonstrations, Inputs, batches
from vla_ros.policy.heads import soft_labels
from vla_ros.policy.model import Trunk, VlaModel, steps_to_go_moments
from vla_ros.policy.policy import Model
from vla_ros.progress.calibration import Calibration
from vla_ros.progress.evidence import DEBOUNCE, MARGIN, calibrate, spearman

NEAR = 0.1 + 1e-4  # of -1..1: a bin of 21
Report = Callable[[float, dict[str, float]], None]  # share done 0..1, figures


@dataclass(frozen=True)
class SftConfig:
    """Training ends after `steps` or `seconds` of the thread's CPU time, whichever comes first; the cosine schedule follows that
    share. CPU time, so that a machine that is busy with other things trains as far."""

    steps: int = 1200
    seconds: float = math.inf
    batch: int = 64
    learning_rate: float = 5e-4  # above 7e-4 the text path dies in some runs
    weight_decay: float = 0.01
    clip: float = 1.0  # gradient norm
    label_sigma: float = 1.0  # bins; soft labels halve the gap between greedy and sampled success
    behaviour_weight: float = 1.0  # 0 trains a judge: steps-to-go only
    frozen: float = 0.0  # share of the time in which the trunk is frozen and cached
    tuning: float = 0.3  # learning rate of what follows, as a share
    bf16: bool = True
    seed: int = 0


def rows_that_count(data: Demonstrations) -> Tensor:
    """[N, chunk] bool: the rows of each frame's chunk that the demonstration still had to go."""
    return torch.from_numpy(data.steps_to_go[:, None] > np.arange(data.actions.shape[1]))


def steps_to_go_labels(data: Demonstrations, bins: int, sigma: float) -> Tensor:
    """Soft labels [N, bins] of every frame; the last bin is "that many or more"."""
    togo = torch.from_numpy(data.steps_to_go).long().clamp(max=bins - 1)
    labels = soft_labels(togo, bins, sigma)
    labels[togo == 0] = one_hot(torch.tensor(0), bins).float()  # the success detector's bin is sharp
    return labels


def adamw(model: Model, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Of everything that is trained; biases, norms and single vectors do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate)


def schedule(step: int, share: float, warmup: int = 50) -> float:
    """Of the learning rate: a linear start of `warmup` steps, and a cosine over the `share` 0..1 that is done, down to 2 %."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def fit(model: Model, loss_of: Callable[[Tensor], dict[str, Tensor]], count: int, c: SftConfig, report: Report) -> None:
    """AdamW over index batches; the sum of the named losses is minimised."""
    generator = torch.Generator().manual_seed(c.seed)
    optimizer = adamw(model, c.learning_rate, c.weight_decay)
    model.train()
    start, used, mean = time.monotonic(), time.thread_time(), dict[str, float]()
    for step, index in enumerate(batches(count, c.batch, generator)):
        share = max(step / c.steps, (time.thread_time() - used) / c.seconds)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = c.learning_rate * schedule(step, share)
        losses = loss_of(index)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(model.parameters(), c.clip)
        optimizer.step()
        for name, value in losses.items():
            mean[name] = 0.98 * mean.get(name, value.item()) + 0.02 * value.item()
        if step % 10 == 0:
            report(share, {"step": step, "samples_per_second": (step + 1) * c.batch / (time.monotonic() - start), **mean})
    model.eval()
    report(1.0, mean)


def ground(model: VlaModel, inputs: Inputs, points: Tensor, positions: Tensor, c: SftConfig, report: Report) -> None:
    """Stage 0: where is the named object, where the named place?

    Args:
        points: [N, P, 2] of the P things in the picture (several cameras': side by side, as one), -1..1; slot p of the
            connector learns to look at thing p.
        positions: [N, ground_dim] on the table, -1..1.
    """
    (height, width), cameras = model.config.image_size, model.config.cameras
    cells = model.point(*inputs[torch.tensor([0])][:3])[3].shape[-1]
    rows = round(math.sqrt(cells * height / (width * cameras)))
    axes = [torch.linspace(-1, 1, count) for count in (cells // rows, rows)]

    def loss_of(index: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=c.bf16):
            logits, found = model.ground(*inputs[index])
        x, y = (-0.5 * ((points[index][..., None, i] - at) / (1.2 / len(at))) ** 2 for i, at in enumerate(axes))
        target = (y[..., :, None] + x[..., None, :]).flatten(2).softmax(-1)  # cells row by row, as in the connector
        looked = cross_entropy(logits[:, : points.shape[1]].flatten(0, 1), target.flatten(0, 1))
        return {"point": looked, "place": 20 * smooth_l1_loss(found, positions[index], beta=0.1)}

    fit(model, loss_of, len(positions), c, report)


def clone(model: Model, inputs: Inputs, data: Demonstrations, c: SftConfig, report: Report) -> None:
    """Stage 1 on demonstrations; `behaviour_weight` 0 trains steps-to-go alone (a judge of its own).

    For the share `frozen` of the time the grounded trunk stays as it is and its features are computed once, which makes
    an update several times cheaper; then everything is trained.
    """
    actions = model.units.to_network(torch.from_numpy(data.actions))
    counted = rows_that_count(data)
    labels = steps_to_go_labels(data, model.config.steps_to_go_bins, c.label_sigma)

    def losses(act: Tensor, togo_in: Tensor, index: Tensor) -> dict[str, Tensor]:
        out = {"steps_to_go": cross_entropy(model.steps_to_go_head(togo_in).float(), labels[index])}
        if c.behaviour_weight:
            each = model.head.loss(model.action_logits(act), actions[index], c.label_sigma)
            out["action"] = c.behaviour_weight * each[counted[index]].mean()
        return out

    def of_trunk(index: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=c.bf16):
            return losses(*model.read(trunk[index]), index)

    def of_frames(index: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=c.bf16):
            return losses(*model.read(model.encode(*inputs[index])), index)

    if c.frozen > 0:
        start = time.thread_time()
        trunk = encode_all(model, inputs)
        left = c.seconds * c.frozen - (time.thread_time() - start)
        first = replace(c, steps=round(c.steps * c.frozen), seconds=max(left, 1e-9))
        fit(model, of_trunk, len(labels), first, lambda share, figures: report(share * c.frozen, figures))
    if c.frozen < 1:
        rest = replace(
            c, steps=round(c.steps * (1 - c.frozen)), seconds=c.seconds * (1 - c.frozen),
            learning_rate=c.learning_rate * (c.tuning if c.frozen else 1.0),
        )  # fmt: skip
        fit(model, of_frames, len(labels), rest, lambda share, figures: report(c.frozen + share * (1 - c.frozen), figures))


@torch.no_grad()
def encode_all(model: Model, inputs: Inputs) -> Trunk:
    """Frozen features of every frame, in evaluation mode."""
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        parts = [model.encode(*inputs[index]) for index in torch.arange(len(inputs.images)).split(256)]
    return type(parts[0]).join(parts)


def _answers(model: Model, inputs: Inputs) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Of the network, wherever it is, to all frames: their indices, and action and steps-to-go logits in main memory."""
    device = model.units.action.device
    for index in torch.arange(len(inputs.images)).split(256):
        out = model(*(part.to(device) for part in inputs[index]))
        yield index, {name: out[name].cpu() for name in ("action", "steps_to_go")}


@torch.inference_mode()
def evaluate(model: Model, inputs: Inputs, data: Demonstrations) -> dict[str, float]:
    """Held-out figures: error of the greedy actions in network units, and the share within 0.1 (one of 21 bins); error and
    rank correlation of d with the true steps-to-go."""
    model.eval()
    wrong, expected = [], []
    counted = rows_that_count(data)
    actions = model.units.to_network(torch.from_numpy(data.actions).to(model.units.action.device)).cpu()
    for index, out in _answers(model, inputs):
        wrong.append(model.head.error(out["action"], actions[index])[counted[index]])
        expected.append(steps_to_go_moments(out["steps_to_go"])[0])
    off, found = torch.cat(wrong), torch.cat(expected)
    true = data.steps_to_go.clip(max=model.config.steps_to_go_bins - 1)
    return {
        "action_error": float(off.mean()),
        "action_within_one_bin": float((off <= NEAR).float().mean()),
        "steps_to_go_error": float(np.abs(found.numpy() - true).mean()),
        "steps_to_go_rank_correlation": spearman(found.numpy().astype(np.float64), data.steps_to_go),
    }


@torch.inference_mode()
def calibration_of(
    model: Model, inputs: Inputs, data: Demonstrations, margin: int = MARGIN, debounce: int = DEBOUNCE
) -> Calibration:
    """Detector's levels, and the evidence for them, from held-out episodes."""
    parts = [out["steps_to_go"].softmax(-1) for _, out in _answers(model, inputs)]
    return calibrate(torch.cat(parts).numpy(), data.steps_to_go, data.episode, margin=margin, debounce=debounce)
