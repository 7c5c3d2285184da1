"""What is said of findings, and when an operator may go on."""

import pytest

from agent.cli.work.check.finding import Finding, Verdict, counted, is_well, lines, names, ok, warning, wrong


@pytest.mark.parametrize(("verdict", "passes"), [(each, each in {"ok", "warning"}) for each in Verdict])
def test_only_what_is_well_or_a_warning_passes(verdict: Verdict, passes: bool) -> None:
    assert is_well([ok("a", "is"), Finding("b", verdict, "it")]) is passes


def test_each_check_is_a_line_and_what_to_do_is_below_it() -> None:
    said = lines([ok("api", "answers"), warning("clock", "is off", "Set it"), wrong("roles", "gone", "Make them")])
    assert said == [
        "ok       api    answers",
        "warning  clock  is off",
        "                → Set it",
        "wrong    roles  gone",
        "                → Make them",
        "",
        "3 checks: 1 ok, 1 warning, 1 wrong",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [([], ""), (["b", "a"], "a, b"), ("gfedcba", "a, b, c, d, e and 2 more")],
)
def test_of_many_some_are_named(given: list[str], said: str) -> None:
    assert names(given) == said


def test_one_is_one_and_two_are_several() -> None:
    assert (counted(1, "pod"), counted(2, "pod"), counted(0, "class", "classes")) == ("1 pod", "2 pods", "0 classes")
