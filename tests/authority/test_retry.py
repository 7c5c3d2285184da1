"""Trying again after a failure: when, and how often it is said."""

from agent.authority.retry import SAID_EVERY_SECONDS, Retry
from agent.identity.renewal import BACKOFF_CAP_SECONDS


def test_the_pause_grows_to_a_cap_and_a_change_ends_it() -> None:
    retry, now, pauses = Retry(), 0.0, []
    for _ in range(20):
        retry.failed(now, "no")
        began = now
        while not retry.due(now):
            now += 0.05
        pauses.append(round(now - began, 2))
    assert pauses == sorted(pauses)
    assert abs(pauses[-1] - BACKOFF_CAP_SECONDS) < 0.1
    retry.failed(now, "no")
    assert not retry.due(now)
    retry.hurry()
    assert retry.due(now)
    assert retry.failing


def test_a_moment_that_is_known_is_not_slept_through() -> None:
    retry = Retry()
    for _ in range(12):
        retry.failed(100.0, "not valid before 107", possible_at=107.0)
    assert not retry.due(106.9)
    assert retry.due(107.0)
    retry.failed(108.0, "still not", possible_at=107.0)
    assert not retry.due(108.05), "a moment that has passed is none"


def test_a_failure_is_said_when_it_is_another_one_and_once_an_hour() -> None:
    retry = Retry()
    assert retry.failed(0.0, "a")
    assert not retry.failed(1.0, "a")
    retry.hurry()
    assert not retry.failed(2.0, "a"), "a change that mends nothing is no news"
    assert retry.failed(3.0, "b")
    assert retry.failed(3.0 + SAID_EVERY_SECONDS, "b")
    retry.succeeded()
    assert not retry.failing
    assert retry.failed(4000.0, "b")
