"""Linkerd's policy objects as frozen values: what a manifest says, nothing looked up yet."""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from agent.objects.key import ObjectKey

GATEWAY_GROUP = "gateway.networking.k8s.io"
POLICY_GROUP = "policy.linkerd.io"


class DefaultPolicy(StrEnum):
    """What holds where no policy object selects a port: Linkerd's six names."""

    ALL_UNAUTHENTICATED = "all-unauthenticated"
    ALL_AUTHENTICATED = "all-authenticated"
    CLUSTER_AUTHENTICATED = "cluster-authenticated"
    CLUSTER_UNAUTHENTICATED = "cluster-unauthenticated"
    DENY = "deny"
    AUDIT = "audit"


DEFAULT_CLUSTER_NETWORKS = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")
"""Linkerd's own default for the cluster's networks."""


class Operator(StrEnum):
    """How a label expression compares: Kubernetes' four."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelExpression(Struct, frozen=True):
    """One expression of a label selector. NotIn holds for an object without the label, as in Kubernetes."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


class LabelSelector(Struct, frozen=True):
    """matchLabels AND matchExpressions; empty selects all."""

    labels: tuple[tuple[str, str], ...] = ()
    expressions: tuple[LabelExpression, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        for key, value in self.labels:
            if labels.get(key) != value:
                return False
        return all(expression.matches(labels) for expression in self.expressions)


class NetworkRange(Struct, frozen=True):
    """Networks in CIDR form: `cidr` without what lies in one of `excepts`."""

    cidr: str
    excepts: tuple[str, ...] = ()


class AccountRef(Struct, frozen=True, order=True):
    """A service account; the namespace was filled in where the manifest left it out."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class _Object(Struct, frozen=True):
    """What every policy object has."""

    namespace: str
    name: str

    @property
    def kind(self) -> str:
        """The object's kind."""
        return type(self).__name__

    @property
    def key(self) -> ObjectKey:
        """What the object is called."""
        return ObjectKey(self.kind, self.namespace, self.name)


class Server(_Object, frozen=True, tag=True):
    """A port of the pods that it selects. `selector` is None for one that selects external workloads.

    `created` is POSIX seconds; None where the manifest does not say, which counts as younger than any. `protocol` is
    kept for the HTTP layer, and nothing reads it yet: every connection is relayed as the bytes that it has.
    """

    port: int | str
    selector: LabelSelector | None
    access_policy: DefaultPolicy = DefaultPolicy.DENY
    labels: dict[str, str] = {}
    created: float | None = None
    protocol: str = "unknown"

    @property
    def seniority(self) -> tuple[float, str]:
        """Of several on one port the least decides: the oldest, then the first by name."""
        return (float("inf") if self.created is None else self.created, self.name)


class BrokenServer(_Object, frozen=True, tag=True):
    """Stands in for a Server of which not even the pods and the port can be read, and no good version is known.

    What it could be about falls to nobody instead of to a default: every port of its namespace (of every namespace,
    where that is empty) that no other Server selects.
    """

    @property
    def kind(self) -> str:
        """It takes the place of a Server."""
        return "Server"


class ServerAuthorization(_Object, frozen=True, tag=True):
    """Lets clients into the Servers that it names or selects.

    `networks` None means the cluster's networks. Without `unauthenticated` a client needs mTLS under one of
    `identities` or `accounts`; `unauthenticated_tls` is content with TLS.
    """

    server: str | None
    selector: LabelSelector | None
    networks: tuple[NetworkRange, ...] | None = None
    unauthenticated: bool = False
    unauthenticated_tls: bool = False
    identities: tuple[str, ...] = ()
    accounts: tuple[AccountRef, ...] = ()

    def selects(self, server: Server) -> bool:
        """Whether it authorizes for this Server of its namespace."""
        if self.server is not None:
            return self.server == server.name
        return self.selector is not None and self.selector.matches(server.labels)


class TargetKind(StrEnum):
    """What an AuthorizationPolicy may be attached to."""

    SERVER = "Server"
    NAMESPACE = "Namespace"
    HTTP_ROUTE = "HTTPRoute"
    GRPC_ROUTE = "GRPCRoute"


class Target(Struct, frozen=True):
    """An object of the policy's own namespace, or that namespace. `group` tells the two kinds of HTTPRoute apart."""

    kind: TargetKind
    group: str
    name: str


class Ref(Struct, frozen=True):
    """An authentication that a policy refers to, by its whole name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class AuthorizationPolicy(_Object, frozen=True, tag=True):
    """Lets clients that meet every reference into its target. At most one reference of each sort: both are ANDed.

    `mesh` is a MeshTLSAuthentication or a ServiceAccount. No reference lets everyone in.
    """

    target: Target
    mesh: Ref | None = None
    network: Ref | None = None


class MeshTLSAuthentication(_Object, frozen=True, tag=True):
    """Mesh identities: names (`*`, `*.suffix`, exact, or a SPIFFE ID), service accounts, whole namespaces."""

    identities: tuple[str, ...] = ()
    accounts: tuple[AccountRef, ...] = ()
    namespaces: tuple[str, ...] = ()


class NetworkAuthentication(_Object, frozen=True, tag=True):
    """Networks that clients come from."""

    networks: tuple[NetworkRange, ...]


class Route(_Object, frozen=True, tag=True, rename={"route_kind": "route"}):
    """An HTTPRoute or GRPCRoute, as far as it bears on connections: the Servers of its namespace that it hangs on.

    On disk (`agent/catalog/memory.py`) its `route_kind` is called `route`.
    """

    route_kind: TargetKind
    group: str
    servers: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """HTTPRoutes of Linkerd's own group and of the gateway API are different objects."""
        kind = self.route_kind
        own = self.group == POLICY_GROUP
        return kind.value if own or kind is TargetKind.GRPC_ROUTE else f"{kind.value}.{self.group}"


class HttpLayer(_Object, frozen=True, tag=True):
    """An object that is validated and kept, and bears on requests only: EgressNetwork, HTTPLocalRateLimitPolicy.

    `server` is the Server of its namespace that it hangs on, if it hangs on one.
    """

    what: str
    server: str | None = None

    @property
    def kind(self) -> str:
        """The object's kind."""
        return self.what


PolicyObject = (
    Server
    | BrokenServer
    | ServerAuthorization
    | AuthorizationPolicy
    | MeshTLSAuthentication
    | NetworkAuthentication
    | Route
    | HttpLayer
)
