"""Cells to practise in, drawn from what is not known of the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.sim.env import TabletopEnv
from vla_ros.twin import file


def environments(contract: RobotContract, count: int, twin: Path | None) -> list[TabletopEnv]:
    """As modelled; with a twin, cell k is the k-th draw from its uncertainty, wherever it is made.

    Raises:
        VlaRosError: the twin's file is damaged, or another robot's.
    """
    if twin is None:
        return [TabletopEnv(contract) for _ in range(count)]
    return [TabletopEnv(contract, physics=file.physics(twin, contract, np.random.default_rng([0, k]))) for k in range(count)]
