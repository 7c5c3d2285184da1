"""From a pod and port to its permits: compiled when first asked for, and forgotten when what it came from changes.

A change of one object costs what hangs on it. Servers are matched with a pod once; an authorization that changes makes
the ports of its namespace compile anew, each when it is next asked for, and nothing of any other namespace.
"""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

import msgspec
from msgspec import Struct

from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.objects.key import ObjectKey, PodKey, pod_key
from agent.objects.model import Pod
from agent.objects.policy import (
    DEFAULT_CLUSTER_NETWORKS,
    AuthorizationPolicy,
    BrokenServer,
    DefaultPolicy,
    MeshTLSAuthentication,
    NetworkAuthentication,
    NetworkRange,
    PolicyObject,
    Ref,
    Route,
    Server,
    ServerAuthorization,
    TargetKind,
)
from agent.policy.identities import IdentityMatch
from agent.policy.model import Authorization, Permits, Requirement
from agent.policy.networks import NetworkMatch

PROBE = "probe"
"""What authorizes the kubelet's probes."""


class PolicySettings(Struct, frozen=True):
    """What the agent's flags say about policy; networks in CIDR form."""

    trust_domain: str
    default_inbound_policy: DefaultPolicy = DefaultPolicy.ALL_AUTHENTICATED
    cluster_networks: tuple[str, ...] = DEFAULT_CLUSTER_NETWORKS


class PodPolicy(Struct, frozen=True):
    """One pod's permits: those of ports that something selects, and of all others.

    Of these, `demanding` is for the ports on which the pod's annotation demands an identity.
    """

    pod: Pod
    ports: dict[int, Permits]
    default: Permits
    demanding: Permits

    def of(self, port: int) -> Permits:
        """What could let a client into this port."""
        return self.ports.get(port) or self.otherwise(port)

    def otherwise(self, port: int) -> Permits:
        """The same, where nothing selects it."""
        demanded = self.pod.settings.identity_ports
        return self.demanding if demanded and any(port in ports for ports in demanded) else self.default


class _Namespace:
    """One namespace's objects, and what was compiled from them."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.authorizations: dict[str, ServerAuthorization] = {}
        self.policies: dict[str, AuthorizationPolicy] = {}
        self.routes: dict[ObjectKey, Route] = {}
        self.selected: dict[PodKey, tuple[Pod, dict[str, Server]]] = {}
        """By pod: the Servers that select it, on whatever port."""
        self.tables: dict[PodKey, PodPolicy] = {}
        self.permits: dict[str, Permits] = {}
        """By Server."""
        self.targets: _Targets | None = None
        self.broken: dict[str, BrokenServer] = {}
        """Servers that cannot even be told apart: their namespace's defaults are closed."""

    def forget_authorizations(self) -> None:
        """Something that authorizes has changed."""
        self.targets = None
        self.permits.clear()
        self.tables.clear()

    def forget_pod(self, key: PodKey) -> None:
        """The pod has changed, or is gone."""
        self.selected.pop(key, None)
        self.tables.pop(key, None)

    def set_server(self, name: str, server: Server | None) -> None:
        """A Server is new, changed or gone."""
        if server is None:
            self.servers.pop(name, None)
        else:
            self.servers[name] = server
        self.targets = None  # a ServerAuthorization may select it
        self.permits.pop(name, None)
        for key, (pod, selected) in self.selected.items():
            former = selected.pop(name, None)
            if server is not None and server.selector is not None and server.selector.matches(pod.labels):
                selected[name] = server
                former = server
            if former is not None:
                self.tables.pop(key, None)

    def servers_of(self, pod: Pod) -> dict[str, Server]:
        """The Servers that select a pod."""
        known = self.selected.get(pod.key)
        if known is not None and known[0] == pod:
            return known[1]
        found = {
            name: server
            for name, server in self.servers.items()
            if server.selector is not None and server.selector.matches(pod.labels)
        }
        self.selected[pod.key] = (pod, found)
        return found


