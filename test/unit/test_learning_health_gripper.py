"""What the record says of a worn gripper: ALOHA in the arena, whose fingers have mass, a drive of finite stiffness, and a stop.

Both arms wander about while both grippers close, stay, and open again, 4 s at the contract's rates. An episode is what a
recording of it holds: measured positions, with an encoder's noise, and commanded ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from vla_ros.learning.examined import Examined, examine, gripper_limits
from vla_ros.learning.health import NOTHING, Cause, Health
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.arena import Arena
from vla_ros.types import Array

ALOHA = RobotContract.load("aloha")
GRIPPER = "left_gripper"
J = ALOHA.joints.index(GRIPPER)
CLOSED, OPEN = ALOHA.limits.lower[J], 0.05  # m
SECONDS, EVERY = 4.0, round(ALOHA.control.rate / ALOHA.observation.rate)  # of an episode; control periods per step
NOISE = np.where(ALOHA.limits.prismatic, 2e-5, 3e-4)  # rad, m
Drive = Callable[[Array], Array]  # what the drives get of a command


def eased(x: Array) -> Array:
    """0 to 1, with acceleration."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def asked(rng: np.random.Generator) -> Array:
    """[control periods, n] rad, m: the arms from pose to pose, a second each; the grippers close, hold and open."""
    t = np.arange(round(SECONDS * ALOHA.control.rate)) / ALOHA.control.rate
    poses = np.array(ALOHA.posture) + rng.uniform(-0.12, 0.12, (round(SECONDS) + 1, len(ALOHA.joints)))
    k = t.astype(int)
    q = poses[k] + (poses[k + 1] - poses[k]) * eased(t - k)[:, None]
    for name in ALOHA.grippers:
        closes, takes = rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.7)
        opens = closes + takes + rng.uniform(0.8, 1.2)
        way = eased((t - closes) / takes) - eased((t - opens) / takes)
        q[:, ALOHA.joints.index(name)] = OPEN + (CLOSED - OPEN) * way
    return q


def travel(arena: Arena) -> Array:
    """[2] m, the fingers' stops."""
    return arena.model.jnt_range[arena.model.joint(GRIPPER).id]


@contextmanager
def changed(values: Array, first: float) -> Iterator[None]:
    """Of the model, for as long as the block lasts."""
    sound, values[0] = float(values[0]), first
    try:
        yield
    finally:
        values[0] = sound


def same(command: Array) -> Array:
    return command


def recorded(arena: Arena, seed: int, drive: Drive = same, width: float = 0.0) -> Examined:
    """
    Args:
        width: m, of what half of the episodes find between the left fingers.
    """
    rng = np.random.default_rng(seed)
    commands = asked(rng)
    stop = travel(arena)
    with changed(stop, max(stop[0], CLOSED + width * (rng.random() < 0.5))):
        arena.reset(commands[0])
        seen = []
        for k, command in enumerate(commands):
            arena.step(drive(command))
            if k % EVERY == EVERY - 1:
                seen.append((arena.position() + rng.normal(0.0, NOISE), command))
    positions, sent = (np.array(rows) for rows in zip(*seen, strict=True))
    return examine(
        {}, ALOHA.joints, positions, sent, ALOHA.limits.velocity, 1 / ALOHA.observation.rate, grippers=gripper_limits(ALOHA)
    )


Practised = tuple[Arena, Health, float]


def practice(width: float) -> Practised:
    arena, health = Arena(ALOHA), Health()
    for seed in range(health.reference):
        health.episode(recorded(arena, seed, width=width))
    return arena, health, width


@pytest.fixture(scope="module")
def empty() -> Practised:
    """Nothing ever lies between the fingers."""
    return practice(0.0)


@pytest.fixture(scope="module")
def holding() -> Practised:
    """In every other episode something 8 mm thick does."""
    return practice(0.008)


def after(practised: Practised, drive: Drive = same, first: int = 1000) -> Health:
    arena, health, width = practised
    health = copy.deepcopy(health)
    for seed in range(first, first + health.window):
        health.episode(recorded(arena, seed, drive, width))
    return health


