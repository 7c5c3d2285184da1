"""HTTP/1.1 with an API server over one connection (RFC 9112), which is used again. Answers come whole, or as lines."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, Sequence

import h11
from msgspec import Struct

from agent.kubernetes.errors import Unreachable

CONNECT_SECONDS = 10.0
READ_BYTES = 256 * 1024
MAX_HEAD = 64 * 1024
DEAD_MILLISECONDS = 30_000
"""What was sent and not acknowledged for so long ends the connection (TCP_USER_TIMEOUT, tcp(7))."""
KEEPALIVE_SECONDS = 15


class Head(Struct, frozen=True):
    """The beginning of an answer."""

    status: int
    content_type: str
    retry_after: float | None
    """Seconds; None where it does not say."""
    date: str = ""
    """The server's own clock, as it says it (RFC 9110, section 6.6.1); empty where it does not."""


class ConnectionEnded(Unreachable):
    """It ended before anything of an answer came: where it had been idle, that was its end and no answer."""


class Connection:
    """One to the API server. Whoever has it has it alone, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.used = False

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext, server_name: str) -> "Connection":
        """Connects. Raises Unreachable."""
        where = f"the API server at {host}:{port}"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=server_name or host, limit=READ_BYTES
                )
        except TimeoutError as error:
            raise Unreachable(f"{where} did not answer in {CONNECT_SECONDS:g} s") from error
        except ssl.SSLCertVerificationError as error:
            words = f"{where} shows a certificate that the CA we were given does not vouch for: {error.verify_message}"
            raise Unreachable(words) from error
        except OSError as error:
            raise Unreachable(f"{where} cannot be reached: {error.strerror or error}") from error
        sock = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_MILLISECONDS)
        return cls(reader, writer, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent by it."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not self._reader.at_eof()

    def close(self) -> None:
        """At once, without TLS's goodbye: nothing is lost that anybody waits for."""
        self._writer.transport.abort()

    async def ask(self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None) -> Head:
        """Sends a request, and reads the beginning of its answer. Raises Unreachable."""
        if self._http.our_state is not h11.IDLE:
            self._http.start_next_cycle()
        all_headers = [("Host", self._host), *headers]
        if body is not None:
            all_headers.append(("Content-Length", str(len(body))))
        out = self._http.send(h11.Request(method=method, target=target, headers=all_headers)) or b""
        if body is not None:
            out += self._http.send(h11.Data(data=body)) or b""
        out += self._http.send(h11.EndOfMessage()) or b""
        try:
            self._writer.write(out)
            await self._writer.drain()
        except OSError as error:
            raise ConnectionEnded(f"the API server ended the connection: {error.strerror or error}") from error
        while True:
            event = await self._next(begun=False)
            if isinstance(event, h11.Response):
                self.used = True
                return _head(event)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The answer's body, piece by piece, to its end. Raises Unreachable."""
        while True:
            event = await self._next(begun=True)
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return

    async def body(self, limit: int) -> bytes:
        """The answer's body. Raises Unreachable, also where it is longer than `limit`."""
        found = bytearray()
        async with contextlib.aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                found += chunk
                if len(found) > limit:
                    raise Unreachable(f"the API server's answer is over the limit of {limit} bytes")
        return bytes(found)

    async def _next(self, *, begun: bool) -> object:
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    data = await self._reader.read(READ_BYTES)
                    if not data and not begun:
                        raise ConnectionEnded("the API server ended the connection without an answer")
                    self._http.receive_data(data)
                    continue
            except h11.RemoteProtocolError as error:
                raise Unreachable(f"the API server's answer is cut off, or no HTTP: {error}") from error
            except (OSError, ssl.SSLError) as error:
                kind = Unreachable if begun else ConnectionEnded
                raise kind(f"the connection with the API server broke: {error.strerror or error}") from error
            if isinstance(event, h11.ConnectionClosed):
                raise Unreachable("the API server ended the connection in the middle of an answer")
            return event


def _head(response: h11.Response) -> Head:
    headers = {bytes(name): bytes(value).decode("latin-1") for name, value in response.headers}
    retry = headers.get(b"retry-after", "")
    return Head(
        response.status_code,
        headers.get(b"content-type", ""),
        float(retry) if retry.isascii() and retry.isdigit() else None,
        headers.get(b"date", ""),
    )
