"""Policy tests as code: a list of who asks for what, and what must come of it."""

from typing import Any

from msgspec import Struct

from agent.manifests.document import documents
from agent.objects.field import FaultError, Field
from agent.policy.explain import Explainer, Explanation, Question, QuestionError, Verdict

FIELDS = ("from", "from-ip", "from-id", "to", "port", "expect", "because")


class Case(Struct, frozen=True):
    """One line of a test file. `because` is for whoever reads the failure."""

    line: int
    question: Question
    expect: Verdict
    because: str = ""


class Result(Struct, frozen=True):
    """A case and what came of it: an explanation, or why there is none."""

    case: Case
    explanation: Explanation | None
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether it came as expected."""
        return self.explanation is not None and self.explanation.verdict is self.case.expect


def parse(data: bytes) -> list[Case]:
    """The cases of a file. Raises FaultError with the line."""
    found: list[Case] = []
    for document in documents(data):
        found.extend(_case(entry) for entry in document.items())
    if not found:
        raise FaultError(0, "the file has no cases: it must be a list of {from, to, port, expect}")
    return found


def _case(entry: Field) -> Case:
    for name, field in entry.mapping().items():
        if name not in FIELDS:
            raise FaultError(field, f"unknown field {name!r}; known: {', '.join(FIELDS)}")
    expect = entry.get("expect")
    if expect.text() not in set(Verdict):
        raise FaultError(expect, f"{expect.value!r} must be one of {', '.join(Verdict)}")
    one, two = entry.get("from"), entry.get("from-ip")
    if (one.value is None) == (two.value is None):
        raise FaultError(entry, "a case needs one of from and from-ip, and not both")
    port = entry.get("port")
    if not isinstance(port.value, str):
        port.port()
    return Case(
        line=entry.line,
        question=Question(
            to=entry.get("to").text(),
            port=port.value,
            from_=_optional(one),
            from_ip=_optional(two),
            from_id=_optional(entry.get("from-id")),
        ),
        expect=Verdict(expect.text()),
        because=entry.get("because").text(default=""),
    )


def _optional(field: Field) -> Any:
    return None if field.value is None else field.text()


def run(cases: list[Case], explainer: Explainer) -> list[Result]:
    """Every case with what came of it."""
    found = []
    for case in cases:
        try:
            found.append(Result(case, explainer.explain(case.question)))
        except QuestionError as error:
            found.append(Result(case, None, str(error)))
    return found
