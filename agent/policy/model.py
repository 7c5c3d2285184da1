"""Policy as frozen values: who asks, what could let them in, and the two answers."""

from enum import StrEnum
from functools import cached_property

from msgspec import Struct

from agent.identity.spiffe import SpiffeId
from agent.objects.annotations import REQUIRE_IDENTITY
from agent.objects.key import PodKey
from agent.outcome import Outcome
from agent.policy import advice
from agent.policy.identities import IdentityMatch, whose_own
from agent.policy.matcher import Matcher
from agent.policy.networks import Address, NetworkMatch, address_set, number_of


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


class PodPort(Struct, frozen=True):
    """What is asked for: a port of a pod."""

    pod: PodKey
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

    @property
    def of_plaintext(self) -> bool:
        """Whether it asks nothing of a client but where it comes from."""
        return self.requirement is Requirement.NOTHING

    @property
    def of_tls(self) -> bool:
        """Whether it is content with TLS, whoever speaks it."""
        return self.requirement is not Requirement.MESH_IDENTITY

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
            owner = whose_own(client.identity)
            named = self.identities is not None and self.identities.includes(client.identity)
            if owner and not named:
                return f"no mesh identity: {client.identity} is {owner}'s own identity, no workload's"
            if self.identities is not None and not named:
                return f"{client.identity} is none of its identities"
        elif self.requirement is Requirement.TLS and not client.tls and client.identity is None:
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
        number, six = number_of(address)
        return address_set(self.networks).has(number, six=six)


_DEMAND = Authorization(REQUIRE_IDENTITY, Requirement.MESH_IDENTITY)
"""What an annotation demands of whom only audit would let through. It lets nobody in."""


class Permits(Struct, frozen=True, dict=True):
    """Everything that could let a client into one port; authorizations are ORed.

    `decided_by` names what decides (`Server shop/cart`, `default:all-authenticated`); with `audit`, what would be
    denied is let through and counted. `only_routes` names the routes that have authorizations where the Server has
    none; `probe` lets the kubelet's probes in. `broken` says that what decides cannot be read, `demanded` that an
    annotation demands an identity where the default policy would not: audit then lets nobody through who has none.
    """

    decided_by: str
    authorizations: tuple[Authorization, ...]
    audit: bool = False
    only_routes: tuple[str, ...] = ()
    probe: Authorization | None = None
    broken: bool = False
    demanded: bool = False

    def audits(self, client: Client) -> bool:
        """Whether what would be denied to this client is let through, and counted."""
        return self.audit and (not self.demanded or _DEMAND.lacks_identity(client) is None)

    @cached_property
    def matcher(self) -> Matcher:
        """The same, prepared for decisions."""
        return Matcher(self.authorizations, self.probe)

    def permit(self, authorization: str) -> "Permit":
        """What says that one of the authorizations lets a client in: one value for all whom it lets in."""
        known = self._permits.get(authorization)
        if known is None:
            known = self._permits[authorization] = Permit(self.decided_by, authorization)
        return known

    @cached_property
    def _permits(self) -> "dict[str, Permit]":
        return {}

    def considered(self, client: Client, until: str = "") -> "tuple[Considered, ...]":
        """Each authorization that does not let this client in, with what is lacking; in order, `until` one by name."""
        found = []
        asked = self.authorizations if self.probe is None else (*self.authorizations, self.probe)
        for each in (*asked, _DEMAND) if self.audit and self.demanded else asked:
            if until and each.name == until:
                break
            lacked = each.lacks(client)
            if lacked is not None:
                found.append(Considered(each.name, lacked))
        return tuple(found)


class Considered(Struct, frozen=True):
    """One authorization that did not let the client in, and what was lacking."""

    authorization: str
    lacked: str


class Judged(Struct, frozen=True):
    """What a decision was about."""

    port: PodPort
    client: Client
    permits: Permits


class Denial(Struct, frozen=True, dict=True):
    """Not allowed: what decided, and how it counts. The words are found when somebody asks for them.

    `decided_by` is a rule, never an address or a name that anybody could choose: it is a metric's label. `judged` is
    None where no authorizations were asked; then `said` is the message.
    """

    decided_by: str
    outcome: Outcome
    said: str = ""
    judged: Judged | None = None

    @cached_property
    def message(self) -> str:
        """For an operator: what, why, and what to do."""
        if self.judged is None:
            return self.said
        return advice.message(self.judged.port, self.judged.client, self.judged.permits, self.outcome)

    @cached_property
    def considered(self) -> tuple[Considered, ...]:
        """Each authorization, and what the client lacked for it."""
        return () if self.judged is None else self.judged.permits.considered(self.judged.client)


class Permit(Struct, frozen=True):
    """Allowed, and by what. `audited` is the denial that only audit keeps from being one."""

    decided_by: str
    authorization: str
    audited: Denial | None = None

    @property
    def audit(self) -> bool:
        """Whether only audit let it through."""
        return self.audited is not None

    @property
    def considered(self) -> tuple[Considered, ...]:
        """Where only audit let it through: each authorization, and what the client lacked for it."""
        return () if self.audited is None else self.audited.considered


class Rule(StrEnum):
    """What ends a connection besides authorizations, and is then named as what decided."""

    POD = "pod"
    """The pod has left the catalog."""
    ADDRESS = "address"
    """An address is another pod's now, or nobody's."""
    IDENTITY = "identity"
    """A pod has another service account now."""
    MESH = "mesh"
    """The destination is meshed now, or is no longer the pod that it was."""


def egress_rule(mode: str) -> str:
    """The same for an egress mode: `egress:meshed-only`."""
    return f"egress:{mode}"
