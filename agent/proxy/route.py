"""Where an outbound connection goes: pure, from the original destination and the catalog."""

from collections.abc import Callable
from dataclasses import InitVar, dataclass
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct

from agent.capture.address import OriginalDst, show
from agent.catalog.fronts import Front
from agent.catalog.index import CatalogIndex
from agent.catalog.mesh import accepts_mesh, in_subnets
from agent.identity.spiffe import SpiffeId
from agent.objects.annotations import MESHED_ONLY
from agent.objects.key import PodKey
from agent.objects.model import Endpoint, Pod
from agent.outcome import Outcome
from agent.proxy.view import View


class PlainReason(StrEnum):
    """Why an outbound connection is relayed as it is."""

    DESTINATION_NOT_IN_CATALOG = "destination_not_in_catalog"
    DESTINATION_NOT_MESHED = "destination_not_meshed"
    DESTINATION_SKIPS = "destination_skips"
    """The destination's own annotations keep this port, or this source, out of the mesh."""
    LOOPBACK = "loopback"
    """The pod calls itself."""


class _Seal:
    """What only this module has."""


_SEAL = _Seal()


@dataclass(frozen=True, slots=True)
class Passage:
    """Where an outbound connection may go: what a permit is to an inbound one. Only `route` makes one.

    Anybody else who tries gets a TypeError.
    """

    seal: InitVar[_Seal]
    address: str
    port: int

    def __post_init__(self, seal: _Seal) -> None:
        if seal is not _SEAL:
            raise TypeError("only `route` says where a connection may go")


@dataclass(frozen=True, slots=True)
class Mesh(Passage):
    """Dial with mTLS; the server must carry exactly `server_id`."""

    pod: PodKey
    server_id: SpiffeId


@dataclass(frozen=True, slots=True)
class Plain(Passage):
    """Dial as it is."""

    reason: PlainReason


class Refused(Struct, frozen=True):
    """Do not dial."""

    outcome: Outcome
    message: str


Route = Mesh | Plain | Refused
Pick = Callable[[Front, str], Endpoint]
"""Chooses among the endpoints of a front, of which there is at least one, for a client: its address, if it is known."""


def route(source: Pod, original: OriginalDst, view: View, pick: Pick) -> Route:
    """Decides about one connection.

    Cluster IPs and pods' addresses go before what services claim outside of the cluster's network: whoever may write a
    Service draws no pod's traffic to himself with `externalIPs`.
    """
    catalog = view.catalog
    address, port = original
    service = catalog.service_at(address)
    behind: Front | Endpoint | None = None
    pod = None
    if service is None:
        pod = catalog.pod_at(address)
        if pod is None:
            behind = catalog.outside(address, port)
    else:
        behind = catalog.front_at(address, port)
        if behind is None:
            return Refused(
                Outcome.NO_ENDPOINT,
                f"service {service.key} at {address} has no TCP port {port}; it has "
                f"{', '.join(str(known.port) for known in service.ports) or 'none'}",
            )
    if behind is not None:
        found = _endpoint(behind, original, source, catalog, pick) if isinstance(behind, Front) else behind
        if isinstance(found, Refused):
            return found
        address, port = found.address, found.port
        pod = catalog.pod_at(address)

    if pod is None:
        reason = PlainReason.DESTINATION_NOT_IN_CATALOG
    elif pod.key == source.key:
        return _plain(address, port, PlainReason.LOOPBACK)
    elif not pod.meshed:
        reason = PlainReason.DESTINATION_NOT_MESHED
    elif _keeps_out(pod, port, source, address):
        reason = PlainReason.DESTINATION_SKIPS
    else:
        return _mesh(address, port, pod.key, view.identity_of(pod))

    if view.egress_mode(source) == MESHED_ONLY:
        return Refused(
            Outcome.EGRESS_NOT_MESHED,
            f"{source.key} may only dial meshed pods (egress mode {MESHED_ONLY}), and {show(address, port)} is none "
            f"({reason}). Mesh the destination, skip the port, or allow it: quietwire.io/egress-mode: allow",
        )
    return _plain(address, port, reason)


def _endpoint(front: Front, dialled: OriginalDst, source: Pod, catalog: CatalogIndex, pick: Pick) -> Endpoint | Refused:
    """The endpoint that a client is led to."""
    six = ":" in dialled.address
    client = next((ip for ip in source.ips if (":" in ip) is six), "")
    if front.sources and not (client and in_subnets(front.sources, client)):
        return Refused(
            Outcome.NETWORK_NOT_PERMITTED,
            f"service {front.service} is reached at its load balancer's address {dialled} only from "
            f"{', '.join(front.sources)} (loadBalancerSourceRanges), and not from {client or source.key}; dial its "
            f"cluster IP instead",
        )
    if not front.endpoints:
        return Refused(
            Outcome.NO_ENDPOINT,
            f"service {front.service} {front.nobody} for port {front.port}; "
            f"look at its endpoint slices and at the readiness of its pods",
        )
    endpoint = pick(front, client or source.key)
    address, port = endpoint.address, endpoint.port
    # On the node it would go on to some pod, and in plaintext.
    if catalog.pod_at(address) is None and (catalog.service_at(address) or catalog.outside(address, port)):
        return Refused(
            Outcome.NO_ENDPOINT,
            f"the endpoint {show(address, port)} of service {front.service} is a service's address itself; "
            f"look at its endpoint slices: an endpoint is a pod, or outside",
        )
    return endpoint


@lru_cache(maxsize=4096)
def _mesh(address: str, port: int, pod: PodKey, server_id: SpiffeId) -> Mesh:
    """One value for all connections that go there: each keeps it for as long as it lives."""
    return Mesh(_SEAL, address, port, pod, server_id)


@lru_cache(maxsize=4096)
def _plain(address: str, port: int, reason: PlainReason) -> Plain:
    return Plain(_SEAL, address, port, reason)


def _keeps_out(pod: Pod, port: int, source: Pod, address: str) -> bool:
    """Whether the destination's rules do not capture what this source sends to this port."""
    if not (pod.settings.skip_inbound_ports or pod.settings.skip_subnets):
        return False
    sources = [ip for ip in source.ips if (":" in ip) == (":" in address)]
    if not sources:  # which of its addresses it would use is unknown: mesh it is
        return any(port in skipped for skipped in pod.settings.skip_inbound_ports)
    return not any(accepts_mesh(pod.settings, port, ip) for ip in sources)
