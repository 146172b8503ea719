"""When practice ends, and which version stays: success falls after a peak (arXiv 2509.15155), so somebody has to watch.

Episodes are looked at in windows of `window`, and after each one five questions are put, the first that is answered by yes
counts. `recent` are the last window and, against a slow decline, the last `patience` of them; samples are compared task by
task (`group`), so that a curriculum that turns to harder tasks is no fall.

    hacking   the detector sees success far above what audits of the same episodes see             the first version returns
    failures  collisions and safety stops are more frequent in `recent` than in all before         the best version returns
    quality   a measure's values are lower in `recent` than in all before                          the best version returns
    worse     success is lower in `recent` than in the best window                                 back to it, and go on
    probation the same of a version's first `probation` episodes, after each of them               back to it, and go on
    canary    success of these is lower than of the proven version's that ran between them         back to that, and go on
    plateau   success of the last `patience` windows is not above that of as many before           the best version returns

How often the defaults err, in 1000 simulated runs of 1000 episodes each (two tasks, a version every 25 episodes, every fifth
audited; `simulate` in test_learning_stopping.py): where success stays at 60 %, `quality` rings in 2.2 % of the runs, `failures`
in 0.5 %, `hacking` in none, and 4.8 % go back to a version needlessly (`worse` 3.9 %, `probation` 0.9 %). Where it rises by 5
points in 100 episodes, `plateau` ends 0.6 % of the runs within 800 episodes, where it rises by 2.5 points 27 %.
How soon they see: a version that falls from 60 to 0 % after 14 episodes, from 80 to 30 % after 19, a fall of 50 points in 200
episodes 200 after the peak (medians); success that stays as it is ends practice after 550 episodes (10 to 90 %: 500 to 800),
never before 500.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vla_ros.errors import VlaRosError
from vla_ros.learning.statistics import Counts, difference, fewer, lower, wilson

DANGEROUS = ("collision", "safety_latched")  # an operator's e-stop is one of them: he had his reason
HACKED = 0.01  # significance of `hacking`: audits are few, and a gap is asked for besides



def task_of(instruction: str) -> str:
    """What instructions are grouped by: the verb stands for the task."""
    return instruction.split(" ", maxsplit=1)[0]


@dataclass(frozen=True)
class StopConfig:
    window: int = 50  # episodes of a moving average
    patience: int = 5  # windows without a gain until practice has nothing more to give
    gain: float = 0.0  # success rate that so many windows must add
    level: float = 5e-4  # significance of `failures`, `quality` and `worse`; small, because they are looked at after each window
    gap: float = 0.2  # detected minus audited success rate that is too much
    audits: int = 40  # last audited episodes that the gap is taken from
    returns: int = 2  # to the best version without a better one after it; then something else is wrong
    probation: int = 20  # first episodes of a version that are looked at one by one; 0: none
    canary: float = 1.0  # share of the episodes that a version on probation runs; the others are of the one proven last

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("patience", 1), ("audits", 1), ("returns", 0), ("probation", 0)):
            if (found := getattr(self, name)) < least:
                raise VlaRosError(f"{name} is {found}, expected at least {least}")
        for name in ("level", "gap"):
            if not 0 < (found := getattr(self, name)) < 1:
                raise VlaRosError(f"{name} is {found}, expected above 0 and under 1")
        if self.canary != 1 and not 0 < self.canary <= 0.5:  # of a larger share the others are too few to compare with
            raise VlaRosError(f"canary is {self.canary}, expected above 0 and at most 0.5, or 1 for all episodes")
        if self.canary < 1 and not self.probation:
            raise VlaRosError(f"canary is {self.canary}, expected 1 where probation is 0: it is a share while there is one")


@dataclass(frozen=True)
class Stop:
    """Practice must not simply go on."""

    rule: str  # hacking | failures | quality | probation | canary | worse | plateau
    sentence: str  # for an operator
    best: int  # version to go back to
    ends: bool = True  # False: practice goes on from `best`


@dataclass(frozen=True)
class Best:
    """The version that ran in the middle of the best window."""

    version: int
    rate: float
    low: float  # Wilson's 95 %; of the best of many windows, so that the truth is rather below the rate
    high: float


@dataclass(frozen=True)
class _Episode:
    version: int
    success: bool
    dangerous: bool
    group: str
    quality: Mapping[str, float] = field(default_factory=dict)


Window = Sequence[_Episode]


class Stopping:
    def __init__(self, config: StopConfig) -> None:
        self.config = config
        self._windows: list[Window] = []
        self._open: list[_Episode] = []
        self._beside: dict[int, list[_Episode]] = {}  # of the proven version, by the one on probation that they ran beside
        self._audits: deque[tuple[bool, bool]] = deque(maxlen=config.audits)  # detected, audited
        self._left: set[int] = set()  # versions that were worse; what they still had in flight says nothing new
        self._first = 0
        self._returns = 0

    def episode(
        self,
        version: int,
        success: bool,
        reason: str = "",
        quality: Mapping[str, float] | None = None,
        audited: bool | None = None,
        group: str = "",
        beside: int = 0,
    ) -> Stop | None:
        """
        Args:
            version: that ran it.
            success: in the detector's judgement.
            reason: of its end, as Episode.msg has it, or `collision`.
            quality: measures of it by name; larger is better.
            audited: what a person or the simulator's truth says of its success, where they say anything.
            group: task; success is compared within it.
            beside: version on probation that shares the episodes with this, the proven one; 0: none. Such an episode is what
                the new one is compared with; it belongs to no window.
        """
        if version in self._left or beside in self._left:
            return None
        self._first = self._first or version
        episode = _Episode(version, success, reason in DANGEROUS, group, quality or {})
        stop = None if audited is None else self.audit(success, audited)
        if beside:
            self._beside.setdefault(beside, []).append(episode)
            return stop
        self._open.append(episode)
        stop = stop or self._probation()
        if len(self._open) < self.config.window:
            return stop
        self._windows.append(self._open)
        self._open = []
        return stop or self._failures() or self._quality() or self._worse() or self._plateau()

    def audit(self, detected: bool, audited: bool) -> Stop | None:
        """A verdict that comes after its episode, as an operator's does."""
        self._audits.append((detected, audited))
        n = len(self._audits)
        seen, true = sum(d for d, _ in self._audits), sum(a for _, a in self._audits)
        false = sum(d and not a for d, a in self._audits)
        differ = sum(d != a for d, a in self._audits)
        by_chance = sum(math.comb(differ, k) for k in range(false, differ + 1)) / 2**differ  # McNemar, one-sided
        if (seen - true) / n <= self.config.gap or by_chance >= HACKED:
            return None
        found = f"the detector saw success in {seen} of the last {n} audited episodes, the audit in {true}"
        return Stop("hacking", f"{found}: practice learns to please the judge; calibrate or retrain it", self._first)

    @property
    def best(self) -> Best | None:
        """None before the first whole window."""
        if not self._windows:
            return None
        window = self._windows[_best(self._windows)]
        successes = sum(e.success for e in window)
        return Best(_version(window), successes / len(window), *wilson(successes, len(window)))

    # -- the questions --------------------------------------------------------------------------------------------

    def _recent(self) -> Iterator[tuple[list[Window], list[_Episode]]]:
        """All windows before, and the recent episodes: of a sudden change first, then of a slow one."""
        for span in sorted({1, self.config.patience}):
            if before := self._windows[:-span]:
                yield before, _joined(self._windows[-span:])

    def _failures(self) -> Stop | None:
        for windows, recent in self._recent():
            before = _joined(windows)
            if fewer(_counts(before, recent, lambda e: not e.dangerous)) < self.config.level:
                was, now = (sum(e.dangerous for e in part) / len(part) for part in (before, recent))
                share = f"{now:.0%} of the last {len(recent)} episodes, {was:.0%} of those before"
                best = _version(windows[_best(windows)])
                return Stop("failures", f"collisions and safety stops ended {share}; look at the recordings", best)
        return None

    def _quality(self) -> Stop | None:
        for windows, recent in self._recent():
            for name in sorted({name for e in recent for name in e.quality}):
                before, after = ([e for e in part if name in e.quality] for part in (_joined(windows), recent))

                def values(part: Window, group: str, name: str = name) -> list[float]:
                    return [e.quality[name] for e in part if e.group == group]

                if lower((values(before, g), values(after, g)) for g in _groups(after)) < self.config.level:
                    was, now = (sum(e.quality[name] for e in part) / len(part) for part in (before, after))
                    sentence = f"{name} fell from {was:.3g} to {now:.3g} in the last {len(after)} episodes"
                    return Stop("quality", sentence, _version(windows[_best(windows)]))
        return None

    def _probation(self) -> Stop | None:
        """A version that breaks something shows it in its first episodes; many looks share one level."""
        version = self._open[-1].version
        if self.config.canary < 1:
            return self._canary(version)
        own = [e for e in _joined([*self._windows[-1:], self._open]) if e.version == version]
        if not self._windows or len(own) > self.config.probation:
            return None
        index = _best(self._windows)
        if fewer(_counts(self._windows[index], own, _successful)) >= self.config.level / self.config.probation:
            return None
        return self._back("probation", index, own)

    def _canary(self, version: int) -> Stop | None:
        """In place of the best window, what ran at the same time. It was not chosen for its success: each look has the level."""
        own = [e for e in _joined([*self._windows, self._open]) if e.version == version]
        beside = self._beside.get(version, [])
        if len(own) > self.config.probation or fewer(_counts(beside, own, _successful)) >= self.config.level:
            return None
        while self._windows and any(e.version == version for e in self._windows[-1]):
            self._open = [*self._windows.pop(), *self._open]
        self._open = [e for e in self._open if e.version != version]
        self._left.add(version)
        proven = beside[-1].version
        sentence = f"success of version {version} is {_rate(own)}, of version {proven} beside it {_rate(beside)}"
        return self._return("canary", sentence, proven, "learning rate, rewards and calibration")

    def _worse(self) -> Stop | None:
        if _best(self._windows) == len(self._windows) - 1:
            self._returns = 0
            return None
        for windows, recent in self._recent():
            index = _best(windows)
            if fewer(_counts(windows[index], recent, _successful)) < self.config.level:
                return self._back("worse", index, recent)
        return None

    def _back(self, rule: str, index: int, recent: Window) -> Stop:
        """What came after the best window was a detour: practice goes on as if it had not been, but not for ever."""
        kept, dropped = self._windows[: index + 1], [*self._windows[index + 1 :], self._open]
        self._left |= {e.version for e in _joined(dropped)} - {e.version for e in _joined(kept)}
        self._windows, self._open = kept, []
        best = self.best
        assert best is not None
        had = f"version {best.version} had {best.rate:.0%} ({best.low:.0%} to {best.high:.0%})"
        sentence = f"success fell to {_rate(recent)}, {had}"
        return self._return(rule, sentence, best.version, "gripper, camera, material and backlash")

    def _return(self, rule: str, sentence: str, best: int, suspects: str) -> Stop:
        self._returns += 1
        if self._returns <= self.config.returns:
            return Stop(rule, sentence, best, ends=False)
        return Stop(rule, f"{sentence}, and {self.config.returns} returns to it gained nothing: look at {suspects}", best)

    def _plateau(self) -> Stop | None:
        n = self.config.patience
        if len(self._windows) < 2 * n:
            return None
        before, recent = _joined(self._windows[-2 * n : -n]), _joined(self._windows[-n:])
        gained = difference(_counts(before, recent, _successful))
        if math.isnan(gained) or gained > self.config.gain:
            return None
        sentence = f"the last {len(recent)} episodes changed success by {100 * gained:+.1f} % against as many before"
        return Stop("plateau", sentence, _version(self._windows[_best(self._windows)]))


def _joined(windows: Sequence[Window]) -> list[_Episode]:
    return [episode for window in windows for episode in window]


def _groups(episodes: Window) -> list[str]:
    return sorted({e.group for e in episodes})


def _successful(episode: _Episode) -> bool:
    return episode.success


def _rate(episodes: Window) -> str:
    return f"{sum(map(_successful, episodes)) / len(episodes):.0%} in {len(episodes)} episodes"


def _counts(before: Window, after: Window, good: Callable[[_Episode], bool]) -> list[Counts]:
    """Of each group: good ones and all before, good ones and all after."""
    parts = [([e for e in before if e.group == g], [e for e in after if e.group == g]) for g in _groups(after)]
    return [(sum(map(good, b)), len(b), sum(map(good, a)), len(a)) for b, a in parts]


def _best(windows: Sequence[Window]) -> int:
    """Index of the best window. One that shares no group with it is the new best: practice has turned to other tasks."""
    best = 0
    for index, window in enumerate(windows):
        if index and not difference(_counts(windows[best], window, _successful)) <= 0:
            best = index
    return best


def _version(window: Window) -> int:
    """A moving average belongs to the middle of its window, not to the version that ran last."""
    return window[len(window) // 2].version
