"""Look-ups over one catalog snapshot, made once per snapshot and process."""

from agent.catalog.model import Catalog, Pod, Service, ServicePort


class CatalogIndex:
    """What the data path asks of a catalog, each in one dict look-up."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._pods_by_key = {pod.key: pod for pod in catalog.pods}
        self._pods_by_ip = {ip: pod for pod in catalog.pods for ip in pod.ips}
        self._services_by_ip = {ip: service for service in catalog.services for ip in service.cluster_ips}
        self._ports: dict[tuple[str, int], ServicePort] = {
            (ip, port.port): _of_family(port, ip)
            for service in catalog.services
            for ip in service.cluster_ips
            for port in service.ports
        }

    def pod(self, key: str) -> Pod | None:
        """The pod called `namespace/name`."""
        return self._pods_by_key.get(key)

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
