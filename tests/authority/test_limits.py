"""How often one caller may ask."""

import time

from hypothesis import given
from hypothesis import strategies as st

from agent.authority.limits import MAX_CALLERS, RateLimit


@given(st.lists(st.floats(0, 5), max_size=200))
def test_a_rate_is_never_exceeded_in_the_long_run(pauses: list[float]) -> None:
    limit = RateLimit(2.0, 10)
    now, admitted = time.time(), 0
    began = now
    for pause in pauses:
        now += pause
        admitted += limit.admits("one", now)
        assert admitted <= 10 + 2.0 * (now - began) + 1e-3
        assert limit.admits("another", now) or pause < 0.5


def test_of_too_many_callers_who_was_quiet_for_longest_is_forgotten_and_no_call_costs_more_for_it() -> None:
    limit = RateLimit(1.0, 1)
    assert limit.admits("first", 0.0)
    assert limit.admits("second", 0.0)
    assert not limit.admits("first", 0.0), "it has asked again, and is the newest now"
    for number in range(MAX_CALLERS - 1):
        limit.admits(f"caller {number}", 0.0)
    assert len(limit._used) == MAX_CALLERS
    assert not limit.admits("first", 0.0)
    assert limit.admits("second", 0.0)
    assert len(limit._used) == MAX_CALLERS
