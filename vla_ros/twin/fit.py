"""A twin from recorded episodes, and whether one is good enough to practise in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

import vla_ros
from vla_ros.errors import VlaRosError
from vla_ros.files import sha256
from vla_ros.robots.contract import RobotContract
from vla_ros.twin import arm_fit, camera_fit, recording
from vla_ros.twin.parameters import FITTED, Estimate, Part, Twin, camera_parameters, nominal_values
from vla_ros.twin.recording import Motion
from vla_ros.twin.replay import Replay, windows
from vla_ros.types import Array

Progress = Callable[[str, int, int], None]  # what is being done, done, of how many at most
GOOD_JOINT = 1e-3  # rad that a joint's twin may be off beside noise: 0.5 mm at the tip, a tenth of what a policy's bin means
GOOD_CAMERA = 0.5  # px that the table may appear elsewhere: less is in the policy's own noise


def fit(contract: RobotContract, paths: Sequence[Path], progress: Progress = lambda what, done, most: None) -> Twin:
    """
    Raises:
        VlaRosError: no episodes, a damaged one, another robot's, one without commands, or all of them too short.
    """
    motions = load(contract, paths, progress)
    done = 0

    def tick(what: str, most: int) -> Callable[[], None]:
        def step() -> None:
            nonlocal done
            done += 1
            progress(what, min(done, most), most)

        return step

    arm = arm_fit.fit(contract, motions, tick("joints", arm_fit.MOST_ITERATIONS))
    estimates, blocks, parts = dict(arm.estimates), [arm.correlation], list(arm.parts)
    for camera in cameras(contract, motions):
        done = 0
        pictures = [m.pictures[camera] for m in motions if camera in m.pictures]
        seen = camera_fit.fit(contract, camera, pictures, tick(f"camera {camera}", camera_fit.MOST_ITERATIONS))
        estimates |= seen.estimates
        blocks.append(seen.correlation)
        parts.append(seen.part)
    made = {"by": f"vla_ros {vla_ros.__version__}", "at": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    rates = [m.rate for m in motions]
    made |= {"joint_states": f"{min(rates):.0f} to {max(rates):.0f} Hz", "episodes": str(len(motions))}
    files = tuple((str(m.path), sha256(m.path)) for m in motions)
    return Twin(contract.robot, estimates, _diagonal(blocks), tuple(parts), files, made)


def load(contract: RobotContract, paths: Sequence[Path], progress: Progress) -> list[Motion]:
    """All recordings among files and folders; raises VlaRosError as recording.load."""
    files, motions = recording.find(paths), []
    for k, path in enumerate(files):
        motions.append(recording.load(path, contract))
        progress("reading", k + 1, len(files))
    return motions


def cameras(contract: RobotContract, motions: Sequence[Motion]) -> list[str]:
    """Of the contract, those that were recorded."""
    return [camera for camera in contract.cameras if any(camera in m.pictures for m in motions)]


@dataclass(frozen=True)
class Verdict:
    """One part on held-out episodes."""

    part: Part  # rad of a joint; px of a camera, by which the table appears elsewhere
    good: bool
    why: str = ""


def check(
    twin: Twin, contract: RobotContract, paths: Sequence[Path], progress: Progress = lambda what, done, most: None
) -> list[Verdict]:
    """Of every joint and camera.

    Raises:
        VlaRosError: as fit(), another robot's twin, or an episode that it was fitted to, which says nothing.
    """
    if twin.robot != contract.robot:
        raise VlaRosError(f"twin: robot: found '{twin.robot}', expected '{contract.robot}'")
    if used := known(twin, paths):
        raise VlaRosError(f"{used[0]}: found an episode that the twin was fitted to ({len(used)} of them), expected others")
    motions = load(contract, paths, progress)
    values = {name: e.value for name, e in twin.estimates.items()}
    return [
        *(_joint(part) for part in arm_fit.errors(contract, Replay(contract, windows(motions)), values)),
        *(_camera(twin, contract, motions, camera) for camera in cameras(contract, motions)),
    ]


def known(twin: Twin, paths: Sequence[Path]) -> list[Path]:
    """Those that the twin was fitted to."""
    digests = {digest for _, digest in twin.episodes}
    return [path for path in recording.find(paths) if sha256(path) in digests]


def _joint(part: Part) -> Verdict:
    noise = 0.0 if math.isnan(part.noise) else part.noise
    unexplained = math.sqrt(max(part.twin**2 - noise**2, 0.0))
    why = f"off by {unexplained * 1e3:.2f} mrad beside noise, expected at most {GOOD_JOINT * 1e3:g}"
    return Verdict(part, unexplained <= GOOD_JOINT, why)


def _camera(twin: Twin, contract: RobotContract, motions: Sequence[Motion], camera: str) -> Verdict:
    pictures = [m.pictures[camera] for m in motions if camera in m.pictures]
    seen = camera_fit.fit(contract, camera, pictures)
    name = f"camera {camera}"
    if not all(e.status == FITTED for e in seen.estimates.values()):
        why = next(e.why for e in seen.estimates.values() if e.status != FITTED)
        return Verdict(Part(name, "px", math.nan, math.nan, math.nan), False, why)
    view, nominal = camera_fit.View(contract, camera, pictures), nominal_values(camera_parameters(camera))
    there = view.points(_values(seen.estimates))
    own = {name: twin.estimates[name].value if name in twin.estimates else value for name, value in nominal.items()}
    before, after = (_apart(there, view.points(v)) for v in (nominal, own))
    why = f"the table appears {after:.2f} px elsewhere, expected at most {GOOD_CAMERA:g}"
    return Verdict(Part(name, "px", before, after, math.nan), after <= GOOD_CAMERA, why)


def _apart(a: Array, b: Array) -> float:
    return float(np.sqrt(((a - b) ** 2).sum(1).mean()))


def _values(estimates: dict[str, Estimate]) -> dict[str, float]:
    return {name: e.value for name, e in estimates.items()}


def _diagonal(blocks: Sequence[Array]) -> Array:
    """[k, k] with these on the diagonal."""
    out = np.zeros((sum(map(len, blocks)),) * 2)
    at = 0
    for block in blocks:
        out[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return out
