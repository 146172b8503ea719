"""The Gymnasium adapter keeps Gymnasium's contract."""

from __future__ import annotations

import numpy as np
from gymnasium.utils.env_checker import check_env

from vla_ros.sim.gym import TabletopGym


def test_gymnasium_accepts_it() -> None:
    check_env(TabletopGym(), skip_render_check=True)


def test_ends_at_the_time_limit() -> None:
    env = TabletopGym(task="push")
    env.reset(seed=3)
    truncated = [env.step(np.array([10, 10]))[3] for _ in range(45)]
    assert truncated == [False] * 44 + [True]
    assert env.render().shape == (480, 640, 3)
