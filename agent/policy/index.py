"""From a pod and port to its permits, over one catalog snapshot."""

import ipaddress
from functools import lru_cache

from msgspec import Struct

from agent.catalog.model import Catalog, Pod
from agent.policy.model import Authorization, DefaultPolicy, Network, Permits, Requirement

DEFAULT_CLUSTER_NETWORKS = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")
"""Linkerd's own default for the cluster's networks."""


class PolicySettings(Struct, frozen=True):
    """What the agent's flags say about policy; networks in CIDR form."""

    trust_domain: str
    default_inbound_policy: DefaultPolicy = DefaultPolicy.ALL_AUTHENTICATED
    cluster_networks: tuple[str, ...] = DEFAULT_CLUSTER_NETWORKS


class PolicyIndex:
    """The policy of one catalog snapshot."""

    def __init__(self, catalog: Catalog, settings: PolicySettings) -> None:
        self.version = catalog.version
        self._settings = settings

    def permits(self, pod: Pod, port: int) -> Permits:  # noqa: ARG002 - Servers will select by port
        """What could let a client into this port: the pod's default, since no policy object selects it."""
        annotated = pod.settings.default_policy
        default = self._settings.default_inbound_policy if annotated is None else DefaultPolicy(annotated)
        return default_permits(default, self._settings.cluster_networks)


@lru_cache(maxsize=256)
def default_permits(default: DefaultPolicy, cluster_networks: tuple[str, ...]) -> Permits:
    """A default policy, written as the authorizations that it stands for."""
    cluster: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in cluster_networks)
    name = f"default:{default}"
    found: tuple[Authorization, ...]
    match default:
        case DefaultPolicy.ALL_UNAUTHENTICATED:
            found = (Authorization(name, Requirement.NOTHING),)
        case DefaultPolicy.ALL_AUTHENTICATED:
            found = (Authorization(name, Requirement.MESH_IDENTITY),)
        case DefaultPolicy.CLUSTER_UNAUTHENTICATED:
            found = (Authorization(name, Requirement.NOTHING, cluster),)
        case DefaultPolicy.CLUSTER_AUTHENTICATED:
            found = (Authorization(name, Requirement.MESH_IDENTITY, cluster),)
        case DefaultPolicy.DENY | DefaultPolicy.AUDIT:
            found = ()
    return Permits(name, found, audit=default is DefaultPolicy.AUDIT)
