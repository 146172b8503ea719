"""Stage 2: online self-improvement (arXiv 2509.15155, section 2.2 and Algorithm 1).

    d(o, g) = E_p[steps-to-go] of the frozen judge
    r_t = d(o_t, g) - d(o_{t+1}, g)                      reward: how many steps closer
    R_t = sum_{i >= t} gamma^(i-t) r_i                   Monte-Carlo return, no critic, no replay
    loss = -c R_t log pi(a_t | o_t, g)                   REINFORCE, on raw (drawn) actions
    N updates of B samples without replacement, then the episodes are used up

The reward carries its own baseline: with V = -d it is (1-gamma) V(o') + [gamma V(o') - V(o)] (appendix G). The paper's
batches have a thousand samples of a 3 B model; ours are small and the judge is noisy, so by default R_t gives way to the
generalised advantage over a V that is linear in the frozen features and d(o_t), at unit variance: a step then answers for
what it changed, and no longer for the policy's draws in the ten steps after it. `baseline: none` is the paper's. What is so
centred is negative half of the time, and -log pi of what is to become rarer has no floor: without PPO's bound on the ratio
of probabilities (`clip`) practice of pushing collapsed within six updates. `clip: 0` is the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_ros.errors import VlaRosError
from vla_ros.learning.data import Inputs
from vla_ros.policy.model import Trunk
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt

BASELINES = ("none", "linear")


@dataclass(frozen=True)
class ImproveConfig:
    """The paper's values where it gives them (table in its appendix A and C)."""

    method: str = "reinforce"  # reinforce | critic (critic.py)
    gamma: float = 0.9  # 1 only telescopes and does not work, 0 is one-step improvement
    scale: float = 0.05  # c, so that -c R_t stays within about -1..1
    updates: int = 16  # N per batch of episodes
    batch: int = 64  # B
    passes: int = 1  # over a batch of episodes at most; more need `clip`
    reward_clip: float = 5.0  # steps; a judge's jump must not rule the batch
    learning_rate: float = 3e-4  # not published
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    baseline: str = "linear"  # none | linear
    trace: float = 0.5  # lambda of the generalised advantage, with the linear baseline; 1: R_t less its baseline
    clip: float = 0.2  # PPO's bound on how far an update may move a sample's probability; 0: none
    horizon: int = 5  # steps of the progress that the critic learns
    strength: float = 1.5  # of the critic's say against the policy that practice began with, per 1000 episodes in memory
    memory: int = 4000  # last episodes that the critic learns from
    keep: float = 1.0  # with a critic: weight of what the policy did when told of tasks that are not practised
    seed: int = 0


@dataclass(frozen=True)
class PracticeEpisode:
    """One on-policy episode of T steps as the recorder kept it."""

    instruction: str
    images: NDArray[np.uint8]  # [T + 1, H, W, 3] the final observation included
    states: NDArray[np.float32]  # [T + 1, S]
    tokens: NDArray[np.int16]  # [T, chunk, D] raw actions
    log_probability: NDArray[np.float32]  # [T] at sampling time
    steps_to_go: NDArray[np.float32]  # [T + 1] of the frozen judge
    usable: NDArray[np.bool_]  # [T] False where a latched stop or a person interfered


def stack(episodes: Sequence[PracticeEpisode], prompt: Prompt) -> Inputs:
    """The observations of all episodes one after another."""
    instruction = np.repeat(np.arange(len(episodes)), [len(e.images) for e in episodes]).astype(np.int32)
    return Inputs.of(
        np.concatenate([e.images for e in episodes]),
        instruction,
        tuple(e.instruction for e in episodes),
        np.concatenate([e.states for e in episodes]),
        prompt,
    )


