"""Whose an address outside the cluster's network is, where several services, or pods, claim it at one port: pure.

External addresses and load balancers' may be shared, port by port, as a node's own address is: so what belongs to one
service alone is an address and a port. Every agent must come to the same answer, whatever it read first: the oldest
service has it, then the first by name. Of pods with one hostPort on one node, which no scheduler puts there but a
directory of manifests may, it is the first by name: that one stays when a look-up finds it (`node_ports`).
"""

from collections import defaultdict
from typing import NamedTuple

from msgspec import Struct

from agent.objects.decode_services import RawService, RawServicePort
from agent.objects.key import ObjectKey
from agent.objects.model import Pod


class Claim(NamedTuple):
    """An address and a port; without an address, a port of every node."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address}, port {self.port}," if self.address else f"NodePort {self.port}"


class Held(Struct, frozen=True):
    """What one port of a service is reached at from outside the cluster's network."""

    external_ips: tuple[str, ...]
    balancer_ips: tuple[str, ...]
    node_port: int


_Rank = tuple[float, ObjectKey]


class Claims:
    """Everybody's claims of now. A change costs what it claims, not what there is."""

    def __init__(self) -> None:
        self._of: dict[ObjectKey, frozenset[Claim]] = {}
        self._claimants: defaultdict[Claim, set[_Rank]] = defaultdict(set)
        self._disputed: set[Claim] = set()

    def put(self, key: ObjectKey, service: RawService | None) -> set[ObjectKey]:
        """Takes what a service claims now, nothing where it is gone; the others that may have won or lost by it."""
        former = self._of.pop(key, frozenset())
        now = frozenset() if service is None else claims_of(service)
        if not former and not now:
            return set()
        others: set[ObjectKey] = set()
        for claim in former:
            those = self._claimants[claim]
            those -= {each for each in those if each[1] == key}
            others.update(each[1] for each in those)
        for claim in now:
            created = None if service is None else service.created
            others.update(each[1] for each in self._claimants[claim])
            self._claimants[claim].add((float("inf") if created is None else created, key))
        for claim in former | now:
            if len(self._claimants[claim]) > 1:
                self._disputed.add(claim)
            else:
                self._disputed.discard(claim)
            if not self._claimants[claim]:
                del self._claimants[claim]
        if now:
            self._of[key] = now
        return others

    def held(self, service: RawService, port: RawServicePort) -> Held:
        """What of its claims a service has."""
        key = ObjectKey("Service", service.namespace, service.name)

        def mine(address: str, number: int) -> bool:
            return self._holder(Claim(address, number)) == key

        return Held(
            tuple(ip for ip in service.external_ips if mine(ip, port.port)),
            tuple(ip for ip in service.balancer_ips if mine(ip, port.port)),
            port.node_port if port.node_port and mine("", port.node_port) else 0,
        )

    def conflicts(self) -> dict[ObjectKey, str]:
        """Each service that has not all that it claims, and words that name who has it."""
        lost: defaultdict[ObjectKey, list[str]] = defaultdict(list)
        for claim in sorted(self._disputed):
            holder = self._holder(claim)
            for _, key in sorted(self._claimants[claim]):
                if key != holder:
                    lost[key].append(f"{claim} is {holder}'s, which is older, or first by name")
        return {key: "; ".join(words) for key, words in lost.items()}

    def _holder(self, claim: Claim) -> ObjectKey | None:
        return min(self._claimants[claim])[1] if claim in self._claimants else None


def claims_of(service: RawService) -> frozenset[Claim]:
    """All that a service claims."""
    outside = dict.fromkeys((*service.external_ips, *service.balancer_ips))
    found = {Claim(ip, port.port) for port in service.ports for ip in outside}
    return frozenset(found | {Claim("", port.node_port) for port in service.ports if port.node_port})


class HostPorts:
    """Which pods claim a port of their node. A change costs what it claims, not what there is."""

    def __init__(self) -> None:
        self._of: dict[ObjectKey, Pod] = {}
        self._claimants: defaultdict[tuple[str, int], dict[str, Pod]] = defaultdict(dict)
        """By node and port, then by the pods' keys."""
        self._shared: set[tuple[str, int]] = set()

    def put(self, key: ObjectKey, pod: Pod | None) -> None:
        """Takes what a pod claims now, nothing where it is gone."""
        former = self._of.pop(key, None)
        for place in _places(former):
            self._claimants[place].pop(f"{key.namespace}/{key.name}", None)
            self._settle(place)
        places = _places(pod)
        if pod is None or not places:
            return
        self._of[key] = pod
        for place in places:
            self._claimants[place][pod.key] = pod
            self._settle(place)

    def conflicts(self) -> dict[ObjectKey, str]:
        """Each pod that has not all host ports that it claims, and words that name who has them."""
        lost: defaultdict[ObjectKey, list[str]] = defaultdict(list)
        for place in sorted(self._shared):
            node, port = place
            first: list[Pod] = []
            for _, pod in sorted(self._claimants[place].items()):
                holder = next((each for each in first if _meet(_addresses(each, port), _addresses(pod, port))), None)
                if holder is not None:
                    words = f"hostPort {port} of node {node} is {holder.object_key}'s, which is first by name"
                    lost[pod.object_key].append(words)
                first.append(pod)
        return {key: "; ".join(words) for key, words in lost.items()}

    def _settle(self, place: tuple[str, int]) -> None:
        those = self._claimants[place]
        if len(those) > 1:
            self._shared.add(place)
        else:
            self._shared.discard(place)
        if not those:
            del self._claimants[place]


def _places(pod: Pod | None) -> set[tuple[str, int]]:
    """Where a pod has host ports; nowhere as long as it has no node, or where its ports are the node's already."""
    if pod is None or not pod.node or pod.host_network:
        return set()
    return {(pod.node, each.host_port) for each in pod.container_ports if each.host_port}


def _addresses(pod: Pod, port: int) -> set[str]:
    """The node's addresses on which a pod has a host port; empty for every one."""
    return {each.host_ip for each in pod.container_ports if each.host_port == port}


def _meet(some: set[str], others: set[str]) -> bool:
    return "" in some or "" in others or not some.isdisjoint(others)
