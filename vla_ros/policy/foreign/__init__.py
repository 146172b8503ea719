"""Policies that others train and run, behind the same Protocol as our own. docs/policies.md is the guide.

    ws://HOST:PORT   a server with openpi's wire format: openpi's own, or scripts/lerobot_server.py   (client.OpenPiPolicy)
    lerobot:NAME     a LeRobot policy in this process, where `lerobot` is installed                   (client.LeRobotPolicy)

Their weights change where they run: there is nothing to swap here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vla_ros.policy.foreign.client import ForeignPolicy
    from vla_ros.policy.policy import Decision
    from vla_ros.robots.contract import RobotContract

SERVED, LEROBOT = ("ws://", "wss://"), "lerobot:"
NOBODY = "none"  # no policy at all (policy/nobody.py)


class Policy(Protocol):
    """What policy_node needs; VlaPolicy is one, too."""

    def seed(self, seed: int) -> None:
        """The same seed and observations give the same actions, where the policy knows seeds."""

    def infer(
        self,
        image: NDArray[np.uint8],
        text: str,
        state: NDArray[np.float32],
        greedy: bool,
        temperature: float = 1.0,
        running: NDArray[np.float32] | None = None,
    ) -> Decision:
        """One observation to an action chunk; see VlaPolicy.infer."""


def is_foreign(source: str) -> bool:
    """Whether `source` names a policy of others, or none, and no folder with a checkpoint of ours."""
    return source == NOBODY or source.startswith((*SERVED, LEROBOT))


def load(source: str, contract: RobotContract, mapping: str) -> ForeignPolicy:
    """
    Args:
        source: ws://HOST:PORT, wss://HOST:PORT, or lerobot:NAME with a folder or a hub name.
        mapping: name of a file in config/policies, or a path that ends in .yaml.

    Raises:
        VlaRosError: a wrong mapping, no server, no `lerobot`, or a policy that does not answer a first observation as it should.
    """
    from vla_ros.policy.foreign.client import LeRobotPolicy, OpenPiPolicy
    from vla_ros.policy.foreign.mapping import Mapping

    known = Mapping.load(mapping, contract)
    if source.startswith(LEROBOT):
        return LeRobotPolicy(source.removeprefix(LEROBOT), contract, known)
    return OpenPiPolicy(source, contract, known)
