"""Hostile policies, joint states, clocks and operators against a safety filter, in closed loop with an arm.

Everything comes from one seed, so a run can be repeated up to any tick. Why it stands in test/: see safety_judge.py.
"""

from __future__ import annotations

import math
import re
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import thread_time
from typing import Any

import numpy as np
from safety_judge import Array, Bounds, Finding, Verdict, judge, standstill
from safety_policies import Policy
from safety_rig import Arm, Timed
from safety_spoil import SPOILS, STATES, pick, spoil_chunk, spoil_state

from vla_ros.robots.contract import RobotContract
from vla_ros.types import ActionChunk, JointState, SafetyMode

FAULTS = {"calm": (5, math.inf), "normal": (4, 300.0), "hostile": (2, 40.0)}  # how often, mean ticks between events
EVENTS = {"state": 8, "clock": 2, "stall": 1, "estop": 4, "reset": 1, "repeat": 3, "garbage": 3}


@dataclass
class Outcome:
    """What one run did. Indices are those of calls of tick()."""

    ticks: int
    answered: int
    verdict: Verdict
    findings: list[tuple[int, Finding]]  # tick, finding
    errors: list[tuple[int, str]]  # tick, traceback
    contacts: Counter[str]  # onsets by pair
    touched: list[tuple[int, str]]  # tick, pair; the first ones
    touching: int  # ticks in contact
    stop_times: list[float]  # s, of the command
    stop_distances: list[float]  # m, of the arm's tip
    never_stopped: list[int]  # tick of the order
    twice: list[int]  # ticks at which the same joint state was answered with two commands
    tracking: Array  # [answered] rad, largest joint error one period after the command
    clearance: Array  # [answered] m, the filter's own; NaN: it told none
    modes: Counter[str]
    reasons: Counter[str]
    rejections: Counter[str]
    accepted: int
    refusals: Counter[str]  # of resets, by reason
    rebuilt: int  # filters that never came out of the latch
    filter_seconds: float  # of processor time, as the other two
    arm_seconds: float
    seconds: float
    inputs: list[str] = field(default_factory=list)  # the last ones, when recorded

    @property
    def violations(self) -> dict[str, int]:
        """Broken limits by kind, calls that raised, stops that never came, states that were answered twice."""
        more = {"exception": len(self.errors), "no_stop": len(self.never_stopped), "answered_twice": len(self.twice)}
        return {**self.verdict.counts, **more}