class _Targets:
    """What is attached to what in one namespace."""

    def __init__(self, space: _Namespace) -> None:
        self.by_server: defaultdict[str, list[AuthorizationPolicy | ServerAuthorization]] = defaultdict(list)
        self.everywhere: list[AuthorizationPolicy] = []
        self.routes: defaultdict[str, list[str]] = defaultdict(list)
        """By Server: its routes that have authorizations."""
        targeted = set()
        for policy in space.policies.values():
            match policy.target.kind:
                case TargetKind.SERVER:
                    self.by_server[policy.target.name].append(policy)
                case TargetKind.NAMESPACE:
                    self.everywhere.append(policy)
                case _:
                    targeted.add((policy.target.kind, policy.target.group, policy.target.name))
        for route in space.routes.values():
            if (route.route_kind, route.group, route.name) in targeted:
                for name in route.servers:
                    self.routes[name].append(str(route.key))
        selecting = [each for each in space.authorizations.values() if each.server is None]
        for authorization in space.authorizations.values():
            if authorization.server is not None:
                self.by_server[authorization.server].append(authorization)
        if selecting:
            for server in space.servers.values():
                self.by_server[server.name].extend(each for each in selecting if each.selects(server))


class PolicyIndex:
    """The policy in force. `permits` is asked by the data path; `apply` follows the catalog.

    `node_addresses` are those from which the kubelet probes the pods of `node`; None means every pod.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: PolicySettings,
        node_addresses: Iterable[str] = (),
        *,
        node: str | None = None,
    ) -> None:
        self.settings = settings
        self._node = node
        self._spaces: defaultdict[str, _Namespace] = defaultdict(_Namespace)
        self._authentications: dict[ObjectKey, MeshTLSAuthentication | NetworkAuthentication] = {}
        self._node_addresses = tuple(node_addresses)
        self.apply(CatalogChange(catalog.version, catalog.pods, catalog.services, catalog.policies))

    def apply(self, change: CatalogChange) -> None:
        """Puts a change of the catalog in force."""
        touched: set[str] = set()
        """Namespaces in which something that authorizes has changed."""
        for key in change.gone:
            if key.kind == "Pod":
                self._spaces[key.namespace].forget_pod(pod_key(key.namespace, key.name))
            elif key.kind != "Service":
                self._put(key, None, touched)
        for pod in change.pods:
            self._spaces[pod.namespace].forget_pod(pod.key)
        for policy in change.policies:
            self._put(policy.key, policy, touched)
        for space in touched:
            self._spaces[space].forget_authorizations()

    def _put(self, key: ObjectKey, policy: PolicyObject | None, touched: set[str]) -> None:
        space = self._spaces[key.namespace]
        if key.kind == "Server":
            self._set_broken(key, policy if isinstance(policy, BrokenServer) else None)
            space.set_server(key.name, policy if isinstance(policy, Server) else None)
            return
        if key.kind in {"MeshTLSAuthentication", "NetworkAuthentication"}:
            if isinstance(policy, MeshTLSAuthentication | NetworkAuthentication):
                self._authentications[key] = policy
            else:
                self._authentications.pop(key, None)
            touched.update(
                name for name, each in self._spaces.items() if any(_refers(p, key) for p in each.policies.values())
            )
            return
        match policy:
            case ServerAuthorization():
                space.authorizations[key.name] = policy
            case AuthorizationPolicy():
                space.policies[key.name] = policy
            case Route():
                space.routes[key] = policy
            case _:
                kinds: dict[str, dict[str, ServerAuthorization] | dict[str, AuthorizationPolicy]] = {
                    "ServerAuthorization": space.authorizations,
                    "AuthorizationPolicy": space.policies,
                }
                kinds.get(key.kind, {}).pop(key.name, None)
                space.routes.pop(key, None)
        touched.add(key.namespace)

    def _set_broken(self, key: ObjectKey, broken: BrokenServer | None) -> None:
        here = self._spaces[key.namespace]
        if broken is None and here.broken.pop(key.name, None) is None:
            return
        if broken is not None:
            here.broken[key.name] = broken
        for name, space in self._spaces.items():
            if not key.namespace or name == key.namespace:
                space.tables.clear()

    def _default_of(self, pod: Pod) -> tuple[Permits, Permits]:
        """What holds for the ports of a pod that no Server selects, and on which of them an identity is demanded."""
        for space in (self._spaces[pod.namespace], self._spaces[""]):
            for broken in space.broken.values():
                where = str(broken.key) if broken.namespace else f"a policy that cannot be read, in {broken.name}"
                return (closed := Permits(where, (), broken=True)), closed
        annotated = pod.settings.default_policy
        policy = self.settings.default_inbound_policy if annotated is None else DefaultPolicy(annotated)
        networks = self.settings.cluster_networks
        return default_permits(policy, networks), demanding_permits(policy, networks)

    def set_node_addresses(self, addresses: Iterable[str]) -> None:
        """From where the kubelet of this node probes its pods."""
        self._node_addresses = tuple(addresses)
        for space in self._spaces.values():
            space.tables.clear()

    def permits(self, pod: Pod, port: int) -> Permits:
        """What could let a client into this port of this pod."""
        space = self._spaces.get(pod.namespace)
        table = None if space is None else space.tables.get(pod.key)
        if table is None or table.pod is not pod:
            table = self._compile(pod)
        return table.of(port)

    def _compile(self, pod: Pod) -> PodPolicy:
        space = self._spaces[pod.namespace]
        default, demanding = self._default_of(pod)
        ports = {
            port: self._permits_of(space, servers[0]) for port, servers in by_port(pod, space.servers_of(pod)).items()
        }
        table = PodPolicy(pod, ports, default, demanding)
        here = self._node is None or pod.node == self._node
        probing = _probe_authorization((*(self._node_addresses if here else ()), *pod.host_ips))
        if probing is not None:
            for port in pod.probe_ports:
                ports[port] = msgspec.structs.replace(table.of(port), probe=probing)
        space.tables[pod.key] = table
        return table

    def _permits_of(self, space: _Namespace, server: Server) -> Permits:
        found = space.permits.get(server.name)
        if found is None:
            found = space.permits[server.name] = self._compile_server(space, server)
        return found

    def _compile_server(self, space: _Namespace, server: Server) -> Permits:
        if space.targets is None:
            space.targets = _Targets(space)
        attached = sorted(
            (*space.targets.by_server.get(server.name, ()), *space.targets.everywhere), key=lambda each: each.key
        )
        authorizations = [
            self._of_policy(each) if isinstance(each, AuthorizationPolicy) else self._of_server_authorization(each)
            for each in attached
        ]
        fallback = default_permits(server.access_policy, self.settings.cluster_networks, "accessPolicy")
        authorizations.extend(fallback.authorizations)
        routes = () if authorizations or fallback.audit else tuple(sorted(space.targets.routes.get(server.name, ())))
        return Permits(str(server.key), tuple(authorizations), audit=fallback.audit, only_routes=routes)

    def _of_policy(self, policy: AuthorizationPolicy) -> Authorization:
        name = str(policy.key)
        for ref in (policy.mesh, policy.network):
            if ref is not None and ref.kind != "ServiceAccount" and _key(ref) not in self._authentications:
                return Authorization(name, Requirement.NOTHING, nobody=f"{ref} does not exist")
        identities: IdentityMatch | None = None
        if policy.mesh is not None and policy.mesh.kind == "ServiceAccount":
            identities = IdentityMatch(accounts=frozenset({(policy.mesh.namespace, policy.mesh.name)}))
        elif policy.mesh is not None:
            found = self._authentications[_key(policy.mesh)]
            if isinstance(found, MeshTLSAuthentication):
                accounts = frozenset((each.namespace, each.name) for each in found.accounts)
                identities = _identities(found.identities, accounts, frozenset(found.namespaces))
            if identities == IdentityMatch():
                return Authorization(name, Requirement.NOTHING, nobody=f"{policy.mesh} names nobody")
        networks: tuple[NetworkMatch, ...] = ()
        if policy.network is not None:
            found = self._authentications[_key(policy.network)]
            if isinstance(found, NetworkAuthentication):
                networks = _networks(found.networks)
        return Authorization(
            name,
            Requirement.NOTHING if identities is None else Requirement.MESH_IDENTITY,
            networks=networks,
            identities=identities,
        )

    def _of_server_authorization(self, authorization: ServerAuthorization) -> Authorization:
        name = str(authorization.key)
        in_cluster = authorization.networks is None
        networks = (
            cluster_matches(self.settings.cluster_networks)
            if authorization.networks is None
            else _networks(authorization.networks)
        )
        if authorization.unauthenticated:
            return Authorization(name, Requirement.NOTHING, networks, in_cluster=in_cluster)
        if authorization.unauthenticated_tls:
            return Authorization(name, Requirement.TLS, networks, in_cluster=in_cluster)
        accounts = frozenset((each.namespace, each.name) for each in authorization.accounts)
        identities = _identities(authorization.identities, accounts, frozenset())
        nobody = "its client names nobody" if identities == IdentityMatch() else ""
        return Authorization(
            name, Requirement.MESH_IDENTITY, networks, identities=identities, in_cluster=in_cluster, nobody=nobody
        )


def by_port(pod: Pod, servers: dict[str, Server]) -> dict[int, list[Server]]:
    """The Servers on each port of a pod; the first decides, the others are without effect there."""
    found: defaultdict[int, list[Server]] = defaultdict(list)
    for server in sorted(servers.values(), key=lambda each: each.seniority):
        for port in ports_of(pod, server):
            found[port].append(server)
    return dict(found)


def ports_of(pod: Pod, server: Server) -> list[int]:
    """The ports of a pod that a Server means: its number, or the container ports of its name."""
    if isinstance(server.port, int):
        return [server.port]
    return list(dict.fromkeys(port.port for port in pod.container_ports if port.name == server.port))


def _refers(policy: AuthorizationPolicy, key: ObjectKey) -> bool:
    return any(ref is not None and _key(ref) == key for ref in (policy.mesh, policy.network))


def _key(ref: Ref) -> ObjectKey:
    return ObjectKey(ref.kind, ref.namespace, ref.name)


@lru_cache(maxsize=4096)
def _networks(ranges: tuple[NetworkRange, ...]) -> tuple[NetworkMatch, ...]:
    return tuple(
        NetworkMatch(ipaddress.ip_network(each.cidr), tuple(ipaddress.ip_network(text) for text in each.excepts))
        for each in ranges
    )


@lru_cache(maxsize=16)
def cluster_matches(networks: tuple[str, ...]) -> tuple[NetworkMatch, ...]:
    """The cluster's own networks."""
    return tuple(NetworkMatch(ipaddress.ip_network(network)) for network in networks)


