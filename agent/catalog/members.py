"""Who serves a port of a service: by its slices and Endpoints, or by the pods that its selector finds. Pure."""

from collections.abc import Iterable

from msgspec import Struct

from agent.objects.decode import RawPod
from agent.objects.decode_services import Author, RawService, RawServicePort, RawSlice
from agent.objects.model import Endpoint


class Members(Struct, frozen=True):
    """Endpoints of one port: those that may get new connections, and those that leave and still serve (KEP-1669)."""

    ready: tuple[Endpoint, ...]
    draining: tuple[Endpoint, ...]


def counting(service: RawService, written: Iterable[RawSlice]) -> list[RawSlice]:
    """Those of a service's slices and Endpoints that say who serves it, as Kubernetes' mirroring controller has it.

    Endpoints count where the service has no selector, and where no slice repeats them. Those that ask not to be
    repeated (default/kubernetes has such) stand in where there is no slice at all.
    """
    every = list(written)
    slices = [each for each in every if each.author in {Author.SLICE, Author.MIRRORED}]
    if service.selector or any(each.author is Author.MIRRORED for each in slices):
        return slices
    if not slices:
        return every
    return [*slices, *(each for each in every if each.author is Author.ENDPOINTS)]


def of_slices(service: RawService, port: RawServicePort, slices: Iterable[RawSlice]) -> Members:
    """The endpoints that slices have for a port: once each, though several slices may have one while it moves.

    One that is terminating and ready counts as ready only where the service publishes what is not: no controller
    writes that of any other.
    """
    ready: dict[tuple[str, int], Endpoint] = {}
    draining: dict[tuple[str, int], Endpoint] = {}
    for each in slices:
        for subset in each.subsets:
            numbers = [number for name, number in subset.ports if name == port.name]
            for raw in subset.endpoints if numbers else ():
                if raw.ready and (service.publishes_unready or not raw.terminating):
                    into = ready
                elif raw.serving and raw.terminating:
                    into = draining
                else:
                    continue
                for at in raw.addresses:
                    for number in numbers:
                        into.setdefault((at, number), Endpoint(at, number, raw.node, raw.zones, raw.nodes))
    return Members(tuple(ready.values()), tuple(each for at, each in draining.items() if at not in ready))


def of_pods(service: RawService, port: RawServicePort, selected: Iterable[RawPod]) -> Members:
    """What Kubernetes' endpoint slice controller would write about the pods that the selector finds."""
    ready: list[Endpoint] = []
    draining: list[Endpoint] = []
    for raw in selected:
        target = port.target
        if isinstance(target, str):
            named = [known.port for known in raw.pod.container_ports if known.name == target]
            if not named:
                continue
            target = named[0]
        if service.publishes_unready or (raw.ready and not raw.terminating):
            into = ready
        elif raw.ready:
            into = draining
        else:
            continue
        node = raw.pod.node
        hints = (node,) if service.prefers_own_node and node else ()
        into.extend(Endpoint(ip, target, node, nodes=hints) for ip in raw.pod.ips)
    return Members(tuple(ready), tuple(draining))
