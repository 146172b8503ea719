"""The stop that goes down to the driver, with services that answer when the test lets them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.task import Future

from vla_ros.nodes.driver_stop import GIVEN_UP, DriverStop, Stage
from vla_ros.robots.stop import StopSpec, TorqueGroup


class Client:
    def __init__(self, service: str, calls: list[tuple[str, bool]]) -> None:
        self.service, self.calls, self.answers = service, calls, list[Future]()

    def service_is_ready(self) -> bool:
        return True

    def call_async(self, request: Any) -> Future:
        self.calls.append((self.service, request.enable))
        self.answers.append(Future())
        return self.answers[-1]


@pytest.fixture
def calls() -> list[tuple[str, bool]]:
    return []


@pytest.fixture
def clients() -> dict[str, Client]:
    return {}


@pytest.fixture
def stop(calls: list[tuple[str, bool]], clients: dict[str, Client]) -> DriverStop:
    def create_client(kind: type, service: str) -> Client:
        clients[service] = Client(service, calls)
        return clients[service]

    quiet = SimpleNamespace(info=lambda text: None, error=lambda text: None)
    node: Any = SimpleNamespace(create_client=create_client, get_logger=lambda: quiet, executor=None)
    diagnostics: Any = SimpleNamespace(set=lambda *_: None, fault=lambda *_: None, clear=lambda *_: None)
    return DriverStop(node, StopSpec(timeout=60.0, torque=(TorqueGroup("left", "all"), TorqueGroup("right", "all"))), diagnostics)


def answer(client: Client) -> None:
    client.answers[-1].set_result(SimpleNamespace())


def test_an_estop_in_a_reset_switches_nothing_more_on(
    stop: DriverStop, calls: list[tuple[str, bool]], clients: dict[str, Client]
) -> None:
    for service in ("left", "right"):
        stop.tick(True)
        answer(clients[service])
        stop.tick(True)
    assert stop.stage is Stage.STOPPED
    done = stop.resume()
    assert calls == [("left", False), ("right", False), ("right", True)], "last first, one after another"
    stop.tick(True)  # latched again, while the first call is under way
    answer(clients["right"])
    stop.tick(True)
    assert done.result() == GIVEN_UP
    stop.tick(True)
    assert ("left", True) not in calls
    assert calls[3:] == [("left", False)], "and everything is stopped once more"
    answer(clients["left"])
    stop.tick(True)
    answer(clients["right"])
    stop.tick(True)
    assert stop.stage is Stage.STOPPED
    assert calls[-1] == ("right", False)
