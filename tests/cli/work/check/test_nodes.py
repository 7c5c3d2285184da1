"""Nodes that agents can run on, nodes without one, and what nodes' clocks say."""

from typing import Any

import pytest

from agent.cli.work.check import nodes
from agent.cli.work.check.finding import Verdict
from tests.cli.work.check.objects import FORBIDDEN, NOW, UNTOLD, lease, node, pod, workload

OK, WARNING, WRONG, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.WRONG, Verdict.UNKNOWN
ONE, TWO = node("one"), node("two")


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        ((), WARNING, "none yet"),
        ((ONE, TWO), OK, "2 nodes, Linux 6.1, containerd"),
        ((ONE, node("two", kernel="6.18.44-fc")), OK, "Linux 6.1 to 6.18"),
        ((ONE, node("two", kernel="4.19.0")), WRONG, "two (4.19.0)"),
        ((ONE, node("two", kernel="?")), WRONG, "two (?)"),
        ((ONE, node("two", kernel="5.15.0-91-generic")), WARNING, "two has Linux 5.15.0-91-generic"),
        ((ONE, node("two", runtime="cri-o://1.30")), WARNING, "two has cri-o://1.30, which is not tried"),
        ((ONE, node("two", system="windows", kernel="10.0")), WARNING, "two is windows, and has no agent"),
        ((node("two", system="windows"),), WRONG, "none of them is Linux"),
        ((ONE, node("two", ready=False)), WARNING, "two is not Ready"),
        (UNTOLD, UNKNOWN, "10 s"),
    ],
)
def test_nodes_are_such_as_agents_run_on(found: Any, verdict: Verdict, words: str) -> None:
    said = nodes.before(found)
    assert said.verdict is verdict
    assert words in said.said


def test_a_cluster_with_an_installation_must_have_nodes() -> None:
    assert nodes.after(()).verdict is WRONG
    assert nodes.after((ONE,)).verdict is OK


@pytest.mark.parametrize(
    ("ahead", "verdict", "words"),
    [
        (0, OK, "2 nodes within"),
        (-9, OK, "2 nodes within"),
        (-29, OK, "2 nodes within"),
        (-31, WARNING, "two (21 s behind)"),
        (25, WARNING, "two (25 s ahead)"),
        (61, WRONG, "two (61 s ahead)"),
        (-300, WRONG, "two (290 s behind)"),
    ],
)
def test_a_nodes_clock_is_told_by_its_lease(ahead: float, verdict: Verdict, words: str) -> None:
    said = nodes.clocks((ONE, TWO), (lease("one", NOW - 3), lease("two", NOW + ahead)), NOW)
    assert said.verdict is verdict
    assert words in said.said


def test_of_a_node_that_is_not_ready_no_clock_is_told() -> None:
    gone = node("two", ready=False)
    assert nodes.clocks((ONE, gone), (lease("one", NOW), lease("two", NOW - 9999)), NOW).verdict is OK


def test_clocks_that_cannot_be_told_are_warned_of() -> None:
    assert nodes.clocks((ONE, TWO), (lease("one", NOW),), NOW).verdict is WARNING
    assert nodes.clocks((ONE,), FORBIDDEN, NOW).verdict is WARNING
    assert nodes.clocks(UNTOLD, (), NOW).verdict is UNKNOWN


AGENT = ("DaemonSet", "quietwire-agent")
HERE = workload("quietwire-agent", selector={"kubernetes.io/os": "linux"})


def an_agent(on: str, **more: Any) -> Any:
    return pod(f"quietwire-agent-{on}", "quietwire", owner=AGENT, node=on, **more)


@pytest.mark.parametrize(
    ("found", "pods", "meshed", "verdict", "words"),
    [
        ((ONE, TWO), [an_agent("one"), an_agent("two")], {"one": 3}, OK, "2 nodes have one that is ready"),
        ((ONE, TWO), [an_agent("one")], {}, WRONG, "two (there is none)"),
        ((ONE, TWO), [an_agent("one"), an_agent("two", ready=False)], {}, WRONG, "quietwire-agent-two is not ready"),
        ((ONE, TWO), [an_agent("one"), an_agent("two", deleted=True)], {}, WRONG, "two (there is none)"),
        ((ONE, TWO), [an_agent("one")], {"two": 2}, WRONG, "two (there is none, 2 pods to be meshed are there)"),
        ((ONE, node("two", cordoned=True)), [an_agent("one")], {}, WARNING, "two has none, cordoned"),
        ((ONE, node("two", cordoned=True)), [an_agent("one")], {"two": 1}, WRONG, "1 pod to be meshed is there"),
        ((ONE, node("two", labels={})), [an_agent("one")], {}, WARNING, "two has none"),
        ((ONE, node("two", labels={})), [an_agent("one")], {"two": 1}, WRONG, "two (there is none, 1 pod"),
        ((ONE, node("two", ready=False)), [an_agent("one")], {}, WRONG, "the node is not Ready"),
        ((ONE, node("two", system="windows")), [an_agent("one")], {}, OK, "1 node has one"),
        ((ONE,), [pod("mine", "quietwire", owner=AGENT, ready=False)], {}, WRONG, "mine is not ready"),
        ((ONE,), [pod("mine", "demo", owner=AGENT)], {}, WRONG, "one (there is none)"),
        (UNTOLD, [], {}, UNKNOWN, "10 s"),
        ((ONE,), FORBIDDEN, {}, UNKNOWN, "403"),
    ],
)
def test_each_node_has_an_agent_that_is_ready_or_is_named(
    found: Any, pods: Any, meshed: Any, verdict: Verdict, words: str
) -> None:
    said = nodes.agents(found, pods, HERE, meshed)
    assert said.verdict is verdict, said
    assert words in said.said
