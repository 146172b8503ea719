"""Foreign policies as policy_node uses them. Each is asked once when it is made, so that what does not fit fails then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.policy.foreign.lerobot import LeRobotModel
from vla_ros.policy.foreign.mapping import Mapping
from vla_ros.policy.policy import Decision
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import state_of
from vla_ros.robots.shapes import image_shape
from vla_ros.types import Image, JointState

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

CLOSE = 0.1  # s that a server gets to say goodbye: one that computes does not listen
log = logging.getLogger(__name__)


class ForeignPolicy:
    """Mapping → `ask` → mapping.

    Args:
        ask: from request to reply; takes the seconds that it may last.

    Attributes:
        metadata: what the policy says of itself.
    """

    metadata: Any

    def __init__(self, name: str, contract: RobotContract, mapping: Mapping, ask: Callable[[dict[str, Any], float], Any]) -> None:
        self.name, self.mapping = name, mapping
        self._ask = ask
        image, state = _example(contract)
        with self._named():
            mapping.rows_of(ask(mapping.request(image, "hold still", state), mapping.start_timeout))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors say whose they are."""
        try:
            yield
        except VlaRosError as error:
            raise VlaRosError(f"policy {self.name}: {error}") from error

    def seed(self, seed: int) -> None:
        """The wire has no seeds: where a policy samples, its answers differ from call to call."""

    def infer(
        self,
        image: NDArray[np.uint8],
        text: str,
        state: NDArray[np.float32],
        greedy: bool,
        temperature: float = 1.0,
        running: NDArray[np.float32] | None = None,
    ) -> Decision:
        """One observation ([(cameras,) H, W, 3] RGB, [S] state in the contract's units) to an action chunk.

        Args:
            greedy: has no meaning to flow matching and regression, which foreign policies do.
            temperature: 1, the only one that they have.
            running: is not continued, because the wire has no field for it.

        Raises:
            VlaRosError: an observation that is not the contract's, no answer in time, or one that does not fit.
        """
        with self._named():
            if temperature != 1.0:
                raise VlaRosError(f"temperature: found {temperature:g}, expected 1: it samples as it does")
            start = time.perf_counter()
            request = self.mapping.request(image, text, state)
            ready = time.perf_counter()
            reply = self._ask(request, self.mapping.timeout)
            answered = time.perf_counter()
            action = self.mapping.rows_of(reply)
        unknown = float("nan")
        tokens = np.zeros((len(action), 0), np.int16)
        return Decision(action, tokens, unknown, unknown, ready - start, answered - ready, time.perf_counter() - answered)


class OpenPiPolicy(ForeignPolicy):
    """A policy behind openpi's wire format. After any failure the connection is made anew at the next observation: an answer
    that comes late would be taken for the next one's.

    Raises:
        VlaRosError: no server there, or it does not answer a first observation as the mapping says.
    """

    def __init__(self, url: str, contract: RobotContract, mapping: Mapping) -> None:
        try:
            from vla_ros.policy.foreign import wire
        except ImportError as error:
            raise VlaRosError(f"policy {url}: {error}; expected the packages of `pip install vla_ros[openpi]`") from error
        self._wire = wire
        self._open = ExitStack()  # what is to be closed with the connection
        self._connection: ClientConnection | None = None
        super().__init__(url, contract, mapping, self._send)

    def close(self) -> None:
        self._connection = None
        self._open.close()

    def _send(self, request: dict[str, Any], timeout: float) -> Any:
        from websockets.exceptions import WebSocketException

        message, healthy = self._wire.pack(request), False
        try:
            if self._connection is None:
                self._connection = self._connect(timeout)
            self._connection.send(message)
            reply = self._connection.recv(timeout)
            if isinstance(reply, str):
                log.warning("%s: %s", self.name, reply.rstrip())
                raise VlaRosError(f"it failed there: {(reply.strip() or 'no reason given').splitlines()[-1]}")
            found, healthy = self._wire.unpack(reply), True
        except TimeoutError as error:
            raise VlaRosError(f"no answer within {timeout:g} s ({self.mapping.path})") from error
        except (OSError, ValueError, WebSocketException) as error:
            raise VlaRosError(f"no connection: {error}; expected a server with openpi's protocol") from error
        finally:
            if not healthy:
                self.close()
        return found

    def _connect(self, timeout: float) -> ClientConnection:
        from websockets.sync.client import connect

        # No pings: a server that computes does not answer them, and each request has its own time limit.
        connection = self._open.enter_context(
            connect(
                self.name, open_timeout=timeout, close_timeout=CLOSE, ping_interval=None, compression=None,
                max_size=self._wire.LARGEST, proxy=None,
            )
        )  # fmt: skip
        hello = connection.recv(timeout)
        if isinstance(hello, str):
            raise VlaRosError(f"found the text {hello[:80]!r} at first, expected the policy's metadata")
        self.metadata = self._wire.unpack(hello)
        return connection


class LeRobotPolicy(ForeignPolicy):
    """A LeRobot policy in this process: ACT, SmolVLA, pi0, pi0.5 and others that answer one observation with a chunk.

    Args:
        name: a folder or a hub name.

    Raises:
        VlaRosError: `lerobot` is not installed, or the policy is not what the mapping says.
    """

    def __init__(self, name: str, contract: RobotContract, mapping: Mapping) -> None:
        model = LeRobotModel.load(name)
        self.metadata = model.metadata
        super().__init__(f"lerobot:{name}", contract, mapping, lambda request, _: {mapping.actions: model(request)})


def _example(contract: RobotContract) -> tuple[Image, NDArray[np.float32]]:
    """An observation at home."""
    image = np.random.default_rng(0).integers(0, 256, image_shape(contract), np.uint8)
    kinematics = Kinematics(contract)
    home = kinematics.home()
    return image, state_of(contract, kinematics, JointState(0.0, contract.joints, home, np.zeros(len(home))))
