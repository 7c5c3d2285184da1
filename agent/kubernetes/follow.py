"""All objects of one kind, followed: a list, and then what happens to it.

Kubernetes, API Concepts, "Efficient detection of changes". The list comes by the watch itself where the server can do
that (WatchList), else page by page. What was told before stays as it is while the server cannot be reached, or is
listed anew: a list that is complete says what is gone.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
from msgspec import Struct

from agent.kubernetes.backoff import Backoff
from agent.kubernetes.client import JSON, Query
from agent.kubernetes.errors import ApiError, Refused, Status, Unreachable
from agent.kubernetes.kind import Kind

log = logging.getLogger("quietwire.kubernetes")

PAGE = 500
"""Objects of one answer, where the list comes page by page."""
SILENT_SECONDS = 90.0
"""Bookmarks come about once a minute: a watch that is silent for longer is begun anew where it was."""
WATCH_SECONDS = (300, 600)
"""How long the server is to keep a watch, from and to: spread, so that not all agents come back at once."""
ABSENT_SECONDS = 10.0
"""How often it is asked whether a kind is served by now that was not."""
SETTLED_SECONDS = 5.0
"""A watch that has held for so long was a success."""
_chance = random.SystemRandom().random
END_OF_LIST = "k8s.io/initial-events-end"
"""The annotation of the bookmark after a list that came by a watch."""


class Sink(Protocol):
    """Who is told. `raw` is an object as JSON."""

    def begin(self) -> None:
        """A list begins: what is not put before it is complete is gone."""

    def put(self, raw: bytes) -> None:
        """An object is there, in this version."""

    def remove(self, raw: bytes) -> None:
        """An object is gone; this was its last version."""

    def complete(self) -> None:
        """The list is complete."""


class Requests(Protocol):
    """What is needed of a Client."""

    async def get(self, path: str, query: Query, *, accept: str) -> bytes:
        """See there."""

    def lines(
        self, path: str, query: Query, *, accept: str, silent_seconds: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See there."""


class _Meta(Struct, frozen=True):
    resourceVersion: str = ""  # noqa: N815 - as the API has it
    annotations: dict[str, str] | None = None


class _Versioned(Struct, frozen=True):
    metadata: _Meta = _Meta()


class _Event(Struct, frozen=True):
    """metav1.WatchEvent."""

    type: str
    object: msgspec.Raw


class _ListMeta(Struct, frozen=True):
    resourceVersion: str = ""  # noqa: N815 - as the API has it
    next: str = msgspec.field(default="", name="continue")


