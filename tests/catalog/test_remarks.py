"""What is legal and does not do what it seems to is said once, and up to a bound."""

import pytest

from agent.catalog.remarks import MAX_SAID, Remarks
from agent.manifests.fault import Remark
from agent.manifests.origin import Origin


def remarks(number: int) -> list[Remark]:
    return [Remark(Origin(object=f"Pod demo/p{at}"), f"Pod demo/p{at}", "means nothing") for at in range(number)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_each_is_said_once_while_it_stands_and_again_when_it_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    kept = Remarks("manifest: ")
    kept.say(remarks(1))
    kept.say(remarks(2))
    assert said(caplog) == ["manifest: Pod demo/p0: means nothing", "manifest: Pod demo/p1: means nothing"]
    kept.say([])
    assert kept.standing == frozenset()
    kept.say(remarks(1))
    assert len(said(caplog)) == 1


def test_of_very_many_some_are_said_and_their_number(caplog: pytest.LogCaptureFixture) -> None:
    kept = Remarks("", "; ask for all")
    kept.say(remarks(MAX_SAID + 7))
    lines = said(caplog)
    assert len(lines) == MAX_SAID + 1
    assert lines[-1] == "7 more such things; ask for all"
    assert len(kept.standing) == MAX_SAID + 7
