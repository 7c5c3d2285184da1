"""Policy as frozen values: who asks, what could let them in, and the two answers."""

import ipaddress
from enum import StrEnum

from msgspec import Struct

from agent.identity.spiffe import SpiffeId
from agent.outcome import Outcome

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class DefaultPolicy(StrEnum):
    """What holds where no policy object selects a port: Linkerd's six names."""

    ALL_UNAUTHENTICATED = "all-unauthenticated"
    ALL_AUTHENTICATED = "all-authenticated"
    CLUSTER_AUTHENTICATED = "cluster-authenticated"
    CLUSTER_UNAUTHENTICATED = "cluster-unauthenticated"
    DENY = "deny"
    AUDIT = "audit"


class Client(Struct, frozen=True):
    """Who asks. `identity` is None without an SVID; `tls` says whether it came by TLS that was terminated here."""

    address: Address
    identity: SpiffeId | None
    tls: bool


class ServerPort(Struct, frozen=True):
    """What is asked for: a port of a pod (`namespace/name`)."""

    pod: str
    port: int

    def __str__(self) -> str:
        return f"{self.pod}:{self.port}"


class Requirement(StrEnum):
    """What an authorization demands of the client's identity."""

    NOTHING = "nothing"
    TLS = "TLS"
    """TLS, with or without a client identity: Linkerd's unauthenticatedTLS."""
    MESH_IDENTITY = "a mesh identity"


class Authorization(Struct, frozen=True):
    """One thing that can let a client in: both its parts must hold. No networks means every address."""

    name: str
    requirement: Requirement
    networks: tuple[Network, ...] = ()

    def lacks(self, client: Client) -> str | None:
        """What this client lacks for this authorization; None where it is allowed."""
        if self.networks and not self.covers(client.address):
            return f"address {client.address} is in none of its networks"
        if self.requirement is Requirement.MESH_IDENTITY and client.identity is None:
            return (
                "no mesh identity: the client came without mTLS" if not client.tls else "TLS without a client identity"
            )
        if self.requirement is Requirement.TLS and not client.tls:
            return "no TLS"
        return None

    def covers(self, address: Address) -> bool:
        """Whether the networks let this address in."""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return not self.networks or any(
            address in network for network in self.networks if network.version == address.version
        )


class Permits(Struct, frozen=True):
    """Everything that could let a client into one port; authorizations are ORed.

    `server` names what decides (`default:all-authenticated`); with `audit`, what would be denied is let through
    and counted.
    """

    server: str
    authorizations: tuple[Authorization, ...]
    audit: bool = False


class Permit(Struct, frozen=True):
    """Allowed, and by what. `audit` where only audit let it through."""

    server: str
    authorization: str
    audit: bool = False


class Considered(Struct, frozen=True):
    """One authorization that did not let the client in, and what was lacking."""

    authorization: str
    lacked: str


class Denial(Struct, frozen=True):
    """Not allowed: how it counts, what was considered, and a message for an operator."""

    server: str
    outcome: Outcome
    considered: tuple[Considered, ...]
    message: str
