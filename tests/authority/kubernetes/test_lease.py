"""Who may take a Lease, by our own clock alone: tables. On a real cluster: tests/kubernetes/test_leadership.py."""

import pytest

from agent.authority.kubernetes.lease import LASTS_SECONDS, LEADS_SECONDS, Seen, Spec, look, may_take


def seen(holder: str = "other", since: float = 100.0, lasts: float = 15.0) -> Seen:
    return Seen("7", holder, 3, since, lasts)


@pytest.mark.parametrize(
    ("lease", "now", "free"),
    [
        (seen(), 100.0, False),
        (seen(), 114.9, False),
        (seen(), 115.0, True),
        (seen(lasts=60.0), 115.0, False),
        (seen("me"), 100.0, True),
        (seen(""), 100.0, True),
    ],
    ids=["just renewed", "nearly over", "over", "its holder wants it for longer", "ours", "let go"],
)
def test_a_lease_is_free_when_it_is_ours_or_nobodys_or_over(lease: Seen, now: float, free: bool) -> None:
    assert may_take(lease, "me", now) is free


def test_it_lasts_from_when_it_was_first_seen_in_its_version_whatever_its_holders_clock_says() -> None:
    spec = Spec(holderIdentity="other", leaseDurationSeconds=30)
    first = look(None, "7", spec, 100.0)
    assert first == Seen("7", "other", 0, 100.0, 30.0)
    assert look(first, "7", spec, 120.0) == first
    assert look(first, "8", spec, 120.0).since == 120.0


def test_one_that_says_nothing_of_itself_is_nobodys() -> None:
    found = look(None, "7", Spec(), 100.0)
    assert (found.holder, found.lasts) == ("", LASTS_SECONDS)


def test_who_cannot_renew_it_stops_before_another_may_begin() -> None:
    assert LEADS_SECONDS < LASTS_SECONDS
