"""What the record of a cell says of its faults: known figures, healthy cells, and faults put into the simulated one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.learning.examined import Examined, examine
from vla_ros.learning.health import NOTHING, Health
from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert, Manner
from vla_ros.types import Array, Image

PANDA = RobotContract.load("panda")
JOINTS = ("joint1", "joint2", "joint3", "joint4", "joint5", "joint6", "finger")
LIMIT, PERIOD = np.full(len(JOINTS), 2.0), 0.1
SCENE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8), (0, 0), 2.0)


def made_up(
    rng: np.random.Generator, offset: float = 0.0, lag: float = 0.03, play: float = 0.0, blocked: bool = False, **more: str | bool
) -> Examined:
    """An episode of a noisy arm whose last joint has these figures, rad, s, rad; its camera shakes, blocks lie about."""
    x, y = rng.integers(4, 24, 2)
    picture = np.roll(SCENE.astype(float), rng.integers(-1, 2), axis=1) if rng.random() < 0.3 else SCENE.astype(float)
    picture[y : y + 5, x : x + 5] = rng.integers(0, 255, 3)
    picture += rng.normal(0, 4, picture.shape) + rng.normal(0, 2)
    commands = np.cumsum(rng.uniform(-1, 1, (30, len(JOINTS))) * PERIOD + rng.uniform(-0.05, 0.05, len(JOINTS)), axis=0)
    v = np.diff(commands, axis=0, prepend=commands[:1]) / PERIOD
    positions = commands - 0.03 * v + rng.normal(0, 5e-4, v.shape) + rng.normal(0, 1e-3, len(JOINTS))
    positions[:, -1] += offset - (lag - 0.03) * v[:, -1] - play * np.sign(v[:, -1])
    if blocked:
        positions[:, -1] = 0.0
    pictures = {"front": picture.clip(0, 255).astype(np.uint8)}
    return examine(pictures, JOINTS, positions, commands, LIMIT, PERIOD, **more)  # type: ignore[arg-type]


def watched(rng: np.random.Generator, episodes: int = 50) -> Health:
    health = Health()
    for _ in range(episodes):
        health.episode(made_up(rng))
    return health


@pytest.mark.parametrize(
    ("figure", "value", "before", "likely"),
    [
        ("offset [rad, m]", {"offset": 0.005}, 0.0, "encoder"),
        ("lag [s]", {"lag": 0.06}, 0.03, "late"),
        ("play [rad, m]", {"play": 0.004}, 0.0, "backlash or friction"),
    ],
)
def test_the_figures_of_a_joint_are_told_apart(figure: str, value: dict[str, float], before: float, likely: str) -> None:
    rng = np.random.default_rng(1)
    health = watched(rng)
    for _ in range(20):
        health.episode(made_up(rng, **value))
    (cause,) = health.causes()
    assert (cause.part, cause.figure) == ("finger", figure)
    assert likely in cause.likely
    assert cause.now == pytest.approx(*value.values(), abs=1e-3)
    assert cause.before == pytest.approx(before, abs=1e-3)
    assert health.sentence().startswith(f"finger: {figure} ")


def test_a_gripper_that_is_blocked_is_named() -> None:
    rng = np.random.default_rng(1)
    health = watched(rng)
    for _ in range(20):
        health.episode(made_up(rng, blocked=True))
    cause = health.causes()[0]
    assert cause.part == "finger"
    assert "friction" in cause.likely


def test_a_healthy_cell_rarely_names_anything() -> None:
    """Shaky, noisy ones with 27 figures each."""
    rng = np.random.default_rng(2)
    named = 0
    for _ in range(200):
        health = watched(rng, 70)
        named += bool(health.causes())
    print(f"{named} of 200 healthy cells name something")
    assert named <= 4, "2 %"


def test_what_does_not_move_and_what_shows_nothing_has_no_figures() -> None:
    rng, health = np.random.default_rng(3), Health()
    still, dark = np.zeros((5, len(JOINTS))), np.zeros((16, 16, 3), np.uint8)
    for _ in range(70):
        health.episode(examine({"front": dark}, JOINTS, still + rng.normal(0, 0.1, still.shape), still, LIMIT, PERIOD))
    assert health.causes() == []
    assert health.sentence() == NOTHING


def test_a_short_record_says_so() -> None:
    health = watched(np.random.default_rng(4), 30)
    assert health.sentence() == "the record of 30 episodes is too short to say what has changed"


def test_a_camera_with_another_resolution_is_refused() -> None:
    health = watched(np.random.default_rng(5))
    picture = np.zeros((48, 64, 3), np.uint8)
    still = np.zeros((3, len(JOINTS)))
    with pytest.raises(VlaRosError, match=r"found \(48, 64\) px, expected \(32, 32\)"):
        health.episode(examine({"front": picture}, JOINTS, still, still, LIMIT, PERIOD))


def test_a_worse_batch_of_material_is_named_and_a_harder_task_is_not() -> None:
    """Of 50 reaches with one batch 80 % succeed; of 20 with the next one 25 %, or of 20 pushes, which were not done before."""
    for group, expected in (("reach", 1), ("push", 0)):
        rng = np.random.default_rng(6)
        health = Health()
        for k in range(50):
            health.episode(made_up(rng, success=k % 5 > 0, group="reach", material="A"))
        for k in range(20):
            health.episode(made_up(rng, success=k % 4 == 0, group=group, material="B"))
        causes = health.causes()
        assert len(causes) == expected
        if causes:
            assert (causes[0].part, causes[0].now, causes[0].before) == ("material B", 0.25, 0.8)


# -- the simulated cell ------------------------------------------------------------------------------------------------

See = Callable[[Image], Image]


def demonstrated(env: TabletopEnv, seed: int, see: See, manner: Manner | None = None) -> Examined:
    """The expert moves the arm; the camera's picture passes through `see`."""
    cell, first = env.cell, env.reset(seed)
    expert = Expert(PANDA, env.scene, np.random.default_rng(seed), manner)  # type: ignore[arg-type]
    positions, commands = [first.joints.position], [env._command.copy()]
    while len(positions) < 40 and not expert.done(cell.tip(), cell.blocks()):
        env.advance(expert.step(cell.tip()[:2], cell.blocks())[1])
        positions.append(cell.joint_state().position)
        commands.append(env._command.copy())
    pictures = {"front": see(first.images["front"])}
    return examine(pictures, PANDA.joints, np.array(positions), np.array(commands), PANDA.limits.velocity, PERIOD)


