"""Requests to the API server: one object, a page of a list, or a stream of events, line by line."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from agent.kubernetes.access import Access
from agent.kubernetes.credential import Credential
from agent.kubernetes.errors import Unreachable, refused
from agent.kubernetes.http import Connection, ConnectionEnded, Head

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
REQUEST_SECONDS = 30.0
MAX_ANSWER = 64 * 1024 * 1024
MAX_LINE = 16 * 1024 * 1024
"""An object of etcd's may have 1.5 MiB."""
IDLE_KEPT = 4
"""Connections that are kept for the next request."""


class Query(Struct, frozen=True):
    """A request's parameters, in their order."""

    items: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, **items: str) -> "Query":
        """By name."""
        return cls(tuple(items.items()))

    def onto(self, path: str) -> str:
        """A path with them."""
        return f"{path}?{urlencode(self.items)}" if self.items else path


NO_QUERY = Query()


class Answer(Struct, frozen=True):
    """What came of a request: its body, and when the server says that it was."""

    body: bytes
    date: str = ""


class Client:
    """Talks to one API server. Nobody who answers is believed but under the CA."""

    def __init__(self, access: Access, *, agent: str = "quietwire") -> None:
        self._access = access
        self._credential = Credential(access)
        self._agent = agent
        self.idle: list[Connection] = []
        """Connections that nobody uses, for the next request."""

    @property
    def access(self) -> Access:
        """Where it is."""
        return self._access

    async def get(self, path: str, query: Query = NO_QUERY, *, accept: str = JSON) -> bytes:
        """What is at a path. Raises ApiError."""
        return await self.request("GET", path, query, accept=accept)

    async def request(
        self,
        method: str,
        path: str,
        query: Query = NO_QUERY,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
        seconds: float = REQUEST_SECONDS,
    ) -> bytes:
        """One request; the answer's body. Raises Refused for what is not 2xx, and Unreachable."""
        answer = await self.exchange(
            method, path, query, body, content_type=content_type, accept=accept, seconds=seconds
        )
        return answer.body

    async def exchange(
        self,
        method: str,
        path: str,
        query: Query = NO_QUERY,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
        seconds: float = REQUEST_SECONDS,
    ) -> Answer:
        """One request, and the whole answer. Raises Refused for what is not 2xx, and Unreachable."""
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        more = [("Accept", accept), *([] if data is None else [("Content-Type", content_type)])]
        target = self._access.path + query.onto(path)
        try:
            async with asyncio.timeout(seconds):
                connection, head = await self._ask(method, target, more, data)
                try:
                    answer = await connection.body(MAX_ANSWER)
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError as error:
            raise Unreachable(f"the API server did not answer {method} {path} in {seconds:g} s") from error
        self._put_back(connection)
        if not 200 <= head.status < 300:
            if head.status == 401:
                self._credential.forget()
            raise refused(head.status, answer, head.retry_after)
        return Answer(answer, head.date)

    @contextlib.asynccontextmanager
    async def lines(
        self, path: str, query: Query, *, accept: str = JSON, silent_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer that goes on; ended when nothing comes for `silent_seconds`. Raises ApiError."""
        target = self._access.path + query.onto(path)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                connection, head = await self._ask("GET", target, [("Accept", accept)], None)
        except TimeoutError as error:
            raise Unreachable(f"the API server did not answer GET {path} in {REQUEST_SECONDS:g} s") from error
        try:
            if head.status != 200:
                answer = await self._body(connection, path)
                if head.status == 401:
                    self._credential.forget()
                raise refused(head.status, answer, head.retry_after)
            async with contextlib.aclosing(_lines(connection, path, silent_seconds)) as lines:
                yield lines
        finally:
            connection.close()

    @staticmethod
    async def _body(connection: Connection, path: str) -> bytes:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await connection.body(MAX_ANSWER)
        except TimeoutError as error:
            raise Unreachable(f"the API server did not finish GET {path} in {REQUEST_SECONDS:g} s") from error

    def close(self) -> None:
        """Ends what is idle."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()

    async def _ask(
        self, method: str, target: str, more: list[tuple[str, str]], body: bytes | None
    ) -> tuple[Connection, Head]:
        """By a connection that is idle, or by a new one.

        One that was idle may have ended meanwhile: what changes nothing is asked again then, by another.
        """
        context = await self._credential.context()
        headers = [("User-Agent", self._agent), *await self._credential.headers(), *more]
        while True:
            connection = self._take() or await Connection.open(
                self._access.host, self._access.port, context, self._access.server_name
            )
            used = connection.used
            try:
                return connection, await connection.ask(method, target, headers, body)
            except ConnectionEnded:
                connection.close()
                if not used or method != "GET":
                    raise
            except BaseException:
                connection.close()
                raise

    def _take(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        return None

    def _put_back(self, connection: Connection) -> None:
        if connection.reusable and len(self.idle) < IDLE_KEPT:
            self.idle.append(connection)
        else:
            connection.close()


async def _lines(connection: Connection, path: str, silent_seconds: float) -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    async with contextlib.aclosing(connection.chunks()) as chunks:
        while True:
            try:
                async with asyncio.timeout(silent_seconds):
                    chunk = await anext(chunks, None)
            except TimeoutError as error:
                raise Unreachable(f"nothing has come of GET {path} for {silent_seconds:g} s") from error
            if chunk is None:
                break
            rest += chunk
            if b"\n" not in chunk:
                if len(rest) > MAX_LINE:
                    raise Unreachable(f"a line of the API server's answer is over the limit of {MAX_LINE} bytes")
                continue
            *whole, last = rest.split(b"\n")
            rest = last
            for line in whole:
                if line:
                    yield bytes(line)
            await asyncio.sleep(0)  # what has come already is read without waiting: others must have their turn
    if rest.strip():
        raise Unreachable("the API server's answer ended in the middle of a line")
