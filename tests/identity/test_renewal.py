"""Moments, to the second: when an SVID is renewed, tried again, spread, and loud."""

import pytest

from agent.identity.renewal import (
    BACKOFF_CAP_SECONDS,
    FIRST_BACKOFF_SECONDS,
    SPREAD_SECONDS,
    backoff,
    is_loud,
    join_pause,
    renew_at,
    spread,
)
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid

WEB = SpiffeId.for_service_account("example.test", "demo", "web")


def svid(ends: float, begins: float = 0.0) -> Svid:
    return Svid(WEB, b"", b"", begins, ends, "1")


@pytest.mark.parametrize(
    ("ends", "issued", "jitter", "expected"),
    [
        (100.0, 0.0, 0.0, 50.0),
        (100.0, 0.0, 0.5, 45.0),
        (1100.0, 1000.0, 0.0, 1050.0),
        (1100.0, 1000.0, 1.0, 1040.0),
    ],
)
def test_an_svid_is_renewed_at_half_life_or_earlier_by_up_to_a_tenth_of_it(
    ends: float, issued: float, jitter: float, expected: float
) -> None:
    assert renew_at(svid(ends), issued, jitter) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("attempt", "jitter", "lifetime", "expected"),
    [
        (1, 1.0, float("inf"), FIRST_BACKOFF_SECONDS),
        (1, 0.0, float("inf"), FIRST_BACKOFF_SECONDS / 2),
        (2, 1.0, float("inf"), FIRST_BACKOFF_SECONDS * 2),
        (5, 1.0, float("inf"), FIRST_BACKOFF_SECONDS * 16),
        (5, 0.5, float("inf"), FIRST_BACKOFF_SECONDS * 12),
        (30, 1.0, float("inf"), BACKOFF_CAP_SECONDS),
        (10**6, 1.0, float("inf"), BACKOFF_CAP_SECONDS),
        (30, 1.0, 20.0, 2.0),
        (30, 1.0, 0.001, FIRST_BACKOFF_SECONDS),
    ],
)
def test_a_retry_waits_twice_as_long_as_the_last_up_to_a_cap(
    attempt: int, jitter: float, lifetime: float, expected: float
) -> None:
    assert backoff(attempt, jitter, lifetime) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("joins", "jitter", "expected"),
    [(1, 1.0, 2.0), (1, 0.0, 1.0), (2, 1.0, 4.0), (3, 0.5, 6.0), (5, 1.0, 32.0), (6, 1.0, 60.0), (10**6, 0.0, 30.0)],
)
def test_each_join_that_leads_to_nothing_doubles_the_pause_before_the_next(
    joins: int, jitter: float, expected: float
) -> None:
    assert join_pause(joins, jitter) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("left", "jitter", "expected"),
    [(50.0, 0.5, 2.5), (1e6, 0.5, SPREAD_SECONDS / 2), (1e6, 0.0, 0.0), (0.0, 0.9, 0.0), (-5.0, 0.9, 0.0)],
)
def test_a_new_issuer_has_svids_renewed_within_a_tenth_of_what_they_have_to_live(
    left: float, jitter: float, expected: float
) -> None:
    assert spread(left, jitter) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("issued", "now", "loud"), [(0.0, 90.0, False), (0.0, 90.1, True), (50.0, 94.0, False), (50.0, 95.1, True)]
)
def test_in_the_last_tenth_of_its_life_an_svid_is_loud(issued: float, now: float, *, loud: bool) -> None:
    assert is_loud(svid(100.0), issued, now) is loud
