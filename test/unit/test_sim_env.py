"""The simulated cell and the in-process environment: physics, pictures, expert, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.safety.filter import SafetyFilter
from vla_ros.sim import model
from vla_ros.sim.collect import collect, grounding_samples
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.expert import Expert, Manner
from vla_ros.sim.tasks import Block, Scene, sample_scene

CONTRACT = RobotContract.load("panda")
STILL = np.array([10, 10])


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return TabletopEnv(CONTRACT)


def demonstrate(env: TabletopEnv, seed: int, task: str, noise: float = 0.25, limit: int = 150) -> tuple[bool, int]:
    env.reset(seed, task=task)
    assert env.scene is not None
    expert = Expert(CONTRACT, env.scene, np.random.default_rng(seed), Manner(noise=noise))
    steps = 0
    while steps < limit and not expert.done(env.cell.tip(), env.cell.blocks()):
        env.advance(env.decoder.encode(expert.step(env.cell.tip(), env.cell.blocks())[1]))
        steps += 1
    return env.cell.truth()[0], steps


@pytest.mark.parametrize(("task", "low", "high"), [("reach", 5, 16), ("push", 20, 40)])
def test_expert_succeeds(env: TabletopEnv, task: str, low: float, high: float) -> None:
    results = [demonstrate(env, seed, task) for seed in range(40)]
    assert sum(success for success, _ in results) >= 38
    assert low < np.mean([steps for _, steps in results]) < high


def test_idle_policy_fails(env: TabletopEnv) -> None:
    for seed in range(5):
        env.reset(seed)
        for _ in range(5):
            _, success, info = env.step(STILL)
            assert not success
            assert info["distance"] > 0.06


def test_same_seed_same_episode() -> None:
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 21, (12, 2))
    first, second = TabletopEnv(CONTRACT), TabletopEnv(CONTRACT)
    second.reset(99)
    second.step(np.array([20, 20]))  # another past must not matter
    for env in (first, second):
        env.reset(4, task="push")
    for action in actions:
        a, b = first.step(action), second.step(action)
        np.testing.assert_array_equal(first.image(a[0]), second.image(b[0]))
        np.testing.assert_allclose(a[0].joints.position, b[0].joints.position, rtol=0, atol=1e-12)
        assert a[1:] == b[1:]


def test_arm_follows_the_command(env: TabletopEnv) -> None:
    env.reset(0)
    for _ in range(5):
        env.advance(np.array([0.0, 0.04]))
    measured = env.cell.joint_state()
    np.testing.assert_allclose(env.cell.kinematics.tip_pose(measured.position)[:3], [0.36, 0.2, 0.03], atol=0.002)
    assert env.cell.time == measured.stamp
    torque = abs(env.cell.data.qfrc_actuator[: len(CONTRACT.joints)])
    assert (torque <= CONTRACT.limits.effort + 1e-9).all()


def test_torque_is_capped_by_effort(env: TabletopEnv) -> None:
    env.reset(0)
    env.cell.set_command(env.cell.joint_state().position + 2.0)
    env.cell.step(model.TIMESTEP)
    torque = abs(env.cell.data.qfrc_actuator[: len(CONTRACT.joints)])
    np.testing.assert_allclose(torque, CONTRACT.limits.effort)
    env.reset(0)


def test_blocks_stay_where_nobody_pushes(env: TabletopEnv) -> None:
    env.reset(2)
    before = env.cell.blocks()
    env.cell.step(2.0)
    np.testing.assert_allclose(env.cell.blocks(), before, atol=5e-4)
    heights = env.cell.data.qpos[env.cell._blocks[: len(before)] + 2]
    np.testing.assert_allclose(heights, model.HEIGHT / 2, atol=1e-3)


@pytest.mark.parametrize("shape", model.PARTS)
def test_pushed_blocks_slide_and_stop_upright(env: TabletopEnv, shape: str) -> None:
    block = Block("red", shape, 0.45, 0.0, 0.3)
    env.reset(scene=Scene((block,), "reach", "reach the red " + shape, 0))
    for _ in range(5):
        env.advance(np.array([0.04, 0.0]))  # the fastest there is, 0.4 m/s
    pushed = env.cell.blocks()[0, 0]
    assert pushed > 0.50
    env.cell.step(1.0)
    x, y, z, _, qx, qy, _ = env.cell.data.qpos[env.cell._blocks[0] : env.cell._blocks[0] + 7]
    assert x - pushed < 0.03
    assert abs(y) < 0.05
    assert abs(z - model.HEIGHT / 2) < 1e-3
    assert max(abs(qx), abs(qy)) < 0.02


@pytest.mark.parametrize("seed", range(6))
def test_picture_shows_the_blocks(env: TabletopEnv, seed: int) -> None:
    """Each block's colour is found where the camera geometry says, and covers at least 6 px across."""
    image = env.image(env.reset(seed)).astype(int)
    scene = env.scene
    assert scene is not None
    points = env.cell.project("front", np.array([[b.x, b.y, model.HEIGHT] for b in scene.blocks]))
    for block, (u, v) in zip(scene.blocks, points, strict=True):
        column, row = round((u + 1) * 32 - 0.5), round((v + 1) * 32 - 0.5)
        colour = np.array(env.tasks.colours[block.colour])
        pixel = image[row, column] / max(image[row, column].max(), 1)
        np.testing.assert_allclose(pixel, colour / colour.max(), atol=0.25, err_msg=block.name)
        saturated = (image.max(-1) - image.min(-1)) > 60
        assert saturated[row, max(column - 6, 0) : column + 7].sum() >= 5