class _Page(Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


_events = msgspec.json.Decoder(_Event)
_versions = msgspec.json.Decoder(_Versioned)
_pages = msgspec.json.Decoder(_Page)
_statuses = msgspec.json.Decoder(Status)


class Follower:
    """Follows one kind until it is cancelled, and tells `sink`. `changed` is called when its state is another.

    Of several `versions` the first that is served is followed. A kind that is `optional` may not be served at all: then
    there is none of it. `streaming`: whether the server lists by a watch. `namespace` and `labels` (a label selector)
    are of those that are followed, where it is not all.
    """

    def __init__(
        self,
        client: Requests,
        versions: Sequence[Kind],
        sink: Sink,
        *,
        streaming: bool,
        optional: bool = False,
        namespace: str = "",
        labels: str = "",
        accept: str = JSON,
        accept_list: str = JSON,
        changed: Callable[[], None] = lambda: None,
        chance: Callable[[], float] = _chance,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.kind = versions[0]
        self.complete = False
        """Whether it was listed, at any time."""
        self.failure: ApiError | None = None
        """Why nothing is heard at the moment."""
        self.absent = False
        """The kind is not served."""
        self._client = client
        self._sink = sink
        self._streaming = streaming
        self._optional = optional
        self._namespace = namespace
        self._of_these = {"labelSelector": labels} if labels else {}
        self._versions = versions
        self._accept = accept
        self._accept_list = accept_list
        self._changed = changed
        self._chance = chance
        self._clock = clock
        self._sleep = sleep
        self._version = ""
        """From where the watch goes on; empty: a list is due."""
        self._missing_since: float | None = None
        self._backoff = Backoff()

    def resume(self, version: str) -> None:
        """Goes on from a version that was known before, in place of a list."""
        self._version = version

    @property
    def _path(self) -> str:
        return self.kind.path_of(self._namespace)

    async def run(self) -> None:
        """Follows, whatever happens to the server."""
        while True:
            began = self._clock()
            try:
                if self._version or self._streaming:
                    await self._watch()
                else:
                    await self._list()
                    continue
                if self._clock() - began > SETTLED_SECONDS:
                    self._backoff.succeeded()
                    continue
                pause = self._backoff.failed(self._chance())  # it ended as it should, and too soon
            except Refused as error:
                pause = self._is_absent(error) if error.not_found and self._optional else self._refused(error)
            except Unreachable as error:
                pause = self._failed(error)
            await self._sleep(pause)

    def _refused(self, error: Refused) -> float:
        if error.gone:
            log.info("%s: what was followed is forgotten (%s): they are listed anew", self.kind, error)
            self._version = ""
            return self._backoff.failed(self._chance())
        if self._streaming and not self._version and error.status in {400, 422}:
            log.info("%s: the API server lists by pages (%s)", self.kind, error)
            self._streaming = False
            return 0.0
        if error.status == 404:
            self._version = ""  # of a kind that went and came again, versions are others
        return self._failed(error)

    def _failed(self, error: ApiError) -> float:
        if self.failure is None:
            log.warning("%s cannot be followed: %s. What is known of them stays in force", self.kind, error)
        self.failure = error
        self._changed()
        wanted = error.retry_after if isinstance(error, Refused) else None
        return self._backoff.failed(self._chance(), at_least=wanted)

    def _answered(self) -> None:
        if self.failure is not None:
            log.info("%s are followed again", self.kind)
            self.failure = None
            self._changed()

    def _is_absent(self, error: Refused) -> float:
        """The kind is not served. Of one that was, that is believed when it is so for a while.

        A server that starts may not know of it yet, and what its objects forbid must not be allowed meanwhile.
        """
        self._version = ""
        at = self._versions.index(self.kind) + 1
        self.kind = self._versions[at % len(self._versions)]
        if at < len(self._versions):
            return 0.0
        pause = ABSENT_SECONDS * (0.75 + self._chance() / 2)
        if self.complete and not self.absent:
            if self._missing_since is None:
                self._missing_since = self._clock()
            if self._clock() - self._missing_since < ABSENT_SECONDS:
                self._failed(error)
                return pause
        self._answered()
        if not self.absent:
            log.info("%s are not served by this cluster: there are none", self.kind)
            self.absent = True
            self._sink.begin()
            self._listed("")
        return pause

    def _listed(self, version: str) -> None:
        self._sink.complete()
        self._version = version
        self.complete = True
        self._changed()

    def _is_served(self) -> None:
        self._answered()
        self._missing_since = None
        if self.absent:
            log.info("%s are served by this cluster now", self.kind)
            self.absent = False

    async def _watch(self) -> None:
        """One watch, to its end: with the list before it, or from where the last one ended. Raises ApiError."""
        least, most = WATCH_SECONDS
        items = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(round(least + (most - least) * self._chance())),
            "resourceVersion": self._version,
            **self._of_these,
        }
        listing = not self._version
        if listing:
            items |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        query = Query.of(**items)
        async with self._client.lines(self._path, query, accept=self._accept, silent_seconds=SILENT_SECONDS) as lines:
            self._is_served()
            if listing:
                self._sink.begin()
            async for line in lines:
                listing = self._take(line, listing=listing)
        if listing:
            raise Unreachable("the API server ended a list before it was complete")

    def _take(self, line: bytes, *, listing: bool) -> bool:
        """One event; whether the list is still not complete. Raises ApiError."""
        try:
            event = _events.decode(line)
            raw = bytes(event.object)
            if event.type == "ERROR":
                raise _statuses.decode(raw).error()
            metadata = _versions.decode(raw).metadata
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unreachable(f"what the API server sends is no event of a watch: {error}") from error
        if event.type == "BOOKMARK":
            if listing and (metadata.annotations or {}).get(END_OF_LIST) == "true":
                self._listed(metadata.resourceVersion)
                return False
        elif event.type == "DELETED":
            self._sink.remove(raw)
        elif event.type in {"ADDED", "MODIFIED"}:
            self._sink.put(raw)
        else:
            raise Unreachable(f"the API server sends an event of a type that is not known: {event.type[:40]!r}")
        if not listing:
            self._version = metadata.resourceVersion
        return listing

    async def _list(self) -> None:
        """The list, page by page; a page that is forgotten begins it anew. Raises ApiError."""
        more, begun = "", False
        while True:
            items = {"limit": str(PAGE), **({"continue": more} if more else {}), **self._of_these}
            answer = await self._client.get(self._path, Query.of(**items), accept=self._accept_list)
            try:
                page = _pages.decode(answer)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise Unreachable(f"what the API server answers is no list: {error}") from error
            if not begun:
                self._is_served()
                self._sink.begin()
                begun = True
            for item in page.items or ():
                self._sink.put(bytes(item))
            more = page.metadata.next
            if not more:
                self._listed(page.metadata.resourceVersion)
                return
