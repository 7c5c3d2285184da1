"""What enrolment never does, whatever it is told. No rule is written here: what would be is noted."""

import os
from collections.abc import Iterator, Sequence

import pytest

from agent.capture import netns
from agent.capture.netns import NetnsId
from agent.catalog.model import Pod
from agent.supervisor import enrolment as module
from agent.supervisor.enrolment import Desired, Enrolment
from agent.supervisor.supervisor import options_for
from agent.supervisor.workers import Workers
from init import netns as init_netns
from init.client import BatchRequest, BatchResult


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been done to whose rules."""
    done: list[str] = []

    def run_batch(requests: Sequence[BatchRequest], _: float) -> list[BatchResult]:
        done.extend(request.op for request in requests)
        return [BatchResult(request.id, ok=True) for request in requests]

    monkeypatch.setattr(module, "run_batch", run_batch)
    return done


@pytest.fixture
def enrolment() -> Iterator[Enrolment]:
    workers = Workers(
        1,
        node="node-a",
        log_format="text",
        log_level="error",
        greet=lambda _: (),
        changed=lambda: None,
        counted=lambda *_: None,
    )
    made = Enrolment(workers, backend="auto", verify_seconds=30)
    yield made
    made.close()


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
    await enrolment.reconcile({HOST.key: Desired(HOST, options_for(HOST))}, {HOST.key: None})
    assert written == []
    assert enrolment.captured == []
    assert "own network namespace: the agent never captures that" in str(enrolment.missing(HOST.key))


async def test_a_namespace_that_may_be_the_machines_is_not_captured_either(
    enrolment: Enrolment, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns, "host_netns", lambda: NetnsId(0, 0))
    monkeypatch.setattr(module, "whose", lambda *_: init_netns.Whose.UNKNOWN)
    await enrolment.reconcile({HOST.key: Desired(HOST, options_for(HOST))}, {HOST.key: None})
    assert written == []
    assert "perhaps the machine's own network namespace" in str(enrolment.missing(HOST.key))
