"""Is a stream there, often enough, and stamped by the same clock?"""

from __future__ import annotations

import math

from vla_ros.doctor.finding import Finding, failure, ok
from vla_ros.doctor.observed import Observed, Timing

SHARE = 0.8  # of the contract's rate that is enough: a short look at a busy machine misses some
SIMULATED_SLACK = 2.0  # s; simulated time may run many times faster than messages travel, while a wall-clock stamp is decades off
CLOCKS = "set the clocks of the machines alike (chrony, PTP)"


def rate(check: str, topic: str, timing: Timing, observed: Observed, expected: float, fix: str) -> Finding:
    """`expected` [Hz] as the contract has it."""
    found = timing.rate(observed.simulated)
    wanted = f"{expected:g} Hz, at least {SHARE * expected:g}"
    if math.isnan(found):
        return failure(check, f"{topic}: {len(timing)} message(s) in {observed.seconds:.1f} s", wanted, fix)
    text = f"{topic}: {found:.1f} Hz"
    return ok(check, text, wanted) if found >= SHARE * expected else failure(check, text, wanted, fix)


def stamps(check: str, topic: str, timing: Timing, observed: Observed, limit: float, limit_name: str) -> Finding:
    """`limit` [s]: what the nodes tolerate between stamp and clock, and where that is written."""
    skew = timing.skew()
    limit = max(limit, SIMULATED_SLACK) if observed.simulated else limit
    clock = "the simulation's /clock" if observed.simulated else "this machine's clock"
    wanted = f"within {limit:g} s of {clock} ({limit_name})"
    remedy = f"its publisher must follow /clock (use_sim_time:=true), or end whatever publishes {observed.name('clock')}"
    if math.isnan(skew):
        return failure(check, f"{topic}: no time on {clock} was heard to compare with", wanted, remedy)
    if not (timing.stamps > 0.0).all():
        return failure(check, f"{topic}: stamps of 0 s", wanted, "the driver must fill header.stamp when it measures")
    where = "behind" if skew >= 0.0 else "ahead"
    found = f"{topic}: {abs(skew):.3f} s {where}"
    if abs(skew) <= limit:
        return ok(check, found, wanted)
    return failure(check, found, wanted, remedy if observed.simulated else f"{CLOCKS}; does the driver stamp with its own?")