class Adversary:
    """One filter, one arm, one seed.

    Args:
        contract: of the robot.
        arm: closes the loop; it is reset to where the run starts.
        build: makes a filter; called again when one never comes out of its latch.
        seed: of everything.
        record: how many of the last inputs to keep as text.
    """

    def __init__(
        self, contract: RobotContract, arm: Arm, build: Callable[[], Any], seed: np.random.SeedSequence, record: int = 0,
        processor: bool = False,
    ) -> None:  # fmt: skip
        self.rng = np.random.default_rng(seed)
        self.arm, self._build = arm, build
        self.filter = Timed(build(), processor)
        self.bounds = Bounds.of(self.filter.safety)
        limits = self.filter.limits
        self.names, self.n = tuple(limits.joints), len(limits.joints)
        self.policy = Policy(contract, arm, self.bounds, limits, self.rng)
        self._recorded: deque[str] | None = deque(maxlen=record) if record else None
        self.now = 100.0
        self._tick = self._next_chunk = 0
        self._jitter, self._repeat, self.command = 0.0, False, np.zeros(self.n)
        self._begins: list[tuple[int, Array | None]] = []
        self._restart()
        self._begin_episode()

    # ---------------------------------------------------------------- the loop

    def run(self, ticks: int) -> Outcome:
        """That many calls of tick(), each with a period of the arm, and the judgement of all of them together (of the
        first run() only: a later one does not know what was sent before it)."""
        n = self.n
        commands, measured = np.empty((ticks, n)), np.empty((ticks, n))
        clearance, calls = np.empty(ticks), np.empty(ticks, np.int64)
        modes: Counter[int] = Counter()
        reasons: Counter[str] = Counter()
        contacts: Counter[str] = Counter()
        touched: list[tuple[int, str]] = []
        errors: list[tuple[int, str]] = []
        before: set[tuple[str, str]] = set()
        touching, answered, arm_seconds = 0, 0, 0.0
        self._begins = [(0, None)]
        self._stops: list[int] = []
        self._twice: list[int] = []
        self._accepted, self._refusals = 0, Counter[str]()
        self._rejections: Counter[str] = Counter()
        self._rebuilt, self._answered = 0, 0
        self.filter.seconds, started, arm = 0.0, thread_time(), self.arm
        first = self._tick
        while self._tick < first + ticks:
            try:
                sent = self._advance()
            except Exception:  # noqa: BLE001  (whatever the filter throws is a finding)
                errors.append((self._tick, traceback.format_exc(limit=-4)))
                self._restart()
                sent = None
            if sent is not None:
                command = sent.command
                commands[answered] = command
                clearance[answered] = sent.clearance
                calls[answered] = self._tick
                modes[sent.mode] += 1
                if sent.reason:
                    reasons[sent.reason] += 1
                self.command = command if np.isfinite(command).all() else self.command
                self._latched = sent.mode == SafetyMode.LATCHED
            start = thread_time()
            arm.step(self.command)
            pairs = arm.contacts()
            arm_seconds += thread_time() - start
            if sent is not None:
                measured[answered] = arm.position()
                answered += 1
                self._answered = answered
            if pairs or before:
                touching += bool(pairs)
                for pair in (now := set(pairs)) - before:
                    contacts["~".join(pair)] += 1
                    if len(touched) < 8:
                        touched.append((self._tick, "~".join(pair)))
                before = now
            self._tick += 1
        self._rejections.update(self.filter.counters.rejections)
        commands, measured, calls = commands[:answered], measured[:answered], calls[:answered]
        verdict = judge(commands, self.bounds, self._begins)
        times, distances, never = self._judge_stops(commands, measured)
        return Outcome(
            ticks=ticks, answered=answered, verdict=verdict, findings=[(int(calls[f.tick]), f) for f in verdict.first],
            errors=errors, contacts=contacts, touched=touched, touching=touching, stop_times=times,
            stop_distances=distances, never_stopped=[int(calls[k]) for k in never], twice=self._twice,
            tracking=np.abs(measured - commands).max(axis=1, initial=0.0), clearance=clearance[:answered],
            modes=Counter({SafetyMode(mode).name: count for mode, count in modes.items()}),
            reasons=Counter(_kinds(reasons)), rejections=Counter(_kinds(self._rejections)),
            accepted=self._accepted, refusals=self._refusals, rebuilt=self._rebuilt, filter_seconds=self.filter.seconds,
            arm_seconds=arm_seconds, seconds=thread_time() - started, inputs=list(self._recorded or ()),
        )  # fmt: skip

    def _judge_stops(self, commands: Array, measured: Array) -> tuple[list[float], list[float], list[int]]:
        """Of every emergency stop in motion: time until the command stands, and the way of the arm's tip until the arm
        has come to rest behind it."""
        dt, times, distances, never = self.bounds.period, [], [], []
        starts = [index for index, pose in self._begins if pose is None]
        for order in self._stops:
            if order < 2 or order >= len(commands) or np.array_equal(commands[order - 1], commands[order - 2]):
                continue
            end = next((index for index in starts if index > order), len(commands))
            still = standstill(commands[:end], order, dt)
            if still < 0:
                if end - order > 2.0 / dt:
                    never.append(order)
                continue
            rest = still
            while rest + 1 < min(end, still + 60) and np.array_equal(commands[rest + 1], commands[still]):
                rest += 1
            times.append((still - order) * dt)
            distances.append(self.policy.tips.travel(measured[order - 1 : rest + 1]))
        return times, distances, never

    def _advance(self) -> Any:
        if self._tick >= self._episode_end:
            self._begin_episode()
        if self._tick >= self._next_event:
            self._event()
        if self._latched:
            self._recover()
        if self._tick >= self._next_chunk:
            self._send()
        self.now += self.bounds.period
        if self._jitter:
            self.now += self._jitter * self.bounds.period * (1.0 if self._tick % 2 else -1.0)
        state = self._state_now()
        if self._recorded is not None:
            self._note("tick", now=self.now, state=state)
        sent = self.filter.tick(self.now, state)
        if self._repeat:
            self._repeat = False
            again = self.filter.tick(self.now, state)
            if sent is not None and again is not None:
                self._twice.append(self._tick)
            return sent if again is None else again  # of two commands in one period, the controller has the second
        return sent

    def _restart(self) -> None:
        """A new filter, and the arm somewhere free of contact."""
        if self._tick:
            self._rejections.update(self.filter.counters.rejections)
            self.filter.safety = self._build()
            self._rebuilt += 1
            self._begins.append((self._answered, None))
        self.arm.reset(self.policy.start())
        self.command = np.array(self.arm.position())
        self._fed = self._state(self.now)
        self._state_fault, self._state_fault_end = "", 0
        self._latched, self._recover_at, self._refused, self._repeat, self._jitter = False, 0, 0, False, 0.0
        self._next_chunk = self._tick
        self._held: set[str] = set()
        self._late: ActionChunk | None = None

    # ---------------------------------------------------------------- operators and faults

    def _begin_episode(self) -> None:
        self.policy.begin(self.command, self.now)
        self.faults = pick(self.rng, {name: often for name, (often, _) in FAULTS.items()})
        self._episode_end = self._tick + int(self.rng.integers(100, 1200))
        self._plan_event()
        self._jitter = float(self.rng.choice([0.0, 0.0, 0.0, 0.1, 0.3])) if self.faults != "calm" else 0.0
        self._next_chunk = min(self._next_chunk, self._tick)

    def _plan_event(self) -> None:
        mean = FAULTS[self.faults][1]
        self._next_event = self._tick + 1 + (int(self.rng.exponential(mean)) if mean < math.inf else 10**9)

    def _event(self) -> None:
        rng = self.rng
        kind = pick(rng, EVENTS)
        self._note(kind)
        if kind == "state":
            self._state_fault = pick(rng, STATES)
            self._state_fault_end = self._tick + int(rng.choice([1, 1, 3, 10, 30, 150], p=[0.3, 0.2, 0.2, 0.15, 0.1, 0.05]))
            self._frozen = self._state(self.now)
        elif kind == "clock":
            jump = float(rng.choice([1e-3, 0.01, 0.05, 0.3, 3.0, 1e4])) * rng.uniform(0.5, 1.5)
            self.now += jump if rng.random() < 0.5 or self.now < 2 * jump else -jump
        elif kind == "stall":  # this process sleeps: the controller holds the last command
            for _ in range(periods := int(rng.integers(1, 60))):
                self.arm.step(self.command)
            self.now += periods * self.bounds.period
        elif kind == "estop":
            cause = str(rng.choice(["test", "button", "watchdog"]))
            self.filter.estop(cause, held=cause != "test")
            self._held |= {cause} - {"test"}
            if not self._latched:
                self._stops.append(self._answered)
            self._latched = True
        elif kind == "reset":
            self._reset()
        elif kind == "repeat":
            self._repeat = True
        else:
            chunk = self.policy.chunk(self.command, self.now)
            self._submit(spoil_chunk(rng, chunk, pick(rng, SPOILS), self.now))
        self._plan_event()

    def _recover(self) -> None:
        """The operator, some time after a latch."""
        if not self._recover_at:
            self._recover_at = self._tick + int(self.rng.integers(5, 100))
        elif self._tick >= self._recover_at:
            self._recover_at = self._tick + int(self.rng.integers(10, 40))
            if self._held and self.rng.random() < 0.7:
                for cause in sorted(self._held):
                    self.filter.release(cause)
                self._held = set()
            if not self._reset():
                self._refused += 1
                if self._refused > 40:
                    self._restart()

    def _reset(self) -> bool:
        done, told = self.filter.reset()
        self._note("reset", done=done, told=told)
        if done:
            self._begins.append((self._answered, self._told))
            self._latched, self._recover_at, self._refused = False, 0, 0
            self._next_chunk = self._tick
        else:
            self._refusals[re.sub(r"(\w*\d+:?)?( at)? -?\d+\.\d+.*", "", ":".join(told.split(":")[:2]))] += 1
        return bool(done)

    def _state(self, stamp: float) -> JointState:
        return JointState(stamp, self.names, np.array(self.arm.position()), np.array(self.arm.velocity()))

    def _state_now(self) -> JointState | None:
        if self._state_fault and self._tick >= self._state_fault_end:
            self._state_fault = ""
        kind = self._state_fault
        if kind == "silent":
            return None
        if kind == "frozen":
            return self._frozen
        state = self._state(self.now)
        if kind:
            state = spoil_state(self.rng, state, kind)
        if len(state.position) == len(state.names) and set(self.names) <= set(state.names):
            self._fed = state
        return state

    @property
    def _told(self) -> Array:
        """[n] rad, where the last usable joint state said that the arm is."""
        if self._fed.names == self.names:
            return self._fed.position
        return np.array([self._fed.position[self._fed.names.index(name)] for name in self.names])

    def _send(self) -> None:
        self._next_chunk = self._tick + self.policy.every
        chunk = self.policy.chunk(self.command, self.now)
        spoil = {"calm": 0.0, "normal": 0.03, "hostile": 0.2}[self.faults]
        if self._late is not None:
            late, self._late = self._late, None
            self._submit(chunk)
            self._submit(late)  # overtaken by its successor
            return
        if spoil and self.rng.random() < spoil:
            kind = pick(self.rng, SPOILS)
            if kind == "reordered":
                self._late = chunk
                return
            if kind == "twice":
                self._submit(chunk)
            else:
                chunk = spoil_chunk(self.rng, chunk, kind, self.now)
        self._submit(chunk)

    def _submit(self, chunk: ActionChunk) -> None:
        if self._recorded is not None:
            self._note("submit", now=self.now, chunk=chunk)
        if self.filter.submit(chunk, self.now) == "":
            self._accepted += 1

    def _note(self, kind: str, **what: Any) -> None:
        if self._recorded is not None:
            what["policy"] = f"{self.policy.name}/{self.faults}"
            self._recorded.append(f"{self._tick} {kind} " + " ".join(f"{key}={_text(value)}" for key, value in what.items()))


def _kinds(reasons: Counter[str]) -> dict[str, int]:
    """Counted by the part before the colon."""
    out: Counter[str] = Counter()
    for reason, count in reasons.items():
        out[reason.split(":")[0]] += count
    return dict(out)


def _text(value: Any) -> str:
    """Exact: repr of a float is the float."""
    if isinstance(value, ActionChunk):
        rows = repr(value.rows[:3].tolist()) + (f"... {value.rows.shape}" if len(value.rows) > 3 else "")
        return (
            f"(stamp={value.stamp!r} period={value.period!r} names={','.join(value.joint_names)} semantics={value.semantics} "
            f"observed={value.observation_stamp!r} rows={rows})"
        )
    if isinstance(value, JointState):
        return f"(stamp={value.stamp!r} names={len(value.names)} q={value.position.tolist()} v={value.velocity.tolist()})"
    return repr(value)
