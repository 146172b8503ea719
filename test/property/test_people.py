"""Speed and separation: the formula's numbers, and that no sequence of measurements gets more speed than it allows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.errors import VlaRosError
from vla_ros.robots.strict import Section
from vla_ros.safety.people import INVALID, NEAR, STALE, PeopleGuard, Separation

CONTENT = {
    "required": "when_heard", "human_speed": 1.6, "robot_speed": 1.0, "max_age": 0.15, "response": 0.05,
    "deceleration": 2.5, "intrusion": 0.2, "uncertainty": 0.1, "resume_margin": 0.2, "dwell": 1.0, "rise": 0.5,
}  # fmt: skip
SETTINGS = Separation.from_section(Section(CONTENT, Path("panda.yaml"), "people"))


def guard(**changes: object) -> PeopleGuard:
    return PeopleGuard(Separation.from_section(Section({**CONTENT, **changes}, Path("panda.yaml"), "people")))


def test_the_formula_by_hand() -> None:
    # 1.6 (0.2 + 0.4) + 1.0 0.2 + 0.2 + 0.2 + 0.1
    assert SETTINGS.required_distance(1.0) == pytest.approx(1.66)
    assert SETTINGS.required_distance(0.0) == pytest.approx(1.6 * 0.2 + 0.3)
    assert SETTINGS.allowed_speed(1.66) == pytest.approx(1.0)
    assert SETTINGS.allowed_speed(0.62) == 0.0
    assert SETTINGS.allowed_speed(9.0) == 1.0


@given(st.floats(0.0, 20.0))
def test_the_allowed_speed_is_the_largest_that_the_distance_permits(distance: float) -> None:
    speed = SETTINGS.allowed_speed(distance)
    if speed > 0.0:
        assert SETTINGS.required_distance(speed) <= distance
    if speed < SETTINGS.robot_speed:
        assert SETTINGS.required_distance(speed + 1e-6) > distance


def test_slows_stops_and_resumes_after_the_dwell() -> None:
    people = guard()
    caps = []
    for k in range(40):  # walks in at 1 m/s
        people.measured(4.0 - 0.1 * k, 0.1 * k, 0.1 * k)
        caps.append(people.cap)
    assert caps[0] == 1.0
    assert caps == sorted(caps, reverse=True)
    assert any(0.0 < cap < 1.0 for cap in caps)
    assert (people.cap, people.reason) == (0.0, NEAR)
    time = 4.0
    while people.cap == 0.0:  # stands beyond the margin
        people.measured(1.2, time, time)
        time += 0.05
        assert time < 6.0
    assert time - 4.0 == pytest.approx(1.0 + 0.05, abs=0.11)
    for _ in range(100):
        people.measured(3.0, time, time)
        time += 0.05
    assert (people.cap, people.reason) == (1.0, "")


def test_between_stop_and_margin_it_stays_stopped() -> None:
    people = guard()
    people.measured(0.1, 0.0, 0.0)
    for k in range(1, 100):
        people.measured(0.75, 0.1 * k, 0.1 * k)  # S(0) = 0.62, margin 0.2
    assert (people.cap, people.reason) == (0.0, NEAR)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.01])
def test_a_bad_distance_stops(bad: float) -> None:
    people = guard()
    people.measured(5.0, 0.0, 0.0)
    assert people.cap == 1.0
    people.measured(bad, 0.1, 0.1)
    assert (people.cap, people.reason) == (0.0, INVALID)


def test_age_stops_and_so_does_a_clock_that_jumps() -> None:
    people = guard()
    people.measured(5.0, 10.0, 10.1)
    assert people.cap == 1.0
    people.update(10.151)
    assert (people.cap, people.reason) == (0.0, STALE)
    people.measured(5.0, 10.2, 10.2)
    assert people.cap == 0.0, "the dwell comes first"
    people.update(3.0)
    assert people.reason == STALE
    for k in range(60):
        people.measured(5.0, 3.0 + 0.1 * k, 3.0 + 0.1 * k)
    assert people.cap == 1.0, "it goes on with the clock as it is now"


def test_a_repeated_old_measurement_does_not_count() -> None:
    people = guard()
    people.measured(0.1, 1.0, 1.0)
    people.measured(5.0, 0.9, 1.05)
    assert people.distance == 0.1
    people.measured(5.0, 1.0, 1.2)
    assert people.reason == STALE


def test_required_stands_until_heard_and_otherwise_is_silent() -> None:
    assert guard(required="always").reason == STALE
    people = guard()
    people.update(100.0)
    assert (people.cap, people.reason, people.speed) == (1.0, "", None)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(-1.0, 5.0), st.sampled_from([math.nan, math.inf, -math.inf])),
            st.floats(-0.5, 0.5),  # s, step of the clock
            st.floats(-0.3, 0.3),  # s, age of the stamp
            st.booleans(),  # message or only a tick
        ),
        max_size=60,
    ),
    st.sampled_from(["always", "when_heard"]),
)
def test_never_more_than_the_formula_allows(steps: list[tuple[float, float, float, bool]], required: str) -> None:
    people = guard(required=required)
    now, heard, newest = 100.0, False, -math.inf
    last: tuple[float, float] | None = None
    for distance, step, age, message in steps:
        now += step
        if message:
            stamp = now - age
            heard = True
            if not stamp < newest <= now + SETTINGS.response:
                newest, last = stamp, (distance, stamp)
            people.measured(distance, stamp, now)
        people.update(now)
        assert 0.0 <= people.cap <= 1.0
        if not heard:
            assert people.cap == (0.0 if required == "always" else 1.0)
            continue
        assert last is not None
        valid = math.isfinite(last[0]) and last[0] >= 0.0
        fresh = -SETTINGS.response <= now - last[1] <= SETTINGS.max_age
        allowed = SETTINGS.allowed_speed(last[0]) if valid and fresh else 0.0
        assert people.cap * SETTINGS.robot_speed <= allowed
        if people.cap > 0.0:
            assert SETTINGS.required_distance(people.cap * SETTINGS.robot_speed) <= last[0]
        assert (people.reason == "") == (people.cap == 1.0)


def test_a_wrong_section_names_its_key() -> None:
    with pytest.raises(VlaRosError, match=r"people\.human_sped.*did you mean 'human_speed'"):
        Separation.from_section(Section({"human_sped": 1.0}, Path("panda.yaml"), "people"))
    with pytest.raises(VlaRosError, match=r"people\.rise"):
        guard(rise=0.0)
