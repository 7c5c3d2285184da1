"""What is reached at a node's own addresses: services by NodePort, pods by hostPort."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from agent.catalog.fronts import Front
from agent.objects.key import PodKey
from agent.objects.model import Endpoint, Node, Pod


class NodePorts:
    """Look-ups by a node's address and a port.

    Which node an address is of is known for this one (`set_own`), by Node objects, and by what pods say of theirs.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._own: frozenset[str] = frozenset()
        self._nodes_at: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By address: names of nodes, and how many objects say so."""
        self._services: dict[int, tuple[Front, Front]] = {}
        """By port: for IPv4, for IPv6."""
        self._pods: defaultdict[int, dict[PodKey, Pod]] = defaultdict(dict)
        """By host port, then by key."""

    def set_own(self, addresses: Iterable[str]) -> None:
        """The addresses of this node's interfaces."""
        self._own = frozenset(addresses)

    def add_node(self, node: Node) -> None:
        """What a Node says of itself."""
        self._count(node.addresses, node.name, 1)

    def remove_node(self, node: Node) -> None:
        """The same, taken back."""
        self._count(node.addresses, node.name, -1)

    def add_pod(self, pod: Pod) -> None:
        """A pod's node, and the ports there that lead to it."""
        self._count(_host_ips(pod), pod.node, 1)
        for port in _host_ports(pod):
            self._pods[port][pod.key] = pod

    def remove_pod(self, pod: Pod) -> None:
        """The same, taken back."""
        self._count(_host_ips(pod), pod.node, -1)
        for port in _host_ports(pod):
            those = self._pods[port]
            those.pop(pod.key, None)
            if not those:
                del self._pods[port]

    def add(self, port: int, four: Front, six: Front) -> None:
        """A NodePort's service, for each family."""
        self._services[port] = (four, six)

    def remove(self, port: int, service: str) -> None:
        """The same, taken back, where it is that service's."""
        known = self._services.get(port)
        if known is not None and known[0].service == service:
            del self._services[port]

    def addresses(self) -> set[str]:
        """Every address of a node."""
        return {*self._own, *self._nodes_at}

    def find(self, address: str, port: int) -> Front | Endpoint | None:
        """What is behind a port of a node: the service that has it as NodePort goes before a pod's hostPort."""
        service = self._services.get(port)
        pods = self._pods.get(port)
        if service is None and pods is None:
            return None
        nodes = {self._node} if address in self._own else self._nodes_at.get(address)
        if not nodes:
            return None
        six = ":" in address
        if service is not None:
            return service[six]
        found = [
            Endpoint(ip, each.port, pod.node)
            for pod in sorted((pods or {}).values(), key=lambda pod: pod.key)
            if pod.node in nodes
            for each in pod.container_ports
            if each.host_port == port and each.host_ip in {"", address}
            for ip in pod.ips
            if (":" in ip) is six
        ]
        return found[0] if found else None

    def _count(self, addresses: Iterable[str], node: str, by: int) -> None:
        for address in addresses:
            nodes = self._nodes_at[address]
            nodes[node] += by
            if nodes[node] <= 0:
                del nodes[node]
            if not nodes:
                del self._nodes_at[address]


def _host_ips(pod: Pod) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*pod.host_ips, *pod.ips))) if pod.host_network else pod.host_ips


def _host_ports(pod: Pod) -> set[int]:
    """Ports of the node that lead to a pod: of one on the host's network, they are its own already."""
    return set() if pod.host_network else {each.host_port for each in pod.container_ports if each.host_port}