def same(picture: Image) -> Image:
    return picture


@pytest.fixture(scope="module")
def practised() -> tuple[TabletopEnv, Health]:
    env, health = TabletopEnv(PANDA), Health()
    for seed in range(health.reference):
        health.episode(demonstrated(env, seed, same))
    return env, health


@pytest.fixture
def env(practised: tuple[TabletopEnv, Health]) -> Iterator[TabletopEnv]:
    """Its model is sound again afterwards."""
    env, _ = practised
    model, fields = env.cell.model, ("cam_pos", "cam_quat", "dof_frictionloss")
    sound = {name: getattr(model, name).copy() for name in fields}
    yield env
    for name, values in sound.items():
        getattr(model, name)[:] = values


def after(practised: tuple[TabletopEnv, Health], see: See = same, first: int = 1000, manner: Manner | None = None) -> Health:
    env, health = practised[0], copy.deepcopy(practised[1])
    for seed in range(first, first + health.window):
        health.episode(demonstrated(env, seed, see, manner))
    return health


@pytest.mark.parametrize("first", [1000, 2000, 3000])
def test_a_sound_cell_names_nothing(practised: tuple[TabletopEnv, Health], first: int) -> None:
    assert after(practised, first=first).sentence() == NOTHING


def test_a_policy_that_has_become_faster_is_no_fault(practised: tuple[TabletopEnv, Health]) -> None:
    assert after(practised, manner=Manner(speed=(0.8, 1.0), noise=0.05)).causes() == []


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_a_blurred_picture(practised: tuple[TabletopEnv, Health], sigma: float) -> None:
    cause = after(practised, lambda p: cv2.GaussianBlur(p, (0, 0), sigma)).causes()[0]
    assert (cause.part, cause.likely) == ("camera front", "lens dirty or out of focus")
    print(f"blur of {sigma} px: {cause}, score {cause.score:.1f}")
    assert cause.now == pytest.approx(sigma**2, rel=0.5)


def test_other_light(practised: tuple[TabletopEnv, Health]) -> None:
    cause = after(practised, lambda p: (0.9 * p).astype(np.uint8)).causes()[0]
    assert (cause.part, cause.likely) == ("camera front", "other light or exposure")


