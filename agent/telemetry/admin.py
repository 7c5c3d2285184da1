"""The admin server: a few GETs on loopback, over h11. Everything is bounded: it must answer in the worst hour."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import h11
from msgspec import Struct

from agent.capture.accepting import Listener, Told
from agent.tasks import spawn
from agent.telemetry.metrics import CONTENT_TYPE

log = logging.getLogger("quietwire.admin")

MAX_HEADER = 16384
MAX_CONNECTIONS = 64
BACKLOG = 128
IDLE_SECONDS = 30.0
ANSWER_SECONDS = 10.0


class Response(Struct, frozen=True):
    """What a handler answers."""

    status: int
    content_type: str
    body: bytes

    @classmethod
    def text(cls, body: str, status: int = 200) -> "Response":
        """Plain text."""
        return cls(status, "text/plain; charset=utf-8", body.encode())

    @classmethod
    def json(cls, body: bytes, status: int = 200) -> "Response":
        """Encoded JSON."""
        return cls(status, "application/json", body)

    @classmethod
    def metrics(cls, body: bytes) -> "Response":
        """A metrics page."""
        return cls(200, CONTENT_TYPE, body)


Handler = Callable[[Mapping[str, str]], Awaitable[Response]]
"""Gets the query's parameters, the last of each name."""


class AdminServer:
    """GET and HEAD on fixed paths."""

    def __init__(self, handlers: Mapping[str, Handler], *, short: Callable[[OSError], None] = lambda _: None) -> None:
        self._handlers = handlers
        self._short = short
        self._listeners: list[Listener] = []
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, host: str, port: int) -> None:
        """Listens. Raises OSError, naming the address, where it is taken."""
        loop, told = asyncio.get_running_loop(), Told()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in dict.fromkeys(found):
                sock = _listening(family, address)
                self._listeners.append(
                    Listener(sock, self._take, name="the admin server", told=told, short=self._short)
                )
        except OSError as error:
            await self.close()
            raise OSError(
                error.errno,
                f"--admin {host}:{port} cannot be listened on: is another agent running? ({error.strerror})",
            ) from error

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if not self._listeners:
            raise RuntimeError("the admin server has not been started")
        return int(self._listeners[0].sock.getsockname()[1])

    async def close(self) -> None:
        """Stops listening and ends what is open."""
        for listener in self._listeners:
            listener.close()
        for writer in list(self._open):
            writer.close()

    def _take(self, sock: socket.socket) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            sock.close()
            return
        spawn(self._serve(sock), name="admin request")

    async def _serve(self, sock: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=sock, limit=MAX_HEADER)
        except OSError:
            sock.close()  # it left before it was served
            return
        self._open.add(writer)
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        try:
            while await self._one(connection, reader, writer):
                connection.start_next_cycle()
        except (OSError, TimeoutError):
            return  # the client left, or is too slow: it was only asking
        except h11.ProtocolError as error:
            log.info("an admin request was refused: %s", error)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answers one request; whether another may follow."""
        request: h11.Request | None = None
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                while True:
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        connection.receive_data(await reader.read(MAX_HEADER))
                    elif isinstance(event, h11.Request):
                        request = event
                    elif isinstance(event, h11.EndOfMessage):
                        break
                    elif isinstance(event, h11.ConnectionClosed):
                        return False
        except h11.RemoteProtocolError as error:
            if connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                await self._write(connection, writer, Response.text(f"{error}\n", error.error_status_hint), head=False)
            return False
        if request is None:
            return False
        response = await self._answer(request)
        await self._write(connection, writer, response, head=request.method == b"HEAD")
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _answer(self, request: h11.Request) -> Response:
        path, _, query = request.target.decode("ascii", "backslashreplace").partition("?")
        handler = self._handlers.get(path)
        if handler is None:
            return Response.text(f"no {path} here; there are {', '.join(sorted(self._handlers))}\n", 404)
        if request.method not in {b"GET", b"HEAD"}:
            return Response.text("only GET and HEAD\n", 405)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await handler(dict(parse_qsl(query, keep_blank_values=True)))
        except TimeoutError:
            return Response.text(f"no answer in {ANSWER_SECONDS:g} s\n", 503)

    async def _write(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, response: Response, *, head: bool
    ) -> None:
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        out = connection.send(h11.Response(status_code=response.status, headers=headers)) or b""
        if not head:
            out += connection.send(h11.Data(data=response.body)) or b""
        out += connection.send(h11.EndOfMessage()) or b""
        writer.write(out)
        async with asyncio.timeout(ANSWER_SECONDS):
            await writer.drain()


def _listening(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