@lru_cache(maxsize=1024)
def _probe_authorization(addresses: tuple[str, ...]) -> Authorization | None:
    if not addresses:
        return None
    networks = tuple(NetworkMatch(ipaddress.ip_network(address)) for address in dict.fromkeys(addresses))
    return Authorization(PROBE, Requirement.NOTHING, networks)


def _identities(
    texts: tuple[str, ...], accounts: frozenset[tuple[str, str]], namespaces: frozenset[str]
) -> IdentityMatch:
    return IdentityMatch(
        everyone="*" in texts,
        ids=frozenset(SpiffeId.parse(text) for text in texts if text.startswith("spiffe://")),
        names=frozenset(text for text in texts if not text.startswith(("*", "spiffe://"))),
        suffixes=tuple(sorted(text[1:] for text in texts if text.startswith("*."))),
        accounts=accounts,
        namespaces=namespaces,
    )


@lru_cache(maxsize=256)
def default_permits(default: DefaultPolicy, cluster_networks: tuple[str, ...], what: str = "default") -> Permits:
    """A default policy, written as the authorizations that it stands for."""
    cluster = cluster_matches(cluster_networks)
    name = f"{what}:{default}"
    found: tuple[Authorization, ...]
    match default:
        case DefaultPolicy.ALL_UNAUTHENTICATED:
            found = (Authorization(name, Requirement.NOTHING),)
        case DefaultPolicy.ALL_AUTHENTICATED:
            found = (Authorization(name, Requirement.MESH_IDENTITY),)
        case DefaultPolicy.CLUSTER_UNAUTHENTICATED:
            found = (Authorization(name, Requirement.NOTHING, cluster, in_cluster=True),)
        case DefaultPolicy.CLUSTER_AUTHENTICATED:
            found = (Authorization(name, Requirement.MESH_IDENTITY, cluster, in_cluster=True),)
        case DefaultPolicy.DENY | DefaultPolicy.AUDIT:
            found = ()
    return Permits(name, found, audit=default is DefaultPolicy.AUDIT)


_WITH_IDENTITY = {
    DefaultPolicy.ALL_UNAUTHENTICATED: DefaultPolicy.ALL_AUTHENTICATED,
    DefaultPolicy.CLUSTER_UNAUTHENTICATED: DefaultPolicy.CLUSTER_AUTHENTICATED,
    DefaultPolicy.AUDIT: DefaultPolicy.AUDIT,
}


@lru_cache(maxsize=256)
def demanding_permits(default: DefaultPolicy, cluster_networks: tuple[str, ...]) -> Permits:
    """A default policy on a port where an annotation demands an identity; the same, where it demands one itself.

    Under `audit` who has an identity is let through, and counted; who has none is denied. Linkerd's audit lets those in
    as well, so that it opens what is closed under all-unauthenticated, its most open default.
    """
    tightened = _WITH_IDENTITY.get(default)
    if tightened is None:
        return default_permits(default, cluster_networks)
    name = f"default:{default}+require-identity"
    found = default_permits(tightened, cluster_networks)
    authorizations = tuple(msgspec.structs.replace(each, name=name) for each in found.authorizations)
    return msgspec.structs.replace(found, decided_by=name, authorizations=authorizations, demanded=True)
