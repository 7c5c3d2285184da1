"""What the installation runs: rolled out, of one version, and with somebody behind each Service."""

from typing import Any

import msgspec
import pytest

from agent.cli.work.check import workloads
from agent.cli.work.check.finding import Verdict
from agent.cli.work.check.seen import EndpointSlice, Event
from tests.cli.work.check.objects import FORBIDDEN, UNTOLD, at, pod, workload

OK, WARNING, WRONG, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.WRONG, Verdict.UNKNOWN
OF = ("ReplicaSet", "quietwire-authority-7d5c")


def ours(name: str, **more: Any) -> Any:
    return pod(name, "quietwire", owner=OF, **more)


def event(kind: str, name: str, reason: str, message: str = "it is so", when: float = 1.0) -> Event:
    about = {"kind": kind, "name": name}
    fields = {"involvedObject": about, "reason": reason, "message": message, "lastTimestamp": at(when)}
    return msgspec.convert(fields, Event)


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
@pytest.mark.parametrize(
    ("numbers", "verdict", "words"),
    [
        ({}, OK, "2 of 2 ready"),
        ({"ready": 1}, WRONG, "1 of 2 ready"),
        ({"updated": 1}, WRONG, "2 of 2 ready, 1 of the newest version"),
        ({"wanted": 0, "ready": 0}, WRONG, "wants no pod"),
        ({"observed": 1}, WRONG, "was changed just now"),
    ],
)
def test_all_pods_are_there_ready_and_of_the_newest_version(
    kind: str, numbers: dict[str, Any], verdict: Verdict, words: str
) -> None:
    said = workloads.rollout("it", kind, workload("quietwire-authority", **numbers), (), ())
    assert said.verdict is verdict
    assert words in said.said


def test_a_pod_that_is_not_ready_is_named_with_its_reason_and_its_last_event() -> None:
    crashing = {"name": "it", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    crashing |= {"lastState": {"terminated": {"exitCode": 2, "reason": "Error"}}}
    events = (
        event("Pod", "quietwire-authority-7d5c-a", "Pulled", when=1),
        event("Pod", "quietwire-authority-7d5c-a", "BackOff", "restarting\nfailed container", when=2),
        event("Pod", "another", "Unhealthy", when=3),
    )
    pods = (ours("quietwire-authority-7d5c-a", ready=False, containers=[crashing]), ours("quietwire-authority-7d5c-b"))
    said = workloads.rollout("it", "Deployment", workload("quietwire-authority", ready=1), pods, events).said
    assert said == (
        "Deployment quietwire-authority: 1 of 2 ready. quietwire-authority-7d5c-a: it: CrashLoopBackOff, ended with 2 "
        "Error, after 4 restarts (BackOff: restarting failed container)"
    )


def test_where_no_pod_was_made_the_event_of_who_should_have_is_told() -> None:
    for about in (("DaemonSet", "quietwire-authority"), ("ReplicaSet", "quietwire-authority-7d5c")):
        events = (event(*about, "FailedCreate", "violates PodSecurity"),)
        said = workloads.rollout("it", "DaemonSet", workload("quietwire-authority", ready=0), (), events).said
        assert said.endswith("0 of 2 ready. FailedCreate: violates PodSecurity")


def test_pods_that_cannot_be_listed_leave_the_numbers() -> None:
    said = workloads.rollout("it", "Deployment", workload("quietwire-authority", ready=1), FORBIDDEN, UNTOLD)
    assert said.verdict is WRONG
    assert "Which pods cannot be told" in said.said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"inits": [{"name": "i", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]},
         "i: ImagePullBackOff (no such image)"),
        ({"containers": [{"name": "it", "state": {"waiting": {"reason": "ContainerCreating"}}}], "phase": "Pending"},
         "it runs, and is not ready"),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}]},
         "is on no node: 0/2 nodes are available"),
        ({"containers": [{"name": "it", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
         "it: ended with 137 OOMKilled"),
        ({"phase": "Pending"}, "is Pending"),
        ({"deleted": True}, "is being deleted"),
    ],
)  # fmt: skip
def test_why_a_pod_is_not_ready(more: dict[str, Any], words: str) -> None:
    assert workloads.why(ours("it", ready=False, **more)) == words


def test_a_message_of_a_stranger_has_an_end() -> None:
    state = {"waiting": {"reason": "CreateContainerError", "message": "x" * 5000}}
    assert len(workloads.why(ours("it", ready=False, containers=[{"name": "it", "state": state}]))) < 300


AUTHORITY, WEBHOOK = workload("quietwire-authority"), workload("quietwire-webhook", args=["--image=it:1"])


@pytest.mark.parametrize(
    ("found", "pods", "own", "verdict", "words"),
    [
        ([AUTHORITY, WEBHOOK], (ours("a"),), "0.1.0", OK, "all of 0.1.0, it:1"),
        ([AUTHORITY, WEBHOOK], UNTOLD, "0.1.0", OK, "all of 0.1.0"),
        ([AUTHORITY, WEBHOOK], (), "0.2.0", WARNING, "installed is 0.1.0, and this command is 0.2.0"),
        ([workload("quietwire-agent", image="it:2"), AUTHORITY], (), "0.1.0", WRONG, "not of one image"),
        ([AUTHORITY, workload("quietwire-webhook", args=["--image=it:0"])], (), "0.1.0", WRONG, "injects it:0"),
        ([AUTHORITY, WEBHOOK], (ours("a", image="it:0"),), "0.1.0", WRONG, "of another image than they are to be: a"),
        ([AUTHORITY, WEBHOOK], (ours("a", image="it:0", deleted=True),), "0.1.0", OK, "all of 0.1.0"),
    ],
)
def test_all_are_of_one_image_and_of_this_commands_version(
    found: Any, pods: Any, own: str, verdict: Verdict, words: str
) -> None:
    said = workloads.versions(found, pods, own)
    assert said.verdict is verdict
    assert words in said.said


def a_slice(of: str, *ready: bool | None) -> EndpointSlice:
    endpoints = [{"conditions": {} if each is None else {"ready": each}} for each in ready]
    return msgspec.convert(
        {"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": of}}, "endpoints": endpoints or None},
        EndpointSlice,
    )


@pytest.mark.parametrize(
    ("slices", "verdict", "words"),
    [
        ((a_slice("it", True, False), a_slice("it", None), a_slice("other", True)), OK, "2 endpoints of Service it"),
        ((a_slice("it", False), a_slice("other", True)), WRONG, "nobody is ready behind Service it: all is lost"),
        ((a_slice("it"),), WRONG, "nobody is ready"),
        ((), WRONG, "nobody is ready"),
        (FORBIDDEN, UNKNOWN, "403"),
    ],
)
def test_a_service_has_somebody_behind_it(slices: Any, verdict: Verdict, words: str) -> None:
    said = workloads.service("authority", "it", slices, "all is lost")
    assert said.verdict is verdict
    assert words in said.said