def test_work_area_fills_the_picture(env: TabletopEnv) -> None:
    corners = np.array([[x, y, 0.0] for x in (0.3, 0.7) for y in (-0.26, 0.26)])
    points = env.cell.project("front", corners)
    assert (abs(points) < 1).all()
    assert np.ptp(points[:, 0]) > 1.6
    names = ("left", "right", "near side", "far side")
    left, right, near, far = env.cell.project("front", np.array([[*env.tasks.places[name], 0] for name in names]))
    assert left[0] < right[0]
    assert near[1] > far[1]


def test_state_is_the_measured_tip(env: TabletopEnv) -> None:
    state = env.state(env.reset(0))
    np.testing.assert_allclose(state, [2 * (0.36 - 0.3) / 0.4 - 1, 0], atol=1e-3)
    assert state.dtype == np.float32


def test_safety_filter_in_the_loop() -> None:
    env = TabletopEnv(CONTRACT, command_filter=lambda: SafetyFilter.for_robot(CONTRACT))
    rejected = []
    env.reset(1, task="reach")
    for _ in range(6):
        _, _, info = env.step(np.array([20, 10]))
        rejected.append(info["rejected"])
    assert set(rejected) == {""}
    assert 0.48 < env.cell.tip()[0] < 0.61


def test_action_out_of_range_is_refused(env: TabletopEnv) -> None:
    env.reset(0)
    with pytest.raises(VlaRosError, match=r"expected 0\.\.20"):
        env.step(np.array([21, 0]))


def test_too_many_blocks(env: TabletopEnv) -> None:
    blocks = tuple(Block("red", "cube", 0.4 + 0.01 * k, 0.0, 0.0) for k in range(5))
    with pytest.raises(VlaRosError, match="found 5 blocks"):
        env.cell.reset(Scene(blocks, "reach", "reach the red cube", 0))


def test_collected_episodes_are_complete() -> None:
    """Two spawned workers and this process give the same data; each episode ends with its final observation."""
    data = collect("panda", 10, seed=3, workers=2)
    again = collect("panda", 10, seed=3, workers=1)
    np.testing.assert_array_equal(data.images, again.images)
    np.testing.assert_array_equal(data.actions, again.actions)
    assert data.images.shape[1:] == (64, 64, 3)
    assert data.actions.shape == (len(data.images), CONTRACT.action.chunk, 2)
    assert data.episode.max() == 9
    for k in range(10):
        rows = data.episode == k
        length = rows.sum()
        np.testing.assert_array_equal(data.steps_to_go[rows], np.arange(length - 1, -1, -1))
        assert len(set(data.instruction[rows])) == 1
        np.testing.assert_array_equal(data.actions[rows][-1, 0], 0.0)
    assert (data.actions[:, 0] != data.executed).any()
    assert abs(data.states).max() <= 1.02


def test_demonstrations_that_begin_where_others_went_astray() -> None:
    """They start away from home, with blocks displaced, and end as the others do."""
    low, high = np.array(CONTRACT.action.low), np.array(CONTRACT.action.high)
    away = {}
    for astray in (0, 12):
        data = collect("panda", 8, seed=3, task="push", manner=Manner(astray=astray), workers=1)
        first = data.states[np.searchsorted(data.episode, np.arange(8))]
        away[astray] = np.hypot(*(low + 0.5 * (first + 1) * (high - low) - CONTRACT.home_tip).T)
        assert (data.steps_to_go[data.episode == 7][-1], data.attempts >= 8) == (0, True)
    assert away[0].max() < 0.01
    assert np.median(away[12]) > 0.02


def test_grounding_positions_match_the_pictures() -> None:
    data = grounding_samples("panda", 40, seed=0)
    tasks = TabletopEnv(CONTRACT).tasks
    right = 0
    for k in range(40):
        colour = np.array(tasks.colours[data.instructions[data.instruction[k]].partition("the ")[2].split()[0]])
        column, row = np.clip(np.round((data.points[k, 0] + 1) * 32 - 0.5).astype(int), 0, 63)
        pixel = data.images[k, row, column] / 255
        right += bool(np.abs(pixel / max(pixel.max(), 0.1) - colour / colour.max()).max() < 0.3)
    assert right >= 32  # the arm hides some
    assert abs(data.positions).max() <= 1
    np.testing.assert_allclose(data.states, data.positions[:, 4:], atol=1e-6)


def test_scene_is_the_same_in_env_and_task_file(env: TabletopEnv) -> None:
    env.reset(5, split="held_out")
    assert env.scene == sample_scene(env.tasks, 5, "held_out", None, CONTRACT.home_tip)
    blocks = env.cell.blocks()
    assert env.scene is not None
    np.testing.assert_allclose(blocks[:, :2], [[b.x, b.y] for b in env.scene.blocks], atol=1e-9)
    np.testing.assert_allclose(blocks[:, 2], [b.yaw for b in env.scene.blocks], atol=1e-9)
