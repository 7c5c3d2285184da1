"""Policy as frozen values: who asks, what could let them in, and the two answers."""

import ipaddress
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct

from agent.identity.spiffe import SpiffeId
from agent.outcome import Outcome

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LINKERD_NAMESPACE = "linkerd"
"""Where Linkerd's own names have its control plane: `<sa>.<ns>.serviceaccount.identity.linkerd.<trust domain>`."""


class DefaultPolicy(StrEnum):
    """What holds where no policy object selects a port: Linkerd's six names."""

    ALL_UNAUTHENTICATED = "all-unauthenticated"
    ALL_AUTHENTICATED = "all-authenticated"
    CLUSTER_AUTHENTICATED = "cluster-authenticated"
    CLUSTER_UNAUTHENTICATED = "cluster-unauthenticated"
    DENY = "deny"
    AUDIT = "audit"


class Client(Struct, frozen=True):
    """Who asks. `identity` is None without an SVID; `tls` says whether it came by TLS that was terminated here.

    `address` is None only where somebody asks about a pod that has none yet: it counts as one of the cluster's.
    """

    address: Address | None
    identity: SpiffeId | None
    tls: bool

    def __str__(self) -> str:
        where = "" if self.address is None else str(self.address)
        if self.identity is None:
            return where or "a client without identity or address"
        return f"{self.identity} at {where}" if where else str(self.identity)


class ServerPort(Struct, frozen=True):
    """What is asked for: a port of a pod (`namespace/name`)."""

    pod: str
    port: int

    def __str__(self) -> str:
        return f"{self.pod}:{self.port}"


class NetworkMatch(Struct, frozen=True):
    """Addresses of a network without some parts of it."""

    network: Network
    excepts: tuple[Network, ...] = ()

    def covers(self, address: Address) -> bool:
        """Whether the address is meant. An address of the other family never is."""
        return address in self.network and not any(address in each for each in self.excepts)


class IdentityMatch(Struct, frozen=True):
    """Which mesh identities are meant; each part alone is enough.

    `names` are whole DNS names in lower case, `suffixes` begin with a dot, `accounts` are (namespace, name).
    """

    everyone: bool = False
    ids: frozenset[SpiffeId] = frozenset()
    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    accounts: frozenset[tuple[str, str]] = frozenset()
    namespaces: frozenset[str] = frozenset()

    def includes(self, identity: SpiffeId) -> bool:
        """Whether this identity is meant, by its SPIFFE ID or by either of its DNS names."""
        if self.everyone or identity in self.ids:
            return True
        account, names = names_of(identity)
        if account is None:
            return False
        return (
            account in self.accounts
            or account[0] in self.namespaces
            or not self.names.isdisjoint(names)
            or (bool(self.suffixes) and any(name.endswith(self.suffixes) for name in names))
        )


@lru_cache(maxsize=65536)
def names_of(identity: SpiffeId) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    """(namespace, service account) of a workload, and its DNS names in lower case: our form, and Linkerd's own."""
    account = identity.workload
    if account is None:
        return None, ()
    stem = f"{account[1]}.{account[0]}.serviceaccount.identity".lower()
    return account, (f"{stem}.{identity.trust_domain}", f"{stem}.{LINKERD_NAMESPACE}.{identity.trust_domain}")


class Requirement(StrEnum):
    """What an authorization demands of the client's identity."""

    NOTHING = "nothing"
    TLS = "TLS"
    """TLS, with or without a client identity: Linkerd's unauthenticatedTLS."""
    MESH_IDENTITY = "a mesh identity"


class Authorization(Struct, frozen=True):
    """One thing that can let a client in: identity and network must both hold.

    `identities` None means any; no networks means every address. `in_cluster` says that `networks` are the
    cluster's own. `nobody` is why it lets nobody in, whoever asks; empty where it may.
    """

    name: str
    requirement: Requirement
    networks: tuple[NetworkMatch, ...] = ()
    identities: IdentityMatch | None = None
    in_cluster: bool = False
    nobody: str = ""

    def lacks(self, client: Client) -> str | None:
        """What this client lacks for this authorization, all of it; None where it is allowed."""
        if self.nobody:
            return self.nobody
        network = self._lacks_network(client) if self.networks else None
        identity = self.lacks_identity(client)
        return f"{network}; {identity}" if network and identity else network or identity

    def lacks_identity(self, client: Client) -> str | None:
        """What the client lacks as to who it is, wherever it is."""
        if self.requirement is Requirement.MESH_IDENTITY:
            if client.identity is None:
                without = "TLS without a client identity" if client.tls else "the client came without mTLS"
                return f"no mesh identity: {without}"
            if self.identities is not None and not self.identities.includes(client.identity):
                return f"{client.identity} is none of its identities"
        elif self.requirement is Requirement.TLS and not client.tls:
            return "no TLS"
        return None

    def _lacks_network(self, client: Client) -> str | None:
        if self.covers(client.address):
            return None
        if client.address is None:
            return "its address, which decides here, is not known"
        whose = "none of the cluster's networks" if self.in_cluster else "none of its networks"
        return f"address {client.address} is in {whose}"

    def covers(self, address: Address | None) -> bool:
        """Whether the networks let this address in."""
        if not self.networks:
            return True
        if address is None:
            return self.in_cluster
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(network.covers(address) for network in self.networks)


class Permits(Struct, frozen=True):
    """Everything that could let a client into one port; authorizations are ORed.

    `server` names what decides (`Server shop/cart`, `default:all-authenticated`); with `audit`, what would be denied
    is let through and counted. `only_routes` names the routes that have authorizations where the Server has none;
    `probe` lets the kubelet's probes in.
    """

    server: str
    authorizations: tuple[Authorization, ...]
    audit: bool = False
    only_routes: tuple[str, ...] = ()
    probe: Authorization | None = None


class Considered(Struct, frozen=True):
    """One authorization that did not let the client in, and what was lacking."""

    authorization: str
    lacked: str


class Permit(Struct, frozen=True):
    """Allowed, and by what. `audit` where only audit let it through; `considered` are those that did not."""

    server: str
    authorization: str
    audit: bool = False
    considered: tuple[Considered, ...] = ()


class Denial(Struct, frozen=True):
    """Not allowed: how it counts, what was considered, and a message for an operator."""

    server: str
    outcome: Outcome
    considered: tuple[Considered, ...]
    message: str
