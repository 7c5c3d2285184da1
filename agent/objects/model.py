"""Pods, services and nodes: what exists, as frozen values in Kubernetes' own shapes.

These values travel from the supervisor to its workers as they are, so each is a msgspec Struct. Addresses
are texts in canonical form (as inet_ntop prints them): they are compared and looked up, never computed with,
on the data path.
"""

from msgspec import Struct

from agent.objects.key import ObjectKey, PodKey, pod_key

LINKERDS_PROXY = "linkerd-proxy"
"""What Linkerd calls the container of its proxy: one of the pod's, or an init container that stays."""
MESHED_CONDITION = "quietwire.io/meshed"
"""The condition of a pod in which its node's agent says that it is captured (PodCondition of core/v1)."""


class PortRange(Struct, frozen=True, order=True):
    """TCP ports `first` to `last`, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class MeshSettings(Struct, frozen=True):
    """What the pod's annotations say, after its namespace's have been inherited.

    `injected` says whether the pod is to be meshed: on a host unless `linkerd.io/inject: disabled`, in a cluster where
    it is `enabled`, and never on the host's network or with Linkerd's proxy in it; `left_to_linkerd`, that it would be,
    but for that proxy. `default_policy` and `egress_mode` are None where no annotation says anything: then the agent's
    flags hold. On `identity_ports` the default policy demands an identity. `opaque_ports` are kept for the HTTP layer,
    and nothing reads them yet: every connection is relayed as the bytes that it has.
    """

    injected: bool = True
    left_to_linkerd: bool = False
    skip_inbound_ports: tuple[PortRange, ...] = ()
    skip_outbound_ports: tuple[PortRange, ...] = ()
    skip_subnets: tuple[str, ...] = ()
    opaque_ports: tuple[PortRange, ...] = ()
    identity_ports: tuple[PortRange, ...] = ()
    default_policy: str | None = None
    egress_mode: str | None = None


class ContainerPort(Struct, frozen=True):
    """One declared TCP port of a container; `host_port` on the node leads to it, 0 where none does.

    `host_ip` is the node's address on which it does: empty for every one.
    """

    name: str
    port: int
    host_port: int = 0
    host_ip: str = ""


class Pod(Struct, frozen=True):
    """One pod. `netns` is the annotation `quietwire.io/netns`: a name below /run/netns, or a path.

    `probe_ports` are those that the kubelet's probes go to, `host_ips` the node's addresses. A pod on the host's
    network has no address of its own: `ips` are the node's, and nothing is looked up by them.

    `is_linkerds`: Linkerd's proxy is in it.

    `published` is whether its node's agent has said in the object that it captured the pod; None where nobody can say
    so, as in a directory of manifests: there a pod that is to be meshed counts as meshed.
    """

    namespace: str
    name: str
    service_account: str
    node: str
    ips: tuple[str, ...]
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    container_ports: tuple[ContainerPort, ...] = ()
    netns: str | None = None
    probe_ports: tuple[int, ...] = ()
    host_ips: tuple[str, ...] = ()
    host_network: bool = False
    is_linkerds: bool = False
    settings: MeshSettings = MeshSettings()
    published: bool | None = None

    @property
    def meshed(self) -> bool:
        """Whether others reach it by mTLS alone: nobody dials it in plaintext."""
        return self.settings.injected and self.published is not False

    @property
    def key(self) -> PodKey:
        """How everything calls the pod."""
        return pod_key(self.namespace, self.name)

    @property
    def object_key(self) -> ObjectKey:
        """What the object is called."""
        return ObjectKey("Pod", self.namespace, self.name)


class Endpoint(Struct, frozen=True):
    """One address that serves a service port, the node that it is on, and hints: from where it is to be preferred."""

    address: str
    port: int
    node: str = ""
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class ServicePort(Struct, frozen=True):
    """One TCP port of a service, with the endpoints that are ready.

    `draining` are those that are on their way out and still serve: the last resort (KEP-1669). `external_ips` are
    addresses outside the cluster's network at which this port is the service's, `balancer_ips` the same of its load
    balancers, `node_port` is its port on each node, 0 for none.
    """

    name: str
    port: int
    ready: tuple[Endpoint, ...] = ()
    draining: tuple[Endpoint, ...] = ()
    external_ips: tuple[str, ...] = ()
    balancer_ips: tuple[str, ...] = ()
    node_port: int = 0


class Service(Struct, frozen=True):
    """One service with its endpoint slices (or the pods that its selector finds) joined to it.

    `local`: by its cluster addresses only endpoints of the client's node are reached. `affinity_seconds`: for so long
    after its last connection a client goes to the same endpoint; 0 for no matter where. `source_ranges`: who reaches it
    by `balancer_ips`; everyone where there are none.
    """

    namespace: str
    name: str
    cluster_ips: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    local: bool = False
    affinity_seconds: int = 0
    source_ranges: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`namespace/name`: how messages call the service."""
        return f"{self.namespace}/{self.name}"

    @property
    def object_key(self) -> ObjectKey:
        """What the object is called."""
        return ObjectKey("Service", self.namespace, self.name)


class Node(Struct, frozen=True, tag=True):
    """One node of the cluster: its zone, empty where that is not known, and its addresses."""

    name: str
    zone: str = ""
    addresses: tuple[str, ...] = ()

    @property
    def object_key(self) -> ObjectKey:
        """What the object is called."""
        return ObjectKey("Node", "", self.name)
