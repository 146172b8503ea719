"""The simulated driver: exact on a good stream, inside the limits whatever comes or does not come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.sim.driver import Driver
from vla_ros.types import Array

DT, VELOCITY, ACCELERATION = 0.005, (2.0, 1.0), (10.0, 5.0)


def make() -> Driver:
    return Driver(np.zeros(2), VELOCITY, ACCELERATION, DT, timeout=0.1, tolerance=0.15)


def stream(driver: Driver, count: int, speed: float = 0.5) -> Array:
    """Accelerates to `speed` and goes on, one command per period; returns commands and positions [count, 2, 2]."""
    rows, q, v = [], driver.position.copy(), np.zeros(2)
    for k in range(count):
        v = np.minimum(v + np.array(ACCELERATION) * DT, speed)
        q = q + v * DT
        driver.command(q, k * DT)
        rows.append((q, driver.advance(k * DT, k * DT).copy()))
    return np.array(rows)


def silence(driver: Driver, count: int, start: float = 100.0) -> Array:
    """[count, 2] positions without commands."""
    return np.array([driver.advance(start + k * DT, start + k * DT).copy() for k in range(count)])


def test_a_good_stream_is_followed_exactly() -> None:
    rows = stream(make(), 200)
    np.testing.assert_allclose(rows[:, 1], rows[:, 0], atol=1e-12)


def test_silence_ends_in_a_stop_at_the_acceleration_limit() -> None:
    driver = make()
    before = stream(driver, 200)[:, 1]
    after = silence(driver, 60)
    v = np.diff(np.vstack([before[-3:], after]), axis=0) / DT
    change = np.diff(v, axis=0) / DT
    assert (change[1] < -0.99 * np.array(ACCELERATION)).all(), "it brakes in the first missing period"
    assert (np.abs(change) <= 1.001 * np.array(ACCELERATION)).all()
    assert (v[-1] == 0.0).all()
    assert np.count_nonzero(v[:, 0]) == pytest.approx(0.5 / 10.0 / DT, abs=3)
    np.testing.assert_allclose(after[-1] - before[-1], 0.5**2 / (2 * np.array(ACCELERATION)), rtol=0.12)
    assert driver.dead


def test_a_dead_stream_resumes_only_near_where_the_arm_holds() -> None:
    driver = make()
    stream(driver, 200)
    silence(driver, 60)
    held = driver.position.copy()
    assert not driver.command(held + 0.2, 101.0)
    silence(driver, 5, 101.0)
    np.testing.assert_array_equal(driver.position, held)
    assert driver.refused == 1
    assert driver.command(held + 0.1, 102.0)
    after = silence(driver, 100, 102.0)
    np.testing.assert_allclose(after[-1], held + 0.1, atol=1e-9)
    assert not driver.dead


def test_a_short_gap_does_not_kill_the_stream() -> None:
    driver = make()
    stream(driver, 200)
    silence(driver, 10, 1.0)
    assert not driver.dead
    assert driver.command(driver.position + 0.3, 1.1)


def test_a_single_position_is_reached() -> None:
    driver = make()
    assert driver.command(np.array([0.3, -0.2]), 0.0)
    rows = silence(driver, 200)
    np.testing.assert_allclose(rows[-1], [0.3, -0.2], atol=1e-9)
    assert (rows[:, 0] <= 0.3 + 1e-9).all(), "no overshoot"
    assert not driver.dead


def test_an_inactive_controller_brakes_and_does_not_obey() -> None:
    driver = make()
    stream(driver, 200)
    driver.switch(False)
    for _ in range(60):
        assert not driver.command(np.zeros(2), 2.0)
        driver.advance(2.0, 2.0)
    assert not driver.moving
    driver.switch(True)
    assert not driver.command(driver.position + 0.5, 2.0)
    assert driver.command(driver.position + 0.01, 2.0)


def test_a_cancelled_trajectory_brakes() -> None:
    driver = make()
    driver.trajectory(0.0, [1.0], [np.array([0.8, 0.4])])
    for k in range(100):
        driver.advance(k * DT, 0.0)
    assert driver.moving
    assert driver.cancel()
    assert not driver.cancel()
    silence(driver, 60)
    assert not driver.moving
    assert driver.position[0] == pytest.approx(0.4 + 0.8**2 / 20, abs=0.01)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 12), st.floats(-2.0, 2.0), st.booleans()), min_size=1, max_size=80))
def test_no_input_breaks_the_limits(steps: list[tuple[int, float, bool]]) -> None:
    driver, rows, now = make(), [np.zeros(2), np.zeros(2)], 0.0
    for wait, target, switch in steps:
        if switch:
            driver.switch(not driver.active)
        driver.command(np.array([target, -target]), now)
        for _ in range(wait):
            rows.append(driver.advance(now, now).copy())
            now += DT
    v = np.diff(rows, axis=0) / DT
    assert (np.abs(v) <= 1.051 * np.array(VELOCITY)).all()
    assert (np.abs(np.diff(v, axis=0)) / DT <= 1.051 * np.array(ACCELERATION)).all()
