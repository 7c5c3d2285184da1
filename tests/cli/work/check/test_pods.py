"""Pods that are to be meshed: which are not, why, and which could get out by themselves."""

from typing import Any

import pytest

from agent.cli.work.check import pods
from agent.cli.work.check.finding import Verdict
from agent.cli.work.check.seen import Named, Pod
from tests.cli.work.check.objects import FORBIDDEN, NOW, UNTOLD, namespace, pod

OK, WARNING, WRONG, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.WRONG, Verdict.UNKNOWN
INJECT = "linkerd.io/inject"
DEMO = namespace("demo", inject="enabled")
PLAIN = namespace("plain")


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (pod("a", "demo"), True),
        (pod("a", "plain"), False),
        (pod("a", "unknown"), False),
        (pod("a", "demo", annotations={INJECT: "disabled"}), False),
        (pod("a", "plain", annotations={INJECT: "enabled"}), True),
        (pod("a", "plain", annotations={INJECT: "no such word"}), True),
        (pod("a", "demo", host_network=True), False),
        (pod("a", "demo", deleted=True), False),
    ],
)
def test_who_is_to_be_meshed_says_so_or_its_namespace_does(one: Pod, wanted: bool) -> None:
    assert pods.to_be_meshed((one,), (DEMO, PLAIN)) == ((one,) if wanted else ())


MOVED = namespace("demo", inject="enabled", **{"config.linkerd.io/admission-webhooks": "disabled"})


@pytest.mark.parametrize(
    ("one", "space", "beside", "wanted"),
    [
        (pod("a"), MOVED, True, True),
        (pod("a"), DEMO, True, False),
        (pod("a", injected=True, meshed=True), DEMO, True, True),
        (pod("a"), DEMO, False, True),
        (pod("a", container="linkerd-proxy"), MOVED, True, False),
        (pod("a", container="linkerd-proxy"), DEMO, False, False),
    ],
)
def test_beside_linkerd_a_pod_is_ours_where_linkerd_is_told_to_leave_its_namespace(
    one: Pod, space: Named, beside: bool, wanted: bool
) -> None:
    assert pods.to_be_meshed((one,), (space,), beside_linkerd=beside) == ((one,) if wanted else ())


MESHED = pod("meshed", injected=True, meshed=True)
OPEN = pod("before")
WAITING = pod("waits", injected=True, phase="Pending")
YOUNG = pod("young", injected=True, age=20)


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        ((), OK, "none is to be meshed yet"),
        ((MESHED,), OK, "1 of 1 pod that is to be meshed is"),
        ((MESHED, YOUNG), OK, "1 of 2 pods that are to be meshed is, 1 is starting"),
        ((pod("own", meshed=True),), OK, "1 of 1"),
        ((MESHED, OPEN), WRONG, "1 pod of demo has no init step, and is open: demo/before"),
        ((OPEN, pod("b", "shop")), WRONG, "2 pods of demo, shop have no init step, and are open: demo/before, shop/b"),
        ((MESHED, WAITING), WRONG, "1 pod waits for an agent, or is held back: demo/waits (waits: is Pending)"),
        ((MESHED, pod("nowhere", injected=True, node="")), OK, "1 is starting"),
        ((OPEN, WAITING), WRONG, "demo/before; 1 pod waits"),
        (UNTOLD, UNKNOWN, "10 s"),
    ],
)
def test_all_of_them_are_meshed_or_are_named_with_the_reason(found: Any, verdict: Verdict, words: str) -> None:
    said = pods.meshed(found, NOW)
    assert said.verdict is verdict, said
    assert words in said.said


def test_of_many_some_are_named() -> None:
    said = pods.meshed(tuple(pod(f"p{number:02}") for number in range(50)), NOW).said
    assert said.endswith("demo/p04 and 45 more")


@pytest.mark.parametrize(
    ("security", "able"),
    [
        (None, False),
        ({"capabilities": {"drop": ["ALL"]}}, False),
        ({"capabilities": {"add": ["CHOWN"]}}, False),
        ({"capabilities": {"add": ["NET_RAW"]}}, True),
        ({"capabilities": {"add": ["CAP_NET_ADMIN"]}}, True),
        ({"capabilities": {"add": ["ALL"]}}, True),
        ({"privileged": True}, True),
        ({"privileged": False}, False),
    ],
)
def test_who_was_given_what_capture_cannot_hold_is_warned_of(security: Any, able: bool) -> None:
    said = pods.powers((pod("strong", injected=True, meshed=True, security=security), MESHED))
    assert said.verdict is (WARNING if able else OK), "our own init step has NET_ADMIN, and is none of them"
    assert ("1 pod to be meshed is privileged" in said.said) is able


def test_what_cannot_be_listed_is_not_known() -> None:
    assert pods.powers(FORBIDDEN).verdict is UNKNOWN
    assert pods.to_be_meshed(FORBIDDEN, (DEMO,)) is FORBIDDEN
    assert pods.to_be_meshed((OPEN,), UNTOLD) is UNTOLD
    assert pods.by_node(UNTOLD) is UNTOLD


def test_they_are_counted_by_node() -> None:
    assert pods.by_node((pod("a", node="one"), pod("b", node="one"), pod("c", node="two"))) == {"one": 2, "two": 1}
