"""Where a service is reached, and which endpoints one node's clients reach there: pure, as kube-proxy has it."""

from collections.abc import Iterator

from msgspec import Struct

from agent.catalog.snapshot import Catalog
from agent.objects.key import ObjectKey
from agent.objects.model import Endpoint, Service, ServicePort


class Here(Struct, frozen=True):
    """The node whose clients are asked about; without a name, nothing is local to it."""

    node: str = ""
    zone: str = ""


class Front(Struct, frozen=True):
    """One address and port of a service, for the clients of one node; `nobody` says why, where no endpoint is reached.

    Without `sources` everyone reaches it, else who is in one of these networks.
    """

    service: str
    port: int
    endpoints: tuple[Endpoint, ...]
    nobody: str = ""
    affinity_seconds: int = 0
    sources: tuple[str, ...] = ()


def front(service: Service, port: ServicePort, here: Here, *, six: bool, inside: bool, sources: bool = False) -> Front:
    """What is behind an address of a service. `six`: the address is IPv6; `inside`: it is a cluster IP.

    `internalTrafficPolicy: Local` is for cluster IPs only. What a pod sends to an address outside is subject to no
    traffic policy in kube-proxy, which takes it for having come back in by the load balancer.
    """
    ready, draining = _of_family(port.ready, six=six), _of_family(port.draining, six=six)
    if inside and service.local:
        mine = _local(ready, here) or _local(draining, here)
        nobody = "has no ready endpoint on this node, and internalTrafficPolicy is Local: others are not asked"
        found, why = mine, nobody if ready or draining else ""
    else:
        found, why = _preferred(ready, here) or draining, ""
    return Front(
        service.key,
        port.port,
        found,
        "" if found else why or "has no ready endpoint",
        service.affinity_seconds,
        service.source_ranges if sources else (),
    )


def _of_family(endpoints: tuple[Endpoint, ...], *, six: bool) -> tuple[Endpoint, ...]:
    found = tuple(each for each in endpoints if (":" in each.address) is six)
    return endpoints if len(found) == len(endpoints) else found  # the same value, where it can be


def _local(endpoints: tuple[Endpoint, ...], here: Here) -> tuple[Endpoint, ...]:
    return tuple(each for each in endpoints if here.node and each.node == here.node)


def _preferred(ready: tuple[Endpoint, ...], here: Here) -> tuple[Endpoint, ...]:
    """Those whose hints name this node, or its zone. Hints that leave nobody, or of which one is missing, are none."""
    if here.node and all(each.nodes for each in ready):
        near = tuple(each for each in ready if here.node in each.nodes)
        if near:
            return near
    if here.zone and all(each.zones for each in ready):
        near = tuple(each for each in ready if here.zone in each.zones)
        if near:
            return near
    return ready


def overlooked(catalog: Catalog) -> Iterator[tuple[ObjectKey, str]]:
    """Services whose hints nobody follows, because no Node says in which zone it is."""
    if any(node.zone for node in catalog.nodes):
        return
    message = "hints.forZones of its endpoints are ignored: no Node here has the label topology.kubernetes.io/zone"
    for service in catalog.services:
        if any(each.zones for port in service.ports for each in port.ready):
            yield service.object_key, message
