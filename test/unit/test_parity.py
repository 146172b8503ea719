"""DESIGN section 5: one recorded episode through the live path and through the training paths gives the same tensors."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from practice import record
from rclpy.serialization import deserialize_message
from torch import Tensor
from vla_ros.msg import ActionChunk as ActionChunkMsg
from vla_ros.msg import Observation as ObservationMsg

from vla_ros.episodes import EpisodeReader, label, load_episode
from vla_ros.episodes.tensors import CHUNK, OBSERVATION
from vla_ros.episodes.trajectory import load_trajectory
from vla_ros.learning.data import Inputs, of_episodes
from vla_ros.learning.learner import practice
from vla_ros.learning.self_improvement import stack
from vla_ros.nodes import convert
from vla_ros.policy.engines import Eager
from vla_ros.policy.policy import VlaPolicy
from vla_ros.robots.actions import action_space
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import images_of, positions_of, state_of
from vla_ros.robots.shapes import image_shape, model_shapes

STEPS, TEXT = 5, checkpoints.TEXT
ROWS = {"panda": 5e-5, "aloha": 2e-7}  # rad that rows may be off after there and back: inverse kinematics, a limit in float32


class Spy(Eager):
    """The engine that notes what the live policy gives to the network."""

    def __init__(self, policy: VlaPolicy) -> None:
        super().__init__(policy.model)
        self.given: list[tuple[Tensor, ...]] = []

    def __call__(self, images: Tensor, tokens: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.given.append((images, tokens, mask, state))
        return super().__call__(images, tokens, mask, state)


@pytest.fixture(scope="module", params=["panda", "aloha"])
def contract(request: pytest.FixtureRequest) -> RobotContract:
    return RobotContract.load(request.param)


@pytest.fixture(scope="module")
def policy(contract: RobotContract) -> VlaPolicy:
    head = "bins" if contract.action.tip_plane else "laplace"
    policy = VlaPolicy(checkpoints.model(**model_shapes(contract), robot=contract.robot, head=head), checkpoints.prompt())
    policy.seed(0)  # what is drawn decides how far inverse kinematics goes
    return policy


@pytest.fixture(scope="module")
def episode(contract: RobotContract, policy: VlaPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = record(tmp_path_factory.mktemp("parity") / "e.mcap", policy, 1, TEXT, STEPS, contract=contract)
    label(path.parent, "e", "success")
    return path


def messages(path: Path, topic: str, kind: type) -> list[ObservationMsg] | list[ActionChunkMsg]:
    """As a node's subscription gets them: ROS's own classes, from the recorded bytes."""
    return [deserialize_message(m.cdr, kind) for m in EpisodeReader(path) if m.topic == topic]


@pytest.fixture(scope="module")
def live(contract: RobotContract, policy: VlaPolicy, episode: Path) -> list[tuple[Tensor, ...]]:
    """What policy_node gives to the network for each observation."""
    spy, kinematics = Spy(policy), Kinematics(contract)
    running = VlaPolicy(policy.model, checkpoints.prompt(), spy)
    for message in messages(episode, OBSERVATION, ObservationMsg):
        observation = convert.observation(message)
        state = state_of(contract, kinematics, observation.joints)
        running.infer(images_of(contract, observation), TEXT, state, greedy=True)
    return spy.given


def same(inputs: Inputs, live: list[tuple[Tensor, ...]]) -> None:
    """Bit for bit, and nothing else."""
    assert len(inputs.images) == len(live)
    for frame, given in enumerate(live):
        for name, trained, lived in zip(("images", "words", "mask", "state"), inputs[torch.tensor([frame])], given, strict=True):
            assert trained.dtype == lived.dtype, name
            assert torch.equal(trained, lived), f"{name} of frame {frame}"


def test_cloning_learns_from_what_the_live_network_sees(
    contract: RobotContract, episode: Path, live: list[tuple[Tensor, ...]]
) -> None:
    same(of_episodes([load_trajectory(episode, contract)]).inputs(checkpoints.prompt()), live)
    assert live[0][0].shape == (1, *image_shape(contract))
    assert len({tensors[0].numpy().tobytes() for tensors in live}) == STEPS + 1


def test_practice_learns_from_what_the_live_network_sees(
    contract: RobotContract, episode: Path, live: list[tuple[Tensor, ...]]
) -> None:
    same(stack(practice(load_episode(episode, contract), 1), checkpoints.prompt()), live)


def test_actions_there_and_back(contract: RobotContract, episode: Path) -> None:
    """The published rows, recorded, as training's actions, decoded again."""
    kinematics = Kinematics(contract)
    space, within = action_space(contract, kinematics), ROWS[contract.robot]
    joints = [positions_of(contract, convert.observation(m).joints) for m in messages(episode, OBSERVATION, ObservationMsg)]
    published = [convert.chunk(m).rows for m in messages(episode, CHUNK, ActionChunkMsg)]
    assert published[0].shape == (contract.action.chunk, len(contract.joints))
    raw, trajectory = load_episode(episode, contract), load_trajectory(episode, contract)
    assert raw.actions.shape == (STEPS, contract.action.chunk, space.dim)
    assert trajectory.actions.shape == (STEPS + 1, contract.action.chunk, space.dim)
    for step in range(STEPS):
        assert np.ptp(published[step]) > 0
        np.testing.assert_allclose(space.rows(raw.actions[step], joints[step]), published[step], atol=within, rtol=0)
        done = [published[min(step + row, STEPS - 1)][0] for row in range(contract.action.chunk)]
        np.testing.assert_allclose(space.rows(trajectory.actions[step], joints[step]), done, atol=within, rtol=0)
    if contract.robot == "panda":
        np.testing.assert_array_equal(np.rint((raw.actions + 1) * 10), raw.tokens)
    else:
        assert raw.tokens.shape == (STEPS, 100, 0)
