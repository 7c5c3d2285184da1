"""A world of manifests, loaded as the agent loads them, and the questions that tests ask of it."""

import ipaddress
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from agent.catalog.index import CatalogIndex
from agent.catalog.join import Assembly
from agent.catalog.snapshot import Catalog
from agent.catalog.sources.files.directory import Loaded, load
from agent.identity.spiffe import SpiffeId
from agent.manifests.fault import Fault
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.objects.policy import DEFAULT_CLUSTER_NETWORKS, DefaultPolicy
from agent.policy.authorize import authorize, could_permit_unauthenticated
from agent.policy.index import PolicyIndex, PolicySettings
from agent.policy.model import Client, Denial, Permit, Permits, PodPort

TRUST_DOMAIN = "cluster.local"
IN_CLUSTER = "10.1.0.9"
"""Where a client comes from that is not said to come from elsewhere."""

API_VERSIONS = {
    "Pod": "v1",
    "Namespace": "v1",
    "Server": "policy.linkerd.io/v1beta3",
    "ServerAuthorization": "policy.linkerd.io/v1beta1",
    "AuthorizationPolicy": "policy.linkerd.io/v1alpha1",
    "MeshTLSAuthentication": "policy.linkerd.io/v1alpha1",
    "NetworkAuthentication": "policy.linkerd.io/v1alpha1",
    "HTTPRoute": "policy.linkerd.io/v1beta3",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "EgressNetwork": "policy.linkerd.io/v1alpha1",
    "HTTPLocalRateLimitPolicy": "policy.linkerd.io/v1alpha1",
}

Manifest = dict[str, Any]


def manifest(title: str, body: Mapping[str, Any] | None) -> Manifest:
    """One manifest: `Kind[@version] namespace/name`, and its spec, or its `metadata`, `spec` and `status`."""
    kind, _, place = title.partition(" ")
    kind, _, version = kind.partition("@")
    api_version = API_VERSIONS[kind]
    if version:
        api_version = version if "/" in version else f"{api_version.partition('/')[0]}/{version}"
    namespace, slash, name = place.partition("/")
    metadata = {"name": name, "namespace": namespace} if slash else {"name": namespace}
    body = dict(body or {})
    if not body.keys() & {"spec", "metadata", "status"}:
        body = {"spec": body}
    metadata.update(body.pop("metadata", {}))
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def text_of(manifests: Iterable[Manifest]) -> str:
    """Manifests as one file of several documents."""
    return yaml.safe_dump_all(manifests, sort_keys=False)


def read(text: str) -> Loaded:
    """What one file of manifests is loaded as."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "world.yaml"
        path.write_text(text, encoding="utf-8")
        return load([path])


def catalog_of(loaded: Loaded) -> Catalog:
    """Everything that was loaded, joined."""
    change = Assembly().apply(loaded.objects)
    return Catalog() if change is None else Catalog(change.version, change.pods, change.services, change.policies)


class World:
    """Manifests in force under an agent's flags."""

    def __init__(
        self,
        text: str,
        *,
        default: str = "all-authenticated",
        cluster_networks: Iterable[str] = DEFAULT_CLUSTER_NETWORKS,
        node_addresses: Iterable[str] = (),
    ) -> None:
        loaded = read(text)
        catalog = catalog_of(loaded)
        self.faults: tuple[Fault, ...] = loaded.faults
        self.pods = CatalogIndex(catalog)
        self.policy = PolicyIndex(
            catalog, PolicySettings(TRUST_DOMAIN, DefaultPolicy(default), tuple(cluster_networks)), node_addresses
        )

    def pod(self, name: str) -> Pod:
        found = self.pods.pod(PodKey(name))
        assert found is not None, f"no pod {name}: {self.faults}"
        return found

    def permits(self, pod: str, port: int) -> Permits:
        return self.policy.permits(self.pod(pod), port)

    def answer(self, client: Client, pod: str, port: int) -> Permit | Denial:
        """The decision; detection, which knows nothing but the address, must have foreseen it."""
        permits = self.permits(pod, port)
        answer = authorize(PodPort(PodKey(pod), port), client, permits)
        if not client.tls and client.address is not None:
            foreseen = could_permit_unauthenticated(permits, client.address)
            assert foreseen is isinstance(answer, Permit), f"detection foresaw {foreseen} of {client}: {answer}"
        return answer


def client(text: str) -> Client:
    """`plain`, `tls`, `<account>.<namespace>` or a spiffe:// ID; then `@<address>` where it matters."""
    who, _, where = text.partition("@")
    address = ipaddress.ip_address(where or IN_CLUSTER)
    if who in {"plain", "tls"}:
        return Client(address, None, tls=who == "tls")
    if who.startswith("spiffe://"):
        return Client(address, SpiffeId.parse(who), tls=True)
    account, _, namespace = who.rpartition(".")
    return Client(address, SpiffeId.for_service_account(TRUST_DOMAIN, namespace, account), tls=True)


def verdict(answer: Permit | Denial) -> str:
    """`allow`, `audit` or `deny`."""
    if isinstance(answer, Denial):
        return "deny"
    return "audit" if answer.audit else "allow"
