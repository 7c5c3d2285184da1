"""Which endpoint a client of a service with `sessionAffinity: ClientIP` went to, known to all workers of an agent.

A client's connections are spread over the workers, so one of them alone cannot keep the promise. Each writes what it
has chosen into its own part of a memory that all map, and reads the others': without a lock, because an entry that is
read while it is written does not have its own sum, and counts as none.

Whoever has no entry (new, timed out, or pushed out by others) is given the endpoint that weighs most for it (rendezvous
hashing), so that workers which do not know of each other's choice yet make the same one.
"""

import struct
import sys
from functools import lru_cache
from hashlib import blake2b

from agent.catalog.fronts import Front
from agent.objects.model import Endpoint

SLOTS = 8192
"""Entries of one worker, at most: a client counts once for each port of a service that it calls."""
WAYS = 4
"""Entries among which one client's may stand: the oldest of them makes room."""

_ENTRY = struct.Struct("=QQdQ")
"""Client and service; endpoint; when it was used last, monotonic seconds; the sum of the three."""
_MASK = (1 << 64) - 1
_SALT = 0x9E3779B97F4A7C15
"""So that an entry of zeros, which was never written, has a wrong sum."""


def size_for(workers: int) -> int:
    """Bytes of memory for so many workers."""
    return workers * SLOTS * _ENTRY.size


class Affinity:
    """The memory as worker `own` of `workers` has it: `size_for(workers)` bytes, which are zeros at first."""

    def __init__(self, memory: memoryview, workers: int, own: int) -> None:
        if len(memory) != size_for(workers) or not 0 <= own < workers:
            raise ValueError(f"worker {own} of {workers} cannot have {len(memory)} bytes of memory")
        self._memory = memory
        self._parts = [worker * SLOTS for worker in range(workers)]
        self._own = own * SLOTS

    def pick(self, front: Front, client: str, now: float) -> Endpoint:
        """The endpoint of a client; used now, so that its time begins anew. `front` has at least one.

        An endpoint that is not there any more is forgotten. kube-proxy does not ask whether it is used in between
        either: the time counts from the beginning of the last connection.
        """
        who = f"{client}|{front.service}|{front.port}"
        key = _digest(who)
        kept = self._find(key, now - front.affinity_seconds)
        chosen = next((each for each in front.endpoints if kept is not None and _of(each) == kept), None)
        if chosen is None:
            chosen = max(front.endpoints, key=lambda each: _digest(f"{who}|{each.address}|{each.port}"))
        self._write(key, _of(chosen), now)
        return chosen

    def _find(self, key: int, since: float) -> int | None:
        """The endpoint that any worker noted last for this key, if not before `since`."""
        found, newest = None, since
        for part in self._parts:
            for slot in _slots(part, key):
                known, endpoint, used, total = _ENTRY.unpack_from(self._memory, slot)
                if known == key and used >= newest and total == _sum(known, endpoint, used):
                    found, newest = endpoint, used
        return found

    def _write(self, key: int, endpoint: int, now: float) -> None:
        oldest, room = float("inf"), 0
        for slot in _slots(self._own, key):
            known, _, used, _ = _ENTRY.unpack_from(self._memory, slot)
            if known == key:
                room = slot
                break
            if used < oldest:
                oldest, room = used, slot
        _ENTRY.pack_into(self._memory, room, key, endpoint, now, _sum(key, endpoint, now))


def _slots(part: int, key: int) -> list[int]:
    """Where in the memory the entries begin that a key may have in the part that begins at entry `part`."""
    first = part + key % (SLOTS // WAYS) * WAYS
    return [at * _ENTRY.size for at in range(first, first + WAYS)]


def _sum(key: int, endpoint: int, used: float) -> int:
    bits = int.from_bytes(struct.pack("=d", used), sys.byteorder)
    return (key ^ endpoint * 3 ^ bits * 5 ^ _SALT) & _MASK


def _of(endpoint: Endpoint) -> int:
    return _digest(f"{endpoint.address}|{endpoint.port}")


@lru_cache(maxsize=65536)
def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
