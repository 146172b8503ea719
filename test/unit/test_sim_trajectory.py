"""Commands and trajectories of the simulated controller."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.errors import VlaRosError
from vla_ros.sim.trajectory import JointTarget, checked, ordered


def test_trajectory_is_linear_between_points() -> None:
    target = JointTarget(np.array([0.0, 0.0]))
    target.set_trajectory(1.0, [2.0, 4.0], [np.array([1.0, -1.0]), np.array([1.0, 3.0])])
    np.testing.assert_allclose(target.at(1.0), [0, 0])
    np.testing.assert_allclose(target.at(1.5), [0.5, -0.5])
    np.testing.assert_allclose(target.at(3.0), [1, 1])
    np.testing.assert_allclose(target.at(9.0), [1, 3])


def test_new_trajectory_starts_where_the_old_one_is() -> None:
    target = JointTarget(np.array([0.0]))
    target.set_trajectory(0.0, [1.0], [np.array([1.0])])
    target.set_trajectory(0.5, [1.5], [np.array([0.0])])
    np.testing.assert_allclose([target.at(0.5)[0], target.at(1.0)[0]], [0.5, 0.25])


def test_position_replaces_a_trajectory() -> None:
    target = JointTarget(np.array([0.0]))
    target.set_trajectory(0.0, [1.0], [np.array([1.0])])
    target.set_position(np.array([0.3]))
    np.testing.assert_allclose(target.at(0.9), [0.3])


def test_names_may_come_in_any_order() -> None:
    np.testing.assert_array_equal(ordered([1.0, 2.0], ["b", "a"], ("a", "b")), [2.0, 1.0])


def test_wrong_commands_are_refused() -> None:
    with pytest.raises(VlaRosError, match="found 2 values, expected 3"):
        checked([0.0, 0.0], 3)
    with pytest.raises(VlaRosError, match="finite"):
        checked([0.0, np.nan], 2)
    with pytest.raises(VlaRosError, match="joint_names"):
        ordered([1.0, 2.0], ["a", "c"], ("a", "b"))
    target = JointTarget(np.zeros(1))
    with pytest.raises(VlaRosError, match="rising"):
        target.set_trajectory(1.0, [0.5], [np.ones(1)])
    with pytest.raises(VlaRosError, match="at least one"):
        target.set_trajectory(1.0, [], [])
