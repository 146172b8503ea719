"""Judges what a policy did in a phase: what it would have asked of a latched arm, and how it moved a free one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.doctor.finding import Finding, failure, ok, warning
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.filter import SafetyFilter
from vla_ros.safety.limits import Limits
from vla_ros.types import JOINT_POSITION, ActionChunk, Array, JointState, SafetyMode

ROUNDING = 1.02  # of a tip's speed: it is told after the tick that it was limited for
SAY = "give instruction:='...', in words that the policy knows; its output tells why it does not act"


@dataclass(frozen=True)
class Moment:
    """Of one /safety/state."""

    mode: SafetyMode
    reason: str
    command: Array  # [n] rad
    tip_speed: float  # m/s
    active: tuple[str, ...] = ()
    rejected: int = 0  # chunks since the node's start


@dataclass(frozen=True)
class Asked:
    """A chunk as it came, and the newest joint state then, whose stamp is its time of arrival."""

    chunk: ActionChunk
    state: JointState


def dry_run(
    contract: RobotContract, files: Sequence[str | Path], moments: Sequence[Moment], asked: Sequence[Asked]
) -> list[Finding]:
    """Of a latched arm: it stood, and this is what a filter with the same files says to each chunk, had it not been latched.

    Args:
        files: safety files; none: the robot's own.
    """
    findings = [_stood(moments)]
    if not asked:
        return [*findings, failure("dry_chunks", "no chunk came", "a chunk for each observation", SAY)]
    shadow = SafetyFilter.for_robot(contract, *files)  # publishes nothing
    shadow.tick(asked[0].state.stamp, asked[0].state)
    verdicts = Counter(shadow.submit(each.chunk, each.state.stamp) for each in asked)
    taken, refused = verdicts.pop("", 0), ", ".join(f"{reason} ({n})" for reason, n in verdicts.most_common())
    found = f"{taken} of {len(asked)} chunks would have been taken{f'; refused: {refused}' if refused else ''}"
    fix = "docs/safety.md has every reason; position_limit, row_jump: was the checkpoint trained for this robot and its units?"
    if not taken:
        findings.append(failure("dry_chunks", found, "chunks that the filter takes", fix))
    else:
        findings.append(warning("dry_chunks", found, "all", fix) if refused else ok("dry_chunks", found))
    return [*findings, *_excursion(contract, shadow.limits, asked)]


def _stood(moments: Sequence[Moment]) -> Finding:
    expected = "latched throughout, the same command"
    loose = [m for m in moments if m.mode is not SafetyMode.LATCHED]
    if loose:
        text = f"the latch was released: {loose[0].mode.name} {loose[0].reason}".strip()
        return failure("dry_still", text, expected, "somebody called /safety/reset: nobody may during the dry run")
    commands = [m.command for m in moments if len(m.command)]
    moved = float(np.ptp(np.array(commands), axis=0).max()) if commands else 0.0
    if moved > 0.0:
        return failure("dry_still", f"the command moved by {moved:.4g} rad", expected, "report this: a latched filter must stand")
    return ok("dry_still", f"latched in all {len(moments)} states, the same command")


def _excursion(contract: RobotContract, limits: Limits, asked: Sequence[Asked]) -> list[Finding]:
    """Of chunks of joint positions: how far from where the arm stands, and how fast from row to row."""
    far, fast = np.zeros(len(contract.joints)), np.zeros(len(contract.joints))
    for each in asked:
        chunk, state = each.chunk, each.state
        if chunk.semantics != JOINT_POSITION or chunk.rows.ndim != 2 or set(chunk.joint_names) != set(contract.joints):
            continue
        rows = chunk.rows[:, [chunk.joint_names.index(name) for name in contract.joints]]
        start = state.position[[state.names.index(name) for name in contract.joints]]
        far = np.maximum(far, np.abs(rows - start).max(axis=0))
        if chunk.period > 0.0:
            fast = np.maximum(fast, np.abs(np.diff(rows, axis=0)).max(axis=0, initial=0.0) / chunk.period)
    units = ["m" if slides else "rad" for slides in contract.limits.prismatic]
    share = fast / np.array(limits.velocity)
    j, k = int(far.argmax()), int(share.argmax())
    found = f"up to {far[j]:.3f} {units[j]} from where the arm stands ({contract.joints[j]})"
    found += f", from row to row up to {fast[k]:.3f} {units[k]}/s ({contract.joints[k]})"
    expected = f"{limits.velocity[k]:.3g} {units[k]}/s of {contract.joints[k]} at most; what is faster is slowed down"
    if share[k] > 1.0:
        fix = "the arm will be slower than the policy means: was it trained on data of this arm, at this rate?"
        return [warning("dry_asked", found, expected, fix)]
    return [ok("dry_asked", found, expected)]


def moved(moments: Sequence[Moment], tip_speed: float, limit_name: str) -> list[Finding]:
    """Of a free arm. `tip_speed` [m/s]: the bound of this phase, and which key of the safety file it is."""
    latched = next((m for m in moments if m.mode is SafetyMode.LATCHED), None)
    ran = [m for m in moments if m.mode is SafetyMode.RUN]
    findings = []
    if latched is not None:
        fix = "`vla-ros safety state`, docs/safety.md for the reason; `vla-ros safety reset` when it is cleared"
        findings.append(failure("motion", f"latched: {latched.reason}", "no latch", fix))
    elif not ran:
        reasons = ", ".join(sorted({f"{m.mode.name} {m.reason}".strip() for m in moments})) or "no state"
        findings.append(failure("motion", f"the arm never ran: {reasons}", "RUN", SAY))
    else:
        constraints = Counter(name for m in moments for name in m.active)
        most = ", ".join(f"{name} ({n})" for name, n in constraints.most_common(3)) or "nothing"
        rejected = moments[-1].rejected - moments[0].rejected
        findings.append(ok("motion", f"RUN in {len(ran)} of {len(moments)} states; limited by {most}; {rejected} chunks refused"))
    fastest = max((m.tip_speed for m in moments), default=0.0)
    found, expected = f"{fastest:.3f} m/s", f"at most {tip_speed:g} m/s ({limit_name})"
    if fastest > ROUNDING * tip_speed:
        findings.append(failure("tip_speed", found, expected, "report this: the filter must not let a tip be faster"))
    else:
        findings.append(ok("tip_speed", found, expected))
    return findings
