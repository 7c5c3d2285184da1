"""What enrolment never does, whatever it is told. No rule is written here: what would be is noted."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.capture import netns
from agent.capture.netns import NetnsId
from agent.capture.rule_watch import DUE_AT_ONCE, Ears
from agent.node import enrolment as module
from agent.node import rules
from agent.node.enrolled import AgentPorts, Enrolled
from agent.node.enrolment import Desired, Enrolment
from agent.objects.model import Pod
from agent.tasks import spawn
from init import netns as init_netns
from init.client import BatchRequest, BatchResult
from init.model import Options
from tests.node.workers import quiet_workers


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been done to whose rules."""
    done: list[str] = []

    def run_batch(requests: Sequence[BatchRequest], _: float) -> list[BatchResult]:
        done.extend(request.op for request in requests)
        return [BatchResult(request.id, ok=True) for request in requests]

    monkeypatch.setattr(rules, "run_batch", run_batch)
    return done


@pytest.fixture
def enrolment(tmp_path: Path) -> Iterator[Enrolment]:
    made = Enrolment(quiet_workers(1), backend="auto", verify_seconds=30, memory=tmp_path / "namespaces")
    yield made
    made.close()


OPTIONS = Options()
HOST = Pod("demo", "evil", "evil", "node-a", ("127.0.0.1",), netns="/proc/self/ns/net")


@pytest.mark.parametrize("told_by", ["it is the agent's own", "it is the kernel's first"])
async def test_the_nodes_own_namespace_is_never_captured_whatever_a_manifest_says(
    enrolment: Enrolment, written: list[str], told_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way of telling it is enough by itself: an agent may have a namespace of its own."""
    if told_by == "it is the agent's own":
        monkeypatch.setattr(module, "whose", lambda *_: init_netns.Whose.POD)
    else:
        monkeypatch.setattr(netns, "host_netns", lambda: NetnsId(0, 0))
        monkeypatch.setattr(init_netns, "FIRST_INODE", os.stat("/proc/self/ns/net").st_ino)
    await enrolment.reconcile({HOST.key: Desired(HOST, OPTIONS)}, {HOST.key: None})
    assert written == []
    assert enrolment.captured == []
    assert "own network namespace: the agent never captures that" in str(enrolment.missing(HOST.key))


async def test_a_namespace_that_may_be_the_machines_is_not_captured_either(
    enrolment: Enrolment, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns, "host_netns", lambda: NetnsId(0, 0))
    monkeypatch.setattr(module, "whose", lambda *_: init_netns.Whose.UNKNOWN)
    await enrolment.reconcile({HOST.key: Desired(HOST, OPTIONS)}, {HOST.key: None})
    assert written == []
    assert "perhaps the machine's own network namespace" in str(enrolment.missing(HOST.key))


def served(enrolment: Enrolment, pod: Pod) -> Enrolled:
    """One that is enrolled, with nothing left to do, in a namespace that nobody enters."""
    made = Enrolled(pod, os.open("/proc/self/ns/net", os.O_RDONLY), 0, OPTIONS)
    made.ports, made.ruled, made.listeners = AgentPorts(1, 2), True, [{}]
    enrolment.roster.pods[pod.key] = made
    return made


async def test_a_namespace_that_is_deleted_is_let_go_of_and_its_number_means_nothing_from_then_on(
    enrolment: Enrolment, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(_: object) -> dict[int, str]:
        return {}

    monkeypatch.setattr(enrolment._left, "inhabitants", nobody)
    pod = Pod("demo", "api", "api", "node-a", ("192.0.2.1",), uid="u-1")
    wanted = {pod.key: Desired(pod, OPTIONS)}
    first = served(enrolment, pod)
    assert not enrolment.delete(NetnsId(0, 1))
    assert enrolment.delete(first.identity)
    await enrolment.reconcile(wanted, {pod.key: None})
    assert written == ["remove"]
    assert pod.key not in enrolment.roster.pods
    again = served(enrolment, pod)
    await enrolment.reconcile(wanted, {pod.key: None})
    assert enrolment.roster.pods[pod.key] is again
    assert enrolment.delete(again.identity)
    again.close()
    enrolment.roster.pods[pod.key] = later = served(enrolment, pod)
    later.identity = NetnsId(0, 2)  # the deleted one went some other way, and its number is free
    await enrolment.reconcile(wanted, {pod.key: None})
    later.identity = again.identity
    await enrolment.reconcile(wanted, {pod.key: None})
    assert enrolment.roster.pods[pod.key] is later


async def test_pods_that_have_no_rules_yet_are_not_looked_at_again_and_again(
    enrolment: Enrolment, written: list[str]
) -> None:
    """Three hundred of them are heard of while the first rules of all are being written."""
    pods = [Pod("demo", f"pod-{number}", "web", "node-a", ("192.0.2.1",)) for number in range(3 * DUE_AT_ONCE)]
    for pod in pods:
        fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        enrolment.roster.pods[pod.key] = Enrolled(pod, fd, 0, OPTIONS)
        enrolment.watch.add(pod.key, Ears())
        enrolment.watch.ring(pod.key)
    enrolment._rules._rung.set()
    keeping = spawn(enrolment.keep_rules(), name="rules")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not enrolment._rules._rung.is_set()
    assert enrolment.watch.due(float("inf")) == []
    assert written == []
    keeping.cancel()
    await asyncio.wait([keeping])
    for pod in pods:
        enrolment.watch.remove(pod.key)
