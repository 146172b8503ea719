"""PPO with a sparse reward (arXiv 1707.06347): stage 1 of iRe-VLA (ire_vla.py), and the baseline that trains the whole VLA.

    r_t = 1 at success, else 0                                    the episode ends there or at its time limit
    A_t = sum_k (gamma lambda)^k (r_{t+k} + gamma V(o_{t+k+1}) - V(o_{t+k}))     generalised advantage (arXiv 1506.02438)
    rho = pi(a_t | o_t, g) / pi_drawn(a_t | o_t, g)
    loss = -min(rho A, clip(rho, 1 - c, 1 + c) A)     and, with an optimiser of its own,     (V(o_t) - A_t - V_drawn(o_t))^2

What a time limit ends has failed, as in the cell: V of an episode's last observation is 0 either way.
The critic reads the features that the policy had when it acted, and learns alone in the first batches: with one that knows
nothing, the first updates of a cloned policy are noise (the sharp drop that RLinf's critic warm-up is against).
`trained: head` is iRe-VLA's first stage: those features are the head's inputs as well, and the VLM does not run at all in an
update. `trained: all` is the baseline: every sample passes through the VLM in every epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla_ros.errors import VlaRosError
from vla_ros.learning.acting import Features, action_out, features
from vla_ros.learning.cells import Cells, Practised, flat
from vla_ros.learning.data import Inputs
from vla_ros.learning.rollout import SimulatedEpisode
from vla_ros.learning.self_improvement import discounted, rewards, stack, steps_of
from vla_ros.policy import adapter
from vla_ros.policy.heads import TokenLearner
from vla_ros.policy.model import head
from vla_ros.policy.policy import Model
from vla_ros.policy.prompt import Prompt

TRAINED = ("head", "all")
HEAD = ("action_head.", "token_learner.")
PROBES = 8  # observations whose features are computed again after an update
STALE = 1e-2  # largest difference of theirs; rounding makes about 1e-5


@dataclass(frozen=True)
class PpoConfig:
    trained: str = "head"  # head: action head and critic, the VLM frozen | all: everything
    gamma: float = 0.99
    trace: float = 0.95  # lambda
    clip: float = 0.2
    epochs: int = 4  # over a batch of episodes
    batch: int = 128  # samples of an optimiser step
    learning_rate: float = 3e-4
    critic_rate: float = 1e-3
    warmup: int = 2  # batches of episodes in which only the critic learns
    kl: float = 0.05  # after an epoch that has moved the policy so far, only the critic goes on
    grad_clip: float = 1.0
    shaping: float = 0.0  # of d(o_t) - d(o_{t+1}), the frozen judge's steps-to-go, beside the sparse reward
    seed: int = 0

    def __post_init__(self) -> None:
        """
        Raises:
            VlaRosError: a value that cannot be.
        """
        if self.trained not in TRAINED:
            raise VlaRosError(f"trained is {self.trained!r}, expected one of {', '.join(TRAINED)}")
        for name, least in (("epochs", 1), ("batch", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise VlaRosError(f"{name} is {getattr(self, name)}, expected at least {least}")


def prepare(model: Model, config: PpoConfig) -> Model:
    """Chooses in place what a version holds: LoRA and action head, which swap in place on a robot; or everything."""
    return adapter.add(model) if config.trained == "head" else model.requires_grad_(True)


def advantages(reward: Tensor, values: Tensor, gamma: float, trace: float) -> Tensor:
    """A_t of one episode, [T], from r [T] and V [T + 1]."""
    return discounted(reward + gamma * values[1:] - values[:-1], gamma * trace)


class ValueHead(nn.Module):
    """V(o), [n], with the action head's structure (arXiv 2501.16664, section IV-B)."""

    def __init__(self, like: Features, tokens: int) -> None:
        super().__init__()
        width = like.tokens.shape[2]
        self.token_learner = TokenLearner(width, tokens) if tokens else None
        self.value_head = head(tokens * width + like.points.shape[1], 1)

    def forward(self, seen: Features) -> Tensor:
        pooled = [] if self.token_learner is None else [self.token_learner(seen.tokens, seen.mask)]
        out: Tensor = self.value_head(torch.cat([*pooled, seen.points], 1))[:, 0]
        return out


