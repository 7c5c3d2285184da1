"""Waiting before the next try."""

from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.backoff import FIRST_SECONDS, LONGEST_SECONDS, Backoff

chances = st.floats(min_value=0, max_value=1)


@given(st.lists(chances, min_size=1, max_size=50))
def test_it_is_never_at_once_and_never_longer_than_the_longest(given_: list[float]) -> None:
    backoff = Backoff()
    pauses = [backoff.failed(chance) for chance in given_]
    assert all(FIRST_SECONDS / 2 <= pause <= LONGEST_SECONDS for pause in pauses)


def test_it_doubles_to_the_longest() -> None:
    backoff = Backoff(first=1.0, longest=5.0)
    assert [backoff.failed(1.0) for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_thousand_failures_are_not_too_many() -> None:
    backoff = Backoff()
    assert {backoff.failed(1.0) for _ in range(2000)} >= {LONGEST_SECONDS}


def test_after_a_success_it_begins_again() -> None:
    backoff = Backoff(first=1.0)
    backoff.failed(1.0)
    backoff.succeeded()
    assert backoff.failed(1.0) == 1.0


def test_whoever_asks_for_more_gets_it_and_for_less_does_not() -> None:
    assert Backoff().failed(1.0, at_least=60.0) == 60.0
    assert Backoff(first=8.0).failed(1.0, at_least=1.0) == 8.0
