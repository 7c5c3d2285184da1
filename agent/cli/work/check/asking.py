"""Questions to the API server, each with an end; what is not answered is a value with its reason."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agent.kubernetes.client import NO_QUERY, Answer, Client, Query
from agent.kubernetes.errors import ApiError, Refused
from agent.kubernetes.follow import PAGE
from agent.kubernetes.kind import Kind

T = TypeVar("T")

QUESTION_SECONDS = 10.0
AT_ONCE = 4
"""As many as a client keeps connections for."""
MAX_PAGES = 400
"""200,000 objects of one kind; more are not there, or the server sends the same page for ever."""


class Cause(StrEnum):
    """Why there is no answer."""

    REFUSED_CONNECTION = "refused connection"
    NO_SUCH_NAME = "no such name"
    NOT_TRUSTED = "certificate not trusted"
    NO_TLS = "no TLS"
    TOO_LATE = "too late"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_SERVED = "not served"
    OTHER = "other"


class Untold(Struct, frozen=True):
    """There is no answer."""

    cause: Cause
    reason: str


class _ListMeta(Struct, frozen=True):
    next: str = msgspec.field(default="", name="continue")


class _Page(Struct, frozen=True):
    items: list[msgspec.Raw] | None = None
    metadata: _ListMeta = _ListMeta()


class Asking:
    """Asks until `deadline`, a time of the loop's clock."""

    def __init__(self, client: Client, deadline: float) -> None:
        self._client = client
        self._deadline = deadline
        self._places = asyncio.Semaphore(AT_ONCE)

    async def exchange(
        self, method: str, path: str, query: Query = NO_QUERY, body: Mapping[str, Any] | None = None
    ) -> Answer | Untold:
        """What is answered."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(self._deadline), self._places:
                seconds = min(QUESTION_SECONDS, max(self._deadline - loop.time(), 0.1))
                return await self._client.exchange(method, path, query, body, seconds=seconds)
        except TimeoutError:
            return Untold(Cause.TOO_LATE, f"there was no time left to ask {method} {path}")
        except ApiError as error:  # is told as unknown, and never as well
            return Untold(cause(error), str(error))

    async def get(self, path: str, shape: type[T]) -> T | Untold | None:
        """One object; None where there is none of that name."""
        answer = await self.exchange("GET", path)
        if isinstance(answer, Untold):
            return None if answer.cause is Cause.NOT_SERVED else answer
        return _decoded(answer.body, shape)

    async def post(self, path: str, body: Mapping[str, Any], shape: type[T]) -> T | Untold:
        """What is said to a review."""
        answer = await self.exchange("POST", path, body=body)
        return answer if isinstance(answer, Untold) else _decoded(answer.body, shape)

    async def list(self, kind: Kind, shape: type[T], namespace: str = "", **of_these: str) -> tuple[T, ...] | Untold:
        """All objects of a kind, page by page, of which `shape` is kept. What a page lacks makes all of it untold."""
        found: list[T] = []
        more = ""
        for _ in range(MAX_PAGES):
            query = Query.of(limit=str(PAGE), **({"continue": more} if more else {}), **of_these)
            answer = await self.exchange("GET", kind.path_of(namespace), query)
            if isinstance(answer, Untold):
                return answer
            page = _decoded(answer.body, _Page)
            if isinstance(page, Untold):
                return page
            for raw in page.items or ():
                item = _decoded(bytes(raw), shape)
                if isinstance(item, Untold):
                    return item
                found.append(item)
            more = page.metadata.next
            if not more:
                return tuple(found)
        return Untold(Cause.OTHER, f"there are more than {MAX_PAGES * PAGE} {kind}")


def _decoded(body: bytes, shape: type[T]) -> T | Untold:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # is told as unknown
        return Untold(Cause.OTHER, f"what the API server answers is not what was asked for: {error}")


def cause(error: ApiError) -> Cause:
    """What kind of failure it is: by the status, or by what broke underneath."""
    if isinstance(error, Refused):
        statuses = {401: Cause.UNAUTHENTICATED, 403: Cause.FORBIDDEN, 404: Cause.NOT_SERVED}
        return statuses.get(error.status, Cause.OTHER)
    below = error.__cause__
    match below:
        case ssl.SSLCertVerificationError():
            return Cause.NOT_TRUSTED
        case ssl.SSLError():
            return Cause.NO_TLS
        case socket.gaierror():
            return Cause.NO_SUCH_NAME
        case TimeoutError():
            return Cause.TOO_LATE
        case OSError():
            # Of several addresses none answered: the loop puts their errors into one, as text.
            several = f"Errno {errno.ECONNREFUSED}" in str(below)
            return Cause.REFUSED_CONNECTION if below.errno == errno.ECONNREFUSED or several else Cause.OTHER
        case _:
            return Cause.OTHER
