"""What a namespace says of being meshed; whatever is not known says yes."""

import json
from typing import Any

import pytest

from agent.catalog.sources.kubernetes import reading
from agent.kubernetes.errors import Unreachable
from agent.webhook.namespaces import Namespaces


def namespace(name: str, inject: Any = None) -> bytes:
    annotations = {} if inject is None else {"linkerd.io/inject": inject}
    return json.dumps({"metadata": {"name": name, "uid": name, "annotations": annotations}}).encode()


@pytest.fixture
def known() -> Namespaces:
    made = Namespaces()
    made.begin()
    made.put(namespace("on", "enabled"))
    made.put(namespace("off", "disabled"))
    made.put(namespace("silent"))
    made.complete()
    return made


def test_what_it_says_is_what_its_annotation_says(known: Namespaces) -> None:
    assert (known.says("on"), known.says("off"), known.says("silent")) == ("enabled", "disabled", None)


def test_one_that_is_not_known_yet_says_enabled(known: Namespaces) -> None:
    assert known.says("made-a-moment-ago") == "enabled"


@pytest.mark.parametrize("inject", ["Enabled", "yes", 3, []], ids=str)
def test_what_cannot_be_understood_says_enabled(known: Namespaces, inject: Any) -> None:
    known.put(namespace("silent", inject))
    assert known.says("silent") == "enabled"


def test_another_fault_leaves_what_it_says(known: Namespaces) -> None:
    broken = json.loads(namespace("off", "disabled"))
    broken["metadata"]["annotations"]["config.linkerd.io/skip-inbound-ports"] = "x"
    known.put(json.dumps(broken).encode())
    assert known.says("off") == "disabled"


def test_one_that_a_fault_of_ours_keeps_from_being_read_says_enabled(
    known: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(key: object, document: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reading, "decode", fault)
    known.put(namespace("off", "disabled"))
    assert known.says("off") == "enabled"


def test_it_is_followed_through_changes_deletions_and_lists(known: Namespaces) -> None:
    known.put(namespace("silent", "enabled"))
    known.put(namespace("on"))
    known.remove(namespace("off", "disabled"))
    assert (known.says("silent"), known.says("on"), known.says("off")) == ("enabled", None, "enabled")
    known.begin()
    known.put(namespace("on"))
    assert known.says("silent") == "enabled", "until a list is complete nothing is gone"
    known.put(namespace("late"))
    known.complete()
    assert (known.says("on"), known.says("late"), known.says("silent")) == (None, None, "enabled")


def test_it_is_listed_once_a_list_is_complete() -> None:
    made = Namespaces()
    made.begin()
    assert not made.listed.is_set()
    made.complete()
    assert made.listed.is_set()


def test_what_is_no_namespace_begins_the_watch_anew(known: Namespaces) -> None:
    for raw in (b"", b"[]", b'{"metadata": {"name": "../x"}}'):
        with pytest.raises(Unreachable):
            known.put(raw)
        with pytest.raises(Unreachable):
            known.remove(raw)
