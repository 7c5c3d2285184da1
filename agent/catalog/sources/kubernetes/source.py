"""The `kubernetes` source: an API server's objects, followed, settled, joined, and told as one catalog.

Nothing is told before every kind has been listed once, or what was last known is used instead: half a cluster's policy
is none. From then on what is known stays in force through any outage of the API server.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from agent.catalog.join import Assembly, Problem
from agent.catalog.remarks import Remarks
from agent.catalog.source import OnChange, SourceState
from agent.catalog.sources.kubernetes.kinds import FOLLOWED, Followed
from agent.catalog.sources.kubernetes.reading import UnreadableError, key, read
from agent.catalog.sources.kubernetes.remembered import ClusterMemory
from agent.catalog.sources.kubernetes.standing import Standings, Taken
from agent.kubernetes.backoff import Backoff
from agent.kubernetes.client import Client
from agent.kubernetes.errors import ApiError, Unreachable
from agent.kubernetes.follow import Follower
from agent.manifests.fault import Fault
from agent.objects.key import ObjectKey
from agent.tasks import spawn

log = logging.getLogger("quietwire.catalog")

GATHER_SECONDS = 0.05
"""Changes that come within it are joined, and told, together."""
WAITING_SAID_SECONDS = 10.0
STREAMING_SINCE = (1, 34)
"""From this version of Kubernetes on lists come by watches (KEP-3157)."""
MEMORY_AFTER_SECONDS = 5.0
"""How long a start waits for the API server before it goes by what is remembered."""
SOON_SECONDS = 1.0
"""Least time between two times that what is in force is remembered, where a policy is another."""
LATER_SECONDS = 30.0
"""The same of what changes all the time: remembering costs a file of all that there is."""
_CHANGE_ALL_THE_TIME = frozenset({"Pod", "EndpointSlice", "Node"})


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

    def restore(self, known: ObjectKey) -> None:
        """An object that is known from before: gone, unless the first list has it."""
        self._there.add(known)

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
    """All objects of a cluster that mean something to a mesh. `on_change` is told as by any source.

    What is in force is remembered in `memory`, where one is given, for a start without an API server, and for objects
    that cannot be read any more when an agent starts. `followed`: of these kinds only, for whoever asks for no more.
    `beside_linkerd`: see Assembly.
    """

    def __init__(
        self,
        client: Client,
        on_change: OnChange,
        memory: ClusterMemory | None = None,
        *,
        followed: Sequence[Followed] = FOLLOWED,
        beside_linkerd: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._memory = memory
        self._clock = clock
        self._standings = Standings()
        self._assembly = Assembly(meshed_by_default=False, beside_linkerd=beside_linkerd)
        self._faults: tuple[Fault, ...] = ()
        self._remarks = Remarks()
        self._stirred = asyncio.Event()
        self._state = asyncio.Event()
        self._sinks = {each: _Kind(each, self._standings, self._stirred.set) for each in followed}
        self._followers: list[Follower] = []
        self._running: list[asyncio.Task[None]] = []
        """What never ends by itself."""
        self._listing: asyncio.Task[None] | None = None
        """Until everything has been listed once."""
        self._told = False
        self._listed = False
        self._unreachable = ""
        """Why the API server has not answered at all yet."""
        self._unheard_since: float | None = None
        self._to_remember = asyncio.Event()
        self._soon = asyncio.Event()

    @property
    def failures(self) -> dict[str, ApiError]:
        """Kinds of which nothing is heard at the moment, and why."""
        return {str(each.kind): each.failure for each in self._followers if each.failure is not None}

    @property
    def waiting(self) -> list[str]:
        """Kinds that have never been listed."""
        if not self._followers:
            return [str(each.kind) for each in self._sinks]
        return [str(each.kind) for each in self._followers if not each.complete]

    @property
    def state(self) -> SourceState:
        """See `Source`."""
        unheard = {kind: str(failure) for kind, failure in self.failures.items()}
        if self._unreachable and not self._followers:
            unheard = {str(each.kind): self._unreachable for each in self._sinks}
        return SourceState(
            self._told and not self._listed, tuple(sorted(unheard.items())), self._unheard_since if unheard else None
        )

    async def stirred(self) -> None:
        """Returns when any kind's state is another: `failures` or `waiting`."""
        self._state.clear()
        await self._state.wait()

    async def start(self) -> None:
        """Lists everything, and says every while for what it waits; else goes by what is remembered."""
        remembered = 0 if self._memory is None else await self._restore(self._memory)
        self._listing = listing = spawn(self._list(), name="first list")
        try:
            await asyncio.wait([listing], timeout=MEMORY_AFTER_SECONDS if remembered else None)
        except asyncio.CancelledError:
            for task in (listing, *self._running):
                task.cancel()
            raise
        if listing.done():
            listing.result()
            return
        self._publish()
        why = "; ".join(sorted({why for _, why in self.state.unheard})) or "it is slow"
        log.warning(
            "the API server has not said what there is (%s): %d objects that were known before this start are in force "
            "until it does",
            why,
            remembered,
        )

    async def _restore(self, memory: ClusterMemory) -> int:
        """Takes up where an agent before this one ended. How many objects it knew."""
        known = await asyncio.to_thread(memory.load)
        self._standings.restore(known)
        of_kind = {followed.object_kind: sink for followed, sink in self._sinks.items()}
        for name in known:
            if name.kind in of_kind:
                of_kind[name.kind].restore(name)
            else:
                self._standings.remove(name)  # nobody would ever say that it is gone
        return len(known)

    async def _list(self) -> None:
        """Begins to follow everything, until every kind has been listed once."""
        streaming = await self._is_streaming()
        for followed, sink in self._sinks.items():
            follower = Follower(
                self._client,
                followed.versions,
                sink,
                streaming=streaming,
                optional=followed.optional,
                accept=followed.accept,
                accept_list=followed.accept_list,
                changed=self._changed,
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
                    "%s before these are listed: %s%s", self._meanwhile, ", ".join(waiting), why and f" ({why})"
                )
            for task in self._running:
                if task.done():
                    task.result()  # raises what it died of: its kind would be waited for without end
        self._listed = True
        self._publish()

    @property
    def _meanwhile(self) -> str:
        return "only what was known before this start is in force" if self._told else "no pod can be served"

    def _changed(self) -> None:
        """A follower's state is another."""
        if not self.failures:
            self._unheard_since = None
        elif self._unheard_since is None:
            self._unheard_since = self._clock()
        self._state.set()

    async def _is_streaming(self) -> bool:
        """Whether lists come by watches. Waits for the API server."""
        backoff = Backoff()
        while True:
            try:
                found = msgspec.json.decode(await self._client.get("/version"), type=_Version)
                return (int(found.major), int(found.minor.rstrip("+"))) >= STREAMING_SINCE
            except ApiError as error:
                if str(error) != self._unreachable:
                    log.warning("%s before the API server answers: %s", self._meanwhile, error)
                self._unreachable = str(error)
                if self._unheard_since is None:
                    self._unheard_since = self._clock()
                await asyncio.sleep(backoff.failed(1.0))
            except (msgspec.MsgspecError, ValueError):
                return False  # pages are what every server has

    async def run(self) -> None:
        """Joins and tells what has changed, until it is cancelled."""
        needed = [spawn(self._gather(), name="gather")]
        if self._memory is not None:
            needed.append(spawn(self._remember(self._memory), name="catalog memory"))
        try:
            if self._listing is not None:
                await asyncio.wait([self._listing, *needed], return_when=asyncio.FIRST_COMPLETED)
                if self._listing.done():
                    self._listing.result()
            ended, _ = await asyncio.wait([*needed, *self._running], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # raises what it died of: none goes on without the others
        finally:
            everything = [*needed, *self._running, *([] if self._listing is None else [self._listing])]
            for task in everything:
                task.cancel()
            await asyncio.wait(everything)
            self._client.close()

    async def _remember(self, memory: ClusterMemory) -> None:
        while True:
            await self._to_remember.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LATER_SECONDS):
                    await self._soon.wait()
            self._to_remember.clear()
            self._soon.clear()
            if not await asyncio.to_thread(memory.save, dict(self._standings.held)):
                self._to_remember.set()
            await asyncio.sleep(SOON_SECONDS)

    async def _gather(self) -> None:
        while True:
            await self._stirred.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._publish()

    def _publish(self) -> None:
        self._stirred.clear()
        taken = self._standings.take()
        self._note(taken)
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
        self._remarks.say(self._standings.remarks)
        if change is not None or faults != self._faults or not self._told:
            self._faults, self._told = faults, True
            self._on_change(change, faults)

    def _note(self, taken: Taken) -> None:
        """What of it is to be remembered, and when."""
        different = [*taken.changed, *taken.gone]
        if different:
            self._to_remember.set()
        if not all(each.kind in _CHANGE_ALL_THE_TIME for each in different):
            self._soon.set()

    def _conflicts(self) -> list[Fault]:
        lost = {**self._assembly.claims.conflicts(), **self._assembly.host_ports.conflicts()}
        return [Fault(self._standings.origin(each), str(each), reason) for each, reason in lost.items()]

    def _of_ours(self, name: ObjectKey, problem: Problem) -> Fault:
        origin = self._standings.origin(name)
        return Fault(origin, str(name), problem.reason, last_good=problem.kept, closed=not problem.kept)
