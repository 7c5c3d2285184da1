"""What this agent tells people where they look first: Events on the objects that are wrong, or that wait.

What is told is what holds now (`Told`), so nothing is lost by a limit: it comes later. An Event's name is made of what
it says, so that of many agents that find the same fault in one policy only the first writes it.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from msgspec import Struct

from agent.kubernetes.backoff import Backoff
from agent.kubernetes.client import NO_QUERY, Query
from agent.kubernetes.errors import ApiError, Refused
from agent.manifests.fault import Fault
from agent.objects.model import Pod

log = logging.getLogger("quietwire.supervisor")

BURST = 25
"""Events at once; afterwards one each EACH_SECONDS. client-go's recorder has the same burst for one object."""
EACH_SECONDS = 2.0
WAITING_SECONDS = 5.0
"""A pod that waits no longer than that is no news."""
AGAIN_SECONDS = 3300.0
"""What still holds is told again: the API server forgets Events after an hour."""
SPREAD_SECONDS = 10.0
"""Over which agents spread what all of them find."""
LOOK_SECONDS = 5.0
LEFT_TO_LINKERD = (
    "Linkerd's proxy is in it, and no pod is captured twice: it is Linkerd's until it is started again without that"
)
MAX_MESSAGE = 1000
"""An Event's message may have 1024 bytes (core/v1)."""


class Requests(Protocol):
    """What is needed of a Client."""

    async def request(
        self, method: str, path: str, query: Query = NO_QUERY, body: Mapping[str, Any] | bytes | None = None
    ) -> bytes:
        """See there."""


class Told(Struct, frozen=True, order=True):
    """One thing that holds, of one object."""

    kind: str
    namespace: str
    name: str
    uid: str
    reason: str
    message: str
    api_version: str = "v1"

    @property
    def path(self) -> str:
        """Of the request. Events on what has no namespace are in `default`, as kubectl expects."""
        return f"/api/v1/namespaces/{self.namespace or 'default'}/events"

    def event(self, now: float, node: str) -> dict[str, Any]:
        """The object (core/v1 Event)."""
        when = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = hashlib.sha256("\0".join((self.uid, self.reason, self.message)).encode()).hexdigest()[:16]
        involved = {
            "kind": self.kind,
            "apiVersion": self.api_version,  # `kubectl events --for` looks by it
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
        }
        return {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": f"{self.name[:200]}.{digest}", "namespace": self.namespace or "default"},
            "involvedObject": {name: value for name, value in involved.items() if value},
            "type": "Warning",
            "reason": self.reason,
            "message": self.message[:MAX_MESSAGE],
            "source": {"component": "quietwire-agent", "host": node},
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }


def of_faults(faults: Iterable[Fault]) -> set[Told]:
    """What is to be told of objects that cannot be used; a file is no object."""
    found = set()
    for fault in faults:
        kind, _, rest = fault.origin.object.partition(" ")
        namespace, _, name = rest.rpartition("/")
        if not name:
            continue
        where = f"{fault.origin.path}: " if fault.origin.path else ""
        message = f"{where}{fault.reason}{fault.consequence}"
        kind = kind.partition(".")[0]
        found.add(Told(kind, namespace, name, fault.origin.uid, "CannotBeUsed", message, fault.origin.api_version))
    return found


def of_waiting(waiting: Iterable[tuple[Pod, str]]) -> set[Told]:
    """What is to be told of pods of this node that are refused until they are captured."""
    return {
        Told(
            "Pod",
            pod.namespace,
            pod.name,
            pod.uid,
            "NotCaptured",
            f"it is not meshed yet: {why}",
        )
        for pod, why in waiting
    }


class Limit:
    """A bucket of BURST, that fills by one each EACH_SECONDS. Pure: time is an argument."""

    def __init__(self, now: float) -> None:
        self._left = float(BURST)
        self._at = now

    def wait(self, now: float) -> float:
        """Takes one where there is one; else for how many seconds to wait."""
        self._left = min(float(BURST), self._left + (now - self._at) / EACH_SECONDS)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) * EACH_SECONDS


class Events:
    """Tells, until it is cancelled. `faults` and `waiting` give what holds now."""

    def __init__(
        self,
        client: Requests,
        faults: Callable[[], Iterable[Fault]],
        waiting: Callable[[], Iterable[tuple[Pod, str]]],
        *,
        node: str,
        chance: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._faults = faults
        self._waiting = waiting
        self._node = node
        self._chance = chance
        self._clock = clock
        self._since: dict[Told, float] = {}
        """When each that holds was first seen."""
        self._told: dict[Told, float] = {}

    def due(self, now: float) -> list[Told]:
        """What is to be told now, in order."""
        pods, faults = of_waiting(self._waiting()), of_faults(self._faults())
        holds = pods | faults
        self._since = {each: self._since.get(each, now + self._grace(each in pods)) for each in holds}
        self._told = {each: at for each, at in self._told.items() if each in holds and now - at < AGAIN_SECONDS}
        return sorted(each for each in holds if each not in self._told and now >= self._since[each])

    def _grace(self, of_this_node: bool) -> float:
        return WAITING_SECONDS if of_this_node else SPREAD_SECONDS * self._chance()

    async def run(self) -> None:
        """See the class."""
        limit = Limit(self._clock())
        backoff = Backoff()
        while True:
            for each in self.due(self._clock()):
                if (seconds := limit.wait(self._clock())) > 0:
                    await asyncio.sleep(seconds)
                    break  # what holds may be another by now
                try:
                    await self._client.request("POST", each.path, body=each.event(self._clock(), self._node))
                    backoff.succeeded()
                except Refused as error:
                    # Somebody has told it, or the namespace is gone, or goes.
                    if not (error.conflict or error.not_found or error.terminating):
                        log.warning("an Event about %s %s/%s: %s", each.kind, each.namespace, each.name, error)
                    backoff.succeeded()  # and is not tried again: the log has it
                except ApiError:
                    await asyncio.sleep(backoff.failed(self._chance()))
                    break  # nothing is lost: it still holds when the API server answers
                self._told[each] = self._clock()
            await asyncio.sleep(LOOK_SECONDS)
