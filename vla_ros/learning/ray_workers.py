"""Workers (workers.py) as actors of a Ray cluster: `pip install vla_ros[ray]` on each of its machines."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from vla_ros.errors import VlaRosError
from vla_ros.learning.workers import Lost, Setup, Worker


def connect(address: str) -> None:
    """
    Args:
        address: auto (RAY_ADDRESS, or the cluster that this machine is part of), HOST:PORT, or ray://HOST:10001 from outside.

    Raises:
        VlaRosError: no cluster there.
    """
    try:
        ray.init(address, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise VlaRosError(f"--ray {address}: {error}; start a cluster with `ray start --head`") from error


class OnRay:
    """A worker where the cluster has a CPU free, spread over its machines; on a GPU, it takes a whole one."""

    def __init__(self, setup: Setup, identity: dict[str, str]) -> None:
        place = ray.remote(Worker).options(num_cpus=1, num_gpus=int(setup.device != "cpu"), scheduling_strategy="SPREAD")
        self._actor = place.remote(setup, identity)

    def ask(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except RayTaskError as error:
            if isinstance(error.cause, VlaRosError):
                raise error.cause from error  # Ray's own has the traceback for a message
            raise
        except RayError as error:  # the actor, its machine, or what it had sent off
            raise Lost(str(error).splitlines()[0]) from error

    def close(self) -> None:
        ray.kill(self._actor)
