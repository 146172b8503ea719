"""When an episode ends and why, and when lock-stepped time may pass."""

from __future__ import annotations

import pytest

from vla_ros.episodes.monitor import CANCELLED, LATCHED, SILENT, SUCCESS, TIME_LIMIT, EpisodeMonitor


def feed(monitor: EpisodeMonitor, count: int, first: float = 10.0, success_at: int = -1) -> int:
    """Observations answered by policy and judge, 0.1 s apart, until the episode ends; returns how many it took."""
    for k in range(count):
        stamp = first + 0.1 * k
        monitor.observe(stamp)
        monitor.chunk(stamp, version=3)
        monitor.judge(stamp, steps_to_go=20.0 - k, reward=1.0 if k else 0.0, success=k == success_at)
        if monitor.reason:
            return k
    return count


def test_success_ends_it() -> None:
    monitor = EpisodeMonitor("e", time_limit=5.0)
    assert feed(monitor, 20, success_at=7) == 7
    assert (monitor.reason, monitor.success, monitor.steps) == (SUCCESS, True, 7)
    assert monitor.return_sum == 7.0
    assert monitor.final_steps_to_go == 13.0
    assert monitor.policy_version == 3
    assert monitor.started == 10.0


def test_success_at_the_very_first_observation_does_not_count() -> None:
    monitor = EpisodeMonitor("e", time_limit=5.0)
    feed(monitor, 1, success_at=0)
    assert (monitor.reason, monitor.success, monitor.steps) == ("", False, 0)


def test_an_episode_that_breaks_off_before_its_first_step_has_a_return_all_the_same() -> None:
    monitor = EpisodeMonitor("e", time_limit=5.0)
    feed(monitor, 1)
    monitor.observe(20.0)
    assert (monitor.reason, monitor.steps, monitor.return_sum) == (SILENT, 0, 0.0)
    assert isinstance(monitor.return_sum, float), "a message's field takes nothing else"


@pytest.mark.parametrize(("limit", "steps"), [(0.5, 5), (1.2, 12), (4.5, 45)])
def test_the_time_limit_is_a_number_of_steps(limit: float, steps: int) -> None:
    monitor = EpisodeMonitor("e", time_limit=limit)
    assert feed(monitor, 100) == steps
    assert (monitor.reason, monitor.success, monitor.steps) == (TIME_LIMIT, False, steps)


def test_time_counts_from_the_first_answered_observation() -> None:
    monitor = EpisodeMonitor("e", time_limit=0.5)
    for k in range(5):
        monitor.observe(9.0 + 0.1 * k)
        monitor.judge(9.0 + 0.1 * k, 20.0, 0.0, success=False)
    assert monitor.started is None
    assert monitor.steps == 0
    assert feed(monitor, 100, first=9.5) == 5
    assert monitor.started == 9.5


def test_estimates_heard_before_the_first_chunk_count() -> None:
    monitor = EpisodeMonitor("e", time_limit=0.5)
    for k in range(3):
        monitor.observe(1.0 + 0.1 * k)
        monitor.judge(1.0 + 0.1 * k, 20.0, 2.0 if k else 0.0, success=False)
    monitor.chunk(1.0, 1)
    assert (monitor.started, monitor.steps, monitor.return_sum) == (1.0, 2, 4.0)
    monitor.judge(1.3, 20.0, 2.0, success=False)
    assert (monitor.steps, monitor.return_sum) == (3, 6.0)
    assert not monitor.has_all(1.2)
    assert monitor.has_all(1.3)


def test_a_silent_policy_ends_it() -> None:
    monitor = EpisodeMonitor("e", time_limit=60.0, silence=1.0)
    feed(monitor, 3)
    for k in range(3, 13):
        monitor.observe(10.0 + 0.1 * k)
        assert monitor.reason == ""
    monitor.observe(11.3)
    assert monitor.reason == SILENT


def test_a_policy_that_never_speaks_ends_it() -> None:
    monitor = EpisodeMonitor("e", time_limit=60.0, silence=1.0)
    monitor.observe(10.0)
    monitor.observe(10.9)
    assert monitor.reason == ""
    monitor.observe(float("inf"))
    assert monitor.reason == SILENT


def test_the_first_reason_stays() -> None:
    monitor = EpisodeMonitor("e", time_limit=5.0)
    feed(monitor, 3)
    monitor.safety(latched=False)
    assert monitor.reason == ""
    monitor.safety(latched=True)
    monitor.cancel()
    feed(monitor, 5, success_at=4)
    assert monitor.reason == LATCHED
    other = EpisodeMonitor("e", time_limit=5.0)
    other.cancel()
    other.safety(latched=True)
    assert other.reason == CANCELLED


def test_time_may_pass_when_everything_about_a_frame_was_heard() -> None:
    monitor = EpisodeMonitor("e", time_limit=5.0)
    monitor.observe(1.0)
    assert not monitor.complete(1.0)
    monitor.chunk(1.0, 1)
    assert not monitor.complete(1.0)
    monitor.judge(1.0, 9.0, 0.0, success=False)
    assert monitor.complete(1.0)
    monitor.observe(1.1)
    monitor.judge(1.1, 8.0, 1.0, success=False)
    assert not monitor.complete(1.1)
    monitor.chunk(1.1, 1)
    assert monitor.complete(1.1)
    monitor.observe(1.2)
    assert not monitor.complete(1.2)
    monitor.cancel()
    assert monitor.complete(1.2), "an ended episode holds nothing back"


def test_answers_to_the_scene_before_do_not_start_the_episode() -> None:
    monitor = EpisodeMonitor("e", time_limit=0.5)
    monitor.observe(10.0)
    monitor.chunk(9.9, version=1)
    monitor.judge(9.9, 3.0, 0.0, success=True)
    assert monitor.started is None
    assert feed(monitor, 100) == 5
    assert (monitor.started, monitor.success) == (10.0, False)


def test_steps_of_a_person_are_counted() -> None:
    """Those that were taken: not before the start, not after the end, each once, as it was answered last."""
    monitor = EpisodeMonitor("e", time_limit=0.5)
    monitor.observe(9.9)
    monitor.chunk(9.9, version=3, corrected=True)  # never judged
    assert monitor.corrected_steps == 0
    for k in range(6):
        stamp = 10.0 + 0.1 * k
        monitor.observe(stamp)
        monitor.chunk(stamp, version=3, corrected=k in (2, 4))
        monitor.chunk(stamp, version=3, corrected=k in (2, 3, 5))
        monitor.judge(stamp, 10.0, 0.0, success=False)
    assert (monitor.reason, monitor.steps, monitor.corrected_steps) == (TIME_LIMIT, 5, 2)
