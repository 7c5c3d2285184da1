"""Where everything of a cluster is: directories, namespaces, addresses. Pure."""

import ipaddress
from pathlib import Path

from msgspec import Struct

MACHINES = ipaddress.IPv4Network("192.168.77.0/24")
MACHINES_V6 = ipaddress.IPv6Network("fd77:c::/64")
"""Of the control plane and the nodes, on a bridge in the control plane's namespace."""
PODS, PODS_V6 = "10.244.0.0/16", "fd44:c::/56"
SERVICES, SERVICES_V6 = "10.96.0.0/16", "fd96:c::/112"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
API_PORT = 6443
ETCD = "http://127.0.0.1:2379"
CGROUPS = Path("/sys/fs/cgroup")


class Node(Struct, frozen=True):
    """One machine of the cluster: namespaces of its own, and its part of the bridge."""

    cluster: "Layout"
    number: int
    """From 1 on."""

    @property
    def name(self) -> str:
        """As the cluster calls it."""
        return f"n{self.number}"

    @property
    def netns(self) -> str:
        """Of the machine itself, as ip-netns(8) names it."""
        return f"{self.cluster.name}-{self.name}"

    @property
    def port(self) -> str:
        """Its end of the bridge."""
        return f"port-{self.name}"

    @property
    def address(self) -> str:
        """On the bridge, IPv4."""
        return str(MACHINES[10 + self.number])

    @property
    def address_v6(self) -> str:
        """On the bridge, IPv6."""
        return str(MACHINES_V6[10 + self.number])

    @property
    def directory(self) -> Path:
        """Its disk."""
        return self.cluster.directory / self.name

    @property
    def cgroup(self) -> str:
        """Under which its kubelet puts pods; two kubelets would end each other's otherwise."""
        return self.netns


class Layout(Struct, frozen=True):
    """Of one cluster; `name` tells clusters of one machine apart, and begins the names of its namespaces."""

    name: str
    directory: Path
    """On a file system of the machine's own, not below /etc, /opt, /run or /var, which a node has layers of."""

    @property
    def pki(self) -> Path:
        """Keys, certificates, kubeconfigs."""
        return self.directory / "pki"

    @property
    def logs(self) -> Path:
        """What each process says."""
        return self.directory / "logs"

    @property
    def audit(self) -> Path:
        """What service accounts asked of the API server, one Event (audit.k8s.io/v1) a line; not the system's own."""
        return self.logs / "audit.jsonl"

    @property
    def record(self) -> Path:
        """Which processes were started."""
        return self.directory / "processes"

    @property
    def owner(self) -> Path:
        """For which process it is there, where it is for one."""
        return self.directory / "owner"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.pki / "admin.conf"

    @property
    def hub(self) -> str:
        """The control plane's network namespace, in which the bridge is."""
        return f"{self.name}-hub"

    @property
    def address(self) -> str:
        """Of the control plane, IPv4."""
        return str(MACHINES[1])

    @property
    def address_v6(self) -> str:
        """Of the control plane, IPv6."""
        return str(MACHINES_V6[1])

    @property
    def server(self) -> str:
        """The API server's."""
        return f"https://{self.address}:{API_PORT}"

    def node(self, number: int) -> Node:
        """One of its nodes, from 1 on."""
        return Node(self, number)
