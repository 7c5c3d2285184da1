"""HTTPS for an API server: it verifies our name by a webhook's caBundle, and shows no certificate of its own.

So whoever reaches the port may ask, and what he may cost is bounded: connections, what all of them may send at once,
and the time that a handshake and a request may take. What is answered is no secret, and changes nothing.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping

import h11
from msgspec import Struct

from agent.capture.accepting import Listener, Told
from agent.identity import memfd
from agent.tasks import spawn
from agent.webhook.certificates import Serving
from agent.webhook.review import NoReviewError

log = logging.getLogger("quietwire.webhook")

MAX_BODY = 4 * 1024 * 1024
"""Bytes of one question: an object and its former version, of 1.5 MiB at most each (etcd's limit)."""
MAX_BUFFERED = 64 * 1024 * 1024
"""Bytes of questions that are being received, of all connections together."""
MAX_HEAD = 16384
MAX_CONNECTIONS = 128
BACKLOG = 256
HANDSHAKE_SECONDS = 5.0
REQUEST_SECONDS = 5.0
"""From a request's first byte to its last: an API server waits no longer than that for all of it."""
IDLE_SECONDS = 120.0
"""An API server keeps connections for its next question."""
CHUNK = 65536

Answer = Callable[[bytes], Awaitable[bytes]]
"""Of the body of a question. Raises NoReviewError for what is none."""


class _Refused(Exception):
    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Place:
    """One connection. `since` is when it was last asked something, by the loop's clock."""

    def __init__(self, sock: socket.socket, since: float) -> None:
        self.sock = sock
        self.since = since
        self.is_asked = False

    def end(self) -> None:
        """The transport has the descriptor, and closes it."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended by itself


class Reply(Struct, frozen=True):
    """What is answered."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class WebhookServer:
    """POST on the paths of `answers`, and GET /ready."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        self._context.set_alpn_protocols(["http/1.1"])
        self._listener: Listener | None = None
        self._places: set[_Place] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._buffered = 0

    def show(self, shown: Serving) -> None:
        """Shows this certificate to connections to come. Raises ssl.SSLError."""
        memfd.load_cert_chain(self._context, shown.chain_pem, shown.key_pem)

    def start(self, host: str, port: int) -> int:
        """Listens; the port. A certificate has been shown before. Raises OSError, naming the address."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise OSError(
                error.errno, f"--listen {host}:{port} cannot be listened on: what else does? ({error.strerror})"
            ) from error
        self._listener = Listener(sock, self._take, name="the webhooks", told=Told(), short=self._short)
        return int(sock.getsockname()[1])

    async def stop(self) -> None:
        """Takes no more connections, and ends those that there are once what they asked is answered."""
        if self._listener is not None:
            self._listener.close()
        self._is_stopping = True
        for place in self._places:
            if not place.is_asked:
                place.end()
        if self._serving:
            await asyncio.wait(set(self._serving), timeout=REQUEST_SECONDS)
        for place in self._places:
            place.end()

    def _take(self, sock: socket.socket) -> None:
        if len(self._places) >= MAX_CONNECTIONS and not self._yield():
            sock.close()
            return
        place = _Place(sock, asyncio.get_running_loop().time())
        self._places.add(place)
        task = spawn(self._serve(place), name="webhook's connection")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def _short(self, _error: OSError) -> None:
        self._yield()  # the process has less than places were counted on

    def _yield(self) -> bool:
        """Ends the connection that has not been asked anything for longest; False where all are being asked."""
        idle = [place for place in self._places if not place.is_asked]
        if not idle:
            return False
        longest = min(idle, key=lambda place: place.since)
        self._places.discard(longest)
        longest.end()
        return True

    async def _serve(self, place: _Place) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=CHUNK)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                place.sock,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=HANDSHAKE_SECONDS,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            log.debug("no connection with a caller: %s", error)
            self._places.discard(place)
            place.sock.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        try:
            while await self._one(connection, reader, writer, place):
                connection.start_next_cycle()
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            log.debug("a connection ends: %s", error)
        finally:
            self._places.discard(place)
            writer.close()

    async def _one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: _Place
    ) -> bool:
        """Answers one request; whether another may follow."""
        body = bytearray()
        try:
            request = await self._receive(connection, reader, body, place)
            if request is None:
                return False
            reply = await self._reply(request, bytes(body))
        except _Refused as error:
            reply = Reply(error.status, f"{error}\n".encode())
        except h11.RemoteProtocolError as error:
            reply = Reply(error.error_status_hint, f"{error}\n".encode())
        finally:
            self._buffered -= len(body)
        await _write(connection, writer, reply)
        place.is_asked = False
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE and not self._is_stopping

    async def _receive(
        self, connection: h11.Connection, reader: asyncio.StreamReader, body: bytearray, place: _Place
    ) -> h11.Request | None:
        """The next request, and its body; None where none comes. Raises _Refused, h11.RemoteProtocolError."""
        loop = asyncio.get_running_loop()
        request: h11.Request | None = None
        async with asyncio.timeout(IDLE_SECONDS) as patience:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(CHUNK))
                    if not place.is_asked:
                        place.is_asked, place.since = True, loop.time()
                        patience.reschedule(loop.time() + REQUEST_SECONDS)
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                    self._buffered += len(event.data)
                    self._check(len(body))
                elif isinstance(event, h11.EndOfMessage):
                    return request
                else:
                    return None

    def _check(self, size: int) -> None:
        if size > MAX_BODY:
            raise _Refused(413, f"a question may have {MAX_BODY} bytes")
        if self._buffered > MAX_BUFFERED:
            raise _Refused(503, "too much is being asked at once")

    async def _reply(self, request: h11.Request, body: bytes) -> Reply:
        path = request.target.decode("ascii", "backslashreplace").partition("?")[0]
        if path == "/ready" and request.method == b"GET":
            return Reply(200, b"ready\n")
        answer = self._answers.get(path)
        if answer is None:
            return Reply(404, f"there are {', '.join(sorted(self._answers))}\n".encode())
        if request.method != b"POST":
            return Reply(405, b"only POST\n")
        try:
            return Reply(200, await answer(body), "application/json")
        except NoReviewError as error:
            return Reply(400, f"{error}\n".encode())
        except Exception:  # the caller is told that it is no answer, and goes by its failurePolicy
            log.exception("%s could not be answered by a fault of ours", path)
            return Reply(500, b"by a fault of ours, which the log has\n")


async def _write(connection: h11.Connection, writer: asyncio.StreamWriter, reply: Reply) -> None:
    if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    headers = [("Content-Type", reply.content_type), ("Content-Length", str(len(reply.body)))]
    out = connection.send(h11.Response(status_code=reply.status, headers=headers)) or b""
    out += connection.send(h11.Data(data=reply.body)) or b""
    out += connection.send(h11.EndOfMessage()) or b""
    writer.write(out)
    async with asyncio.timeout(REQUEST_SECONDS):
        await writer.drain()
