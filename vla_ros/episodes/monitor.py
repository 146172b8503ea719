"""When does a running episode end, and may the lock-stepped simulation go on? Free of ROS; stamps in s on the ROS
clock."""

from __future__ import annotations

from dataclasses import dataclass, field

SUCCESS, TIME_LIMIT, LATCHED, SILENT, CANCELLED = (
    "success_detected", "time_limit", "safety_latched", "policy_silent", "cancelled",
)  # fmt: skip


@dataclass
class EpisodeMonitor:
    """Follows one episode from its first answered observation to its end."""

    episode_id: str
    time_limit: float  # s
    silence: float = 1.0  # s without a chunk until the episode is given up
    asked: float | None = None  # s, stamp of the first observation after the instruction went out
    started: float | None = None  # s, stamp of the first observation that policy and judge both answered
    reason: str = ""  # why it ended; empty while it runs
    steps: int = 0
    success: bool = False
    policy_version: int = 0
    final_steps_to_go: float = float("nan")
    return_sum: float = 0.0
    _chunk: float = -1.0  # newest observation stamps answered by policy and judge
    _judged: float = -1.0
    _corrected: dict[float, bool] = field(default_factory=dict)  # observation stamp -> whether a person's action answered it
    # Stamp -> reward of what policy and judge have answered until the episode started.
    _before: tuple[dict[float, float], dict[float, float]] = field(default_factory=lambda: ({}, {}))

    def observe(self, stamp: float) -> None:
        if self.asked is None:
            self.asked = stamp
        last = max(self._chunk, self.asked)
        if stamp - last > self.silence:
            self._end(SILENT)

    def chunk(self, observation_stamp: float, version: int, corrected: bool = False) -> None:
        if observation_stamp < (self.asked or 0.0):
            return  # an answer to the scene before
        self._chunk = max(self._chunk, observation_stamp)
        self.policy_version = version
        self._corrected[observation_stamp] = corrected
        self._begin(0, observation_stamp)

    def judge(self, stamp: float, steps_to_go: float, reward: float, success: bool) -> None:
        if stamp < (self.asked or 0.0):
            return
        self._judged = max(self._judged, stamp)
        self.final_steps_to_go = steps_to_go
        self._begin(1, stamp, reward)
        if self.started is not None and stamp > self.started:
            self.steps += 1
            self.return_sum += reward
            if success:
                self.success = True
                self._end(SUCCESS)
            elif stamp - self.started >= self.time_limit - 1e-6:
                self._end(TIME_LIMIT)

    @property
    def corrected_steps(self) -> int:
        """Of `steps`, those in which a person acted."""
        if self.started is None:
            return 0
        return sum(by_hand and self.started <= stamp < self._judged for stamp, by_hand in self._corrected.items())

    def safety(self, latched: bool) -> None:
        if latched:
            self._end(LATCHED)

    def cancel(self) -> None:
        self._end(CANCELLED)

    def complete(self, stamp: float) -> bool:
        """True when everything about this observation has been heard, so that simulated time may pass."""
        return bool(self.reason) or min(self._chunk, self._judged) >= stamp

    def has_all(self, stamp: float) -> bool:
        """True when the observations up to this stamp include the last judged one: the judge may be heard first."""
        return stamp >= self._judged

    def _begin(self, who: int, stamp: float, reward: float = 0.0) -> None:
        if self.started is not None:
            return
        self._before[who][stamp] = reward
        if stamp in self._before[1 - who]:
            self.started = stamp
            early = [r for s, r in self._before[1].items() if s > stamp]  # judged before the first chunk was heard
            self.steps, self.return_sum = len(early), sum(early, 0.0)

    def _end(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
