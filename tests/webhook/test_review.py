"""Whatever comes is a question that is answered, or is said not to be one."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.webhook.review import MAX_WORDS, NoReviewError, allowed, question, refused
from tests.webhook.asking import UID, answer, review

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}}
ENVELOPE = json.loads(review(POD))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "this is no AdmissionReview"),
        (b"\xff\xfe", "this is no AdmissionReview"),
        (b"[" * 100_000, "this is no AdmissionReview"),
        (b'{"a":' * 100_000, "this is no AdmissionReview"),
        (b"null", "this is no AdmissionReview"),
        (b"[]", "this is no AdmissionReview"),
        (json.dumps({**ENVELOPE, "request": None}).encode(), "this is no AdmissionReview"),
        (json.dumps({**ENVELOPE, "request": {**ENVELOPE["request"], "uid": 7}}).encode(), "this is no AdmissionReview"),
        (json.dumps({**ENVELOPE, "request": {**ENVELOPE["request"], "uid": ""}}).encode(), "request.uid is empty"),
        (json.dumps({**ENVELOPE, "request": {**ENVELOPE["request"], "kind": "Pod"}}).encode(), "this is no"),
        (json.dumps({**ENVELOPE, "apiVersion": "admission.k8s.io/v1beta1"}).encode(), "not AdmissionReview of adm"),
        (json.dumps({**ENVELOPE, "kind": "Pod"}).encode(), "not Pod of admission.k8s.io/v1"),
    ],
    ids=range(12),
)
def test_what_is_no_question_is_said_not_to_be_one(body: bytes, said: str) -> None:
    with pytest.raises(NoReviewError) as error:
        question(body)
    assert said in str(error.value)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(str).map(str.encode))
def test_strangers_bytes_raise_nothing_else(body: bytes) -> None:
    with pytest.raises(NoReviewError):
        question(body)


@pytest.mark.parametrize(
    ("operation", "subresource", "writes"),
    [
        ("CREATE", "", True),
        ("UPDATE", "", True),
        ("DELETE", "", False),
        ("CONNECT", "", False),
        ("UPDATE", "status", False),
    ],
)
def test_only_an_object_that_is_written_is_judged(operation: str, subresource: str, writes: bool) -> None:
    assert question(review(POD, operation, subresource=subresource)).writes is writes


def test_an_answer_carries_the_questions_uid_the_patch_and_the_warnings() -> None:
    asked = question(review(POD))
    step = {"op": "add", "path": "/spec/volumes", "value": []}
    found = answer(allowed(asked, patch=[step], warnings=["one", "two", "one"]))
    assert json.loads(base64.b64decode(found.pop("patch"))) == [step]
    assert found == {"uid": UID, "allowed": True, "patchType": "JSONPatch", "warnings": ["one", "two"]}
    assert answer(allowed(asked)) == {"uid": UID, "allowed": True}


def test_a_refusal_has_words_for_kubectl_that_move_no_cursor_and_end() -> None:
    asked = question(review(POD))
    found = answer(refused(asked, "no\x1b[2J" + "x" * 10_000, warnings=["a\nb"]))
    assert found["allowed"] is False
    assert found["status"]["message"].startswith("no\\x1b[2Jxxx")
    assert len(found["status"]["message"]) == MAX_WORDS
    assert found["warnings"] == ["a\\nb"]


def test_more_warnings_than_the_api_server_hands_on_are_left_out() -> None:
    said = [f"{number} {'x' * 1000}" for number in range(10)]
    assert answer(allowed(question(review(POD)), warnings=said))["warnings"] == said[:4]