class Ppo:
    """The learner; its critic begins with it.

    Args:
        cached: False runs the frozen VLM for every minibatch, as `benchmarks/feature_cache.py` compares.
    """

    def __init__(self, model: Model, prompt: Prompt, config: PpoConfig, cached: bool = True) -> None:
        self.model, self.prompt, self.config = model.eval(), prompt, config  # normalisation keeps its statistics, in any mode
        self._runs = config.trained == "all" or not cached
        self._random = torch.Generator().manual_seed(config.seed)
        self._critic: ValueHead | None = None
        self._batches = 0
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.trained = [p for name, p in named if config.trained == "all" or name.startswith(HEAD)]
        self.forget()

    def forget(self) -> None:
        """The model's weights are others now: what the optimiser remembers is not about them."""
        self.optimizer = torch.optim.AdamW(self.trained, lr=self.config.learning_rate, weight_decay=0.0)

    def update(self, episodes: Sequence[Practised]) -> dict[str, float]:
        """One batch of whole episodes, drawn with the weights of now.

        Raises:
            VlaRosError: their features are not this VLM's.
        """
        c, practice = self.config, [e.episode.practice for e in episodes]
        seen, inputs = Features.join([e.features for e in episodes]), stack(practice, self.prompt)
        told = {} if self._runs else {"feature_error": self.check(seen, inputs)}
        _, drawn, usable, acted = steps_of(practice)
        actions = self.model.units.to_network(torch.from_numpy(np.concatenate([e.actions for e in episodes])))
        reward, critic = [_reward(e, c.shaping) for e in episodes], self._critic_of(seen)
        with torch.no_grad():
            values = list(critic(seen).split([len(r) + 1 for r in reward]))
        for value in values:
            value[-1] = 0.0
        advantage = torch.cat([advantages(r, v, c.gamma, c.trace) for r, v in zip(reward, values, strict=True)])
        value = torch.cat([v[:-1] for v in values])
        target, true = advantage + value, torch.cat([discounted(r, c.gamma) for r in reward])
        weight = (advantage - advantage[usable].mean()) / (advantage[usable].std(correction=0) + 1e-8)

        row = acted.nonzero()[:, 0]  # of each step among the observations
        figures: dict[str, list[float]] = defaultdict(list)
        learns = self._batches >= c.warmup and any(bool(r.any()) for r in reward)  # without a reward advantages are noise
        for _ in range(c.epochs):
            moved = []
            for step in usable.nonzero()[:, 0][torch.randperm(int(usable.sum()), generator=self._random)].split(c.batch):
                loss = (critic(seen[row[step]]) - target[step]).square().mean()
                figures["value_loss"].append(_descend(loss, self.critic_optimizer, critic.parameters(), c.grad_clip)[0])
                if not learns:
                    continue
                asked = action_out(self.model, self._features(seen, inputs, row[step]))
                change = self.model.head.log_probability(asked, actions[step]) - drawn[step]
                ratio = change.exp()
                gain = torch.minimum(ratio * weight[step], ratio.clamp(1 - c.clip, 1 + c.clip) * weight[step])
                loss, gradient = _descend(-gain.mean(), self.optimizer, self.trained, c.grad_clip)
                change, ratio = change.detach(), ratio.detach()
                moved.append(float((ratio - 1 - change).mean()))  # KL(drawn || pi), estimated without bias
                clipped = float(((ratio - 1).abs() > c.clip).float().mean())
                entropy = -float((change + drawn[step]).mean())  # an estimate, of any head
                numbers = (loss, float(ratio.mean()), clipped, entropy, gradient)
                for name, number in zip(("loss", "ratio", "clipped", "entropy", "gradient"), numbers, strict=True):
                    figures[name].append(number)
            if learns:
                figures["kl"] = moved
                learns = float(np.mean(moved)) <= c.kl
        self._batches += 1
        told |= {name: float(np.mean(numbers)) for name, numbers in figures.items() if numbers}
        if figures["ratio"]:
            told["first_ratio"] = figures["ratio"][0]  # 1 when the samples are on-policy and came through unharmed
        told["return_variance"] = float(true.var(correction=0))
        if told["return_variance"]:
            told["explained_variance"] = 1 - float((true - value).var(correction=0)) / told["return_variance"]
        return told | {"mean_return": float(true.mean()), "samples": float(c.epochs * int(usable.sum()))}

    @torch.no_grad()
    def check(self, seen: Features, inputs: Inputs) -> float:
        """Largest difference of kept features and those that the VLM makes now, on a few observations.

        Raises:
            VlaRosError: it is another VLM by now.
        """
        index = torch.linspace(0, len(seen.points) - 1, PROBES).long()
        now, kept = features(self.model, self.model.encode(*inputs[index])), seen[index]
        pairs = ((now.points, kept.points), (now.tokens, kept.tokens))
        off = max(float((a - b).abs().max()) for a, b in pairs if a.numel())
        if not off <= STALE:
            raise VlaRosError(f"features differ by {off:.3g} from the VLM's, expected at most {STALE}: its weights have changed")
        return off

    def _features(self, seen: Features, inputs: Inputs, index: Tensor) -> Features:
        if not self._runs:
            return seen[index]
        with torch.set_grad_enabled(self.config.trained == "all"):
            return features(self.model, self.model.encode(*inputs[index]))

    def _critic_of(self, like: Features) -> ValueHead:
        if self._critic is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.config.seed)
                self._critic = ValueHead(like, self.model.config.token_learner)
            self.critic_optimizer = torch.optim.AdamW(self._critic.parameters(), lr=self.config.critic_rate, weight_decay=0.0)
        return self._critic


def _reward(e: Practised, shaping: float) -> Tensor:
    """r_t, [T]."""
    out = shaping * rewards(e.episode.practice.steps_to_go, float("inf")) if shaping else torch.zeros(len(e.actions))
    out[-1] += float(e.episode.detected)
    return out


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Any, clip: float) -> tuple[float, float]:
    """One step; the loss and the gradient's norm."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradient = nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return float(loss.detach()), float(gradient)


class PpoPractice:
    """The whole of the baseline: a batch of episodes, an update."""

    stage, due = "ppo", False

    def __init__(self, cells: Cells, config: PpoConfig) -> None:
        self.cells, self.prompt = cells, cells.prompt
        self.ppo = Ppo(cells.model, cells.prompt, config)

    def resume(self, points: Sequence[Mapping[str, Any]]) -> None:
        """The cells know what was practised; a new critic warms up again."""

    def forget(self) -> None:
        self.ppo.forget()

    def iterate(self) -> tuple[dict[str, list[SimulatedEpisode]], dict[str, float]]:
        found = self.cells.batch()
        figures = self.ppo.update(flat(found))
        return {task: [e.episode for e in episodes] for task, episodes in found.items()}, figures
