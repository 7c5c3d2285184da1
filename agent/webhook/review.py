"""An AdmissionReview's question and its answer (admission.k8s.io/v1): bytes in, bytes out. Pure.

Kubernetes, "Dynamic Admission Control", webhook request and response.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from agent.manifests.document import MAX_DEPTH
from agent.telemetry.logs import printable

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"
CREATE, UPDATE = "CREATE", "UPDATE"
MAX_WORDS = 4096
"""Characters of a reason, or of all warnings together: the API server cuts warnings there itself."""
MAX_UID = 128
MAX_FIELDS = 100_000
"""Of an object, elements of lists included: a fifth of a second's work."""
_NOTHING = msgspec.Raw(b"null")


class NoReviewError(ValueError):
    """Bytes that are no question of an API server's: there is nobody to answer. `str` says why."""


class UnreadableError(ValueError):
    """An object in a question that nobody could read; `str` says why."""


class Gvk(Struct, frozen=True):
    """Group, version and kind of an object, as it was sent."""

    version: str
    kind: str
    group: str = ""


class Question(Struct, frozen=True, rename="camel"):
    """AdmissionRequest, what is used of it. `name` is empty for an object that the API server is to name."""

    uid: str
    kind: Gvk
    operation: str
    namespace: str = ""
    name: str = ""
    sub_resource: str = ""
    object: msgspec.Raw = _NOTHING
    old_object: msgspec.Raw = _NOTHING

    @property
    def writes(self) -> bool:
        """Whether an object comes to be, or to be another: not a deletion, and no subresource."""
        return self.operation in {CREATE, UPDATE} and not self.sub_resource


class _Review(Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: Question


_reviews = msgspec.json.Decoder(_Review)


def question(body: bytes) -> Question:
    """What is asked. Raises NoReviewError."""
    try:
        review = _reviews.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NoReviewError(f"this is no {KIND} of {API_VERSION}: {error}") from error
    if (review.api_version, review.kind) != (API_VERSION, KIND):
        named = f"{review.kind[:MAX_UID]} of {review.api_version[:MAX_UID]}"
        raise NoReviewError(f"{KIND} of {API_VERSION} is expected here, not {named}")
    if not 0 < len(review.request.uid) <= MAX_UID:
        raise NoReviewError("request.uid is empty, or no UID")
    return review.request


def value(raw: msgspec.Raw) -> Any:
    """An object of a question; None where there is none. Raises UnreadableError."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"the object cannot be read: {error}") from error
    level, depth, fields = [found], 0, 0
    while level:
        level = [inner for each in level for inner in _inside(each)]
        depth, fields = depth + 1, fields + len(level)
        if depth > MAX_DEPTH:
            raise UnreadableError(f"the object cannot be read: it is nested more than {MAX_DEPTH} levels deep")
        if fields > MAX_FIELDS:
            raise UnreadableError(f"the object cannot be read: it has more than {MAX_FIELDS} fields")
    return found


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def allowed(asked: Question, *, patch: Sequence[dict[str, Any]] = (), warnings: Sequence[str] = ()) -> bytes:
    """It may be stored: as it is, or changed by a JSON patch (RFC 6902)."""
    changed = {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(patch)).decode()}
    return _answer(asked, {"allowed": True, **(changed if patch else {}), **_warned(warnings)})


def refused(asked: Question, reason: str, *, warnings: Sequence[str] = ()) -> bytes:
    """It may not, and these are kubectl's words."""
    status = {"status": "Failure", "code": 422, "reason": "Invalid", "message": printable(reason)[:MAX_WORDS]}
    return _answer(asked, {"allowed": False, "status": status, **_warned(warnings)})


def _warned(warnings: Sequence[str]) -> dict[str, list[str]]:
    """As many as the API server hands on."""
    found: list[str] = []
    left = MAX_WORDS
    for each in dict.fromkeys(printable(words) for words in warnings):
        if len(each) > left:
            break
        found.append(each)
        left -= len(each)
    return {"warnings": found} if found else {}


def _answer(asked: Question, response: dict[str, Any]) -> bytes:
    answer = {"uid": asked.uid, **response}
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": KIND, "response": answer})
