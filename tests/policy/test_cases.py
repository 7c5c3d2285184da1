"""Policy tests as code: what a file may say, and what becomes of each case."""

from typing import cast

import pytest

from agent.objects.field import FaultError
from agent.policy.cases import Case, parse, run
from agent.policy.explain import Explainer, Explanation, Question, QuestionError, Verdict

GOOD = "{from: demo/web, to: demo/api, port: 80, expect: allow, because: it may}"


def test_a_case_has_its_line_and_its_question() -> None:
    one, two = parse(b"- " + GOOD.encode() + b"\n- {from-ip: 192.0.2.1, to: demo/api, port: http, expect: deny}\n")
    assert one == Case(1, Question("demo/api", 80, from_="demo/web"), Verdict.ALLOW, "it may")
    assert two == Case(2, Question("demo/api", "http", from_ip="192.0.2.1"), Verdict.DENY)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (GOOD.replace("allow", "allowed"), "'allowed' must be one of"),
        (GOOD.replace("from:", "form:"), "unknown field 'form'; known: from, from-ip"),
        (GOOD.replace("}", ", from-ip: 192.0.2.1}"), "a case needs one of from and from-ip, and not both"),
        (GOOD.replace("from: demo/web, ", ""), "a case needs one of from and from-ip, and not both"),
        (GOOD.replace("80", "0"), "a port number from 1 to 65535 is expected here, not 0"),
        (GOOD.replace("to: demo/api, ", ""), "a string is expected here, not nothing"),
    ],
)
def test_a_slip_is_said_with_its_line(written: str, reason: str) -> None:
    with pytest.raises(FaultError) as caught:
        parse(f"- {GOOD}\n- {written}\n".encode())
    assert caught.value.line == 2
    assert reason in caught.value.reason


@pytest.mark.parametrize("data", [b"", b"[]", b"---\n"])
def test_a_file_without_cases_tests_nothing_and_is_a_fault(data: bytes) -> None:
    with pytest.raises(FaultError, match="the file has no cases"):
        parse(data)


class Says:
    """Allows everybody, and does not know one pod."""

    def explain(self, question: Question) -> Explanation:
        if question.to == "demo/nobody":
            raise QuestionError("there is no pod demo/nobody")
        return Explanation(Verdict.ALLOW, "Server demo/api", "", "because")


def test_a_case_passes_where_the_verdict_is_the_expected_one_and_a_question_without_answer_never_does() -> None:
    asked = (("demo/api", Verdict.ALLOW), ("demo/api", Verdict.DENY), ("demo/nobody", Verdict.DENY))
    cases = [Case(1, Question(to, 80), expect) for to, expect in asked]
    results = run(cases, cast("Explainer", Says()))
    assert [each.passed for each in results] == [True, False, False]
    assert [each.case for each in results] == cases
    assert results[2].problem == "there is no pod demo/nobody"
