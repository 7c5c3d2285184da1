"""Who has a name or an address when two manifests claim it: whoever had it before. Pure but for its memory of that.

A second claim is a fault of the second, wherever its file sorts: it must not take a pod's rules away from it.
"""

from collections.abc import Mapping

from agent.catalog.fault import Fault
from agent.catalog.key import ObjectKey
from agent.catalog.objects import RawObject, RawPod, RawService

Located = tuple[str, int, RawObject]
"""File, line, object."""


class Holders:
    """What each `settle` left in force, for the next one."""

    def __init__(self) -> None:
        self._objects: dict[ObjectKey, RawObject] = {}
        self._files: dict[ObjectKey, str] = {}
        self._addresses: dict[str, ObjectKey] = {}

    def settle(
        self, files: Mapping[str, Mapping[ObjectKey, tuple[int, RawObject]]]
    ) -> tuple[dict[ObjectKey, RawObject], list[Fault]]:
        """Every object once, and no address twice; what had to give way is a fault."""
        faults: list[Fault] = []
        claims = self._names(files, faults)
        objects: dict[ObjectKey, RawObject] = {}
        addresses: dict[str, ObjectKey] = {}
        newer: list[tuple[bool, ObjectKey, Located]] = []
        for key, claim in claims.items():
            mine = _addresses_of(claim[2])
            held = [ip for ip in mine if self._addresses.get(ip) == key]
            if len(held) == len(mine):
                addresses.update(dict.fromkeys(mine, key))
                objects[key] = claim[2]
            else:
                newer.append((not held, key, claim))
        newer.sort(key=lambda each: each[0])  # whoever keeps one address goes before whoever comes with none
        for _, key, (name, line, raw) in newer:
            taken = next((ip for ip in _addresses_of(raw) if ip in addresses), None)
            if taken is None:
                addresses.update(dict.fromkeys(_addresses_of(raw), key))
                objects[key] = raw
                continue
            former = self._objects.get(key)
            stays = former is not None and not any(ip in addresses for ip in _addresses_of(former))
            reason = f"its address {taken} is {addresses[taken]}'s already"
            faults.append(Fault(name, line, str(key), reason, last_good=stays))
            if former is not None and stays:
                addresses.update(dict.fromkeys(_addresses_of(former), key))
                objects[key] = former
        self._objects, self._addresses = objects, addresses
        self._files = {key: claims[key][0] for key in objects}
        return objects, faults

    def _names(
        self, files: Mapping[str, Mapping[ObjectKey, tuple[int, RawObject]]], faults: list[Fault]
    ) -> dict[ObjectKey, Located]:
        claims: dict[ObjectKey, Located] = {}
        for name, objects in files.items():
            for key, (line, raw) in objects.items():
                other = claims.get(key)
                if other is None:
                    claims[key] = (name, line, raw)
                elif self._files.get(key) == name:
                    faults.append(Fault(other[0], other[1], str(key), f"{name} has this object already"))
                    claims[key] = (name, line, raw)
                else:
                    faults.append(Fault(name, line, str(key), f"{other[0]} has this object already"))
        return claims


def _addresses_of(raw: RawObject) -> tuple[str, ...]:
    if isinstance(raw, RawPod):
        return () if raw.pod.host_network else raw.pod.ips
    return raw.cluster_ips if isinstance(raw, RawService) else ()
