"""Look-ups over the catalog of now, one per process. A change costs what it changes, not what there is."""

from collections import defaultdict
from collections.abc import Iterable

from agent.catalog.fronts import Front, Here, front
from agent.catalog.node_ports import NodePorts
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.objects.key import ObjectKey, PodKey, pod_key
from agent.objects.model import Endpoint, Node, Pod, Service
from agent.objects.policy import PolicyObject


class CatalogIndex:
    """What the data path of one node asks of a catalog, each in one dict look-up."""

    def __init__(self, catalog: Catalog, node: str = "", node_addresses: Iterable[str] = ()) -> None:
        self.version = 0
        self._here = Here(node)
        self._pods: dict[PodKey, Pod] = {}
        self._pods_by_ip: dict[str, Pod] = {}
        self._pods_by_node: defaultdict[str, dict[PodKey, Pod]] = defaultdict(dict)
        self._services: dict[str, Service] = {}
        self._services_by_ip: dict[str, Service] = {}
        self._fronts: dict[tuple[str, int], Front] = {}
        self._outside: dict[tuple[str, int], Front] = {}
        """Apart from cluster IPs: no service takes another one's by calling it an external address of its own."""
        self._at_nodes = NodePorts(node)
        self._at_nodes.set_own(node_addresses)
        self._nodes: dict[str, Node] = {}
        self._policies: dict[ObjectKey, PolicyObject] = {}
        self.apply(
            CatalogChange(catalog.version, catalog.pods, catalog.services, catalog.policies, nodes=catalog.nodes)
        )

    @property
    def catalog(self) -> Catalog:
        """Everything, as one value: for a process that starts."""
        return Catalog(
            self.version,
            tuple(self._pods.values()),
            tuple(self._services.values()),
            tuple(self._policies.values()),
            tuple(self._nodes.values()),
        )

    def apply(self, change: CatalogChange) -> None:
        """Puts a change in force. What goes goes first: an address may have been given to another pod."""
        self.version = change.version
        for key in change.gone:
            if key.kind == "Pod":
                self._forget_pod(pod_key(key.namespace, key.name))
            elif key.kind == "Service":
                self._forget_service(f"{key.namespace}/{key.name}")
            elif key.kind == "Node":
                self._set_node(key.name, None)
            else:
                self._policies.pop(key, None)
        for pod in change.pods:
            self._forget_pod(pod.key)
        for service in change.services:
            self._forget_service(service.key)
        for node in change.nodes:
            self._set_node(node.name, node)
        for pod in change.pods:
            self._pods[pod.key] = pod
            self._pods_by_node[pod.node][pod.key] = pod
            if not pod.host_network:
                self._pods_by_ip.update(dict.fromkeys(pod.ips, pod))
            self._at_nodes.add_pod(pod)
        for service in change.services:
            self._add_service(service)
        for policy in change.policies:
            self._policies[policy.key] = policy

    def _forget_pod(self, key: PodKey) -> None:
        pod = self._pods.pop(key, None)
        if pod is None:
            return
        self._at_nodes.remove_pod(pod)
        on_its_node = self._pods_by_node[pod.node]
        del on_its_node[key]
        if not on_its_node:
            del self._pods_by_node[pod.node]
        for ip in pod.ips:
            if self._pods_by_ip.get(ip) is pod:
                del self._pods_by_ip[ip]

    def _add_service(self, service: Service) -> None:
        self._services[service.key] = service
        here, fronts, outside = self._here, self._fronts, self._outside
        for ip in service.cluster_ips:
            self._services_by_ip[ip] = service
        for port in service.ports:
            for ip in port.balancer_ips:
                outside[ip, port.port] = front(service, port, here, six=":" in ip, inside=False, sources=True)
            for ip in port.external_ips:
                outside[ip, port.port] = front(service, port, here, six=":" in ip, inside=False)
            for ip in service.cluster_ips:
                fronts[ip, port.port] = front(service, port, here, six=":" in ip, inside=True)
            if port.node_port:
                four, six = (front(service, port, here, six=six, inside=False) for six in (False, True))
                self._at_nodes.add(port.node_port, four, six)

    def _forget_service(self, key: str) -> None:
        service = self._services.pop(key, None)
        if service is None:
            return
        for ip in service.cluster_ips:
            if self._services_by_ip.get(ip) is service:
                del self._services_by_ip[ip]
                for port in service.ports:
                    self._fronts.pop((ip, port.port), None)
        for port in service.ports:
            for ip in (*port.external_ips, *port.balancer_ips):
                known = self._outside.get((ip, port.port))
                if known is not None and known.service == key:
                    del self._outside[ip, port.port]
            self._at_nodes.remove(port.node_port, key)

    def _set_node(self, name: str, node: Node | None) -> None:
        former = self._nodes.pop(name, None)
        if former is not None:
            self._at_nodes.remove_node(former)
        if node is not None:
            self._nodes[name] = node
            self._at_nodes.add_node(node)
        zone = "" if node is None else node.zone
        if name == self._here.node and zone != self._here.zone:
            self._here = Here(name, zone)
            for service in list(self._services.values()):
                self._forget_service(service.key)
                self._add_service(service)

    def set_node_addresses(self, addresses: Iterable[str]) -> None:
        """What addresses this node has, besides those that the catalog knows."""
        self._at_nodes.set_own(addresses)

    def pods(self) -> list[Pod]:
        """Every pod."""
        return list(self._pods.values())

    def pods_on(self, node: str) -> list[Pod]:
        """Every pod of a node."""
        return list(self._pods_by_node[node].values()) if node in self._pods_by_node else []

    def pod(self, key: PodKey) -> Pod | None:
        """The pod called `namespace/name`."""
        return self._pods.get(key)

    def pod_at(self, address: str) -> Pod | None:
        """The pod that has this address."""
        return self._pods_by_ip.get(address)

    def service_at(self, address: str) -> Service | None:
        """The service that has this cluster IP."""
        return self._services_by_ip.get(address)

    def front_at(self, address: str, port: int) -> Front | None:
        """What is behind a cluster IP and port."""
        return self._fronts.get((address, port))

    def outside(self, address: str, port: int) -> Front | Endpoint | None:
        """What is behind an address that is neither a cluster IP nor a pod's.

        A service, at an external or a load balancer's address; or what a node leads on to from an address of its own:
        the service of a NodePort, or the pod of a hostPort.
        """
        return self._outside.get((address, port)) or self._at_nodes.find(address, port)

    def addresses_touched(self, change: CatalogChange) -> set[str]:
        """Every address whose meaning a change gives or takes, as far as what is in force now says."""
        pods = [
            pod
            for key in change.gone
            if key.kind == "Pod" and (pod := self._pods.get(pod_key(key.namespace, key.name)))
        ]
        pods += [pod for new in change.pods for pod in (new, self._pods.get(new.key)) if pod is not None]
        services = [
            known
            for key in change.gone
            if key.kind == "Service" and (known := self._services.get(f"{key.namespace}/{key.name}"))
        ]
        services += [each for new in change.services for each in (new, self._services.get(new.key)) if each is not None]
        found = {ip for pod in pods for ip in pod.ips}
        for service in services:
            found.update(service.cluster_ips)
            for port in service.ports:
                found.update(port.external_ips, port.balancer_ips)
        if (
            change.nodes
            or any(port.node_port for service in services for port in service.ports)
            or any(port.host_port for pod in pods for port in pod.container_ports)
        ):
            found |= self._at_nodes.addresses()
            found.update(ip for pod in pods for ip in pod.host_ips)
            found.update(ip for node in change.nodes for ip in node.addresses)
        return found
