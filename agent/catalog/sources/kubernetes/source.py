"""The `kubernetes` source: an API server's objects, followed, settled, joined, and told as one catalog.

Nothing is told before every kind has been listed once, or what was last known has been restored: half a cluster's
policy is none. From then on what is known stays in force through any outage of the API server.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from agent.catalog.join import Assembly, Problem
from agent.catalog.source import OnChange
from agent.catalog.sources.kubernetes.kinds import FOLLOWED, Followed
from agent.catalog.sources.kubernetes.reading import UnreadableError, key, read
from agent.catalog.sources.kubernetes.standing import Standings
from agent.kubernetes.backoff import Backoff
from agent.kubernetes.client import Client
from agent.kubernetes.errors import ApiError, Unreachable
from agent.kubernetes.follow import Follower
from agent.manifests.fault import Fault, Remark
from agent.manifests.origin import Origin
from agent.objects.key import ObjectKey
from agent.tasks import spawn

log = logging.getLogger("quietwire.catalog")

GATHER_SECONDS = 0.05
"""Changes that come within it are joined, and told, together."""
WAITING_SAID_SECONDS = 10.0
STREAMING_SINCE = (1, 34)
"""From this version of Kubernetes on lists come by watches (KEP-3157)."""
MAX_SAID = 100


class _Version(msgspec.Struct, frozen=True):
    major: str = ""
    minor: str = ""


class _Kind:
    """The sink of one kind: what is listed, and what is gone by it."""

    def __init__(self, followed: Followed, standings: Standings, stirred: Callable[[], None]) -> None:
        self._kind = followed.kind
        self._standings = standings
        self._stirred = stirred
        self._there: set[ObjectKey] = set()
        self._listed: set[ObjectKey] | None = None

    def restore(self, keys: set[ObjectKey]) -> None:
        """Objects that are known from before: gone, unless the first list has them."""
        self._there = keys

    def begin(self) -> None:
        """See Sink."""
        self._listed = set()

    def put(self, raw: bytes) -> None:
        """See Sink."""
        try:
            decoded = read(self._kind, raw)
        except UnreadableError as error:
            raise Unreachable(f"what the API server sends of {self._kind} is unreadable: {error}") from error
        self._there.add(decoded.key)
        if self._listed is not None:
            self._listed.add(decoded.key)
        self._standings.put(decoded)
        self._stirred()

    def remove(self, raw: bytes) -> None:
        """See Sink."""
        try:
            gone = key(self._kind, raw)
        except UnreadableError as error:
            raise Unreachable(f"what the API server sends of {self._kind} is unreadable: {error}") from error
        self._there.discard(gone)
        if self._listed is not None:
            self._listed.discard(gone)
        self._standings.remove(gone)
        self._stirred()

    def complete(self) -> None:
        """See Sink."""
        listed = self._listed if self._listed is not None else set()
        for gone in self._there - listed:
            self._standings.remove(gone)
        self._there, self._listed = listed, None
        self._stirred()


class KubernetesSource:
    """All objects of a cluster that mean something to a mesh. `on_change` is told as by any source."""

    def __init__(self, client: Client, on_change: OnChange) -> None:
        self._client = client
        self._on_change = on_change
        self._standings = Standings()
        self._assembly = Assembly()
        self._faults: tuple[Fault, ...] = ()
        self._remarks: frozenset[Remark] = frozenset()
        self._stirred = asyncio.Event()
        self._state = asyncio.Event()
        self._followers: list[Follower] = []
        self._running: list[asyncio.Task[None]] = []
        self._told = False

    @property
    def failures(self) -> dict[str, ApiError]:
        """Kinds of which nothing is heard at the moment, and why."""
        return {str(each.kind): each.failure for each in self._followers if each.failure is not None}

    @property
    def waiting(self) -> list[str]:
        """Kinds that have never been listed."""
        return [str(each.kind) for each in self._followers if not each.complete]

    async def stirred(self) -> None:
        """Returns when any kind's state is another: `failures` or `waiting`."""
        self._state.clear()
        await self._state.wait()

    async def start(self) -> None:
        """Lists everything; says every while for what it waits."""
        streaming = await self._is_streaming()
        for followed in FOLLOWED:
            sink = _Kind(followed, self._standings, self._stirred.set)
            follower = Follower(
                self._client,
                followed.versions,
                sink,
                streaming=streaming,
                optional=followed.optional,
                accept=followed.accept,
                accept_list=followed.accept_list,
                changed=self._state.set,
            )
            self._followers.append(follower)
            self._running.append(spawn(follower.run(), name=f"follow {followed.kind}"))
        while waiting := self.waiting:
            self._state.clear()
            try:
                async with asyncio.timeout(WAITING_SAID_SECONDS):
                    await self._state.wait()
            except TimeoutError:
                why = "; ".join(sorted({str(failure) for failure in self.failures.values()}))
                log.warning(
                    "no pod can be served before these are listed: %s%s", ", ".join(waiting), f" ({why})" if why else ""
                )
        self._publish()

    async def _is_streaming(self) -> bool:
        """Whether lists come by watches. Waits for the API server."""
        backoff = Backoff()
        while True:
            try:
                found = msgspec.json.decode(await self._client.get("/version"), type=_Version)
                return (int(found.major), int(found.minor.rstrip("+"))) >= STREAMING_SINCE
            except ApiError as error:
                log.warning("no pod can be served before the API server answers: %s", error)
                await asyncio.sleep(backoff.failed(1.0))
            except (msgspec.MsgspecError, ValueError):
                return False  # pages are what every server has

    async def run(self) -> None:
        """Joins and tells what has changed, until it is cancelled."""
        try:
            gather = spawn(self._gather(), name="gather")
            needed = [gather, *self._running]
            ended, _ = await asyncio.wait(needed, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # raises what it died of: none goes on without the others
        finally:
            for task in needed:
                task.cancel()
            await asyncio.wait(needed)
            self._client.close()

    async def _gather(self) -> None:
        while True:
            await self._stirred.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._publish()

    def _publish(self) -> None:
        self._stirred.clear()
        taken = self._standings.take()
        change = self._assembly.apply(taken.changed, taken.gone)
        faults = tuple(
            sorted(
                [
                    *self._standings.faults,
                    *(self._of_ours(each, problem) for each, problem in self._assembly.problems.items()),
                    *self._conflicts(),
                ]
            )
        )
        self._say(self._standings.remarks)
        if change is not None or faults != self._faults or not self._told:
            self._faults, self._told = faults, True
            self._on_change(change, faults)

    def _conflicts(self) -> list[Fault]:
        lost = {**self._assembly.claims.conflicts(), **self._assembly.host_ports.conflicts()}
        return [Fault(Origin(object=str(each)), str(each), reason) for each, reason in lost.items()]

    @staticmethod
    def _of_ours(name: ObjectKey, problem: Problem) -> Fault:
        return Fault(
            Origin(object=str(name)), str(name), problem.reason, last_good=problem.kept, closed=not problem.kept
        )

    def _say(self, remarks: list[Remark]) -> None:
        new = [each for each in remarks if each not in self._remarks]
        for each in new[:MAX_SAID]:
            log.warning("%s", each, extra={"fields": {"event": "remark", **each.origin.fields}})
        if len(new) > MAX_SAID:
            log.warning("%d more such things", len(new) - MAX_SAID)
        self._remarks = frozenset(remarks)
