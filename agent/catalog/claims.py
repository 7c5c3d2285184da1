"""Whose an address outside the cluster's network is, where several services claim it at one port: pure.

External addresses and load balancers' may be shared, port by port, as a node's own address is: so what belongs to one
service alone is an address and a port. Every agent must come to the same answer, whatever it read first: the oldest
service has it, then the first by name.
"""

from collections import defaultdict
from typing import NamedTuple

from msgspec import Struct

from agent.objects.decode_services import RawService, RawServicePort
from agent.objects.key import ObjectKey


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
