"""From raw objects to a catalog, change by change: namespaces are inherited, endpoints joined to services. Pure."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import Struct

from agent.catalog import members
from agent.catalog.claims import Claims, HostPorts
from agent.catalog.snapshot import CatalogChange
from agent.objects import annotations
from agent.objects.decode import CLOSED, RawNamespace, RawObject, RawPod
from agent.objects.decode_services import RawService, RawSlice
from agent.objects.field import Field
from agent.objects.key import ObjectKey
from agent.objects.model import Node, Pod, Service, ServicePort
from agent.objects.policy import PolicyObject

log = logging.getLogger("quietwire.catalog")


class Problem(Struct, frozen=True):
    """An object that cannot be joined; `kept` says whether a former version of it is still in force."""

    reason: str
    kept: bool

    @classmethod
    def of(cls, error: Exception, *, kept: bool) -> "Problem":
        """What to say of a fault of ours."""
        return cls(f"cannot be used, by a fault of the agent ({type(error).__name__}: {error})", kept)


class _Namespace:
    """What one namespace holds that is joined to each other."""

    def __init__(self) -> None:
        self.pods: dict[ObjectKey, RawPod] = {}
        self.services: dict[str, RawService] = {}
        self.selectors = _Selectors()
        """Of every service here."""
        self.slices: defaultdict[str, dict[ObjectKey, RawSlice]] = defaultdict(dict)
        """By service."""

    def __bool__(self) -> bool:
        return bool(self.pods or self.services or self.slices)

    def put(self, service: RawService) -> None:
        """A service is there, or is another."""
        self.leave(service.name)
        self.services[service.name] = service
        self.selectors.add(service)

    def leave(self, name: str) -> None:
        """A service is gone."""
        former = self.services.pop(name, None)
        if former is not None:
            self.selectors.remove(former)

    def touched(self, labels: Mapping[str, str]) -> Iterator[str]:
        """Services whose endpoints are the pods that they select, and that select one with these labels."""
        for service in self.selectors.matching(labels):
            if not self.written(service):
                yield service.name

    def selected(self, names: Iterable[str]) -> Mapping[str, list[RawPod]]:
        """By service, the pods that these services select, where no slice says who serves them.

        Every pod of the namespace is looked at, if there is such a service.
        """
        wanted = _Selectors()
        for name in names:
            if name in self.services and not self.written(service := self.services[name]):
                wanted.add(service)
        found: defaultdict[str, list[RawPod]] = defaultdict(list)
        for raw in self.pods.values() if wanted else ():
            for service in wanted.matching(raw.pod.labels):
                found[service.name].append(raw)
        return found

    def written(self, service: RawService) -> list[RawSlice]:
        """The slices, and Endpoints, that say who serves a service."""
        slices = self.slices.get(service.name)
        return members.counting(service, slices.values()) if slices else []


class _Selectors:
    """Services by one label of their selector: which of them select a pod costs its labels, not their number."""

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str], dict[str, RawService]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_label)

    def add(self, service: RawService) -> None:
        """One that selects nothing is left out."""
        if service.selector:
            self._by_label.setdefault(min(service.selector.items()), {})[service.name] = service

    def remove(self, service: RawService) -> None:
        """One that was added."""
        if service.selector:
            label = min(service.selector.items())
            several = self._by_label[label]
            del several[service.name]
            if not several:
                del self._by_label[label]

    def matching(self, labels: Mapping[str, str]) -> Iterator[RawService]:
        """Those that select a pod with these labels."""
        for item in labels.items():
            for service in self._by_label.get(item, {}).values():
                if all(labels.get(name) == value for name, value in service.selector.items()):
                    yield service


class _Stale:
    """What must be joined anew in one namespace."""

    def __init__(self) -> None:
        self.services: set[str] = set()
        self.labels: list[Mapping[str, str]] = []
        """Of pods that are new, changed or gone: the services that selected or select them."""


class Assembly:
    """The joined objects of now.

    `apply` joins anew what a change bears on: a service where its own objects change, or a pod that it selects or
    selected.
    """

    def __init__(self, *, meshed_by_default: bool = True, beside_linkerd: bool = False) -> None:
        """`meshed_by_default`: whether a pod is to be meshed where no annotation says.

        `beside_linkerd`: whether only those are that are published, or whose namespace Linkerd is told to leave alone.
        """
        self._meshed_by_default = meshed_by_default
        self._beside_linkerd = beside_linkerd
        self.version = 0
        self.joined = 0
        """Services that were joined so far: the measure of the work."""
        self.problems: dict[ObjectKey, Problem] = {}
        """Objects that could not be joined, by a fault of ours."""
        self.claims = Claims()
        """Which service has which address outside the cluster's network."""
        self.host_ports = HostPorts()
        self._raw: dict[ObjectKey, RawObject] = {}
        self._spaces: defaultdict[str, _Namespace] = defaultdict(_Namespace)
        self._pods: dict[ObjectKey, Pod] = {}
        self._services: dict[ObjectKey, Service] = {}

    def apply(self, changed: Mapping[ObjectKey, RawObject], gone: Iterable[ObjectKey] = ()) -> CatalogChange | None:
        """Takes what is new or another, and the names of what is gone; gives what is different by it, or None.

        What is as it was, or was not known, may be among them. It costs what is given, and what that bears on.
        """
        gone = [key for key in gone if key in self._raw and key not in changed]
        changed = {key: raw for key, raw in changed.items() if self._raw.get(key) != raw}
        if not gone and not changed:
            return None
        stale: defaultdict[str, _Stale] = defaultdict(_Stale)
        affected: dict[ObjectKey, None] = {}
        """Pods that must be joined anew."""
        policies: list[PolicyObject] = []
        nodes: list[Node] = []
        for key in gone:
            former = self._raw.pop(key)
            if isinstance(former, RawNamespace):
                affected.update(dict.fromkeys(self._spaces[former.name].pods))
            self._leave(key, former, stale)
            self._pods.pop(key, None)
            self.problems.pop(key, None)
        for key, raw in changed.items():
            self._leave(key, self._raw.get(key), stale)
            self._raw[key] = raw
            match raw:
                case RawNamespace(name):
                    affected.update(dict.fromkeys(self._spaces[name].pods))
                case RawPod():
                    self._spaces[key.namespace].pods[key] = raw
                    stale[key.namespace].labels.append(raw.pod.labels)
                    affected[key] = None
                case RawService():
                    self._spaces[key.namespace].put(raw)
                    stale[key.namespace].services.add(key.name)
                case RawSlice():
                    self._spaces[key.namespace].slices[raw.service][key] = raw
                    stale[key.namespace].services.add(raw.service)
                case Node():
                    nodes.append(raw)
                case _:
                    policies.append(raw)
        for key in (*gone, *changed):
            if key.kind == "Service":
                raw_service = self._raw.get(key)
                for other in self.claims.put(key, raw_service if isinstance(raw_service, RawService) else None):
                    stale[other.namespace].services.add(other.name)
            elif key.kind == "Pod":
                raw_pod = self._raw.get(key)
                self.host_ports.put(key, raw_pod.pod if isinstance(raw_pod, RawPod) else None)
        pods = self._join_pods(affected)
        services, ended = self._join_services(stale)
        for space in [name for name, here in self._spaces.items() if not here]:
            del self._spaces[space]
        names = {key for key in gone if key.kind not in _NOT_IN_CATALOG} | ended
        if not (pods or services or policies or names or nodes):
            return None  # an endpoint slice, say, that changed nothing
        self.version += 1
        return CatalogChange(
            self.version, tuple(pods), tuple(services), tuple(policies), tuple(sorted(names)), tuple(nodes)
        )

    def _leave(self, key: ObjectKey, former: RawObject | None, stale: defaultdict[str, _Stale]) -> None:
        """Takes a former version out of its namespace."""
        here = self._spaces[key.namespace]
        match former:
            case RawPod():
                here.pods.pop(key, None)
                stale[key.namespace].labels.append(former.pod.labels)
            case RawService():
                here.leave(key.name)
                stale[key.namespace].services.add(key.name)
            case RawSlice():
                slices = here.slices[former.service]
                slices.pop(key, None)
                if not slices:
                    del here.slices[former.service]
                stale[key.namespace].services.add(former.service)
            case _:
                return

    def _join_pods(self, affected: Iterable[ObjectKey]) -> list[Pod]:
        found = []
        for key in affected:
            raw = self._raw.get(key)
            if not isinstance(raw, RawPod):
                continue
            space = self._raw.get(ObjectKey("Namespace", "", key.namespace))
            earlier = self._pods.get(key)
            try:
                inherited = space.annotations if isinstance(space, RawNamespace) else {}
                pod = _pod(raw, inherited, meshed_by_default=self._meshed_by_default)
                if self._beside_linkerd and not (isinstance(space, RawNamespace) and space.left_by_linkerd):
                    pod = _of_linkerds_namespace(pod)
                self.problems.pop(key, None)
            except Exception as error:  # each was checked where it was read: no other pod may suffer for this one
                log.exception("%s could not be joined by a fault of ours", key)
                pod = earlier or _closed(raw)
                self.problems[key] = Problem.of(error, kept=earlier is not None)
            if self._pods.get(key) != pod:
                self._pods[key] = pod
                found.append(pod)
        return found

    def _join_services(self, stale: Mapping[str, _Stale]) -> tuple[list[Service], set[ObjectKey]]:
        """Services that are different now, and the names of those that are no more."""
        found: list[Service] = []
        ended = set()
        for space, what in stale.items():
            here = self._spaces[space]
            names = set(what.services)
            for labels in what.labels:
                names.update(here.touched(labels))
            selected = here.selected(names)
            for name in sorted(names):
                key = ObjectKey("Service", space, name)
                raw_service = here.services.get(name)
                if raw_service is None:
                    if self._services.pop(key, None) is not None:
                        ended.add(key)
                    continue
                self.joined += 1
                former = self._services.get(key)
                try:
                    joined = _service(raw_service, here.written(raw_service), selected.get(name, []), self.claims)
                    self.problems.pop(key, None)
                except Exception as error:  # as above
                    log.exception("%s could not be joined by a fault of ours", key)
                    joined = former or Service(space, name, raw_service.cluster_ips, ())
                    self.problems[key] = Problem.of(error, kept=former is not None)
                if self._services.get(key) != joined:
                    self._services[key] = joined
                    found.append(joined)
        return found, ended


