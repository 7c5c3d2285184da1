"""From raw objects to a catalog: namespaces are inherited, endpoints joined to services. Pure."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from agent.catalog import annotations
from agent.catalog.document import Field
from agent.catalog.model import Catalog, Endpoint, Pod, Service, ServicePort
from agent.catalog.objects import RawNamespace, RawObject, RawPod, RawService, RawServicePort, RawSlice


def join(objects: Iterable[RawObject], version: int) -> Catalog:
    """The catalog of these objects."""
    inherited: dict[str, dict[str, str]] = {}
    raw_pods: list[RawPod] = []
    services: list[RawService] = []
    slices: dict[tuple[str, str], list[RawSlice]] = defaultdict(list)
    for each in objects:
        match each:
            case RawNamespace(name, values):
                inherited[name] = values
            case RawPod():
                raw_pods.append(each)
            case RawService():
                services.append(each)
            case RawSlice(namespace, service):
                slices[namespace, service].append(each)
    by_namespace: dict[str, list[RawPod]] = defaultdict(list)
    for raw in raw_pods:
        by_namespace[raw.pod.namespace].append(raw)
    return Catalog(
        version=version,
        pods=tuple(_pod(raw, inherited.get(raw.pod.namespace)) for raw in raw_pods),
        services=tuple(
            _service(raw, slices.get((raw.namespace, raw.name)), by_namespace.get(raw.namespace, []))
            for raw in services
        ),
    )


def _pod(raw: RawPod, inherited: dict[str, str] | None) -> Pod:
    if not inherited:
        return raw.pod
    own = {name: Field(value, 0) for name, value in raw.own.items()}
    settings = annotations.settings(own, inherited, raw.pod.container_ports, host_network=raw.host_network)
    return msgspec.structs.replace(raw.pod, settings=settings)


def _service(raw: RawService, slices: list[RawSlice] | None, neighbours: list[RawPod]) -> Service:
    ports = []
    for port in raw.ports:
        if slices is not None:
            ready = tuple(dict.fromkeys(found for each in slices for found in each.endpoints(port.name)))
        else:
            ready = _selected(raw, port, neighbours)
        ports.append(ServicePort(port.name, port.port, ready))
    return Service(raw.namespace, raw.name, raw.cluster_ips, tuple(ports))


def _selected(service: RawService, port: RawServicePort, neighbours: list[RawPod]) -> tuple[Endpoint, ...]:
    """What Kubernetes' endpoint slice controller would write: the pods that the selector finds, where ready."""
    if not service.selector:
        return ()
    found: list[Endpoint] = []
    for raw in neighbours:
        pod = raw.pod
        if not raw.ready or any(pod.labels.get(name) != value for name, value in service.selector.items()):
            continue
        if isinstance(port.target, int):
            target = port.target
        else:
            named = [known.port for known in pod.container_ports if known.name == port.target]
            if not named:
                continue
            target = named[0]
        found.extend(Endpoint(ip, target) for ip in pod.ips)
    return tuple(found)