@pytest.mark.parametrize(
    ("move", "turn", "figure", "value"),  # m, deg about the camera's own axes (right, up, backwards)
    [
        ([0, 0.01, 0], [0, 0, 0], "shift right [px]", -0.95),  # from 1.3 m, at 124 px per radian
        ([0.01, 0, 0], [0, 0, 0], "shift down [px]", -0.79),  # seen under 56°
        ([0, 0.03, 0], [0, 0, 0], "shift right [px]", -2.86),
        ([0, 0, 0], [1, 0, 0], "shift down [px]", 2.16),
        ([0, 0, 0], [0, 1, 0], "shift right [px]", 2.16),
        ([0, 0, 0], [0, 0, 1], "turn [deg]", 1.0),
    ],
)
def test_a_camera_that_was_moved(
    practised: tuple[TabletopEnv, Health], env: TabletopEnv, move: list[float], turn: list[float], figure: str, value: float
) -> None:
    import mujoco

    model = env.cell.model
    k = model.camera("front").id
    model.cam_pos[k] += move
    by, turned = np.zeros(4), np.zeros(4)
    if any(turn):
        mujoco.mju_axisAngle2Quat(by, np.array(turn, float), math.radians(1.0))
        mujoco.mju_mulQuat(turned, model.cam_quat[k].copy(), by)
        model.cam_quat[k] = turned
    cause = after(practised).causes()[0]
    print(f"{move} m, {turn} deg: {cause}, score {cause.score:.1f}")
    assert (cause.part, cause.figure) == ("camera front", figure)
    assert "moved" in cause.likely
    assert cause.now == pytest.approx(value, rel=0.25)


STIFFNESS = {"panda_joint1": 4500.0, "panda_joint2": 4500.0, "panda_joint4": 3500.0}  # N m/rad, of the simulated drives


def stiff(env: TabletopEnv, joint: str, torque: float) -> None:
    """Coulomb friction, N m."""
    model = env.cell.model
    model.dof_frictionloss[model.jnt_dofadr[model.joint(joint).id]] = torque


@pytest.mark.parametrize(("joint", "torque"), [("panda_joint1", 10.0), ("panda_joint2", 20.0), ("panda_joint4", 20.0)])
def test_friction_in_a_joint(practised: tuple[TabletopEnv, Health], env: TabletopEnv, joint: str, torque: float) -> None:
    stiff(env, joint, torque)
    cause = after(practised).causes()[0]
    print(f"{torque} N m: {cause}, score {cause.score:.1f}")
    assert (cause.part, cause.figure) == (joint, "play [rad, m]")
    assert "friction" in cause.likely
    assert cause.now == pytest.approx(torque / STIFFNESS[joint], rel=0.25)


@pytest.mark.parametrize("first", [1000, 1020, 1040])
def test_a_joint_that_sticks_more_than_it_moves(practised: tuple[TabletopEnv, Health], env: TabletopEnv, first: int) -> None:
    """Friction then looks like anything, but always like friction, too."""
    stiff(env, "panda_joint1", 30.0)
    cause = after(practised, first=first).causes()[0]
    print(f"30 N m: {cause}, score {cause.score:.1f}")
    assert cause.part == "panda_joint1"
    assert "friction" in cause.likely


@pytest.mark.parametrize(("joint", "play"), [("panda_joint1", 0.005), ("panda_joint4", 0.002), ("panda_joint4", 0.005)])
def test_backlash_in_a_joint(
    practised: tuple[TabletopEnv, Health], env: TabletopEnv, monkeypatch: pytest.MonkeyPatch, joint: str, play: float
) -> None:
    """Half of it on either side of what the drive does."""
    cell, j = env.cell, PANDA.joints.index(joint)
    sound, behind = cell.set_command, [0.0]

    def loose(q: Array) -> None:
        behind[0] = min(max(behind[0], q[j] - play), q[j] + play)
        sound(np.where(np.arange(len(q)) == j, behind[0], q))

    monkeypatch.setattr(cell, "set_command", loose)
    cause = after(practised).causes()[0]
    print(f"play of {play} rad: {cause}, score {cause.score:.1f}")
    assert (cause.part, cause.figure) == (joint, "play [rad, m]")
    assert "backlash" in cause.likely
    assert cause.now == pytest.approx(play, rel=0.25)
