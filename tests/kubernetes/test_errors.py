"""What an answer that is no success says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.errors import refused


def test_a_status_object_is_repeated() -> None:
    error = refused(409, b'{"kind":"Status","code":409,"reason":"Conflict","message":"the object has been modified"}')
    assert error.conflict
    assert str(error) == "the API server answers 409 Conflict: the object has been modified"


def test_of_a_proxy_in_between_its_own_words_are_repeated() -> None:
    assert str(refused(502, b"<html>Bad Gateway</html>")) == "the API server answers 502: <html>Bad Gateway</html>"
    assert str(refused(502, b"")) == "the API server answers 502: an empty answer"


@pytest.mark.parametrize(("status", "name"), [(404, "not_found"), (409, "conflict"), (410, "gone")])
def test_those_that_somebody_does_something_about_have_names(status: int, name: str) -> None:
    error = refused(status, b"{}")
    assert [each for each in ("not_found", "conflict", "gone") if getattr(error, each)] == [name]


TERMINATING = b"""
{"kind":"Status","code":403,"reason":"Forbidden","message":"configmaps is forbidden","details":{"name":"it","causes":[
{"reason":"NamespaceTerminating","message":"namespace shop is being terminated","field":"metadata.namespace"}]}}
"""


def test_that_a_namespace_is_being_deleted_is_known_from_a_right_that_is_missing() -> None:
    assert refused(403, TERMINATING).terminating
    for details in (b"null", b"{}", b'{"causes":null}', b'{"causes":[{}]}'):
        error = refused(403, b'{"code":403,"reason":"Forbidden","message":"no","details":' + details + b"}")
        assert (error.reason, error.terminating) == ("Forbidden", False)


@given(st.binary(max_size=100), st.integers(100, 599))
def test_whatever_is_answered_is_an_error_with_its_status(body: bytes, status: int) -> None:
    assert str(status) in str(refused(status, body)) or b"code" in body
