"""Drives, delay and payload from recorded motion.

1. All parameters together, each also drawn to its nominal value by as little as its bounds say (solve.py); the likeliest of a few
   starts, where the first leaves more than noise.
2. What the record has not narrowed to EXCITED of what was thought before is `not excited`: it stays nominal, with the reason.
3. The rest once more without that pull. Their errors are those of step 1, which count that the others are not known.

Slow motion shows friction and damping only in units of the drive's gain, by which it gives way to them. Fitted are therefore
friction/gain and damping/gain, of which the arm's motion is nearly linear, and the errors are propagated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.twin import solve
from vla_ros.twin.parameters import EXCITED, NOT_EXCITED, Estimate, Parameter, Part, arm_parameters, nominal_values
from vla_ros.twin.recording import Motion
from vla_ros.twin.replay import Replay, windows
from vla_ros.types import Array

PER_GAIN = ("friction", "damping")
COARSE = (160.0, 400.0, 60.0)  # times the shortest steps of finite differences, at first: they see over friction's kinks
EXPLAINED = 1.1  # times noise; a fit that leaves more of a joint's motion is begun anew, with the next first steps
ITERATIONS = (40, 20)  # at most, of the first fit from each start, and of each later one
MOST_ITERATIONS = len(COARSE) * ITERATIONS[0] + 2 * ITERATIONS[1]
TANGLED = 0.8  # correlation from which on two parameters are told to be hard to tell apart
STILL = 0.1  # rad; a joint that travels less shows nothing of itself
STUDENT = 1.5  # a 95 % interval from few windows is wider: t of n - 1 degrees of freedom is about 1.96 (1 + 1.5/(n - 1))
UNSEEN = 1.7  # tasks touch things, which are not replayed; what that does to all windows alike is no scatter (measured, too)
# No standard error is stated below these, in the parameter's unit: hidden cells had misses of this size at smaller ones.
FLOOR = {"friction": 0.05, "damping": 0.25, "gain": 0.015, "delay": 2e-4, "payload": 0.01}
SPARSE = 4.0  # between recorded commands the path is a guess, and the same one every time (measured: benchmarks/twin.py)
SLOW = 50.0  # Hz; joint states at a lower rate show no accelerations


@dataclass(frozen=True)
class Found:
    estimates: dict[str, Estimate]
    correlation: Array  # [k, k] of the fitted ones
    parts: tuple[Part, ...]  # one a joint


def fit(contract: RobotContract, motions: Sequence[Motion], tick: solve.Tick = lambda: None) -> Found:
    """
    Raises:
        VlaRosError: nothing is long enough for a window.
    """
    ps, replay = arm_parameters(contract), Replay(contract, windows(motions))
    nominal = nominal_values(ps)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        solved = partial(solve.solve, tick=tick, each=pool.map)
        tried = list[solve.Solution]()
        for coarse in COARSE:
            tried.append(solved(_residual(replay), ps, {}, nominal, ITERATIONS[0], True, coarse=coarse))
            found = physical(tried[-1].values)
            if not (_rms(replay, found) > EXPLAINED * _noise(replay, found)).any():  # nor where noise cannot be told
                break
        both = max(tried, key=lambda one: one.likelihood)
        cov = _propagated(solve.covariance(both, _scores(replay, both), True), both)
        before = physical(both.values)
        error = np.sqrt(np.diag(cov)) * _doubt(replay, before, ps, min(m.rate for m in motions))
        error *= 1.0 + STUDENT / max(1, len(replay.chosen) - 1)
        if min(m.command_rate for m in motions) < SLOW:
            other = _residual(Replay(contract, replay.chosen, straight=True))
            guess = physical(solved(other, ps, {}, both.values, ITERATIONS[1], True).values)
            error = np.hypot(error, [(guess[p.name] - before[p.name]) / p.spread for p in ps])
            on_bound = [min(before[p.name] - p.low, p.high - before[p.name]) < p.step for p in ps]
            error = np.where(on_bound, np.maximum(error, EXCITED), error)  # how far beyond it the guess pulls is not known
        excited = error <= EXCITED
        kept = [p for p, good in zip(ps, excited, strict=True) if good]
        values = dict(nominal)
        if kept:
            others = {name: value for name, value in nominal.items() if name not in {p.name for p in kept}}
            values |= solved(_residual(replay), kept, others, both.values, ITERATIONS[1], False).values
    values = {**physical(values), **{p.name: p.nominal for p in ps if p not in kept}}
    tangled = solve.correlation(cov)
    # Two fits of the same record that end in different places know no better than that.
    apart = [(values[p.name] - before[p.name]) / p.spread if p in kept else 0.0 for p in ps]
    floor = np.array([FLOOR[p.name.partition(".")[0]] / p.spread for p in ps])
    error = np.maximum(UNSEEN * np.hypot(error, apart), floor)
    estimates = {
        p.name: Estimate(p, values[p.name], float(error[k] * p.spread)) if excited[k]
        else Estimate(p, p.nominal, status=NOT_EXCITED, why=_why(contract, motions, ps, k, tangled, float(error[k])))
        for k, p in enumerate(ps)
    }  # fmt: skip
    parts = errors(contract, replay, values)
    return Found(estimates, solve.correlation(cov[np.ix_(excited, excited)]), parts)


def _residual(replay: Replay) -> solve.Residual:
    return lambda values: replay.measured - replay.simulated(physical(values))


def _doubt(replay: Replay, values: Mapping[str, float], ps: Sequence[Parameter], rate: float) -> Array:
    """[p] by how much errors are larger than the scatter between windows says: by SPARSE at low rates; for a joint that is
    further from its twin than noise, by as much (of the arm's own parameters, as of the joint that is furthest)."""
    joints = replay.contract.joints
    more = np.full(len(joints), SPARSE)
    if rate >= SLOW:
        more = np.maximum(1.0, _rms(replay, values) / _noise(replay, values))
    by = dict(zip(joints, more, strict=True))
    return np.array([by.get(p.name.partition(".")[2], more.max()) for p in ps])


def physical(values: Mapping[str, float]) -> dict[str, float]:
    """From friction/gain and damping/gain to friction and damping."""
    return {name: _scaled(name, value, values) for name, value in values.items()}


def _scaled(name: str, value: float, values: Mapping[str, float]) -> float:
    kind, _, joint = name.partition(".")
    return max(0.0, value) * values[f"gain.{joint}"] if kind in PER_GAIN else value


def _propagated(cov: Array, found: solve.Solution) -> Array:
    """[p, p] of the physical values, from that of the fitted ones, both in units of spread."""
    values, names = found.values, [p.name for p in found.parameters]
    spread = np.array([p.spread for p in found.parameters])
    by = np.eye(len(names))
    for k, name in enumerate(names):
        kind, _, joint = name.partition(".")
        if kind in PER_GAIN:
            by[k, k], by[k, names.index(f"gain.{joint}")] = values[f"gain.{joint}"], values[name]
    by *= spread / spread[:, None]
    return np.asarray(by @ cov @ by.T)


def errors(contract: RobotContract, replay: Replay, values: Mapping[str, float]) -> tuple[Part, ...]:
    """Of every joint's position, with the nominal model and with these values."""
    before = _rms(replay, nominal_values(arm_parameters(contract)))
    after, noise = _rms(replay, values), _noise(replay, values)
    return tuple(Part(j, "rad", float(before[k]), float(after[k]), float(noise[k])) for k, j in enumerate(contract.joints))


def _rms(replay: Replay, values: Mapping[str, float]) -> Array:
    """[n] rad."""
    return np.asarray(np.sqrt(((replay.measured - replay.simulated(values)) ** 2).mean(0)))


def _noise(replay: Replay, values: Mapping[str, float]) -> Array:
    """[n] rad, standard deviation of what changes from one state to the next; nan where they are too far apart to tell."""
    n = len(replay.contract.joints)
    if min(w.motion.rate for w in replay.chosen) < SLOW:
        return np.full(n, np.nan)
    r = replay.measured - replay.simulated(values)
    inside = np.diff(replay.window) == 0
    return np.asarray(np.diff(r, axis=0)[inside].std(0) / np.sqrt(2.0))


def _scores(replay: Replay, found: solve.Solution) -> Array:
    """[windows, p], of the gradient."""
    rows = np.repeat(replay.window, replay.measured.shape[1])
    parts = found.jacobian * found.residual[:, None]
    return np.stack([np.bincount(rows, column, len(replay.chosen)) for column in parts.T], axis=1)


def _why(
    contract: RobotContract, motions: Sequence[Motion], ps: Sequence[Parameter], k: int, tangled: Array, left: float
) -> str:
    """What the record lacks, and what to record."""
    own, joint = ps[k], ps[k].name.partition(".")[2]
    told = f"{min(left, 1.0):.0%} of what was uncertain before is left"
    if joint:
        j = contract.joints.index(joint)
        travel = max(float(np.ptp(m.positions[:, j])) for m in motions)
        if travel < STILL:
            told += f": {joint} travels {travel:.3f} rad at most"
            return f"{told}; record motions in which it turns by more than {STILL:g} rad"
    others = np.abs(np.delete(tangled[k], k))
    if others.max() > TANGLED:
        told += f"; cannot be told from {np.delete(np.array([p.name for p in ps]), k)[int(others.argmax())]}"
    rate = min(m.rate for m in motions)
    if rate < SLOW:
        topic = contract.control.state_topic
        return f"{told}: joint states come at {rate:.0f} Hz; record {topic} and every command (docs/twin.md)"
    return f"{told}: {own.name} shows in accelerations and turns; record faster ones, or the excitation motion (docs/twin.md)"
