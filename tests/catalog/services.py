"""Manifests of services and of who serves them, joined as the agent of one node has them."""

from collections.abc import Iterable
from typing import Any

from agent.catalog.fronts import Front
from agent.catalog.index import CatalogIndex
from agent.catalog.join import Assembly
from agent.catalog.snapshot import Catalog
from agent.catalog.sources.files.directory import conflicts
from agent.manifests.fault import Fault
from agent.objects.key import ObjectKey
from agent.objects.model import Endpoint
from tests.policy.world import read, text_of

CLUSTER_IP, CLUSTER_IP6 = "10.96.0.1", "fd96::1"
MINE, OTHER = "node-a", "node-b"

NODE, NODE6 = "203.0.113.1", "2001:db8:9::1"
"""Addresses of this node."""

Manifest = dict[str, Any]

SELECTED: dict[str, Any] = {"selector": {"app": "web"}}
"""Of the pods that `pod` makes."""
PORTS = [{"port": 80, "nodePort": 30080}]


def service(name: str = "web", *, status: Any = None, created: str = "", **spec: Any) -> Manifest:
    """A service with a cluster IP, and one port, 80."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "demo"} | ({"creationTimestamp": created} if created else {}),
        "spec": {"clusterIP": CLUSTER_IP, "ports": [{"port": 80}]} | spec,
        "status": status or {},
    }


def pod(name: str, ip: str, *, deleted: bool = False, ready: bool = True, node: str = MINE, **spec: Any) -> Manifest:
    """A pod that service `web` selects, if it has the selector {app: web}."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "demo", "labels": {"app": "web"}}
        | ({"deletionTimestamp": "2026-11-01T00:00:00Z"} if deleted else {}),
        "spec": {"nodeName": node} | spec,
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def endpoint_slice(*endpoints: Manifest, name: str = "web-1", of: str = "web", labels: Any = None) -> Manifest:
    """A slice of a service's, whose port has no name."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "demo",
            "labels": {"kubernetes.io/service-name": of} | (labels or {}),
        },
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"port": 8080}],
    }


def endpoint(ip: str, **more: Any) -> Manifest:
    """One endpoint; its conditions as they are given."""
    conditions = {name: more.pop(name) for name in ("ready", "serving", "terminating") if name in more}
    return {"addresses": [ip], "conditions": conditions} | more


SERVED = endpoint_slice(endpoint("192.0.2.1"))
LEAVING = endpoint("192.0.2.1", ready=False, serving=True, terminating=True)


def hosting(name: str, ip: str, node: str = MINE, **port: Any) -> Manifest:
    """A pod with a port of its node's."""
    found = pod(
        name, ip, node=node, containers=[{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 80} | port]}]
    )
    found["status"]["hostIP"] = NODE if node == MINE else "203.0.113.2"
    return found


def endpoints(*ips: str, name: str = "web", labels: Any = None, **more: Any) -> Manifest:
    """An Endpoints object."""
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": name, "namespace": "demo", "labels": labels or {}},
        "subsets": [{"addresses": [{"ip": ip} for ip in ips], "ports": [{"port": 8080}]} | more],
    }


def node(name: str, *addresses: str, zone: str = "") -> Manifest:
    """A node."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone} if zone else {}},
        "status": {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]},
    }


class Services:
    """What one node's agent has of some manifests."""

    def __init__(self, *manifests: Manifest, node_addresses: Iterable[str] = ()) -> None:
        self._assembly = Assembly()
        self._known = frozenset[ObjectKey]()
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self.faults: tuple[Fault, ...] = ()
        self.index = CatalogIndex(Catalog(), MINE, node_addresses)
        self.put(*manifests)

    def put(self, *manifests: Manifest) -> None:
        """Adds objects, or replaces them."""
        self._manifests |= {(each["kind"], each["metadata"]["name"]): each for each in manifests}
        self._read()

    def remove(self, kind: str, name: str) -> None:
        """Takes an object away."""
        del self._manifests[kind, name]
        self._read()

    def _read(self) -> None:
        loaded = read(text_of(self._manifests.values()))
        change = self._assembly.apply(loaded.objects, self._known - loaded.objects.keys())
        self._known = frozenset(loaded.objects)
        self.faults = (*loaded.faults, *conflicts(self._assembly, lambda: loaded.origins))
        if change is not None:
            self.index.apply(change)

    def front(self, address: str = CLUSTER_IP, port: int = 80) -> Front:
        """What is behind an address of a service, or behind a node's; fails where nothing is."""
        found = self.index.front_at(address, port) or self.index.outside(address, port)
        assert isinstance(found, Front), f"{address}:{port} is {found}"
        return found

    def reached(self, address: str = CLUSTER_IP, port: int = 80) -> list[str]:
        """The addresses of the endpoints there."""
        return [each.address for each in self.front(address, port).endpoints]

    def behind_node(self, address: str, port: int) -> Endpoint | None:
        """The pod's address and port behind a hostPort."""
        found = self.index.outside(address, port)
        assert not isinstance(found, Front)
        return None if found is None else Endpoint(found.address, found.port)
