"""A recorded episode's raw chunks through another safety envelope, offline and tick by tick.

What a replay is: the same chunks at the same times through a SafetyFilter with other limits. What it is not: the policy
would have seen other pictures and answered otherwise, and nobody presses a recorded e-stop or reset again.

The executed motion differs from the recorded one, so the recorded joint states do not belong to it: the arm is modelled
as following the replayed command, one control period late and without error, from the first recorded state on. With
`as_recorded` the recorded joint states are fed instead; where the envelope changes the motion, the filter then sees an
arm that does not follow, and tracking faults may appear.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.cli.safety.recording import Recording
from vla_ros.errors import VlaRosError
from vla_ros.safety.filter import SafetyFilter
from vla_ros.safety.limits import Limits
from vla_ros.types import JOINT_POSITION, Array, JointState, SafeCommand, SafetyMode

FRESH = 3  # control periods; as safety_node judges whether a joint state is answered for its own instant


@dataclass(frozen=True)
class Replay:
    """What the filter answered; arrays are over its K ticks."""

    recording: Recording
    limits: Limits
    as_recorded: bool
    period: float  # s
    verdicts: tuple[tuple[float, str], ...]  # (arrival s, '' or the reason) of each chunk
    ticks: tuple[SafeCommand, ...]
    limited_ticks: int
    due: Array  # [D] s since the start, when the policy's rows were due
    asked: Array  # [D, n] rad, these rows: of each accepted chunk until the next one takes over

    @property
    def times(self) -> Array:
        """[K] s since the start."""
        return np.array([tick.stamp for tick in self.ticks]) - self.recording.start

    @property
    def command(self) -> Array:
        """[K, n] rad, what would have been sent."""
        return np.array([tick.command for tick in self.ticks])

    @property
    def deviation(self) -> Array:
        """[K, n] rad, |raw - executed|: from the policy's rows, linear between them; 0 where no row was due.

        A command's own `raw` is no measure here: it starts at the command whenever a chunk takes over, and so forgives
        what the envelope held back before.
        """
        out = np.zeros_like(self.command)
        if len(self.due):
            inside = (self.times >= self.due[0]) & (self.times <= self.due[-1])
            for j in range(out.shape[1]):
                asked = np.interp(self.times[inside], self.due, self.asked[:, j])
                out[inside, j] = np.abs(asked - self.command[inside, j])
        return out

    def column(self, name: str) -> Array:
        """[K] one figure of each tick, such as `path_speed`."""
        return np.array([getattr(tick, name) for tick in self.ticks], np.float64)


def replay(recording: Recording, files: Sequence[str | Path] = (), as_recorded: bool = False) -> Replay:
    """Runs the episode through a filter with the given safety files.

    Raises:
        VlaRosError: a safety file is wrong, or `as_recorded` without joint states at the control rate.
    """
    safety = SafetyFilter.for_robot(recording.contract, *files)
    period = 1.0 / recording.contract.control.rate
    verdicts: list[tuple[float, str]] = []
    ticks: list[SafeCommand] = []
    waiting = list(recording.chunks)[::-1]
    if as_recorded:
        events = _recorded_states(recording, period, safety.limits.state_silence)
    else:
        events = _modelled_states(recording, period, ticks)
    for now, state in events:
        # A chunk of this very instant answers an observation of this instant, which the tick was ahead of.
        while waiting and waiting[-1][0] < now - 1e-9:
            arrival, chunk = waiting.pop()
            verdicts.append((arrival, safety.submit(chunk, arrival)))
        sent = safety.tick(now, state)
        if sent is not None:
            ticks.append(sent)
    for arrival, chunk in reversed(waiting):
        verdicts.append((arrival, safety.submit(chunk, arrival)))
    if not ticks:
        raise VlaRosError(
            f"{recording.path}: {recording.state_topic}: no tick in {len(recording.states)} joint states; "
            f"the filter says '{safety.reason}', expected valid states of {', '.join(recording.contract.joints)}"
        )
    limited = int(safety.counters.limited_ticks)
    due, asked = _asked(recording, verdicts, ticks)
    return Replay(recording, safety.limits, as_recorded, period, tuple(verdicts), tuple(ticks), limited, due, asked)


def _asked(recording: Recording, verdicts: Sequence[tuple[float, str]], ticks: Sequence[SafeCommand]) -> tuple[Array, Array]:
    """Due times [D] and rows [D, n] of the accepted chunks, each until the next one's first row.

    Rows that are no joint positions are taken as the filter understood them, tick by tick.
    """
    joints = recording.contract.joints
    accepted = [chunk for (_, chunk), (_, reason) in zip(recording.chunks, verdicts, strict=True) if not reason]
    if any(chunk.semantics != JOINT_POSITION for chunk in accepted):
        return np.array([tick.stamp for tick in ticks]) - recording.start, np.array([tick.raw for tick in ticks])
    due: list[float] = []
    rows: list[Array] = []
    until = [*(chunk.stamp for chunk in accepted), math.inf][1:]
    for chunk, end in zip(accepted, until, strict=True):
        order = [chunk.joint_names.index(name) for name in joints]
        for k, row in enumerate(chunk.rows[:, order]):
            if (time := chunk.stamp + k * chunk.period) < end - 1e-9:
                due.append(time - recording.start)
                rows.append(row)
    return np.array(due), np.array(rows).reshape(-1, len(joints))


def _modelled_states(recording: Recording, period: float, ticks: Sequence[SafeCommand]) -> Iterator[tuple[float, JointState]]:
    """(now, state) of an arm that is, at each tick, where the command before sent it."""
    first = recording.states[0][1]
    names = recording.contract.joints
    position, velocity = first.position, np.zeros(len(names))
    for k in range(int((recording.end - recording.start) / period + 1e-6) + 1):
        now = recording.start + k * period
        yield now, JointState(now, names, position, velocity)
        if ticks:
            position, velocity = ticks[-1].command, ticks[-1].velocity


def _recorded_states(recording: Recording, period: float, silence: float) -> Iterator[tuple[float, JointState | None]]:
    """(now, state) as safety_node ticks: on each recorded state, and on the watchdog while they are silent."""
    topic = recording.contract.control.state_topic
    if recording.state_topic != topic:
        raise VlaRosError(
            f"{recording.path}: {topic} was not recorded; found joint states in {recording.state_topic} at the policy's "
            f"rate, expected the control rate; record with `record_topics: ['{topic} sensor_msgs/msg/JointState']` of "
            "trainer_node, or replay without --as-recorded"
        )
    heard = recording.states[0][0]
    for arrival, state in recording.states:
        quiet = heard + silence + period
        while quiet < arrival:
            yield quiet, None
            quiet += period
        heard = arrival
        yield (state.stamp if 0.0 <= arrival - state.stamp <= FRESH * period else arrival), state


# -- figures ------------------------------------------------------------------------------------------------------


def summary(result: Replay) -> dict[str, Any]:
    """All figures, ready for JSON: seconds, radians and counts."""
    recording, period = result.recording, result.period
    joints = recording.contract.joints
    reasons = Counter(reason for _, reason in result.verdicts)
    accepted = reasons.pop("", 0)
    deviation = result.deviation
    speeds = np.abs(np.diff(result.command, axis=0)).max(axis=0, initial=0.0) / period
    held = np.full(len(result.ticks), period)
    clearance = result.column("clearance")
    clearance = clearance[np.isfinite(clearance)]
    latched = next((t for t in result.ticks if t.mode == SafetyMode.LATCHED), None)
    return {
        "episode": recording.path.stem,
        "robot": recording.contract.robot,
        "limits": result.limits.source,
        "joint_states": f"as recorded on {recording.state_topic}" if result.as_recorded else "modelled: the arm follows",
        "start_from": recording.state_topic,
        "duration": round(recording.end - recording.start, 3),
        "ticks": len(result.ticks),
        "chunks": {"accepted": accepted, "rejected": sum(reasons.values()), "reasons": dict(reasons.most_common())},
        "limited_ticks": result.limited_ticks,
        **_held(recording, list(result.ticks), held),
        "latched": f"{latched.reason} at {latched.stamp - recording.start:.3f} s" if latched else "",
        "peak_tip_speed": _number(result.column("tip_speed").max()),
        "peak_torque_share": _number(result.column("torque_share").max()),
        "least_clearance": _number(clearance.min()) if clearance.size else None,
        "joints": {
            name: {
                "worst_deviation": _number(deviation[:, j].max()),
                "worst_at": _number(result.times[deviation[:, j].argmax()]),
                "peak_velocity": _number(speeds[j]),
                "velocity_limit": _number(result.limits.velocity[j]),
                "from_recorded": _from_recorded(result, j),
            }
            for j, name in enumerate(joints)
        },
        "recorded": _recorded(recording),
    }


def _recorded(recording: Recording) -> dict[str, Any] | None:
    """The same figures of what was executed then, from /safety/state; None if that was not recorded."""
    states = recording.executed
    if not states:
        return None
    held = np.diff([state.stamp for state in states], append=states[-1].stamp)
    return {
        "states": len(states),
        "chunks": {"rejected": states[-1].rejected_chunks - states[0].rejected_chunks},
        "limited_ticks": states[-1].limited_ticks - states[0].limited_ticks,
        **_held(recording, list(states), held),
    }


def _held(recording: Recording, states: Sequence[Any], held: Array) -> dict[str, Any]:
    """Times by mode and by constraint, and what slow-downs and stops have cost between the first chunk and the due time
    of the last row."""
    last = recording.chunks[-1][1]
    begin, end = recording.chunks[0][0], last.stamp + (len(last.rows) - 1) * last.period
    modes: Counter[str] = Counter()
    constraints: Counter[str] = Counter()
    slowed = stopped = 0.0
    for state, seconds in zip(states, held.tolist(), strict=True):
        modes[state.mode.name] += seconds
        for name in state.active:
            constraints[name] += seconds
        if not begin < state.stamp <= end:
            continue
        if state.mode == SafetyMode.RUN:
            slowed += (1.0 - state.path_speed) * seconds
        else:
            stopped += seconds
    return {
        "time_lost": {"slowed": _number(slowed), "stopped": _number(stopped), "total": _number(slowed + stopped)},
        "modes": {name: _number(seconds) for name, seconds in modes.most_common()},
        "constraints": {name: _number(seconds) for name, seconds in constraints.most_common()},
    }


def _from_recorded(result: Replay, joint: int) -> float | None:
    """Largest distance [rad] between replayed and recorded command."""
    states = [s for s in result.recording.executed if s.stamp <= result.ticks[-1].stamp]
    if not states:
        return None
    times = [s.stamp - result.recording.start for s in states]
    replayed = np.interp(times, result.times, result.command[:, joint])
    return _number(np.abs(replayed - [s.command[joint] for s in states]).max())


def _number(value: Any) -> float:
    return round(float(value), 6)