_NOT_IN_CATALOG = frozenset({"Namespace", "EndpointSlice", "Endpoints", "Service"})
"""Kinds of which nothing of this name is in a catalog; services are found out by joining."""


def _pod(raw: RawPod, inherited: dict[str, str], *, meshed_by_default: bool) -> Pod:
    if not inherited and meshed_by_default:
        return raw.pod
    pod = raw.pod
    own = {name: Field(value, 0) for name, value in raw.own.items()}
    settings = annotations.settings(
        own,
        inherited,
        pod.container_ports,
        host_network=pod.host_network,
        by_default=meshed_by_default,
        is_linkerds=pod.is_linkerds,
    )
    return msgspec.structs.replace(pod, settings=settings)


def _of_linkerds_namespace(pod: Pod) -> Pod:
    """Not to be meshed, unless it was captured before its namespace went back: that holds until it ends."""
    if pod.published:
        return pod
    settings = msgspec.structs.replace(pod.settings, injected=False, left_to_linkerd=False)
    return msgspec.structs.replace(pod, settings=settings)


def _closed(raw: RawPod) -> Pod:
    settings = msgspec.structs.replace(CLOSED, injected=raw.pod.settings.injected)
    return msgspec.structs.replace(raw.pod, settings=settings)


def _service(raw: RawService, slices: list[RawSlice], selected: list[RawPod], claims: Claims) -> Service:
    ports = []
    for port in raw.ports:
        found = members.of_slices(raw, port, slices) if slices else members.of_pods(raw, port, selected)
        held = claims.held(raw, port)
        ports.append(
            ServicePort(
                port.name,
                port.port,
                *(((), ()) if raw.closed else (found.ready, found.draining)),
                external_ips=held.external_ips,
                balancer_ips=held.balancer_ips,
                node_port=held.node_port,
            )
        )
    return Service(
        raw.namespace,
        raw.name,
        raw.cluster_ips,
        tuple(ports),
        local=raw.local,
        affinity_seconds=raw.affinity_seconds,
        source_ranges=raw.source_ranges,
    )
