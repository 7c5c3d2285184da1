"""Which process may enrol its namespace as which pod: a table, and one property over all of it."""

import itertools

import pytest

from agent.capture.caller import Caller
from agent.capture.netns import NetnsId
from agent.node.claim import NotYet, Refused, judge
from agent.objects.key import PodKey
from agent.objects.model import Pod

OWN, OTHER = NetnsId(4, 100), NetnsId(4, 200)
UID, OTHER_UID = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"


def pod(name: str, *, uid: str = "", netns: str | None = None) -> Pod:
    return Pod("demo", name, name, "node-a", ("192.0.2.1",), uid=uid, netns=netns)


def caller(*, pod_uid: str | None = None, administers: bool = False) -> Caller:
    return Caller(4711, 0, OWN, pod_uid, administers)


IN_THE_POD, IN_ANOTHER, OPERATOR, STRANGER = (
    caller(pod_uid=UID),
    caller(pod_uid=OTHER_UID),
    caller(administers=True),
    caller(),
)
PLAIN, WITH_UID, ANNOTATED = pod("vic"), pod("vic", uid=UID), pod("vic", uid=UID, netns="vic")


@pytest.mark.parametrize("asked", ["demo/vic", None])
@pytest.mark.parametrize(
    ("who", "known", "named", "verdict"),
    [
        (IN_THE_POD, WITH_UID, None, "tied"),
        (IN_ANOTHER, WITH_UID, None, NotYet),
        (IN_THE_POD, PLAIN, None, NotYet),  # a manifest without a UID is nobody's by a cgroup
        (STRANGER, WITH_UID, None, Refused),
        (STRANGER, PLAIN, None, Refused),
        (OPERATOR, PLAIN, None, "tied"),
        (OPERATOR, WITH_UID, None, "tied"),
        # The annotation wins, whoever asks.
        (STRANGER, ANNOTATED, OWN, "tied"),
        (IN_ANOTHER, ANNOTATED, OWN, "tied"),
    ],
)
def test_what_ties_a_process_to_a_pod(
    who: Caller, known: Pod, named: NetnsId | None, verdict: type | str, asked: str | None
) -> None:
    annotated = {known.key: named} if known.netns else {}
    found = judge(who, asked, (known,), annotated, "node-a")
    if verdict == "tied":
        assert found == (known,)
    else:
        assert isinstance(verdict, type)
        assert isinstance(found, verdict)


@pytest.mark.parametrize("who", [IN_THE_POD, IN_ANOTHER, OPERATOR, STRANGER])
def test_an_annotation_that_names_another_namespace_refuses_everybody(who: Caller) -> None:
    found = judge(who, PodKey("demo/vic"), (ANNOTATED,), {PodKey("demo/vic"): OTHER}, "node-a")
    assert isinstance(found, Refused)
    assert "annotated with quietwire.io/netns: vic, and process 4711 is in another namespace" in found.reason


def test_an_annotated_namespace_that_is_not_there_yet_is_waited_for() -> None:
    found = judge(OPERATOR, PodKey("demo/vic"), (ANNOTATED,), {PodKey("demo/vic"): None}, "node-a")
    assert isinstance(found, NotYet)
    assert "is not there yet" in found.reason


def test_a_refusal_says_what_would_tie_it() -> None:
    found = judge(STRANGER, "demo/vic", (PLAIN,), {}, "node-a")
    assert isinstance(found, Refused)
    assert "nothing ties process 4711 to demo/vic" in found.reason
    assert "quietwire.io/netns" in found.reason


def test_a_pod_that_the_catalog_does_not_have_yet_is_waited_for() -> None:
    found = judge(IN_THE_POD, "demo/new", (WITH_UID,), {}, "node-a")
    assert found == NotYet("the catalog has no demo/new on node node-a yet")


def test_nobody_outside_is_ever_tied_to_a_pod_whatever_it_asks_for() -> None:
    """Every combination of a stranger, what it asks for, and what the catalog has: only its annotation opens a pod."""
    pods = [pod("a"), pod("a", uid=UID), pod("b", uid=OTHER_UID), pod("c", uid=UID, netns="c"), pod("d", netns="d")]
    for some in itertools.chain.from_iterable(itertools.combinations(pods, size) for size in range(4)):
        for asked in (None, "demo/a", "demo/b", "demo/c", "demo/d", "x", ""):
            found = judge(STRANGER, asked, some, {PodKey("demo/c"): OTHER, PodKey("demo/d"): None}, "node-a")
            assert isinstance(found, NotYet | Refused)
            mine = judge(IN_ANOTHER, asked, some, {PodKey("demo/c"): OTHER, PodKey("demo/d"): None}, "node-a")
            assert isinstance(mine, NotYet | Refused) or {each.uid for each in mine} == {OTHER_UID}
