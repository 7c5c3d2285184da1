"""Which node's agent shows a service account token: what the API server's review of it says. Pure.

A token is an agent's where the API server vouches for it (TokenReview, authentication.k8s.io/v1), for the audience
that is ours alone, for the agents' own service account, and bound to a pod that is on the node that the agent claims.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from agent.authority.refusal import Code

NODE_NAME = "authentication.kubernetes.io/node-name"
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
"""Extras of a token that is bound to a pod; the node's is there from Kubernetes 1.32 on (KEP-4193)."""


class ServiceAccount(Struct, frozen=True):
    """A service account's namespace and name."""

    namespace: str
    name: str

    @property
    def user(self) -> str:
        """As the API server names it."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Expected(Struct, frozen=True):
    """What a token has to be."""

    audience: str
    account: ServiceAccount
    node: str
    """That the agent claims."""


class User(Struct, frozen=True):
    """UserInfo of a review, what is used of it."""

    username: str = ""
    extra: Mapping[str, Sequence[str]] | None = None

    def one(self, name: str) -> str | None:
        """An extra that has exactly one value, and that not empty."""
        values = (self.extra or {}).get(name, ())
        return values[0] if len(values) == 1 and values[0] else None


class ReviewStatus(Struct, frozen=True):
    """TokenReviewStatus."""

    authenticated: bool = False
    audiences: Sequence[str] = ()
    user: User = User()
    error: str = ""


class Review(Struct, frozen=True):
    """A TokenReview, as the API server answers it."""

    status: ReviewStatus


class Attested(Struct, frozen=True):
    """The agent of a node, by the pod that it runs in. Whether that pod is still there is not asked here."""

    node: str
    account: ServiceAccount
    pod: str
    pod_uid: str


class Unattested(Struct, frozen=True):
    """Why a token makes nobody an agent."""

    code: Code
    message: str


class PodMeta(Struct, frozen=True):
    """A pod's metadata, what is used of it."""

    uid: str = ""


class PodSpec(Struct, frozen=True, rename={"node": "nodeName", "account": "serviceAccountName"}):
    """A pod's spec, what is used of it."""

    node: str = ""
    account: str = ""


class PodStatus(Struct, frozen=True):
    """A pod's status, what is used of it."""

    phase: str = ""


class AgentPod(Struct, frozen=True):
    """A pod, as the API server has it now."""

    metadata: PodMeta = PodMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


def judge(status: ReviewStatus, expected: Expected) -> Attested | Unattested:
    """Whose agent shows a token. Everything that a review does not say closes."""
    if not status.authenticated:
        return _not_authenticated(status.error, expected)
    if expected.audience not in status.audiences:
        return _another_audience(f"the API server vouches for {_listed(status.audiences)}", expected)
    user = status.user
    if user.username != expected.account.user:
        return Unattested(
            Code.WRONG_SERVICE_ACCOUNT,
            f"the token is of {user.username[:300] or 'nobody'}, and agents run as service account {expected.account}: "
            f"name that of your agents by --agent-service-account",
        )
    node, pod, uid = user.one(NODE_NAME), user.one(POD_NAME), user.one(POD_UID)
    if node is None or pod is None or uid is None:
        return Unattested(
            Code.NO_NODE,
            f"the token of service account {expected.account} is bound to no pod on a node: it has to be projected "
            f"into the agent's pod (serviceAccountToken), by Kubernetes 1.32 or later",
        )
    if node != expected.node:
        return Unattested(
            Code.WRONG_NODE, f"the token is of pod {pod} on node {node}, and no agent of node {expected.node[:253]}"
        )
    return Attested(node, expected.account, pod, uid)


def still_there(attested: Attested, pod: AgentPod | None) -> Unattested | None:
    """Why the pod that a token is bound to vouches for nobody any more; None where it does. `pod`: as it is now.

    The API server takes a token for some seconds after its pod is gone, and until the pod's end where it is ending.
    """
    name = f"{attested.account.namespace}/{attested.pod}"
    if pod is None:
        return Unattested(Code.POD_GONE, f"pod {name}, which the token is bound to, is gone")
    if pod.metadata.uid != attested.pod_uid:
        return Unattested(Code.POD_GONE, f"pod {name}, which the token is bound to, is gone: another has its name now")
    if pod.status.phase in {"Succeeded", "Failed"}:
        return Unattested(Code.POD_GONE, f"pod {name}, which the token is bound to, has ended ({pod.status.phase})")
    if pod.spec.node != attested.node or pod.spec.account != attested.account.name:
        return Unattested(
            Code.WRONG_NODE,
            f"pod {name} is on node {pod.spec.node or '(none)'} as service account {pod.spec.account or '(none)'}, and "
            f"the token says node {attested.node} and {attested.account.name}",
        )
    return None


def read_review(answer: bytes) -> ReviewStatus:
    """The status of a TokenReview. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(answer, type=Review).status


def _not_authenticated(said: str, expected: Expected) -> Unattested:
    """Refused in any case; which reason is told goes by the API server's words (pkg/serviceaccount, claims.go)."""
    if "audience" in said:
        return _another_audience(f"the API server says: {said[:500]}", expected)
    if "has been invalidated" in said:
        return Unattested(Code.POD_GONE, f"the pod, or the service account, of the token is gone ({said[:500]})")
    return Unattested(
        Code.NOT_AUTHENTICATED,
        f"the API server does not vouch for the token: {said[:500] or 'it says no more'}. It is none of this cluster, "
        f"or has expired: the agent has to read its file anew",
    )


def _another_audience(words: str, expected: Expected) -> Unattested:
    return Unattested(
        Code.WRONG_AUDIENCE,
        f"the token is not for audience {expected.audience}: {words}. Set the audience of the agent's projected token",
    )


def _listed(audiences: Sequence[str]) -> str:
    return ", ".join(audiences)[:300] or "none"
