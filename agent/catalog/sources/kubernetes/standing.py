"""What is in force, from what the API server says now and what was in force before. Pure but for its memory of that.

As for files: a fault takes nothing away, and opens nothing. An object with a fault keeps its last good version, or has
a stand-in that denies; one that was deleted is gone, and so is the last good version of one that has another uid now.
Each change costs what it bears on.

Two pods may say that they have one address: one that has ended and whose object is still there, and its heir. Whoever
was started last has it, and the other none.
"""

from collections import defaultdict
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from agent.catalog.sources.kubernetes.reading import Decoded
from agent.manifests.fault import Fault, Remark
from agent.manifests.origin import Origin
from agent.objects.decode import RawObject, RawPod
from agent.objects.key import ObjectKey


class Held(Struct, frozen=True):
    """An object in force. `stand_in` is set where no good version of it is known."""

    raw: RawObject
    uid: str = ""
    stand_in: bool = False
    started: str = ""
    api_version: str = ""


class Taken(Struct, frozen=True):
    """What is in force now and was not when this was asked for last, and what is so no more."""

    changed: dict[ObjectKey, RawObject]
    gone: tuple[ObjectKey, ...]


class Standings:
    """Every object that is in force."""

    def __init__(self) -> None:
        self._held: dict[ObjectKey, Held] = {}
        self._in_force: dict[ObjectKey, RawObject] = {}
        """As whoever joins them was told last."""
        self._stirred: set[ObjectKey] = set()
        """Those that may be others than he was told."""
        self._owners: defaultdict[str, set[ObjectKey]] = defaultdict(set)
        """Pods by each of their addresses."""
        self._faults: dict[ObjectKey, Fault] = {}
        self._remarks: dict[ObjectKey, tuple[Remark, ...]] = {}

    @property
    def held(self) -> Mapping[ObjectKey, Held]:
        """Everything, to be remembered."""
        return self._held

    @property
    def faults(self) -> list[Fault]:
        """Of objects that cannot be used."""
        return list(self._faults.values())

    def origin(self, key: ObjectKey) -> Origin:
        """Where an object comes from that is in force."""
        held = self._held.get(key)
        return Origin(object=str(key), uid=held.uid, api_version=held.api_version) if held else Origin(object=str(key))

    @property
    def remarks(self) -> list[Remark]:
        """What is legal and does not do what it seems to."""
        return [remark for each in self._remarks.values() for remark in each]

    def restore(self, held: Mapping[ObjectKey, Held]) -> None:
        """Takes up where an agent before this one ended."""
        for key, each in held.items():
            self._put(key, each)

    def put(self, decoded: Decoded) -> None:
        """An object is there, in this version."""
        key = decoded.key
        former = self._held.get(key)
        if former is not None and former.uid != decoded.uid:
            former = None  # another object of this name
        self._faults.pop(key, None)
        self._remarks.pop(key, None)
        if decoded.remarks:
            origin = Origin(object=str(key))
            self._remarks[key] = tuple(Remark(origin, str(key), words) for words in decoded.remarks)
        if decoded.found is not None:
            self._put(key, Held(decoded.found, decoded.uid, started=decoded.started, api_version=decoded.api_version))
            return
        if not decoded.fault:
            self._drop(key)
            return
        good = former is not None and not former.stand_in
        now = former if good else self._stand_in(decoded)
        origin = Origin(object=str(key), path=decoded.path, uid=decoded.uid, api_version=decoded.api_version)
        self._faults[key] = Fault(origin, str(key), decoded.fault, last_good=good, closed=now is not None and not good)
        if now is None:
            self._drop(key)
        else:
            self._put(key, now)

    def remove(self, key: ObjectKey) -> None:
        """An object is gone."""
        self._faults.pop(key, None)
        self._remarks.pop(key, None)
        self._drop(key)

    def take(self) -> Taken:
        """What is different since the last time."""
        changed: dict[ObjectKey, RawObject] = {}
        gone: list[ObjectKey] = []
        for key in self._stirred:
            raw = self._effective(key)
            if raw is None:
                if self._in_force.pop(key, None) is not None:
                    gone.append(key)
            elif self._in_force.get(key) != raw:
                self._in_force[key] = changed[key] = raw
        self._stirred.clear()
        return Taken(changed, tuple(gone))

    @staticmethod
    def _stand_in(decoded: Decoded) -> Held | None:
        if decoded.stand_in is None:
            return None
        return Held(
            decoded.stand_in, decoded.uid, stand_in=True, started=decoded.started, api_version=decoded.api_version
        )

    def _put(self, key: ObjectKey, now: Held) -> None:
        self._let_go(key)
        self._held[key] = now
        for ip in _addresses(now.raw):
            self._owners[ip].add(key)
            self._stirred.update(self._owners[ip])
        self._stirred.add(key)

    def _drop(self, key: ObjectKey) -> None:
        if key in self._held:
            self._let_go(key)
            del self._held[key]
            self._stirred.add(key)

    def _let_go(self, key: ObjectKey) -> None:
        """Takes a former version's addresses from it."""
        former = self._held.get(key)
        for ip in () if former is None else _addresses(former.raw):
            owners = self._owners[ip]
            owners.discard(key)
            self._stirred.update(owners)
            if not owners:
                del self._owners[ip]

    def _effective(self, key: ObjectKey) -> RawObject | None:
        """An object as it is in force: a pod with those of its addresses that no later one has."""
        held = self._held.get(key)
        if held is None or not isinstance(held.raw, RawPod):
            return None if held is None else held.raw
        ips = held.raw.pod.ips
        mine = tuple(ip for ip in ips if len(self._owners.get(ip, ())) < 2 or self._owner(ip) == key)
        if mine == ips:
            return held.raw
        return msgspec.structs.replace(held.raw, pod=msgspec.structs.replace(held.raw.pod, ips=mine))

    def _owner(self, ip: str) -> ObjectKey:
        def rank(key: ObjectKey) -> tuple[bool, str, ObjectKey]:
            held = self._held[key]
            return not (isinstance(held.raw, RawPod) and held.raw.terminating), held.started, key

        return max(self._owners[ip], key=rank)


def _addresses(raw: RawObject) -> tuple[str, ...]:
    """A pod's own addresses; a pod on the host's network has none."""
    return raw.pod.ips if isinstance(raw, RawPod) and not raw.pod.host_network else ()