def only(q: Array, position: float) -> Array:
    """The command with the gripper elsewhere."""
    return np.where(np.arange(len(q)) == J, position, q)


def named(health: Health, fault: str) -> Cause:
    cause = health.causes()[0]
    print(f"{fault}: {cause}, score {cause.score:.1f}")
    assert all(c.part.startswith(f"gripper {GRIPPER}") for c in health.causes()), "and no sound part"
    return cause


@pytest.mark.parametrize("first", [1000, 2000])
@pytest.mark.parametrize("cell", ["empty", "holding"])
def test_a_sound_gripper_is_not_named(cell: str, first: int, request: pytest.FixtureRequest) -> None:
    assert after(request.getfixturevalue(cell), first=first).sentence() == NOTHING


@pytest.mark.parametrize("force", [0.5, 2.0])  # N; the drive has 5
def test_friction_in_the_guide(holding: Practised, force: float) -> None:
    model = holding[0].model
    with changed(model.dof_frictionloss[model.joint(GRIPPER).dofadr[0] :], force):
        cause = named(after(holding), f"friction of {force} N")
    assert (cause.part, cause.figure) == (f"gripper {GRIPPER}", "play [m]")
    assert "gripper fingers worn, or gripper drive loose" in cause.likely
    assert cause.now == pytest.approx(force / model.actuator_gainprm[J, 0], rel=0.25)
    assert cause.score > 15


@pytest.mark.parametrize("play", [0.0005, 0.001])  # m, half of it on either side
def test_backlash_between_drive_and_fingers(holding: Practised, play: float) -> None:
    behind = OPEN

    def loose(q: Array) -> Array:
        nonlocal behind
        behind = min(max(behind, q[J] - play), q[J] + play)
        return only(q, behind)

    cause = named(after(holding, loose), f"backlash of ±{1e3 * play:g} mm")
    assert (cause.part, cause.figure) == (f"gripper {GRIPPER}", "play [m]")
    assert "gripper fingers worn, or gripper drive loose" in cause.likely
    assert cause.now == pytest.approx(play, rel=0.25)
    assert cause.score > 8


def test_a_drive_that_has_slipped(holding: Practised) -> None:
    cause = named(after(holding, lambda q: only(q, q[J] + 0.001)), "slip of 1 mm")
    assert (cause.part, cause.figure) == (f"gripper {GRIPPER}", "offset [m]")
    assert "its drive slips" in cause.likely
    assert cause.now - cause.before == pytest.approx(0.001, rel=0.25)
    assert cause.score > 15


@pytest.mark.parametrize("gap", [0.0005, 0.003])  # m
def test_fingers_that_no_longer_close(empty: Practised, gap: float) -> None:
    """They are bent, or dirt lies in their guide."""
    with changed(travel(empty[0]), CLOSED + gap):
        cause = named(after(empty), f"stop at {1e3 * gap:g} mm")
    assert (cause.part, cause.figure) == (f"gripper {GRIPPER}, closed", "gap [m]")
    assert "no longer close" in cause.likely
    assert cause.now == pytest.approx(gap, rel=0.25)
    assert cause.score > 7


def test_fingers_that_are_stuck(empty: Practised) -> None:
    with changed(travel(empty[0]), OPEN - 1e-4):
        health = after(empty)
    assert named(health, "stuck open").part == f"gripper {GRIPPER}, closed"
    (other,) = [c for c in health.causes() if c.part == f"gripper {GRIPPER}, moving"]
    assert other.now == pytest.approx(1.0, abs=0.1), "share of the steps"
    assert "does not follow" in other.likely


def test_parts_that_are_thinner_are_no_fault(holding: Practised) -> None:
    """Nor grasps that fail: both leave less of a gap."""
    arena, health, _ = holding
    assert after((arena, health, 0.0)).sentence() == NOTHING


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_an_episode_that_is_over_at_once_says_nothing(rows: int) -> None:
    q = np.tile(np.array(ALOHA.posture), (rows, 1))
    found = examine({}, ALOHA.joints, q, q, ALOHA.limits.velocity, 1 / ALOHA.observation.rate, grippers=gripper_limits(ALOHA))
    assert not found.joints
