"""Look-ups over the catalog of now, one per process. A change costs what it changes, not what there is."""

from agent.catalog.key import ObjectKey
from agent.catalog.model import Catalog, CatalogChange, Pod, Service, ServicePort
from agent.policy.objects import PolicyObject


class CatalogIndex:
    """What the data path asks of a catalog, each in one dict look-up."""

    def __init__(self, catalog: Catalog) -> None:
        self.version = 0
        self._pods: dict[str, Pod] = {}
        self._pods_by_ip: dict[str, Pod] = {}
        self._services: dict[str, Service] = {}
        self._services_by_ip: dict[str, Service] = {}
        self._ports: dict[tuple[str, int], ServicePort] = {}
        self._policies: dict[ObjectKey, PolicyObject] = {}
        self.apply(CatalogChange(catalog.version, catalog.pods, catalog.services, catalog.policies))

    @property
    def catalog(self) -> Catalog:
        """Everything, as one value: for a process that starts."""
        return Catalog(
            self.version,
            tuple(self._pods.values()),
            tuple(self._services.values()),
            tuple(self._policies.values()),
        )

    def apply(self, change: CatalogChange) -> None:
        """Puts a change in force. What goes goes first: an address may have been given to another pod."""
        self.version = change.version
        for key in change.gone:
            name = f"{key.namespace}/{key.name}"
            if key.kind == "Pod":
                self._forget_pod(name)
            elif key.kind == "Service":
                self._forget_service(name)
            else:
                self._policies.pop(key, None)
        for pod in change.pods:
            self._forget_pod(pod.key)
        for service in change.services:
            self._forget_service(service.key)
        for pod in change.pods:
            self._pods[pod.key] = pod
            if not pod.host_network:
                self._pods_by_ip.update(dict.fromkeys(pod.ips, pod))
        for service in change.services:
            self._services[service.key] = service
            for ip in service.cluster_ips:
                self._services_by_ip[ip] = service
                for port in service.ports:
                    self._ports[ip, port.port] = _of_family(port, ip)
        for policy in change.policies:
            self._policies[policy.key] = policy

    def _forget_pod(self, key: str) -> None:
        pod = self._pods.pop(key, None)
        for ip in () if pod is None else pod.ips:
            if self._pods_by_ip.get(ip) is pod:
                del self._pods_by_ip[ip]

    def _forget_service(self, key: str) -> None:
        service = self._services.pop(key, None)
        for ip in () if service is None else service.cluster_ips:
            if self._services_by_ip.get(ip) is service:
                del self._services_by_ip[ip]
                for port in () if service is None else service.ports:
                    self._ports.pop((ip, port.port), None)

    def pods(self) -> list[Pod]:
        """Every pod."""
        return list(self._pods.values())

    def pod(self, key: str) -> Pod | None:
        """The pod called `namespace/name`."""
        return self._pods.get(key)

    def pod_at(self, address: str) -> Pod | None:
        """The pod that has this address."""
        return self._pods_by_ip.get(address)

    def service_at(self, address: str) -> Service | None:
        """The service that has this cluster IP."""
        return self._services_by_ip.get(address)

    def service_port(self, address: str, port: int) -> ServicePort | None:
        """The service port behind a cluster IP and port, with the endpoints of the same address family."""
        return self._ports.get((address, port))


def _of_family(port: ServicePort, cluster_ip: str) -> ServicePort:
    ready = tuple(endpoint for endpoint in port.ready if (":" in endpoint.address) == (":" in cluster_ip))
    return port if ready == port.ready else ServicePort(port.name, port.port, ready)
