"""The server's clock, as its answers say it. tests/kubernetes/test_check.py asks an API server."""

import pytest

from agent.cli.work.check.gather import clock_ahead


@pytest.mark.parametrize(
    ("date", "asked", "answered", "ahead"),
    [
        ("Thu, 01 Jan 1970 00:01:40 GMT", 100.0, 101.0, 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 10.0, 11.0, 90.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 399.5, 401.5, -300.0),
        ("", 1.0, 2.0, None),
        ("yesterday", 1.0, 2.0, None),
    ],
)
def test_a_date_is_the_second_that_has_begun(date: str, asked: float, answered: float, ahead: float | None) -> None:
    assert clock_ahead(date, asked, answered) == ahead
