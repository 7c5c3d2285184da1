"""Fields: what is missing has a default, what is wrong is said with its line and its path."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.objects.field import FaultError, Field, readable

SPEC = Field({"ports": Field([Field({"port": Field("http", 5, "spec.ports[0].port")}, 4)], 3, "spec.ports")}, 2, "spec")
DOCUMENT = Field({"spec": SPEC, "kind": Field(None, 1, "kind")}, 1)


def test_what_is_missing_has_the_path_that_was_asked_for_and_the_nearest_line() -> None:
    found = DOCUMENT.get("spec", "selector", "matchLabels")
    assert (found.value, found.line, found.path) == (None, 2, "spec.selector.matchLabels")
    assert (found.text("none"), found.mapping(), list(found.items()), found.texts()) == ("none", {}, [], {})
    assert found.flag(default=True) is True
    assert found.flag(default=False) is False
    assert DOCUMENT.get("kind", "anything").value is None, "null is as nothing"


def test_an_empty_text_is_one() -> None:
    assert Field("", 1).text("default") == ""


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda field: field.text(), "a string is expected here, not"),
        (lambda field: field.text("default"), "a string is expected here, not"),
        (lambda field: field.items(), "a list is expected here, not"),
        (lambda field: field.mapping(), "a mapping is expected here, not"),
        (lambda field: field.texts(), "a mapping is expected here, not"),
        (lambda field: field.flag(default=True), "true or false is expected here, not"),
        (lambda field: field.port(), "a port number from 1 to 65535 is expected here, not"),
        (lambda field: field.get("a"), "a mapping with 'a' is expected here, not"),
    ],
)
def test_a_number_where_something_else_is_expected_is_said_with_line_and_path(
    read: Callable[[Field], object], words: str
) -> None:
    with pytest.raises(FaultError) as caught:
        read(Field(70000, 7, "spec.port"))
    assert str(caught.value) == f"line 7: spec.port: {words} 70000"


def test_what_was_found_is_named_and_bounded() -> None:
    for value, words in ((None, "nothing"), ({}, "a mapping"), ([], "a list"), ("x" * 100, "'" + "x" * 59)):
        with pytest.raises(FaultError) as caught:
            Field(value, 1).port()
        assert str(caught.value) == f"line 1: a port number from 1 to 65535 is expected here, not {words}"


@given(st.integers() | st.booleans())
def test_a_port_is_a_number_that_tcp_has(value: int) -> None:
    """True is 1 to Python, and no port."""
    expected = value if type(value) is int and 0 < value < 2**16 else None
    assert readable(Field(value, 1).port, None) == expected


def test_a_fault_on_a_line_alone_has_no_path_and_may_say_what_stands_in() -> None:
    fault = FaultError(9, "it ends here", stand_in="closed")
    assert (str(fault), fault.stand_in) == ("line 9: it ends here", "closed")


def test_a_fault_keeps_its_place_when_a_stand_in_is_given_to_it() -> None:
    at = Field("x", 7, "spec.port")
    fault = FaultError(at, "a port is expected")
    given = fault.with_stand_in("closed")
    assert (given.line, given.path, given.reason) == (7, "spec.port", "spec.port: a port is expected")
    assert (fault.stand_in, given.stand_in) == (None, "closed")
    assert FaultError(3, "no YAML").path == ""
