"""Which of two versions stays on a cell: both run the same scenes, in pairs and in random order, and the pairs decide.

Light, wear and material are the same for both of a pair, so that a cell that changes is not taken for a bad version. A pair
says something where one of the two succeeded alone: it was `gained` by the new version or `lost`. After each pair, the first
that holds:

    stops    the new version's safety stops are STOPS more than the old one's                             rejected
    worse    lost - gained is `bound`, which two equal versions reach in at most `level` of all trials    rejected
    short    gained - lost cannot come to -`margin` of all pairs any more                                 rejected
    as_good  nor can it fall below that, or to `worse`                                                    accepted

`worse` is exact whatever the success rates are: of equal versions a pair is gained as often as lost, and by reflection
P(a walk of n steps reaches b) = P(S_n >= b) + P(S_n > b). The last two only spare episodes; they decide as the whole batch would.

How often a new version is accepted beside one of 60 %, in % (`accepted`: exact, where a pair's outcomes are independent):

    success of the new one    20 %   30 %   40 %   50 %   60 %   70 %   80 %   90 %
    10 pairs                   4.4   12.0   24.5   40.8   59.0   76.1   89.5   97.4
    20 pairs                   0.5    3.5   13.0   31.5   56.4   79.8   94.4   99.4
    20 pairs, margin  0.1      2.9   12.3   31.1   56.1   79.0   93.3   98.9  100.0
    20 pairs, margin -0.1      0.1    0.7    3.9   13.2   31.4   56.8   81.3   96.0
    50 pairs                   0.0    0.1    2.7   18.2   54.1   87.7   99.0  100.0
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vla_ros.errors import VlaRosError

STOPS = 2  # safety stops more than the old version's
VOIDS = 5  # pairs in a row that say nothing; then something is broken


@dataclass(frozen=True)
class TrialConfig:
    pairs: int = 20  # of episodes, at most
    level: float = 0.05  # of equal versions, the share that `worse` rejects
    margin: float = 0.0  # success rate that the new version may lose; below 0: that it must gain

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise VlaRosError(f"pairs: found {self.pairs}, expected at least 1")
        for name, least in (("level", 0.0), ("margin", -1.0)):
            if not least < (found := getattr(self, name)) < 1:
                raise VlaRosError(f"{name}: found {found}, expected above {least:g} and under 1")

    @cached_property
    def bound(self) -> int:
        """Pairs lost beyond those gained that call a version worse; more than all pairs where those are too few to say so."""
        n = self.pairs
        ways = [math.comb(n, k) / 2**n for k in range(n + 1)]  # k pairs lost: S_n = 2 k - n
        reached = lambda b: sum(w * ((2 * k - n >= b) + (2 * k - n > b)) for k, w in enumerate(ways))  # noqa: E731
        return next(b for b in range(1, n + 2) if reached(b) <= self.level)

    @property
    def least(self) -> int:
        """Pairs gained less those lost that the whole batch must have."""
        return math.ceil(-self.margin * self.pairs - 1e-9)


@dataclass(frozen=True)
class Ran:
    """One episode."""

    id: str
    version: int
    detected: bool  # success, in the judge's word
    stopped: bool = False  # by the safety filter's latch
    void: str = ""  # why it says nothing of its version; empty: it does
    file: str = ""  # *.mcap


@dataclass(frozen=True)
class Outcome:
    """A pair of episodes that both say something."""

    old: bool  # success
    new: bool
    old_stopped: bool = False
    new_stopped: bool = False


@dataclass(frozen=True)
class Verdict:
    """The end of a trial."""

    accepted: bool
    rule: str  # stops | worse | short | as_good
    sentence: str


def decide(pairs: Sequence[Outcome], config: TrialConfig) -> Verdict | None:
    """None: another pair is needed."""
    gained, lost = (sum(p.new and not p.old for p in pairs), sum(p.old and not p.new for p in pairs))
    stops = sum(p.new_stopped for p in pairs) - sum(p.old_stopped for p in pairs)
    net, left = gained - lost, config.pairs - len(pairs)
    had = f"new {sum(p.new for p in pairs)}, old {sum(p.old for p in pairs)} of {len(pairs)}: {gained} gained, {lost} lost"
    if stops >= STOPS:
        return Verdict(False, "stops", f"the new version was stopped {stops} times more by the safety filter ({had})")
    if -net >= config.bound:
        return Verdict(False, "worse", f"significantly worse ({had}; equal ones lose {config.bound} in {config.level:.0%})")
    if net + left < config.least:
        return Verdict(False, "short", f"not as good as asked for ({had}; expected {config.least:+d} of {config.pairs})")
    if net - left >= max(config.least, 1 - config.bound):
        return Verdict(True, "as_good", f"as good as asked for ({had}; expected {config.least:+d} of {config.pairs})")
    return None


def accepted(config: TrialConfig, old: float, new: float) -> float:
    """Probability that a version of success rate `new` is accepted beside one of `old`, where a pair's outcomes are independent.

    Where they are not, as on the same scene, fewer pairs differ, and a difference between versions shows more clearly.
    """
    gained, lost = new * (1 - old), old * (1 - new)
    chances = {0: 1.0}  # of gained - lost, of trials that go on
    for _ in range(config.pairs):
        after: dict[int, float] = {}
        for net, chance in chances.items():
            for step, share in ((1, gained), (-1, lost), (0, 1 - gained - lost)):
                if net + step > -config.bound:
                    after[net + step] = after.get(net + step, 0.0) + chance * share
        chances = after
    return sum(chance for net, chance in chances.items() if net >= config.least)


class Trial:
    """Runs pairs until they decide.

    Args:
        run: (version, number of the pair) -> an episode on the pair's scene.
        success: what is known of an episode now: an operator's label may come late, and counts more than the judge's word.
            None: it says nothing.
        seed: of the order within pairs.
    """

    def __init__(
        self, old: int, new: int, config: TrialConfig, run: Callable[[int, int], Ran], success: Callable[[Ran], bool | None],
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.old, self.new, self.config = old, new, config
        self.ran: list[Ran] = []  # every episode, void ones too
        self._pairs: list[tuple[Ran, Ran]] = []  # old, new
        self._run, self._success, self._random = run, success, random.Random(seed)

    def outcomes(self) -> list[Outcome]:
        """As far as is known now."""
        both = [(self._success(a), self._success(b), a, b) for a, b in self._pairs]
        return [Outcome(o, n, a.stopped, b.stopped) for o, n, a, b in both if o is not None and n is not None]

    def conduct(self, tell: Callable[[Trial], None] = lambda trial: None) -> Verdict:
        """
        Args:
            tell: after each episode.

        Raises:
            VlaRosError: VOIDS pairs in a row say nothing.
        """
        k = voids = 0
        while (verdict := decide(self.outcomes(), self.config)) is None:
            pair: dict[int, Ran] = {}
            for version in self._random.sample((self.old, self.new), 2):
                pair[version] = self._run(version, k)
                self.ran.append(pair[version])
                tell(self)
                if pair[version].void:
                    break
            void = self.ran[-1].void
            voids = voids + 1 if void else 0
            if voids == VOIDS:
                raise VlaRosError(f"trial: {VOIDS} pairs in a row say nothing, the last one for: {void}")
            if not void:
                self._pairs.append((pair[self.old], pair[self.new]))
            k += 1
        return verdict
