"""What a check found, and how it is said. Pure."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """It could not be made: whether all is well is not known."""
    SKIPPED = "skipped"
    """It depends on another one that found something wrong."""

    @property
    def passes(self) -> bool:
        """Whether an operator may go on."""
        return self in {Verdict.OK, Verdict.WARNING}


class Finding(Struct, frozen=True):
    """One check: its name, how it ended, what was seen, and what to do."""

    check: str
    verdict: Verdict
    said: str
    advice: str = ""


NAMES_SHOWN = 5


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, said)


def warning(check: str, said: str, advice: str) -> Finding:
    """Not as it should be, and nothing fails by it now."""
    return Finding(check, Verdict.WARNING, said, advice)


def wrong(check: str, said: str, advice: str) -> Finding:
    """Something does not work, or will not."""
    return Finding(check, Verdict.WRONG, said, advice)


def names(found: Iterable[str]) -> str:
    """Some of them by name, and how many more there are."""
    listed = sorted(found)
    more = len(listed) - NAMES_SHOWN
    return ", ".join(listed[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, one: str, several: str = "") -> str:
    """`1 pod`, `2 pods`."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing is wrong, and everything could be told."""
    return all(each.verdict.passes for each in findings)


def lines(findings: Sequence[Finding]) -> list[str]:
    """For people: a line for each check, what to do below it, and the sum of it all."""
    width = max((len(each.check) for each in findings), default=0)
    said = []
    for each in findings:
        said.append(f"{each.verdict:7}  {each.check:{width}}  {each.said}")
        if each.advice:
            said.append(f"{'':7}  {'':{width}}  → {each.advice}")
    tally = [
        f"{count} {verdict}" for verdict in Verdict if (count := sum(each.verdict is verdict for each in findings))
    ]
    return [*said, "", f"{counted(len(findings), 'check')}: {', '.join(tally)}"]
