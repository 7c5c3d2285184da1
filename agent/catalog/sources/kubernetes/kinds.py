"""Which kinds an agent follows, and in which form it asks for them."""

from msgspec import Struct

from agent.kubernetes.client import JSON
from agent.kubernetes.kind import Kind
from agent.objects.policy import GATEWAY_GROUP, POLICY_GROUP

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Of a namespace only labels and annotations are used (API Concepts, "Metadata-only fetches")."""


class Followed(Struct, frozen=True):
    """One kind; of an `optional` one there may be no definition in the cluster. The newest version comes first."""

    versions: tuple[Kind, ...]
    optional: bool = False
    accept: str = JSON
    accept_list: str = JSON

    @property
    def kind(self) -> Kind:
        """In its newest version."""
        return self.versions[0]

    @property
    def object_kind(self) -> str:
        """As its objects' keys have it."""
        kind = self.kind
        return f"{kind.kind}.{GATEWAY_GROUP}" if (kind.kind, kind.group) == ("HTTPRoute", GATEWAY_GROUP) else kind.kind


def _policy(plural: str, kind: str, *versions: str, group: str = POLICY_GROUP) -> Followed:
    return Followed(tuple(Kind(group, version, plural, kind) for version in versions), optional=True)


NAMESPACES = Followed((Kind("", "v1", "namespaces", "Namespace"),), accept=METADATA, accept_list=METADATA_LIST)
NODES = Followed((Kind("", "v1", "nodes", "Node"),))
PODS = Followed((Kind("", "v1", "pods", "Pod"),))
SERVICES = Followed((Kind("", "v1", "services", "Service"),))
ENDPOINT_SLICES = Followed((Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),))

POLICIES = (
    _policy("servers", "Server", "v1beta3", "v1beta2", "v1beta1"),
    _policy("serverauthorizations", "ServerAuthorization", "v1beta1"),
    _policy("authorizationpolicies", "AuthorizationPolicy", "v1alpha1"),
    _policy("meshtlsauthentications", "MeshTLSAuthentication", "v1alpha1"),
    _policy("networkauthentications", "NetworkAuthentication", "v1alpha1"),
    _policy("httproutes", "HTTPRoute", "v1beta3", "v1beta2", "v1beta1", "v1alpha1"),
    _policy("httproutes", "HTTPRoute", "v1", "v1beta1", group=GATEWAY_GROUP),
    _policy("grpcroutes", "GRPCRoute", "v1", group=GATEWAY_GROUP),
)
"""What decides who may call whom; Servers' fields are the same in all of their versions."""

FOLLOWED = (NAMESPACES, NODES, PODS, SERVICES, ENDPOINT_SLICES, *POLICIES)