def steps_of(episodes: Sequence[PracticeEpisode]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens [n, chunk, D], their log-probability [n] and whether they are usable [n], of all T steps of each episode one after
    another; and which of the T + 1 observations had an action [m]: nothing was done at the end."""
    parts = (np.concatenate([getattr(e, name) for e in episodes]) for name in ("tokens", "log_probability", "usable"))
    tokens, drawn, usable = map(torch.from_numpy, parts)
    return tokens.long(), drawn, usable, torch.cat([torch.arange(len(e.images)) < len(e.tokens) for e in episodes])


def rewards(steps_to_go: NDArray[np.float32], clip: float) -> Tensor:
    """r_t of one episode, [T], from d [T + 1]."""
    return torch.from_numpy(np.clip(steps_to_go[:-1] - steps_to_go[1:], -clip, clip))


def returns(rewards: Sequence[Tensor], gamma: float) -> Tensor:
    """R_t of all steps of each episode, [T] each, one after another, [n]."""
    return torch.cat([discounted(r, gamma) for r in rewards])


def discounted(values: Tensor, factor: float) -> Tensor:
    """sum_{i >= t} factor^(i-t) values_i, [T]."""
    backwards = accumulate(reversed(values.tolist()), lambda later, now: now + factor * later)
    return torch.tensor(list(backwards)[::-1], dtype=values.dtype)


def advantages(rewards: Sequence[Tensor], seen: Sequence[Tensor], counts: Tensor, gamma: float, trace: float) -> Tensor:
    """Generalised advantages (arXiv 1506.02438, eq. 16) of all steps, one episode after another, in units of their size at
    that d: the judge errs in proportion to the distance, and long tasks, whose steps-to-go is mostly noise, would drown the
    short ones.

    V is linear, fitted to R_t = V(o_t) - gamma^(T-t) V(o_T), because what the end of the recording cut off is V's, too.

    Args:
        rewards: of each episode, [T].
        seen: what V sees of each observation, [T + 1, f], d(o_t) last.
        counts: [sum of T] bool; other steps do not shape V or the units.
    """
    known = torch.cat([own[:-1] for own in seen])[counts].double()
    mean, std = known.mean(0), known.std(0, correction=0) + 1e-6
    x = [torch.cat([(own.double() - mean) / std, torch.ones(len(own), 1)], 1) for own in seen]
    left = [gamma ** torch.arange(len(r), 0, -1, dtype=torch.double)[:, None] for r in rewards]
    rows = torch.cat([own[:-1] - share * own[-1] for own, share in zip(x, left, strict=True)])[counts]
    target = returns([r.double() for r in rewards], gamma)[counts]
    weights = torch.linalg.solve(rows.T @ rows + torch.eye(rows.shape[1], dtype=torch.double), rows.T @ target)
    values = [own @ weights for own in x]
    errors = [r + gamma * v[1:] - v[:-1] for r, v in zip(rewards, values, strict=True)]
    out = torch.cat([discounted(e, gamma * trace) for e in errors])
    line, size = torch.cat([own[:-1, -2:] for own in x]), out.abs()
    fitted = (line @ torch.linalg.lstsq(line[counts], size[counts, None]).solution)[:, 0]
    out = out / fitted.clamp_min(0.25 * float(size[counts].mean()) + 1e-6)
    return ((out - out[counts].mean()) / (out[counts].std(correction=0) + 1e-6)).float()


class SelfImprovement:
    """The learner of stage 2. The trunk (vision, words, pointing) is frozen, so its features are computed once a batch."""

    def __init__(self, model: Model, config: ImproveConfig) -> None:
        if model.config.head != "bins":
            raise VlaRosError(f"self-improvement: head: found '{model.config.head}', expected bins: it learns from tokens")
        self.model, self.config = model.eval(), config
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.forget()

    def forget(self) -> None:
        """The model's weights are others now: what the optimiser remembers is not about them. From the same weights and episodes
        the same update follows."""
        c = self.config
        self.optimizer = torch.optim.AdamW(self.trained, lr=c.learning_rate, weight_decay=c.weight_decay)
        self._random = torch.Generator().manual_seed(c.seed)

    def update(self, episodes: Sequence[PracticeEpisode], inputs: Inputs) -> dict[str, float]:
        """One iteration of Algorithm 1 on whole episodes; `inputs` holds their T + 1 observations one after another."""
        c = self.config
        reward = [rewards(e.steps_to_go, c.reward_clip) for e in episodes]
        value = returns(reward, c.gamma)
        tokens, drawn, counts, acted = steps_of(episodes)
        trunk = self._encode(inputs)
        advantage = value
        if c.baseline == "linear":
            d = torch.from_numpy(np.concatenate([e.steps_to_go for e in episodes]))
            seen = torch.cat([trunk.points, d[:, None]], 1).split([len(e.images) for e in episodes])
            advantage = advantages(reward, seen, counts, c.gamma, c.trace)
        trunk = trunk[acted]
        weight = c.scale * advantage
        usable = counts.nonzero()[:, 0]
        figures: dict[str, list[float]] = {"loss": [], "entropy": [], "ratio": [], "gradient": []}
        order = torch.cat([usable[torch.randperm(len(usable), generator=self._random)] for _ in range(c.passes)])
        for index in order[: c.updates * c.batch].split(c.batch):
            log_p, entropy = self._log_probability(trunk[index], tokens[index])
            loss = -self._gain(weight[index], log_p, drawn[index]).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            gradient = nn.utils.clip_grad_norm_(self.trained, c.grad_clip)
            self.optimizer.step()
            ratio = (log_p.detach() - drawn[index]).exp().mean()
            for name, v in zip(figures, (loss, entropy, ratio, gradient), strict=True):
                figures[name].append(v.item())
        lengths = [len(e.tokens) for e in episodes]
        out = {name: float(np.mean(v)) for name, v in figures.items()}
        out["first_ratio"] = figures["ratio"][0]  # 1 when the samples are on-policy and the frames came through unharmed
        return {**out, "mean_return": float(value.mean()), "mean_length": float(np.mean(lengths)), "samples": len(order)}

    def _gain(self, weight: Tensor, log_p: Tensor, drawn: Tensor) -> Tensor:
        """[B] whose gradient is that of weight * log pi where pi is what the samples were drawn from, and, with `clip`, none
        where an update has moved a probability far enough already (PPO, arXiv 1707.06347, eq. 7)."""
        clip = self.config.clip
        if not clip:
            return weight * log_p
        ratio = (log_p - drawn).exp()
        return torch.minimum(weight * ratio, weight * ratio.clamp(1 - clip, 1 + clip))

    @torch.no_grad()
    def _encode(self, inputs: Inputs) -> Trunk:
        parts = [self.model.encode(*inputs[index]) for index in torch.arange(len(inputs.images)).split(256)]
        return type(parts[0]).join(parts)

    def _log_probability(self, trunk: Trunk, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """log pi of drawn tokens [B, chunk, D] summed over tokens, and mean entropy."""
        log_p = self.model.action_logits(self.model.read(trunk)[0]).log_softmax(-1)
        entropy = -(log_p.detach().exp() * log_p.detach()).sum(-1).mean()
        return log_p.gather(-1, tokens[..., None])[..., 0].sum((-1, -2)), entropy
