"""From raw objects to a catalog, change by change: namespaces are inherited, endpoints joined to services. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from agent.catalog import annotations
from agent.catalog.document import Field
from agent.catalog.key import ObjectKey
from agent.catalog.model import CatalogChange, Endpoint, Pod, Service, ServicePort
from agent.catalog.objects import RawNamespace, RawObject, RawPod, RawService, RawServicePort, RawSlice
from agent.policy.objects import PolicyObject

T = TypeVar("T")


class Assembly:
    """The joined objects of now. `update` joins anew only what a change bears on: pods and services by namespace."""

    def __init__(self) -> None:
        self.version = 0
        self._raw: dict[ObjectKey, RawObject] = {}
        self._by_namespace: defaultdict[str, dict[ObjectKey, RawPod | RawService | RawSlice]] = defaultdict(dict)
        self._pods: dict[ObjectKey, Pod] = {}
        self._services: dict[ObjectKey, Service] = {}

    def update(self, objects: Mapping[ObjectKey, RawObject]) -> CatalogChange | None:
        """Takes everything that there is now; gives what is different, or None. Unchanged objects cost a look-up."""
        gone = [key for key in self._raw if key not in objects]
        changed = {key: raw for key, raw in objects.items() if not _same(raw, self._raw.get(key))}
        if not gone and not changed:
            return None
        spaces: set[str] = set()
        """Namespaces whose services must be joined anew."""
        affected: dict[ObjectKey, None] = {}
        """Pods that must."""
        policies: list[PolicyObject] = []
        for key in gone:
            former = self._raw.pop(key)
            if isinstance(former, RawNamespace):
                affected.update(dict.fromkeys(self._pods_in(former.name)))
            elif isinstance(former, RawPod | RawService | RawSlice):
                del self._by_namespace[key.namespace][key]
                spaces.add(key.namespace)
            self._pods.pop(key, None)
        for key, raw in changed.items():
            self._raw[key] = raw
            match raw:
                case RawNamespace(name):
                    affected.update(dict.fromkeys(self._pods_in(name)))
                case RawPod() | RawService() | RawSlice():
                    self._by_namespace[key.namespace][key] = raw
                    spaces.add(key.namespace)
                    if isinstance(raw, RawPod):
                        affected[key] = None
                case _:
                    policies.append(raw)
        pods = self._join_pods(affected)
        services, ended = self._join_services(spaces)
        names = {key for key in gone if key.kind not in _NOT_IN_CATALOG} | ended
        if not (pods or services or policies or names):
            return None  # an endpoint slice, say, that changed nothing
        self.version += 1
        return CatalogChange(self.version, tuple(pods), tuple(services), tuple(policies), tuple(sorted(names)))

    def _pods_in(self, namespace: str) -> list[ObjectKey]:
        return [key for key, raw in self._by_namespace[namespace].items() if isinstance(raw, RawPod)]

    def _join_pods(self, affected: Iterable[ObjectKey]) -> list[Pod]:
        found = []
        for key in affected:
            raw = self._raw.get(key)
            if not isinstance(raw, RawPod):
                continue
            space = self._raw.get(ObjectKey("Namespace", "", key.namespace))
            pod = _pod(raw, space.annotations if isinstance(space, RawNamespace) else None)
            if self._pods.get(key) != pod:
                self._pods[key] = pod
                found.append(pod)
        return found

    def _join_services(self, spaces: set[str]) -> tuple[list[Service], set[ObjectKey]]:
        """Services that are different now, and the names of those that are no more."""
        found: list[Service] = []
        ended = set()
        for space in spaces:
            here = self._by_namespace[space]
            slices: dict[str, list[RawSlice]] = defaultdict(list)
            for raw in _of(here, RawSlice):
                slices[raw.service].append(raw)
            neighbours = _of(here, RawPod)
            for raw_service in _of(here, RawService):
                service = _service(raw_service, slices.get(raw_service.name), neighbours)
                if self._services.get(service.object_key) != service:
                    self._services[service.object_key] = service
                    found.append(service)
            for key in [key for key in self._services if key.namespace == space and key not in here]:
                del self._services[key]
                ended.add(key)
            if not here:
                del self._by_namespace[space]
        return found, ended


_NOT_IN_CATALOG = frozenset({"Namespace", "EndpointSlice", "Service"})
"""Kinds of which nothing of this name is in a catalog; services are found out by joining."""


def _same(one: RawObject, other: RawObject | None) -> bool:
    return one is other or one == other


def _of(objects: Mapping[ObjectKey, object], kind: type[T]) -> list[T]:
    return [raw for raw in objects.values() if isinstance(raw, kind)]


def _pod(raw: RawPod, inherited: dict[str, str] | None) -> Pod:
    if not inherited:
        return raw.pod
    pod = raw.pod
    own = {name: Field(value, 0) for name, value in raw.own.items()}
    settings = annotations.settings(own, inherited, pod.container_ports, host_network=pod.host_network)
    return msgspec.structs.replace(pod, settings=settings)


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
