"""What a review of a token makes of who shows it, and whether its pod still vouches for him: tables."""

import json
from typing import Any

import msgspec
import pytest

from agent.authority.attestation import (
    AgentPod,
    Attested,
    Expected,
    PodMeta,
    PodSpec,
    PodStatus,
    ServiceAccount,
    Unattested,
    judge,
    read_review,
    still_there,
)
from agent.authority.refusal import Code, Refusal

ACCOUNT = ServiceAccount("quietwire", "quietwire-agent")
EXPECTED = Expected("quietwire-authority", ACCOUNT, "node-a")
ATTESTED = Attested("node-a", ACCOUNT, "agent-x7k2p", "6a1c")
NODE, POD, UID = (f"authentication.kubernetes.io/{name}" for name in ("node-name", "pod-name", "pod-uid"))
GOOD: dict[str, Any] = {
    "authenticated": True,
    "audiences": ["quietwire-authority"],
    "user": {
        "username": "system:serviceaccount:quietwire:quietwire-agent",
        "uid": "0b9e",
        "groups": ["system:serviceaccounts", "system:authenticated"],
        "extra": {
            "authentication.kubernetes.io/credential-id": ["JTI=1f"],
            NODE: ["node-a"],
            "authentication.kubernetes.io/node-uid": ["77"],
            POD: ["agent-x7k2p"],
            UID: ["6a1c"],
        },
    },
}
"""As a server of 1.36 answers."""


def review(**status: Any) -> Attested | Unattested:
    """What is judged of an answer like GOOD, but for these fields."""
    answer = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {}, "status": {**GOOD, **status}}
    return judge(read_review(json.dumps(answer).encode()), EXPECTED)


def user(**fields: Any) -> dict[str, Any]:
    return {**GOOD["user"], **fields}


def extra(**extras: list[str] | None) -> dict[str, Any]:
    """A user with other extras, by the end of their names; None takes one away."""
    given = {f"authentication.kubernetes.io/{name.replace('_', '-')}": each for name, each in extras.items()}
    whole = {**GOOD["user"]["extra"], **given}
    return user(extra={name: each for name, each in whole.items() if each is not None})


def test_a_token_of_the_agents_pod_for_us_is_its_nodes_agent() -> None:
    assert review() == ATTESTED


def test_it_may_be_for_others_too() -> None:
    assert review(audiences=["vault", "quietwire-authority"]) == ATTESTED


BAD: list[tuple[str, dict[str, Any], Code, str]] = [
    ("nothing is said at all", {"authenticated": False, "user": {}}, Code.NOT_AUTHENTICATED, "it says no more"),
    ("it has expired", {"authenticated": False, "error": "token has expired"}, Code.NOT_AUTHENTICATED, "has expired"),
    (
        "the server names the audience",
        {"authenticated": False, "error": 'token audiences ["vault"] is invalid for the target audiences ["q"]'},
        Code.WRONG_AUDIENCE,
        "vault",
    ),
    (
        "the server says that the pod is gone",
        {"authenticated": False, "error": "service account token has been invalidated"},
        Code.POD_GONE,
        "has been invalidated",
    ),
    ("a server that knows no audiences", {"audiences": []}, Code.WRONG_AUDIENCE, "vouches for none"),
    ("the API server's own audience", {"audiences": ["https://kubernetes.default.svc"]}, Code.WRONG_AUDIENCE, "https:"),
    ("an audience that begins alike", {"audiences": ["quietwire-authority-2"]}, Code.WRONG_AUDIENCE, "authority-2"),
    (
        "another account of the namespace",
        {"user": user(username="system:serviceaccount:quietwire:default")},
        Code.WRONG_SERVICE_ACCOUNT,
        "quietwire:default",
    ),
    (
        "an account of this name elsewhere",
        {"user": user(username="system:serviceaccount:demo:quietwire-agent")},
        Code.WRONG_SERVICE_ACCOUNT,
        "demo:quietwire-agent",
    ),
    ("an administrator", {"user": user(username="admin")}, Code.WRONG_SERVICE_ACCOUNT, "of admin,"),
    ("nobody", {"user": {}}, Code.WRONG_SERVICE_ACCOUNT, "of nobody"),
    ("no extras", {"user": user(extra=None)}, Code.NO_NODE, "bound to no pod on a node"),
    ("no node", {"user": extra(node_name=None)}, Code.NO_NODE, "1.32"),
    ("an empty node", {"user": extra(node_name=[""])}, Code.NO_NODE, "bound to no pod"),
    ("two nodes", {"user": extra(node_name=["node-a", "node-b"])}, Code.NO_NODE, "bound to no pod"),
    ("no pod", {"user": extra(pod_name=None)}, Code.NO_NODE, "bound to no pod"),
    ("no pod's uid", {"user": extra(pod_uid=[])}, Code.NO_NODE, "bound to no pod"),
    ("another node", {"user": extra(node_name=["node-b"])}, Code.WRONG_NODE, "on node node-b, and no agent of node no"),
    ("a node in other letters", {"user": extra(node_name=["Node-A"])}, Code.WRONG_NODE, "on node Node-A"),
]


@pytest.mark.parametrize(("status", "code", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_every_other_review_is_refused_with_its_reason(status: dict[str, Any], code: Code, words: str) -> None:
    found = review(**status)
    assert isinstance(found, Unattested)
    assert found.code is code
    assert words in found.message


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b'{"status": {"authenticated": "yes"}}'])
def test_what_is_no_review_vouches_for_nobody(answer: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        read_review(answer)


def test_an_answer_without_a_verdict_vouches_for_nobody() -> None:
    found = judge(read_review(b'{"status": {}}'), EXPECTED)
    assert isinstance(found, Unattested)


def pod(uid: str = "6a1c", node: str = "node-a", account: str = "quietwire-agent", phase: str = "Running") -> AgentPod:
    return AgentPod(PodMeta(uid), PodSpec(node, account), PodStatus(phase))


@pytest.mark.parametrize("phase", ["Running", "Pending"])
def test_a_pod_that_is_there_vouches(phase: str) -> None:
    assert still_there(ATTESTED, pod(phase=phase)) is None


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (None, Code.POD_GONE, "pod quietwire/agent-x7k2p, which the token is bound to, is gone"),
        (pod(uid="6a1d"), Code.POD_GONE, "another has its name now"),
        (pod(phase="Succeeded"), Code.POD_GONE, "has ended (Succeeded)"),
        (pod(phase="Failed"), Code.POD_GONE, "has ended (Failed)"),
        (pod(node="node-b"), Code.WRONG_NODE, "is on node node-b"),
        (pod(node=""), Code.WRONG_NODE, "is on node (none)"),
        (pod(account="default"), Code.WRONG_NODE, "as service account default"),
        (AgentPod(), Code.POD_GONE, "another has its name now"),
    ],
)
def test_a_pod_that_is_another_by_now_does_not(found: AgentPod | None, code: Code, words: str) -> None:
    problem = still_there(ATTESTED, found)
    assert problem is not None
    assert problem.code is code
    assert words in problem.message


CODES = {
    Code.NOT_AUTHENTICATED: 401,
    Code.WRONG_AUDIENCE: 401,
    Code.WRONG_SERVICE_ACCOUNT: 403,
    Code.WRONG_NODE: 403,
    Code.NO_NODE: 403,
    Code.POD_GONE: 403,
    Code.REVIEW_UNAVAILABLE: 503,
}


def test_each_reason_has_its_status_and_only_what_may_be_tried_again_is_503() -> None:
    assert {code: Refusal(code, "").status for code in CODES} == CODES
