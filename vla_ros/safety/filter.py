"""The safety filter: chunks and joint states in, one command per control tick out.

Knows no ROS. Not thread-safe: `submit`, `tick`, `estop` and `reset` are called from one thread, in safety_node that of
its executor. Times are seconds on one clock, which joint states and chunks are stamped with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.admission import admit
from vla_ros.safety.arm import Arm
from vla_ros.safety.follower import Follower
from vla_ros.safety.limits import Limits
from vla_ros.safety.path import ChunkPath
from vla_ros.safety.semantics import Rows
from vla_ros.safety.state_check import Measured, StateCheck
from vla_ros.types import ActionChunk, JointState, Obstacle, SafeCommand, SafetyMode

STEADY, STEADY_FOR = 0.01, 0.1  # rad and s: joint states that commands may start from after a reset
CREEP = 0.05  # path speed below which a refused motion counts as braking


@dataclass
class Counters:
    """Since start. `rejections` has one entry per kind of reason."""

    ticks: int = 0
    missed_ticks: int = 0  # control periods that passed without a command
    limited_ticks: int = 0  # a limit changed the command
    barrier_activations: int = 0  # ticks in which a moving obstacle changed the command
    accepted_chunks: int = 0
    rejected_chunks: int = 0
    rejections: Counter[str] = field(default_factory=Counter)


class SafetyFilter:
    """RUN follows chunks; BRAKE decelerates; HELD stands and resumes with the next chunk; LATCHED stands until reset().

    Braking keeps to the path where only the policy, a camera or a person is the cause; it takes the fastest stop of
    every joint where the arm itself may be in trouble (joint states, tracking, e-stop).

    Args:
        limits: of the arm.
        rate: Hz, the control rate; every command is one period after the one before.
        arm: its geometry and dynamics; None checks no torque, distance, workspace or tip speed.
        rows: what chunks mean; None: joint positions and deltas only.

    Attributes:
        known_versions: policy versions whose chunks are admitted; None admits any.
    """

    def __init__(self, limits: Limits, rate: float, arm: Arm | None = None, rows: Rows | None = None) -> None:
        if rate <= 0.0:
            raise VlaRosError(f"safety filter: rate: found {rate}, expected a positive number of Hz")
        self.limits = limits
        self.period = 1.0 / rate
        self.mode = SafetyMode.HELD
        self.counters = Counters()
        self._reason = "no_joint_state"
        self._rejection = ""
        self._fault = "no_joint_state"  # of the last tick's input
        self._held_stops: set[str] = set()
        self._check = StateCheck(limits)
        self._arm = arm
        self._rows = rows or Rows(limits.joints)
        self._follower = Follower(limits, self.period, arm)
        self.known_versions: set[int] | None = None
        self._caps: dict[str, float] = {}  # of the path speed, by source
        self._tip_limits: dict[str, float] = {}  # m/s, by source
        self._watched: dict[str, tuple[float, float]] = {}  # source: (silence allowed, last heard) s
        self._latched_at = 0.0
        self._place, self._placed = np.full(len(limits.joints), inf), 0.0  # where the arm has been standing, and since when
        self._path: ChunkPath | None = None
        self._lag = 0.0
        self._time = 0.0  # of the last tick
        self._next = 0.0  # when the next tick is due
        self._newest = 0.0  # newest observation that an accepted chunk answered
        self._version, self._episode = 0, ""
        self._measured: Measured | None = None

    @classmethod
    def for_robot(cls, contract: RobotContract, *files: str | Path) -> SafetyFilter:
        """The filter of a robot with its safety files (names or paths; none: config/safety/<robot>.yaml)."""
        limits = Limits.load(contract, *files)
        arm = Arm(contract, limits)
        return cls(limits, contract.control.rate, arm, Rows(contract.joints, arm.model, contract.tips))

    @property
    def reason(self) -> str:
        """Why not RUN, or why the last chunk was rejected; '' when all is well."""
        return self._reason or self._rejection

    @property
    def seeded(self) -> bool:
        """A valid joint state has come, so there is a command."""
        return self._follower.seeded

    def stopping_time(self) -> float:
        """Time [s] from a stop ordered now to standstill of the command; 0 before the first joint state."""
        return self._follower.stopping_time() if self.seeded else 0.0

    def submit(self, chunk: ActionChunk, now: float) -> str:
        """Admission: '' when the chunk is accepted and replaces the running one, else the typed reason
        (admission.admit, or `latched`, or the present fault of the joint states). A rejected chunk changes nothing:
        the running one goes on."""
        reason = "latched" if self.mode == SafetyMode.LATCHED else self._fault
        if not reason:
            start = max(now, self._time)
            reason, due, rows = admit(
                chunk, self.limits, self._rows, self._follower.position, start, self._newest, self.known_versions
            )
        self._rejection = reason
        if reason:
            self.counters.rejected_chunks += 1
            self.counters.rejections[reason.split(":")[0]] += 1
            return reason
        self.counters.accepted_chunks += 1
        self._newest = max(self._newest, chunk.observation_stamp)
        self._version, self._episode = chunk.policy_version, chunk.episode_id
        times = np.concatenate(((self._time,), due))
        self._path = self._follower.take(times, rows, self.limits.settle, self._cap())
        self._lag = self._path.delay
        return ""

    def tick(self, now: float, state: JointState | None) -> SafeCommand | None:
        """One control tick.

        Args:
            now: s, the clock. A state's own stamp is the tick's time; `now` judges its age and serves without a state.
            state: measured, in any joint order; None when the joint states have fallen silent (open loop).

        Returns:
            what to send, or None when there is nothing to send: no valid state yet, or a state that came before the
            next control period (a faster or repeated stamp must not move the arm faster).
        """
        measured, fault = self._check.measure(now, state)
        time = measured.stamp if measured is not None else now
        if not self.seeded:
            fault = fault or self._check.start(measured)
            if measured is None or fault:
                self._fault = fault
                self._reason = self._reason if self.mode == SafetyMode.LATCHED else fault
                return None
            self._seed(measured, time)
        elif time < self._time - self.limits.state_silence:
            fault = "clock_jump"
            self._newest = 0.0
        elif time < max(self._next, self._time + self.period) - 0.5 * self.period:
            return None
        elif time - self._time > self.limits.state_silence:
            fault = fault or "state_silence"
        self._advance_clock(time)
        self._measured = measured
        if measured is not None and abs(measured.position - self._place).max() > STEADY:
            self._place, self._placed = measured.position, time
        if measured is not None and not fault:
            fault = self._check.tracking(measured, self._follower.position)
            if fault.startswith("tracking_latch"):
                self._latch(fault)
        elif self._check.silent_for(now) > self.limits.state_latch:
            self._latch(fault)
        self._fault = fault
        return self._command(time)

    def estop(self, reason: str, held: bool = False) -> None:
        """Latches: the arm brakes from the next tick on and stands until reset(). `held`: the cause lasts until
        release()."""
        if held:
            self._held_stops.add(reason)
        self._latch(reason)

    def release(self, reason: str) -> None:
        """The cause of a held stop is gone; the latch stays."""
        self._held_stops.discard(reason)

    def set_world(self, obstacles: Sequence[Obstacle]) -> None:
        """Replaces the obstacles that move; those of the safety files stay."""
        self._follower.set_world(obstacles, self._time)

    def cap_speed(self, source: str, cap: float) -> None:
        """Bounds the path speed, 0..1, in the name of `source`; 0 brakes on the path and holds, 1 removes the bound."""
        if cap >= 1.0:
            self._caps.pop(source, None)
        else:
            self._caps[source] = cap if cap >= 0.0 else 0.0  # so NaN stops, too

    def _cap(self) -> float:
        return min(self._caps.values(), default=1.0)

    def limit_tip_speed(self, source: str, speed: float | None) -> None:
        """Bounds the tips' speed [m/s] in the name of `source`; None removes the bound."""
        self._tip_limits.pop(source, None)
        if speed is not None:
            self._tip_limits[source] = speed if speed >= 0.0 else 0.0  # so NaN stops, too
        if self._arm is not None:
            self._arm.tip_limit = min([self.limits.tip_speed, *self._tip_limits.values()])

    def watch(self, source: str, silence: float) -> None:
        """Makes `source` a required input: the arm brakes when it was not heard for `silence` s."""
        self._watched[source] = (silence, self._time)

    def heard(self, source: str, now: float) -> None:
        """`source` said something at `now` [s]; nothing happens if nobody watches it."""
        if source in self._watched:
            self._watched[source] = (self._watched[source][0], now)

    def reset(self) -> tuple[bool, str]:
        """Operator's reset of the latch; refused while a cause persists, the arm moves, or too early.

        Returns:
            done, and what was done or why not. If the arm was moved by hand, the command starts from where it is now.
        """
        if self.mode != SafetyMode.LATCHED:
            return False, f"not latched: mode {self.mode.name}"
        if self._held_stops:
            return False, f"cause persists: {', '.join(sorted(self._held_stops))}"
        measured = self._measured
        if measured is None or (self._fault and not self._fault.startswith("tracking")):
            return False, f"cause persists: {self._fault or 'no_joint_state'}"
        still = self.limits.standstill
        fastest = max(range(len(still)), key=lambda j: abs(measured.velocity[j]) / max(still[j], 1e-9))
        if self._follower.moving or abs(measured.velocity[fastest]) > still[fastest]:
            name, speed = self.limits.joints[fastest], measured.velocity[fastest]
            return False, f"the arm moves: {name} at {speed:.3f} rad/s, expected at most {still[fastest]:g}"
        waited = self._time - self._latched_at
        if 0.0 <= waited < self.limits.reset_after:
            return False, f"cool-down: {waited:.2f} s since the latch, expected at least {self.limits.reset_after:g}"
        message = "reset"
        if self._fault:
            if self._time - self._placed < STEADY_FOR:
                return False, f"joint states jump: expected them steady for {STEADY_FOR:g} s before commands start there"
            if fault := self._check.start(measured):
                return False, f"cause persists: {fault}"
            self._follower.seed(measured.position)
            message = f"reset; the arm was away from its command ({self._fault}), commands start from where it is"
            self._fault = ""
        self.mode, self._reason, self._rejection, self._newest = SafetyMode.HELD, "no_chunk", "", 0.0
        return True, message

    def _seed(self, measured: Measured, time: float) -> None:
        self._follower.seed(measured.position)
        self._latched_at = time
        self._time = time - self.period
        self._next = time
        self._fault, self._reason = "", self._reason if self.mode == SafetyMode.LATCHED else "no_chunk"

    def _advance_clock(self, time: float) -> None:
        """Takes `time` as this tick's; the next one is due a period on, so that jitter does not add up to a faster
        rate."""
        elapsed = time - self._time
        if elapsed > 1.5 * self.period:
            self.counters.missed_ticks += round(elapsed / self.period) - 1
        jumped = elapsed < 0.0
        if jumped:
            self._latched_at = self._placed = time
        self._next = (time if jumped else max(self._next, time - 0.5 * self.period)) + self.period
        self._time = time

    def _latch(self, reason: str) -> None:
        self._path = None
        if self.mode != SafetyMode.LATCHED:
            self.mode, self._reason, self._latched_at = SafetyMode.LATCHED, reason, self._time

    def _stop(self, reason: str) -> None:
        self._path = None
        if self.mode != SafetyMode.LATCHED:
            self._reason = reason
            self.mode = SafetyMode.BRAKE if self._follower.moving else SafetyMode.HELD

    def _command(self, time: float) -> SafeCommand:
        follower, path = self._follower, self._path
        if self._fault:
            self._stop(self._fault)
        raw = follower.position
        active: list[str] = []
        cap = self._cap()
        if path is not None and self._path is path:
            raw = path.asked(time)
            active = self._follow(path, time, cap)
        else:
            follower.stop()
            if self.mode == SafetyMode.BRAKE and not follower.moving:
                self.mode = SafetyMode.HELD
        self.counters.ticks += 1
        self.counters.limited_ticks += bool(active)
        verdict = follower.verdict
        return SafeCommand(
            stamp=time,
            mode=self.mode,
            reason=self._reason or self._rejection,
            path_speed=follower.speed,
            active=tuple(active),
            raw=raw.copy(),
            command=follower.position.copy(),
            velocity=follower.velocity.copy(),
            policy_version=self._version,
            episode_id=self._episode,
            off_path=follower.off_path,
            speed_cap=cap,
            tip_speed=verdict.tip_speed,
            torque_share=verdict.torque_share,
            clearance=verdict.clearance,
            nearest=verdict.nearest,
        )

    def _follow(self, path: ChunkPath, time: float, cap: float) -> list[str]:
        """One tick along the path: at the policy's pace, or braking on it."""
        follower = self._follower
        silent = self._silence(path, time)
        reason = silent or (min(self._caps, key=self._caps.__getitem__) if cap <= 0.0 else "")
        active = follower.follow(0.0 if reason else cap)
        self.counters.barrier_activations += bool(follower.evading)
        self._lag += (1.0 - follower.speed) * self.period
        if not reason and follower.refused and follower.speed < CREEP:
            reason = follower.refused
        standing = follower.speed == 0.0 and not follower.moving
        if not reason:
            self.mode, self._reason = SafetyMode.RUN, ""
        else:
            self.mode, self._reason = SafetyMode.HELD if standing else SafetyMode.BRAKE, reason
            if silent and standing:
                self._path = None
        return active

    def _silence(self, path: ChunkPath, time: float) -> str:
        """Who should have spoken; '' if nobody."""
        for source, (allowed, heard) in self._watched.items():
            if not -allowed <= time - heard <= allowed:  # the clock may have jumped back
                return f"silence:{source}"
        last = path.raw_times[-1] + min(self._lag, self.limits.max_lag)
        return "policy_silence" if time > last + self.limits.policy_silence else ""
